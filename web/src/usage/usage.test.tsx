import { fireEvent, screen, waitFor, within } from '@testing-library/react';
import { describe, expect, it } from 'vitest';
import { FakeApi, problem } from '../../test/fakeApi';
import { open } from '../../test/page';
import { hours, isMonth, monthName, monthOf } from './month';

const table = async () => within(await screen.findByRole('table'));
const cells = (row: HTMLElement) =>
  within(row)
    .getAllByRole('cell')
    .map((c) => c.textContent);

function withUsage(): FakeApi {
  const api = new FakeApi();
  const sum = {
    builds: 3,
    launches: 4,
    elapsedS: 5400,
    cpuAllocatedS: 43_200,
    cpuUsedS: 36_000,
    gpuAllocatedS: 0,
  };
  api.used('2026-11', [
    { ...sum, repositoryUrl: 'https://github.com/octo/simulation', slurmUser: 'alice' },
    {
      ...sum,
      repositoryUrl: 'https://github.com/octo/training',
      slurmUser: 'bob',
      gpuAllocatedS: 10,
    },
  ]);
  return api;
}

describe('the usage', () => {
  it('is shown for each repository and Slurm user, and together', async () => {
    open('/usage?month=2026-11', { api: withUsage() });
    const rows = (await table()).getAllByRole('row');
    expect(rows).toHaveLength(4);
    expect(cells(rows[1] as HTMLElement)).toEqual(['alice', '3', '4', '1.5', '12', '10', '0']);
    expect(within(rows[1] as HTMLElement).getByRole('link')).toHaveAttribute(
      'href',
      'https://github.com/octo/simulation',
    );
    expect(cells(rows[2] as HTMLElement)).toEqual(['bob', '3', '4', '1.5', '12', '10', '< 0.01']);
    expect(cells(rows[3] as HTMLElement)).toEqual(['6', '8', '3', '24', '20', '< 0.01']);
  });

  it('is that of the Slurm user one looks at', async () => {
    open('/usage?month=2026-11&user=bob', { api: withUsage() });
    expect(await screen.findByRole('heading', { name: 'Usage for bob' })).toBeVisible();
    const rows = (await table()).getAllByRole('row');
    expect(rows).toHaveLength(2);
    expect(screen.queryByText('octo/simulation')).toBeNull();
  });

  it('is that of this month until another one is chosen', async () => {
    const { router, user } = open('/', { api: withUsage() });
    await user.click(await screen.findByRole('link', { name: 'Usage' }));
    const month = await screen.findByLabelText('Month');
    expect(month).toHaveValue(monthOf(Date.now()));
    fireEvent.change(month, { target: { value: '2020-02' } });
    expect(await screen.findByText('No usage in February 2020')).toBeVisible();
    fireEvent.change(month, { target: { value: '2026-11' } });
    await table();
    await waitFor(() => expect(router.state.location.search).toEqual({ month: '2026-11' }));
  });

  it('that cannot be loaded says why', async () => {
    const api = withUsage();
    api.trouble = () => problem(503, 'unavailable', 'Not available right now');
    const { user } = open('/usage?month=2026-11', { api });
    expect(await screen.findByText('Could not load usage')).toBeVisible();
    api.trouble = undefined;
    // Primer draws a banner's buttons twice, for narrow and for wide.
    await user.click(screen.getAllByRole('button', { name: 'Try again' })[0] as HTMLElement);
    await table();
  });

  it('of a build is among its facts', async () => {
    const api = new FakeApi();
    api.add({ workflowJobId: 17, name: 'simulate', state: 'completed', conclusion: 'success' });
    const detail = api.details.get(17);
    if (detail !== undefined) {
      detail.usage = {
        elapsedS: 125,
        cpuAllocatedS: 250,
        cpuUsedS: 180,
        gpuAllocatedS: 0,
        maxRssBytes: 3_221_225_472,
        tres: 'cpu=2,mem=4000M,node=1',
      };
    }
    open('/builds/17', { api });
    expect((await screen.findByText('Slurm job run time')).parentElement).toHaveTextContent(
      '2m 5s',
    );
    expect(screen.getByText('CPU time').parentElement).toHaveTextContent(
      '3m used of 4m 10s allocated',
    );
    expect(screen.getByText('Peak memory').parentElement).toHaveTextContent('3 GiB');
    expect(screen.getByText('cpu=2,mem=4000M,node=1')).toBeVisible();
    expect(screen.queryByText('GPU time')).toBeNull();
  });
});

describe('months and hours', () => {
  it('are read and written', () => {
    expect(['2026-11', '2026-13', '2026-1', '11-2026', ''].map(isMonth)).toEqual([
      true,
      false,
      false,
      false,
      false,
    ]);
    expect(monthName('2026-01')).toBe('January 2026');
    expect(monthOf(Date.parse('2026-11-30T23:30:00-02:00'))).toBe('2026-12');
    expect([0, 1, 36, 3600, 5_400_000].map(hours)).toEqual(['0', '< 0.01', '0.01', '1', '1,500']);
  });
});
