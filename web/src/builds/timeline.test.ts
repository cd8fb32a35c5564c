import { describe, expect, it } from 'vitest';
import type { Build, TimelineEntry, TimelineKind } from '../api/api';
import { plainText, slurmJobsOf, stepsOf } from './timeline';

const at = (second: number) => new Date(Date.UTC(2026, 0, 1, 0, 0, second)).toISOString();
const entry = (
  second: number,
  kind: TimelineKind,
  over: Partial<TimelineEntry> = {},
): TimelineEntry => ({
  happenedAt: at(second),
  recordedAt: at(second),
  kind,
  detail: kind,
  ...over,
});
const build: Build = {
  workflowJobId: 1,
  repositoryUrl: 'https://github.com/octo/app',
  name: 'test',
  labels: [],
  state: 'queued',
  verdict: 'ours',
  status: { stage: 'planned' },
  queuedAt: at(0),
  updatedAt: at(0),
};
const first = { launchId: 'a', slurmJobId: '41', runnerName: 'runner-a' };
const second = { launchId: 'b', slurmJobId: '42', runnerName: 'runner-b' };

describe('stepsOf', () => {
  it('shows what is behind and what comes next', () => {
    const timeline = [entry(0, 'queued'), entry(1, 'planned', first), entry(2, 'submitted', first)];
    expect(stepsOf({ build, timeline }).map(({ name, progress }) => [name, progress])).toEqual([
      ['Queued', 'done'],
      ['Planned', 'done'],
      ['Submitted', 'done'],
      ['Allocated', 'current'],
      ['Registered', 'ahead'],
      ['In progress', 'ahead'],
      ['Completed', 'ahead'],
    ]);
  });

  it('has reached nothing while GitHub holds it back', () => {
    const held: Build = { ...build, state: 'waiting', status: { stage: 'waiting_at_github' } };
    const steps = stepsOf({ build: held, timeline: [entry(0, 'waiting')] });
    expect(steps.slice(0, 2)).toMatchObject([
      { name: 'Queued', progress: 'current' },
      { name: 'Planned', progress: 'ahead' },
    ]);
  });

  it('starts again with a second launch', () => {
    const timeline = [
      entry(0, 'queued'),
      entry(1, 'planned', first),
      entry(2, 'submitted', first),
      entry(3, 'ended_without_workflow_job', first),
      entry(9, 'planned', second),
      entry(10, 'slurm', first),
    ];
    const steps = stepsOf({ build, timeline });
    expect(steps[1]).toMatchObject({ at: at(9), progress: 'done' });
    expect(steps[2]).toMatchObject({ at: undefined, progress: 'current' });
  });

  it('waits for another launch when the only one is gone', () => {
    const timeline = [
      entry(0, 'queued'),
      entry(1, 'planned', first),
      entry(2, 'submitted', first),
      entry(3, 'ended_without_workflow_job', first),
      entry(4, 'slurm', first),
    ];
    expect(
      stepsOf({ build, timeline })
        .map(({ progress }) => progress)
        .slice(0, 3),
    ).toEqual(['done', 'current', 'ahead']);
  });

  it('follows the runner that GitHub gave the workflow job to', () => {
    const timeline = [
      entry(0, 'queued'),
      entry(1, 'submitted', first),
      entry(5, 'submitted', second),
      entry(6, 'in_progress'),
    ];
    const running: Build = { ...build, state: 'in_progress', runnerName: 'runner-a' };
    expect(stepsOf({ build: running, timeline })[2]?.at).toBe(at(1));
  });

  it('does not wait for stations of a build that was cancelled in the queue', () => {
    const over: Build = {
      ...build,
      state: 'completed',
      conclusion: 'cancelled',
      completedAt: at(5),
    };
    expect(stepsOf({ build: over, timeline: [] }).map(({ progress }) => progress)).toEqual([
      'done',
      'skipped',
      'skipped',
      'skipped',
      'skipped',
      'skipped',
      'done',
    ]);
  });
});

it('names each Slurm job once', () => {
  expect(
    slurmJobsOf([entry(0, 'queued'), entry(1, 'submitted', first), entry(2, 'allocated', first)]),
  ).toEqual(['41']);
});

it('shows a coloured log as plain text', () => {
  expect(plainText('\u001b[31mno space left\u001b[0m\r\nbye')).toBe('no space left\nbye');
});
