import type { Page } from '@playwright/test';
import type { Build, TimelineEntry } from '../src/api/api';
import { FakeApi } from '../test/fakeApi';

const seconds = (ago: number) => new Date(Date.now() - ago * 1000).toISOString();

/** The times of an entry that was recorded at once, or at another time (both in seconds ago). */
const happened = (ago: number, recorded = ago) => ({
  happenedAt: seconds(ago),
  recordedAt: seconds(recorded),
});

/** Signs in and lets `api` answer the page. */
export async function serve(page: Page, api: FakeApi, { signedIn = true } = {}): Promise<void> {
  await page.route(/\/(api|repositories)\//, async (route) => {
    const request = route.request();
    const body = request.postData();
    const response = await api.handle(
      new Request(request.url(), {
        method: request.method(),
        headers: request.headers(),
        ...(body !== null && { body }),
      }),
    );
    await route.fulfill({
      status: response.status,
      headers: Object.fromEntries(response.headers),
      body: await response.text(),
    });
  });
  if (signedIn) {
    await page.addInitScript(
      (token) => sessionStorage.setItem('gha-slurm.token', token),
      api.token,
    );
  }
}

/** A deployment in the middle of its day. */
export function busyDay(): FakeApi {
  const api = new FakeApi();
  api.map('alice', 'octo/simulation', 'octo/mesh-tools', 'octo/paper-2026');
  const runner = { runnerName: 'gha-slurm-demo-7f3a91' };
  const launch = {
    launchId: '0198c0de-0000-7000-8000-000000000001',
    slurmJobId: '48213',
    ...runner,
  };
  const alice: Partial<Build> = {
    slurmUser: 'alice',
    workflowName: 'CI',
    headBranch: 'main',
    htmlUrl: 'https://github.com/octo/simulation/actions/runs/1/job/1',
  };
  const events: TimelineEntry[] = [
    { ...happened(95), kind: 'queued', detail: 'GitHub queued it' },
    { ...happened(94.6), kind: 'planned', detail: 'a launch is planned', ...launch },
    {
      ...happened(94.1),
      kind: 'submitted',
      detail: 'submitted to cluster hpc as Slurm job 48213',
      ...launch,
    },
    {
      ...happened(90),
      kind: 'slurm',
      detail: 'pending (Priority, starts ~14:20 UTC)',
      ...launch,
    },
    {
      ...happened(61),
      kind: 'allocated',
      detail: 'Slurm job 48213 runs on node017 and has called back',
      ...launch,
    },
    {
      ...happened(60.5),
      kind: 'set_up',
      detail: 'Runner gha-slurm-demo-7f3a91 is being set up on node017',
      ...launch,
    },
    {
      ...happened(60),
      kind: 'registered',
      detail: 'runner gha-slurm-demo-7f3a91 is registered at GitHub',
      ...launch,
    },
    {
      ...happened(54),
      kind: 'listening',
      detail: 'runner gha-slurm-demo-7f3a91 listens for workflow jobs',
      ...launch,
    },
    {
      ...happened(52),
      kind: 'workflow_job_started',
      detail: 'a workflow job of run 8127731 started in runner gha-slurm-demo-7f3a91',
      ...launch,
    },
    { ...happened(51), kind: 'in_progress', detail: 'in runner gha-slurm-demo-7f3a91' },
  ];
  api.add(
    {
      ...alice,
      ...runner,
      workflowJobId: 39210001,
      name: 'simulate (gcc-14, mpi)',
      labels: ['self-hosted', 'slurm', 'gpu=1', 'mem=16G'],
      state: 'in_progress',
      status: { stage: 'running' },
      queuedAt: seconds(95),
      startedAt: seconds(51),
      updatedAt: seconds(1),
    },
    events,
  );
  api.add(
    {
      ...alice,
      workflowJobId: 39210002,
      name: 'simulate (clang-19, mpi)',
      labels: ['self-hosted', 'slurm', 'gpu=1', 'mem=16G'],
      status: {
        stage: 'pending',
        why: 'In Slurm’s queue: others with a higher priority come first.',
        slurmReason: 'Priority',
        expectedAt: seconds(-86_400),
      },
      queuedAt: seconds(95),
      updatedAt: seconds(2),
    },
    events.slice(0, 3),
  );
  api.add({
    ...alice,
    ...runner,
    runnerName: 'gha-slurm-demo-11c0de',
    workflowJobId: 39210003,
    repositoryUrl: 'https://github.com/octo/mesh-tools',
    name: 'unit tests',
    headBranch: 'refine-adaptive-boundaries',
    labels: ['self-hosted', 'slurm'],
    state: 'completed',
    conclusion: 'success',
    status: { stage: 'succeeded' },
    queuedAt: seconds(900),
    startedAt: seconds(840),
    completedAt: seconds(700),
    updatedAt: seconds(700),
  });
  api.add({
    ...alice,
    workflowJobId: 39210004,
    repositoryUrl: 'https://github.com/octo/mesh-tools',
    name: 'lint',
    runnerName: 'gha-slurm-demo-0badc0',
    state: 'completed',
    conclusion: 'failure',
    status: { stage: 'failed' },
    queuedAt: seconds(4000),
    startedAt: seconds(3900),
    completedAt: seconds(3800),
    updatedAt: seconds(3800),
  });
  api.add(
    {
      ...alice,
      workflowJobId: 39210005,
      name: 'render figures',
      repositoryUrl: 'https://github.com/octo/paper-2026',
      status: {
        stage: 'given_up',
        why: 'Stopped after 3 failed attempts. Last error: the runner could not be unpacked.',
        remedy:
          'Once the cause is fixed, run the workflow again, or ask an administrator for gha-slurm retry.',
      },
      queuedAt: seconds(1300),
      updatedAt: seconds(20),
    },
    [
      { ...happened(1300), kind: 'queued', detail: 'GitHub queued it' },
      { ...happened(1299), kind: 'planned', detail: 'a launch is planned', ...launch },
      {
        ...happened(1298),
        kind: 'delayed',
        detail: 'the Slurm agent cannot be reached; tried again in 4 s',
        ...launch,
      },
      {
        ...happened(1294),
        kind: 'submitted',
        detail: 'submitted to cluster hpc as Slurm job 48213',
        ...launch,
      },
      {
        ...happened(1200, 640),
        kind: 'ended_without_workflow_job',
        detail: 'the launch is over: the runner could not be unpacked (exit code 3)',
        logTail:
          'gha-slurm: work directory /scratch/alice/gha-slurm/0198c0de\n\u001b[33mgha-slurm: unpacking the runner\u001b[0m\ntar: actions-runner/bin/Runner.Listener: Cannot write: No space left on device\ntar: Exiting with failure status due to previous errors\ngha-slurm: the runner could not be unpacked (exit code 3)\n',
        ...launch,
      },
    ],
  );
  api.add(
    {
      workflowJobId: 39210006,
      name: 'build',
      repositoryUrl: 'https://github.com/newlab/first-steps',
      verdict: 'waiting_for_mapping',
      status: {
        stage: 'waiting_for_mapping',
        why: 'No Slurm user has mapped this repository yet.',
      },
      queuedAt: seconds(300),
      updatedAt: seconds(300),
    },
    [
      { ...happened(300), kind: 'queued', detail: 'GitHub queued it' },
      {
        ...happened(300),
        kind: 'waiting_for_mapping',
        detail: 'no Slurm user has mapped this repository yet',
      },
    ],
  );
  api.add({
    workflowJobId: 39210007,
    name: 'fuzz',
    repositoryUrl: 'https://github.com/octo/open-source',
    slurmUser: 'bob',
    verdict: 'refused',
    status: {
      stage: 'refused',
      why: 'Public repositories are refused until an administrator allows this one: anyone could run code on the cluster through a pull request.',
    },
    queuedAt: seconds(5000),
    updatedAt: seconds(5000),
  });
  api.add({
    workflowJobId: 39210008,
    name: 'windows build',
    repositoryUrl: 'https://github.com/octo/desktop',
    slurmUser: 'bob',
    labels: ['self-hosted', 'windows'],
    verdict: 'not_ours',
    status: { stage: 'not_ours', why: 'The label windows is unknown.' },
    queuedAt: seconds(9000),
    updatedAt: seconds(9000),
  });
  api.notInstalled.add('octo/secret');
  api.map('bob', 'octo/open-source', 'octo/shared');
  api.charge('alice', 'octo/simulation', { account: 'physics', qos: 'high' });
  api.ask('alice', 'octo/adaptive-mesh-refinement-for-everyone', {
    requestedAt: seconds(200_000),
    account: 'astrophysics-and-cosmology',
    qos: 'long',
  });
  api.ask('alice', 'octo/shared', { requestedAt: seconds(7300) });
  api.ask('dora', 'newlab/first-steps', { requestedAt: seconds(240), cluster: 'gpu' });
  const person = { administrator: false, signedInAt: seconds(3600) };
  api.people = [
    {
      ...person,
      githubId: 583_231,
      login: 'octocat',
      slurmUser: 'alice',
      linkedBy: 'root',
      linkedAt: seconds(90_000),
    },
    { ...person, githubId: 480_938, login: 'hubot' },
    { ...person, githubId: 1024, login: 'root', administrator: true },
  ];
  const used = { builds: 41, launches: 43, elapsedS: 98_765 };
  api.used('2026-10', [
    {
      ...used,
      repositoryUrl: 'https://github.com/octo/simulation',
      slurmUser: 'alice',
      cpuAllocatedS: 790_120,
      cpuUsedS: 612_005,
      gpuAllocatedS: 98_765,
    },
    {
      ...used,
      repositoryUrl: 'https://github.com/octo/open-source',
      slurmUser: 'bob',
      cpuAllocatedS: 98_765,
      cpuUsedS: 31_999,
      gpuAllocatedS: 0,
    },
  ]);
  return api;
}
