import { screen, waitFor, within } from '@testing-library/react';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { FakeApi, problem } from '../../test/fakeApi';
import { open } from '../../test/page';

const rows = async () => within(await screen.findByRole('list', { name: 'Builds' }));
const build = { workflowJobId: 17, slurmUser: 'alice', name: 'simulate' };
const listRequests = (api: FakeApi) => api.requests.filter((r) => r === 'GET /api/builds').length;

afterEach(() => {
  Object.defineProperty(document, 'visibilityState', { value: 'visible', configurable: true });
});

describe('the list', () => {
  it('says what to do while there is nothing', async () => {
    open('/?user=alice');
    expect(await screen.findByText('No builds for alice yet')).toBeVisible();
    expect(screen.getByText(/Install the GitHub App/)).toBeVisible();
  });

  it('shows a user’s builds, or everyone’s', async () => {
    const api = new FakeApi();
    api.add({ ...build, headBranch: 'main', runnerName: 'gha-slurm-7f' });
    api.add({ workflowJobId: 18, name: 'lint', slurmUser: 'bob' });
    const { user, router } = open('/?user=alice', { api });
    const mine = await rows();
    expect(mine.getByRole('link', { name: 'simulate' })).toHaveAttribute(
      'href',
      '/builds/17?user=alice',
    );
    for (const text of ['octo/simulation', 'main', 'Queued', 'slurm', 'gha-slurm-7f']) {
      expect(mine.getByText(text)).toBeVisible();
    }
    expect(mine.queryByText('lint')).toBeNull();
    await user.click(screen.getByRole('button', { name: 'Everyone' }));
    await waitFor(async () => expect((await rows()).getByText('lint')).toBeVisible());
    expect((await rows()).getByText('bob')).toBeVisible();
    expect(router.state.location.search).toEqual({ user: 'alice', show: 'everyone' });
  });

  it('leads from a build nobody mapped to the mapping', async () => {
    const api = new FakeApi();
    api.add({
      ...build,
      slurmUser: null,
      verdict: 'waiting_for_mapping',
      status: {
        stage: 'waiting_for_mapping',
        why: 'No Slurm user has mapped this repository yet.',
      },
    });
    const { user } = open('/?user=alice&show=everyone', { api });
    expect(await screen.findByText(/No Slurm user has mapped this repository yet\./)).toBeVisible();
    await user.click(screen.getByRole('link', { name: 'Map repository' }));
    expect(await screen.findByRole('textbox', { name: 'Add repositories' })).toHaveValue(
      'octo/simulation',
    );
  });

  it('loads more on request', async () => {
    const api = new FakeApi();
    for (let id = 1; id <= 40; id += 1) {
      api.add({ workflowJobId: id, name: `build ${id}`, status: { stage: 'succeeded' } });
    }
    const { user } = open('/', { api });
    expect((await rows()).getAllByRole('link')).toHaveLength(30);
    await user.click(screen.getByRole('button', { name: 'Show more' }));
    await waitFor(async () => expect((await rows()).getAllByRole('link')).toHaveLength(40));
    expect(screen.queryByRole('button', { name: 'Show more' })).toBeNull();
  });

  it('follows what happens, and says so when it cannot', async () => {
    const api = new FakeApi();
    const row = api.add(build);
    open('/', { api });
    expect(await screen.findByText('Queued')).toBeVisible();
    row.status = { stage: 'running' };
    expect(await screen.findByText('In progress', {}, { timeout: 5000 })).toBeVisible();
    api.trouble = () => problem(503, 'unavailable', 'Not available right now');
    expect(
      await screen.findByText('The builds below may be out of date', {}, { timeout: 5000 }),
    ).toBeVisible();
    expect(screen.getByText('In progress')).toBeVisible();
    api.trouble = undefined;
    row.state = 'completed';
    row.status = { stage: 'succeeded' };
    expect(await screen.findByText('Succeeded', {}, { timeout: 5000 })).toBeVisible();
    expect(screen.queryByText(/out of date/)).toBeNull();
  }, 20_000);

  it('asks nothing while nobody looks, and at once when somebody does', async () => {
    vi.useFakeTimers({ shouldAdvanceTime: true });
    try {
      const api = new FakeApi();
      api.add(build);
      open('/', { api });
      await screen.findByText('Queued');
      const look = (visibilityState: DocumentVisibilityState) => {
        Object.defineProperty(document, 'visibilityState', {
          value: visibilityState,
          configurable: true,
        });
        window.dispatchEvent(new Event('visibilitychange'));
      };
      look('hidden');
      const before = listRequests(api);
      await vi.advanceTimersByTimeAsync(60_000);
      expect(listRequests(api)).toBe(before);
      look('visible');
      await waitFor(() => expect(listRequests(api)).toBeGreaterThan(before));
    } finally {
      vi.useRealTimers();
    }
  });
});

