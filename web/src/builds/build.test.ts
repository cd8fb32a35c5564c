import { describe, expect, it, test } from 'vitest';
import type { Build, BuildStage } from '../api/api';
import { detailInterval, FAST, listInterval, standingOf } from './build';

const build = (over: Partial<Build>): Build => ({
  workflowJobId: 1,
  repositoryUrl: 'https://github.com/octo/app',
  name: 'test',
  labels: [],
  state: 'queued',
  verdict: 'ours',
  status: { stage: 'planned' },
  updatedAt: '2026-01-01T00:00:00Z',
  ...over,
});

test.each<[Partial<Build>, string, string]>([
  [{}, 'queued', 'Queued'],
  [{ status: { stage: 'pending' } }, 'queued', 'Pending in Slurm'],
  [{ status: { stage: 'never_starts' } }, 'stuck', 'Cannot start'],
  [{ status: { stage: 'given_up' } }, 'stuck', 'Given up'],
  [{ status: { stage: 'waiting_at_github' } }, 'waiting', 'Waiting at GitHub'],
  [{ status: { stage: 'running' } }, 'running', 'In progress'],
  [{ status: { stage: 'refused_on_node' }, conclusion: 'failure' }, 'refused', 'Refused'],
  [{ status: { stage: 'failed' }, conclusion: 'failure' }, 'failed', 'Failed'],
  [{ status: { stage: 'failed' }, conclusion: 'timed_out' }, 'failed', 'Timed out'],
  [{ status: { stage: 'cancelled' }, conclusion: 'cancelled' }, 'cancelled', 'Cancelled'],
  [{ status: { stage: 'ended' }, conclusion: 'action_required' }, 'ended', 'Action required'],
  [{ status: { stage: 'ended' } }, 'ended', 'Completed'],
  // A newer server's.
  [{ status: { stage: 'on_hold' as BuildStage } }, 'waiting', 'On hold'],
])('%o is %s: %s', (over, phase, label) => {
  expect(standingOf(build(over))).toEqual({ phase, label });
});

describe('how often is asked again', () => {
  it('is often while something moves, and seldom otherwise', () => {
    const ended = build({ state: 'completed' });
    expect(listInterval([ended, build({})])).toBe(FAST);
    expect(listInterval([ended, build({ status: { stage: 'not_ours' } })])).toBeGreaterThan(FAST);
    expect(listInterval(undefined)).toBeGreaterThan(FAST);
  });

  it('ends a while after a build did', () => {
    const completedAt = '2026-01-01T00:00:00Z';
    const ended = build({ state: 'completed', completedAt });
    const at = (seconds: number) => Date.parse(completedAt) + seconds * 1000;
    expect(detailInterval(build({}), at(0))).toBe(FAST);
    expect(detailInterval(ended, at(10))).toBe(FAST);
    expect(detailInterval(ended, at(600))).toBe(false);
    expect(detailInterval(build({ status: { stage: 'refused' } }), at(0))).toBeGreaterThan(FAST);
  });
});
