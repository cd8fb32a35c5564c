import { describe, expect, it, test } from 'vitest';
import type { Build } from '../api/api';
import { detailInterval, FAST, listInterval, standingOf } from './build';

const build = (over: Partial<Build>): Build => ({
  workflowJobId: 1,
  repositoryUrl: 'https://github.com/octo/app',
  name: 'test',
  labels: [],
  state: 'queued',
  verdict: 'ours',
  updatedAt: '2026-01-01T00:00:00Z',
  ...over,
});

test.each<[Partial<Build>, string, string]>([
  [{}, 'queued', 'Queued'],
  [{ verdict: 'undecided' }, 'queued', 'Queued'],
  [{ reason: 'stopped after 3 failed attempts' }, 'stuck', 'Queued'],
  [{ state: 'waiting' }, 'waiting', 'Waiting on GitHub'],
  [{ state: 'in_progress' }, 'running', 'In progress'],
  [{ verdict: 'not_ours' }, 'ignored', 'Not for this cluster'],
  [{ verdict: 'refused' }, 'refused', 'Refused'],
  [{ verdict: 'waiting_for_mapping' }, 'unmapped', 'Waiting for a mapping'],
  [{ state: 'completed', conclusion: 'success' }, 'succeeded', 'Succeeded'],
  [{ state: 'completed', conclusion: 'failure' }, 'failed', 'Failed'],
  [{ state: 'completed', conclusion: 'timed_out' }, 'failed', 'Timed out'],
  [{ state: 'completed', conclusion: 'cancelled' }, 'cancelled', 'Cancelled'],
  [{ state: 'completed', conclusion: 'action_required' }, 'ended', 'Action required'],
  [{ state: 'completed' }, 'ended', 'Completed'],
  // A newer server's.
  [{ state: 'on_hold' as Build['state'] }, 'waiting', 'On hold'],
  [{ verdict: 'over_budget' as Build['verdict'] }, 'waiting', 'Over budget'],
  // Somebody else's runner took it all the same: how it ended is what counts.
  [{ state: 'completed', conclusion: 'success', verdict: 'not_ours' }, 'succeeded', 'Succeeded'],
])('%o is %s: %s', (over, phase, label) => {
  expect(standingOf(build(over))).toEqual({ phase, label });
});

describe('how often is asked again', () => {
  it('is often while something moves, and seldom otherwise', () => {
    const ended = build({ state: 'completed' });
    expect(listInterval([ended, build({})])).toBe(FAST);
    expect(listInterval([ended, build({ verdict: 'not_ours' })])).toBeGreaterThan(FAST);
    expect(listInterval(undefined)).toBeGreaterThan(FAST);
  });

  it('ends a while after a build did', () => {
    const completedAt = '2026-01-01T00:00:00Z';
    const ended = build({ state: 'completed', completedAt });
    const at = (seconds: number) => Date.parse(completedAt) + seconds * 1000;
    expect(detailInterval(build({}), at(0))).toBe(FAST);
    expect(detailInterval(ended, at(10))).toBe(FAST);
    expect(detailInterval(ended, at(600))).toBe(false);
    expect(detailInterval(build({ verdict: 'refused' }), at(0))).toBeGreaterThan(FAST);
  });
});
