import type { BuildDetail, TimelineEntry, TimelineKind } from '../api/api';
import { isMoving } from './build';

/** A step of a build. */
export interface Step {
  readonly name: string;
  /** When the build reached this step. */
  readonly at: string | undefined;
  readonly progress: 'done' | 'current' | 'ahead' | 'skipped';
}

/** The steps of a build. A step is reached with the first timeline entry of one of its kinds. */
const STEPS: readonly { readonly name: string; readonly kinds: readonly TimelineKind[] }[] = [
  { name: 'Queued', kinds: ['queued'] },
  { name: 'Planned', kinds: ['planned'] },
  { name: 'Submitted', kinds: ['submitted'] },
  { name: 'Allocated', kinds: ['allocated'] },
  { name: 'Registered', kinds: ['registered'] },
  { name: 'In progress', kinds: ['in_progress', 'workflow_job_started'] },
  { name: 'Completed', kinds: ['completed'] },
];

/**
 * The progress of a build. Of several launches, only the one whose runner picked up the workflow job counts. Before
 * that, the latest launch that has not ended counts. If all have ended, the next launch has yet to be planned.
 */
export function stepsOf({ build, timeline }: BuildDetail): Step[] {
  const launch = servingLaunch(build.runnerName, timeline);
  const relevant = timeline.filter((entry) => entry.launchId == null || entry.launchId === launch);
  const reached = STEPS.map(
    ({ kinds }) => relevant.find((entry) => kinds.includes(entry.kind))?.happenedAt,
  );
  // GitHub's own times are known even where the timeline has no entry for them.
  if (build.state !== 'waiting') {
    reached[0] ??= build.queuedAt ?? undefined;
  }
  reached[5] ??= build.startedAt != null && build.state !== 'queued' ? build.startedAt : undefined;
  reached[6] ??= build.completedAt ?? undefined;

  const last = reached.findLastIndex((at) => at !== undefined);
  return STEPS.map(({ name }, index): Step => {
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

/** The kinds of entry after which a launch serves no workflow job. Slurm's reports may follow them. */
const GONE: ReadonlySet<TimelineKind> = new Set([
  'withdrawn',
  'refused',
  'ended_without_workflow_job',
]);

function servingLaunch(
  runner: string | null | undefined,
  timeline: readonly TimelineEntry[],
): string | null | undefined {
  const serving = timeline.find((entry) => runner != null && entry.runnerName === runner);
  if (serving !== undefined) {
    return serving.launchId;
  }
  const gone = new Set(
    timeline.filter(({ kind }) => GONE.has(kind)).map(({ launchId }) => launchId),
  );
  return timeline.findLast(({ launchId }) => launchId != null && !gone.has(launchId))?.launchId;
}

/** The Slurm jobs that a timeline names, oldest first. */
export function slurmJobsOf(timeline: readonly TimelineEntry[]): string[] {
  return [...new Set(timeline.flatMap(({ slurmJobId }) => slurmJobId ?? []))];
}

/** Strips a log of the escape sequences that colour it in a terminal. */
export function plainText(log: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences start with one.
  return log.replace(/\u001b\[[0-?]*[ -/]*[@-~]/g, '').replaceAll('\r\n', '\n');
}
