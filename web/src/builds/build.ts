import type { Build, BuildStage } from '../api/api';

/** The stage of a build, reduced to what has a colour and an icon of its own. */
export type Phase =
  | 'waiting'
  | 'queued'
  | 'stuck'
  | 'unmapped'
  | 'refused'
  | 'ignored'
  | 'running'
  | 'succeeded'
  | 'failed'
  | 'cancelled'
  | 'ended';

/** The phase of a build and its name for people. */
export interface Standing {
  readonly phase: Phase;
  readonly label: string;
}

const STANDINGS: Record<BuildStage, Standing> = {
  waiting_at_github: { phase: 'waiting', label: 'Waiting at GitHub' },
  not_ours: { phase: 'ignored', label: 'Not for this cluster' },
  waiting_for_mapping: { phase: 'unmapped', label: 'Waiting for a mapping' },
  refused: { phase: 'refused', label: 'Refused' },
  given_up: { phase: 'stuck', label: 'Given up' },
  stopped: { phase: 'stuck', label: 'Stopped' },
  planned: { phase: 'queued', label: 'Queued' },
  delayed: { phase: 'stuck', label: 'Delayed' },
  pending: { phase: 'queued', label: 'Pending in Slurm' },
  never_starts: { phase: 'stuck', label: 'Cannot start' },
  starting: { phase: 'queued', label: 'Starting' },
  running: { phase: 'running', label: 'In progress' },
  succeeded: { phase: 'succeeded', label: 'Succeeded' },
  failed: { phase: 'failed', label: 'Failed' },
  refused_on_node: { phase: 'refused', label: 'Refused' },
  cancelled: { phase: 'cancelled', label: 'Cancelled' },
  skipped: { phase: 'cancelled', label: 'Skipped' },
  ended: { phase: 'ended', label: 'Completed' },
};

/** Names of conclusions that say more than the stage. */
const CONCLUSIONS: Record<string, string> = {
  timed_out: 'Timed out',
  startup_failure: 'Failed to start',
};

/**
 * A stage that the API gains does not compile until it has a case here. One that only a newer server knows is shown as it
 * is.
 */
export function standingOf({ status, conclusion }: Build): Standing {
  const { stage } = status;
  if (!Object.hasOwn(STANDINGS, stage)) {
    return { phase: 'waiting', label: inWords(stage) };
  }
  const standing = STANDINGS[stage];
  if (stage === 'failed' || stage === 'ended') {
    const known = CONCLUSIONS[conclusion ?? ''];
    const other = stage === 'ended' && conclusion != null ? inWords(conclusion) : undefined;
    return { ...standing, label: known ?? other ?? standing.label };
  }
  return standing;
}

/** Whether its steps say anything: not where it is refused, or not for this cluster. */
export function hasSteps({ status }: Build): boolean {
  return !['not_ours', 'refused', 'refused_on_node'].includes(status.stage);
}

/** `workflow_job_started` → `Workflow job started`. */
export function inWords(code: string): string {
  const words = code.replaceAll('_', ' ');
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Whether the build may still change without a change of labels, mapping or policy. */
export function isMoving(build: Build): boolean {
  return build.state !== 'completed' && hasSteps(build);
}

/** Polling intervals in milliseconds. */
export const FAST = 2_000;
const SLOW = 10_000;
/** How long to poll a completed build, in milliseconds: its runner's end is reported after GitHub's "completed". */
const AFTERMATH = 120_000;

export function listInterval(builds: readonly Build[] | undefined): number {
  return builds?.some(isMoving) ? FAST : SLOW;
}

export function detailInterval(build: Build | undefined, now: number): number | false {
  if (build === undefined || isMoving(build)) {
    return FAST;
  }
  if (build.state !== 'completed') {
    return SLOW;
  }
  const since = now - Date.parse(build.completedAt ?? build.updatedAt);
  return since < AFTERMATH ? FAST : false;
}
