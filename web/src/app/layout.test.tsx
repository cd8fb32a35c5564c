import { screen, within } from '@testing-library/react';
import { describe, expect, it } from 'vitest';
import { FakeApi } from '../../test/fakeApi';
import { open } from '../../test/page';

const pages = async () =>
  within(await screen.findByRole('navigation', { name: 'Pages' }))
    .getAllByRole('link')
    .map((link) => link.textContent);

/** octocat is signed in, and linked to alice. */
function octocat(): FakeApi {
  const api = new FakeApi();
  api.signIn('octocat', { slurmUser: 'alice' });
  api.add({ workflowJobId: 1, name: 'of alice', slurmUser: 'alice' });
  api.add({ workflowJobId: 2, name: 'of bob', slurmUser: 'bob' });
  return api;
}

describe('a person', () => {
  it('sees their own Slurm user only, whatever the address says', async () => {
    const { api } = open('/?user=bob&show=everyone', { api: octocat() });
    expect(await screen.findByRole('heading', { name: 'Builds for alice' })).toBeVisible();
    expect(await screen.findByText('of alice')).toBeVisible();
    expect(screen.queryByText('of bob')).toBeNull();
    expect(screen.getByText('Slurm user')).toHaveTextContent('Slurm user alice');
    expect(screen.queryByRole('textbox', { name: 'Slurm user' })).toBeNull();
    expect(screen.queryByRole('button', { name: 'Everyone' })).toBeNull();
    expect(await pages()).toEqual(['Builds', 'Repositories', 'Usage']);
    expect(api.requests).not.toContain('GET /api/mapping-requests');
  });

  it('sees their own usage', async () => {
    open('/usage?user=bob', { api: octocat() });
    expect(await screen.findByRole('heading', { name: 'Usage for alice' })).toBeVisible();
  });

  it.each(['/requests', '/people'])('is told that %s is for administrators', async (path) => {
    const { api } = open(path, { api: octocat() });
    expect(await screen.findByText('Only administrators can view this page')).toBeVisible();
    expect(api.requests).not.toContain(`GET /api${path}`);
  });
});

it('shows an administrator all pages, and as whom they are signed in', async () => {
  const api = octocat();
  api.signIn('root', { administrator: true });
  open('/?user=bob', { api });
  expect(await screen.findByText('of bob')).toBeVisible();
  expect(screen.getByRole('button', { name: 'Signed in as root' })).toBeVisible();
  expect(screen.getByRole('textbox', { name: 'Slurm user' })).toHaveValue('bob');
  expect(await pages()).toEqual(['Builds', 'Repositories', 'Requests', 'Usage', 'People']);
});
