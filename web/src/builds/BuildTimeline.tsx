import {
  AlertIcon,
  BroadcastIcon,
  CalendarIcon,
  CheckIcon,
  ChevronRightIcon,
  ClockIcon,
  DotFillIcon,
  type Icon,
  LinkIcon,
  NoEntryIcon,
  PlayIcon,
  PlugIcon,
  ServerIcon,
  SkipIcon,
  UndoIcon,
  UploadIcon,
  XIcon,
} from '@primer/octicons-react';
import { Details, Text, Timeline, useDetails } from '@primer/react';
import { FeatureFlags } from '@primer/react/experimental';
import type { TimelineEntry } from '../api/api';
import { duration } from '../ui/time';
import { Ago, LocalTime } from '../ui/When';
import { sentence } from './BuildRow';
import styles from './BuildTimeline.module.css';
import { kindInWords, type Mark, markOf, plainText } from './timeline';

const ICONS: Record<string, Icon> = {
  waiting: ClockIcon,
  queued: ClockIcon,
  waiting_for_mapping: LinkIcon,
  not_ours: SkipIcon,
  planned: CalendarIcon,
  submitted: UploadIcon,
  delayed: AlertIcon,
  refused: NoEntryIcon,
  allocated: ServerIcon,
  registered: PlugIcon,
  listening: BroadcastIcon,
  attributed: LinkIcon,
  workflow_job_started: PlayIcon,
  in_progress: PlayIcon,
  withdrawn: UndoIcon,
  failed: XIcon,
  ended_without_workflow_job: XIcon,
  completed: CheckIcon,
  finished: CheckIcon,
};

const BADGES: Record<Mark, 'success' | 'danger' | 'attention' | 'accent' | undefined> = {
  good: 'success',
  bad: 'danger',
  attention: 'attention',
  active: 'accent',
  neutral: undefined,
};

interface Props {
  readonly timeline: readonly TimelineEntry[];
  /** GitHub's conclusion of the build. */
  readonly conclusion: string | null | undefined;
}

/** The events of a build, oldest first. */
export function BuildTimeline({ timeline, conclusion }: Props) {
  if (timeline.length === 0) {
    return (
      <Text as="p" className={styles.nothing}>
        No events yet. New events appear here as they happen.
      </Text>
    );
  }
  return (
    // A list for screen readers too; Primer keeps that behind a flag until its next major version.
    <FeatureFlags flags={{ primer_react_timeline_list_semantics: true }}>
      <Timeline aria-label="Timeline" clipSidebar>
        {timeline.map((entry, index) => (
          <Entry
            // Append-only: the position of an entry never changes.
            // biome-ignore lint/suspicious/noArrayIndexKey: see above.
            key={index}
            entry={entry}
            before={timeline[index - 1]}
            mark={markOf(entry, conclusion)}
          />
        ))}
      </Timeline>
    </FeatureFlags>
  );
}

interface EntryProps {
  readonly entry: TimelineEntry;
  readonly before: TimelineEntry | undefined;
  readonly mark: Mark;
}

function Entry({ entry, before, mark }: EntryProps) {
  const Shape =
    mark === 'bad' && entry.kind === 'completed' ? XIcon : (ICONS[entry.kind] ?? DotFillIcon);
  const variant = BADGES[mark];
  const passed = before === undefined ? 0 : Date.parse(entry.at) - Date.parse(before.at);
  return (
    <Timeline.Item className={styles.item}>
      <Timeline.Badge variant={variant}>
        <Shape />
      </Timeline.Badge>
      <Timeline.Body className={styles.body}>
        <div className={styles.line}>
          <span className={styles.kind}>{kindInWords(entry.kind)}</span>
          <span className={styles.time}>
            <LocalTime at={entry.at} />
            <span>{passed >= 50 && `+${duration(passed)}`}</span>
            <span className={styles.ago}>
              <Ago at={entry.at} />
            </span>
          </span>
        </div>
        <div className={styles.detail}>{sentence(entry.detail)}</div>
        {entry.logTail != null && entry.logTail !== '' && <LogTail log={entry.logTail} />}
      </Timeline.Body>
    </Timeline.Item>
  );
}

function LogTail({ log }: { readonly log: string }) {
  const { open, getDetailsProps } = useDetails({});
  return (
    <Details {...getDetailsProps()} className={styles.log}>
      <Details.Summary className={styles.summary}>
        <ChevronRightIcon />
        {open ? 'Hide' : 'Show'} the end of the job script’s log
      </Details.Summary>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reachable by keyboard. */}
      <section tabIndex={0} aria-label="End of the job script’s log">
        <pre>{plainText(log)}</pre>
      </section>
    </Details>
  );
}
