import type { Build } from '../api/api';

/** A build's state, conclusion and verdict, reduced to what the page shows. */
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

const CONCLUSIONS: Record<string, Standing> = {
  success: { phase: 'succeeded', label: 'Succeeded' },
  failure: { phase: 'failed', label: 'Failed' },
  timed_out: { phase: 'failed', label: 'Timed out' },
  startup_failure: { phase: 'failed', label: 'Failed to start' },
  cancelled: { phase: 'cancelled', label: 'Cancelled' },
  skipped: { phase: 'cancelled', label: 'Skipped' },
};

/**
 * A state or verdict that the API gains does not compile until it has a case here. One that only a newer server knows is
 * shown as it is.
 */
export function standingOf(build: Build): Standing {
  if (build.state === 'completed') {
    const conclusion = build.conclusion ?? 'completed';
    return CONCLUSIONS[conclusion] ?? { phase: 'ended', label: inWords(conclusion) };
  }
  switch (build.verdict) {
    case 'not_ours':
      return { phase: 'ignored', label: 'Not for this cluster' };
    case 'refused':
      return { phase: 'refused', label: 'Refused' };
    case 'waiting_for_mapping':
      return { phase: 'unmapped', label: 'Waiting for a mapping' };
    case 'undecided':
    case 'ours':
      break;
    default:
      return { phase: 'waiting', label: inWords(build.verdict satisfies never) };
  }
  switch (build.state) {
    case 'waiting':
      return { phase: 'waiting', label: 'Waiting on GitHub' };
    case 'queued':
      return { phase: build.reason == null ? 'queued' : 'stuck', label: 'Queued' };
    case 'in_progress':
      return { phase: 'running', label: 'In progress' };
    default:
      return { phase: 'waiting', label: inWords(build.state satisfies never) };
  }
}

/** `workflow_job_started` → `Workflow job started`. */
export function inWords(code: string): string {
  const words = code.replaceAll('_', ' ');
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Whether the build may still change without a change of labels, mapping or policy. */
export function isMoving(build: Build): boolean {
  return build.state !== 'completed' && build.verdict !== 'not_ours' && build.verdict !== 'refused';
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