describe('a build', () => {
  const start = Date.now() - 60_000;
  const at = (second: number) => new Date(start + second * 1000).toISOString();
  const happened = (second: number) => ({ happenedAt: at(second), recordedAt: at(second) });
  const launch = {
    launchId: '0198c0de-0000-7000-8000-000000000001',
    slurmJobId: '4711',
    runnerName: 'gha-slurm-7f',
  };

  it('shows its timeline with the Slurm job and the runner, and goes on by itself', async () => {
    const api = new FakeApi();
    api.add({ ...build, queuedAt: at(0) }, [
      { ...happened(0), kind: 'queued', detail: 'GitHub queued it' },
      { ...happened(1), kind: 'submitted', detail: 'submitted as Slurm job 4711', ...launch },
    ]);
    open('/builds/17?user=alice', { api });
    const timeline = within(await screen.findByRole('list', { name: 'Timeline' }));
    expect(timeline.getByText('GitHub queued it.')).toBeVisible();
    expect(timeline.getByText('+1s')).toBeVisible();
    expect(screen.getByText('4711')).toBeVisible();
    const progress = within(screen.getByRole('list', { name: 'Progress' }));
    expect(progress.getByText('Submitted').closest('li')).toHaveTextContent(/, done/);
    expect(progress.getByText('Allocated').closest('li')).toHaveTextContent(/, current step/);

    const detail = api.details.get(17);
    detail?.timeline.push({
      ...happened(9),
      kind: 'allocated',
      detail: 'Slurm job 4711 runs on node7 and has called back',
      ...launch,
    });
    expect(await screen.findByText(/runs on node7/, {}, { timeout: 5000 })).toBeVisible();
    expect(progress.getByText('Allocated').closest('li')).toHaveTextContent(/, done/);
  });

  it('shows the end of the log of what failed, when asked', async () => {
    const api = new FakeApi();
    const why = 'Stopped after 3 failed attempts.';
    const remedy = 'Once the cause is fixed, run the workflow again.';
    api.add({ ...build, status: { stage: 'given_up', why, remedy } }, [
      {
        ...happened(5),
        kind: 'ended_without_workflow_job',
        detail: 'the launch is over: exit code 3',
        logTail: '\u001b[31mNo space left on device\u001b[0m',
        ...launch,
      },
    ]);
    const { user } = open('/builds/17', { api });
    expect(await screen.findByText('simulate: Given up')).toBeInTheDocument();
    expect(screen.getByText(`${why} ${remedy}`)).toBeVisible();
    const log = screen.getByText('No space left on device');
    expect(log.closest('details')).not.toHaveAttribute('open');
    await user.click(screen.getByText(/Show the end of the job script’s log/));
    expect(log.closest('details')).toHaveAttribute('open');
  });

  it('says of what was recorded late when that was', async () => {
    const api = new FakeApi();
    const late = { happenedAt: at(1), recordedAt: at(50 * 60) };
    api.add(build, [
      { ...happened(0), kind: 'queued', detail: 'GitHub queued it' },
      { ...late, kind: 'slurm', detail: 'running on node7', ...launch },
    ]);
    open('/builds/17', { api });
    const timeline = within(await screen.findByRole('list', { name: 'Timeline' }));
    const [queued, slurm] = timeline.getAllByRole('listitem');
    const times = (item: HTMLElement | undefined) => [...(item?.querySelectorAll('time') ?? [])];
    for (const time of times(queued)) {
      expect(time.title).not.toContain('recorded');
    }
    expect(times(slurm)).toHaveLength(2);
    for (const time of times(slurm)) {
      expect(time).toHaveAttribute('datetime', late.happenedAt);
      expect(time.title).toMatch(/ \(recorded .+\)$/);
    }
  });

  it('keeps a log open when something that happened before it is recorded late', async () => {
    const api = new FakeApi();
    const kind = 'ended_without_workflow_job';
    api.add(build, [
      { ...happened(5), kind, detail: 'exit code 3', logTail: 'No space', ...launch },
    ]);
    const { user } = open('/builds/17', { api });
    await user.click(await screen.findByText(/Show the end of the job script’s log/));
    const late = { happenedAt: at(1), recordedAt: at(9) };
    api.details.get(17)?.timeline.unshift({ ...late, kind: 'slurm', detail: 'running', ...launch });
    expect(await screen.findByText('Running.', {}, { timeout: 5000 })).toBeVisible();
    expect(screen.getByText('No space').closest('details')).toHaveAttribute('open');
  });

  it('says why it was refused', async () => {
    const api = new FakeApi();
    const status = { stage: 'refused', why: 'Public repositories are refused.' } as const;
    api.add({ ...build, verdict: 'refused', status });
    open('/builds/17', { api });
    expect(await screen.findByText('This job was refused')).toBeVisible();
    expect(screen.getByText('Public repositories are refused.')).toBeVisible();
    expect(screen.queryByRole('list', { name: 'Progress' })).toBeNull();
  });

  it('says why it waits in Slurm, and until when', async () => {
    const api = new FakeApi();
    const expectedAt = new Date(Date.now() + 3 * 86_400_000).toISOString();
    const why = 'In Slurm’s queue: others with a higher priority come first.';
    const status = { stage: 'pending', why, slurmReason: 'Priority', expectedAt } as const;
    api.add({ ...build, status });
    open('/builds/17', { api });
    const text = await screen.findByText(/others with a higher priority come first\./);
    expect(text).toHaveTextContent('Slurm’s reason: Priority. Expected to start: ');
    const expected = text.querySelector('time');
    expect(expected).toHaveAttribute('datetime', expectedAt);
    // With its date, which is not today's.
    expect(expected?.textContent).toContain(String(new Date(expectedAt).getFullYear()));
  });

  it('has no progress where its node refused it, and no run time where it was cancelled before', async () => {
    const api = new FakeApi();
    const why = 'The event pull_request_target is not allowed.';
    const over = { state: 'completed', queuedAt: at(0), completedAt: at(9) } as const;
    api.add({
      ...build,
      ...over,
      conclusion: 'failure',
      status: { stage: 'refused_on_node', why },
    });
    api.add({ ...build, ...over, workflowJobId: 18, status: { stage: 'cancelled' } });
    const { router } = open('/builds/17', { api });
    expect(await screen.findByText(why)).toBeVisible();
    expect(screen.queryByRole('list', { name: 'Progress' })).toBeNull();
    await router.navigate({ to: '/builds/$workflowJobId', params: { workflowJobId: '18' } });
    expect(await screen.findByText('simulate: Cancelled')).toBeInTheDocument();
    expect(screen.queryByText('Run time')).toBeNull();
  });

  it('that nobody knows is said to be unknown', async () => {
    open('/builds/404');
    expect(await screen.findByText('Build not found')).toBeVisible();
  });

  it('with a nonsensical address asks nobody', async () => {
    const { api } = open('/builds/1e3');
    expect(await screen.findByText('Build not found')).toBeVisible();
    expect(api.requests.filter((r) => r.startsWith('GET /api/builds'))).toEqual([]);
  });
});
