import type { BuildDetail, TimelineEntry } from '../api/api';
import { isMoving } from './build';

/** A station on the way of a build. */
export interface Step {
  readonly name: string;
  /** When it was reached. */
  readonly at: string | undefined;
  readonly progress: 'done' | 'current' | 'ahead' | 'skipped';
}

/** The way of one build; the first kind of the timeline that was met counts as reached. */
const STATIONS: readonly { readonly name: string; readonly kinds: readonly string[] }[] = [
  { name: 'Queued', kinds: ['queued'] },
  { name: 'Planned', kinds: ['planned'] },
  { name: 'Submitted', kinds: ['submitted'] },
  { name: 'Allocated', kinds: ['allocated'] },
  { name: 'Registered', kinds: ['registered'] },
  { name: 'In progress', kinds: ['in_progress', 'workflow_job_started'] },
  { name: 'Completed', kinds: ['completed'] },
];

/**
 * How far a build is. Of several launches the one counts whose runner GitHub gave the workflow job to; while there
 * is none, the latest, unless it is gone: then the next one has to be planned.
 */
export function stepsOf({ build, timeline }: BuildDetail): Step[] {
  const launch = servingLaunch(build.runnerName, timeline);
  const relevant = timeline.filter(
    (entry) => entry.launchId == null || entry.launchId === launch,
  );
  const reached = STATIONS.map(
    ({ kinds }) => relevant.find((entry) => kinds.includes(entry.kind))?.at,
  );
  // What GitHub said itself is known even where the timeline has no entry for it.
  reached[0] ??= build.queuedAt ?? undefined;
  reached[5] ??= build.startedAt != null && build.state !== 'queued' ? build.startedAt : undefined;
  reached[6] ??= build.completedAt ?? undefined;

  const last = reached.findLastIndex((at) => at !== undefined);
  return STATIONS.map(({ name }, index): Step => {
    const at = reached[index];
    if (at !== undefined) {
      const running = index === last && build.state === 'in_progress';
      return { name, at, progress: running ? 'current' : 'done' };
    }
    if (index < last || !isMoving(build)) {
      return { name, at, progress: 'skipped' };
    }
    return {
      name,
      at,
      progress: index === last + 1 && build.state !== 'in_progress' ? 'current' : 'ahead',
    };
  });
}

/** After these a launch serves nothing any more. */
const GONE = new Set(['withdrawn', 'refused', 'ended_without_workflow_job']);

function servingLaunch(
  runner: string | null | undefined,
  timeline: readonly TimelineEntry[],
): string | null | undefined {
  const serving = timeline.find((entry) => runner != null && entry.runnerName === runner);
  if (serving !== undefined) {
    return serving.launchId;
  }
  const latest = timeline.findLast((entry) => entry.launchId != null);
  return latest !== undefined && GONE.has(latest.kind) ? undefined : latest?.launchId;
}

/** The Slurm jobs a timeline speaks of, oldest first. */
export function slurmJobsOf(timeline: readonly TimelineEntry[]): string[] {
  return [...new Set(timeline.flatMap(({ slurmJobId }) => slurmJobId ?? []))];
}

/** A log as plain text: without the escape sequences that colour it in a terminal. */
export function plainText(log: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences start with one.
  return log.replace(/\u001b\[[0-?]*[ -/]*[@-~]/g, '').replaceAll('\r\n', '\n');
}

/** How an entry is marked. */
export type Mark = 'good' | 'bad' | 'attention' | 'active' | 'neutral';

const MARKS: Record<string, Mark> = {
  failed: 'bad',
  refused: 'bad',
  ended_without_workflow_job: 'bad',
  delayed: 'attention',
  waiting_for_mapping: 'attention',
  in_progress: 'active',
  workflow_job_started: 'active',
  finished: 'good',
};

/** `conclusion` is the build's, which tells whether "completed" is good news. */
export function markOf(entry: TimelineEntry, conclusion: string | null | undefined): Mark {
  if (entry.kind === 'completed') {
    return conclusion === 'success' ? 'good' : conclusion === 'failure' ? 'bad' : 'neutral';
  }
  return MARKS[entry.kind] ?? 'neutral';
}
