import {
  AlertIcon,
  BroadcastIcon,
  CalendarIcon,
  CheckIcon,
  ClockIcon,
  CpuIcon,
  DotFillIcon,
  type Icon,
  LinkIcon,
  NoEntryIcon,
  PlayIcon,
  PlugIcon,
  ServerIcon,
  SkipIcon,
  StopIcon,
  ToolsIcon,
  UndoIcon,
  UploadIcon,
  XIcon,
} from '@primer/octicons-react';
import type { TimelineEntry, TimelineKind } from '../api/api';
import { inWords } from './build';

/** The colour of an entry's badge. */
export type Mark = 'good' | 'bad' | 'attention' | 'active' | 'neutral';

/** How the page shows a timeline entry. */
export interface Look {
  /** Its kind, for people. */
  readonly name: string;
  readonly icon: Icon;
  readonly mark: Mark;
}

/** A kind that the API gains does not compile until it is listed here. */
const LOOKS: Readonly<Record<TimelineKind, Look>> = {
  waiting: { name: 'Waiting', icon: ClockIcon, mark: 'neutral' },
  queued: { name: 'Queued', icon: ClockIcon, mark: 'neutral' },
  in_progress: { name: 'In progress', icon: PlayIcon, mark: 'active' },
  completed: { name: 'Completed', icon: CheckIcon, mark: 'neutral' },
  not_ours: { name: 'Not for this cluster', icon: SkipIcon, mark: 'neutral' },
  waiting_for_mapping: { name: 'Waiting for a mapping', icon: LinkIcon, mark: 'attention' },
  refused: { name: 'Refused', icon: NoEntryIcon, mark: 'bad' },
  planned: { name: 'Planned', icon: CalendarIcon, mark: 'neutral' },
  delayed: { name: 'Delayed', icon: AlertIcon, mark: 'attention' },
  submitted: { name: 'Submitted', icon: UploadIcon, mark: 'neutral' },
  slurm: { name: 'Slurm', icon: CpuIcon, mark: 'neutral' },
  allocated: { name: 'Allocated', icon: ServerIcon, mark: 'neutral' },
  set_up: { name: 'Setting up', icon: ToolsIcon, mark: 'neutral' },
  registered: { name: 'Registered', icon: PlugIcon, mark: 'neutral' },
  listening: { name: 'Listening', icon: BroadcastIcon, mark: 'neutral' },
  workflow_job_started: { name: 'Workflow job started', icon: PlayIcon, mark: 'active' },
  attributed: { name: 'Attributed', icon: LinkIcon, mark: 'neutral' },
  finished: { name: 'Finished', icon: CheckIcon, mark: 'good' },
  ended_without_workflow_job: {
    name: 'Ended without a workflow job',
    icon: XIcon,
    mark: 'bad',
  },
  withdrawn: { name: 'Withdrawn', icon: UndoIcon, mark: 'neutral' },
  cancelled: { name: 'Slurm job cancelled', icon: StopIcon, mark: 'neutral' },
};

/** The look of an entry. `conclusion` is the build's: it decides the look of "completed". */
export function lookOf({ kind }: TimelineEntry, conclusion: string | null | undefined): Look {
  if (!isKnown(kind)) {
    return { name: inWords(kind), icon: DotFillIcon, mark: 'neutral' };
  }
  const look = LOOKS[kind];
  if (kind === 'completed' && conclusion === 'success') {
    return { ...look, mark: 'good' };
  }
  if (kind === 'completed' && conclusion === 'failure') {
    return { ...look, icon: XIcon, mark: 'bad' };
  }
  return look;
}

/** A server that is newer than the page may send kinds that the generated types lack. */
function isKnown(kind: string): kind is TimelineKind {
  return Object.hasOwn(LOOKS, kind);
}
