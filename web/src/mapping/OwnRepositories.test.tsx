import { screen, waitFor, within } from '@testing-library/react';
import { expect, it } from 'vitest';
import { FakeApi, problem } from '../../test/fakeApi';
import { open } from '../../test/page';

const field = () => screen.findByRole('textbox', { name: 'Add repositories' });
const row = async (name: string) => {
  const list = within(await screen.findByRole('list', { name: 'Repositories' }));
  return within((await list.findByText(name)).closest('li') as HTMLElement);
};

/** octocat is signed in, and linked to alice. */
function octocat(...names: string[]): FakeApi {
  const api = new FakeApi();
  api.signIn('octocat', { slurmUser: 'alice' });
  api.map('alice', ...names);
  return api;
}

it('lists what is mapped and what is waiting, without what only administrators change', async () => {
  const api = octocat('octo/a');
  api.charge('alice', 'octo/a', { account: 'physics' });
  api.ask('alice', 'octo/waiting');
  api.ask('bob', 'octo/other');
  open('/mapping?user=bob', { api });
  expect(await screen.findByRole('heading', { name: 'Repositories for alice' })).toBeVisible();
  expect((await row('octo/a')).getByText(/Charged to/)).toHaveTextContent('account physics');
  expect((await row('octo/waiting')).getByText('Waiting for an administrator')).toBeVisible();
  expect(screen.queryByText('octo/other')).toBeNull();
  expect(screen.queryByRole('button', { name: /Account and QOS/ })).toBeNull();
});

it('requests each addition, and says which were refused', async () => {
  const api = octocat();
  api.notInstalled.add('octo/secret');
  const { user } = open('/mapping', { api });
  expect(await screen.findByText('No repositories yet')).toBeVisible();
  expect(screen.getByText(/once an administrator has granted/)).toBeVisible();
  await user.type(await field(), 'octo/secret octo/b{Enter}');
  expect(await screen.findByText(/octo\/secret: It does not exist/)).toBeVisible();
  expect(screen.getByRole('link', { name: 'Install the GitHub App' })).toBeVisible();
  expect(screen.getByText('Requested. octo/b is waiting for an administrator.')).toBeVisible();
  expect((await row('octo/b')).getByText('Waiting for an administrator')).toBeVisible();
  expect(screen.queryByRole('button', { name: 'Save list' })).toBeNull();
});

it('removes a repository at once, after a question', async () => {
  const { user, api } = open('/mapping', { api: octocat('octo/a', 'octo/b') });
  await user.click(await screen.findByRole('button', { name: 'Remove octo/a' }));
  const question = within(await screen.findByRole('alertdialog'));
  await user.click(question.getByRole('button', { name: 'Remove' }));
  expect(await screen.findByText('Removed. octo/a is no longer in the list.')).toBeVisible();
  expect(await field()).toHaveFocus();
  expect(api.lists.get('alice')?.repositories).toEqual(['https://github.com/octo/b']);
});

it('withdraws a request', async () => {
  const api = octocat('octo/a');
  api.ask('alice', 'octo/waiting');
  const { user } = open('/mapping', { api });
  await user.click(await screen.findByRole('button', { name: 'Remove octo/waiting' }));
  expect(await screen.findByText(/octo\/waiting is no longer requested/)).toBeVisible();
  expect(api.requested).toEqual([]);
});

it('removes nothing if an administrator has granted the request since', async () => {
  const api = octocat();
  api.ask('alice', 'octo/waiting');
  const { user } = open('/mapping', { api });
  const remove = await screen.findByRole('button', { name: 'Remove octo/waiting' });
  api.requested = [];
  api.map('alice', 'octo/waiting');
  await user.click(remove);
  expect(await screen.findByText(/It does not wait any more/)).toBeVisible();
  await waitFor(() => expect(screen.queryByText('Waiting for an administrator')).toBeNull());
  expect(api.lists.get('alice')?.repositories).toEqual(['https://github.com/octo/waiting']);
});

it('says when the list cannot be loaded, and when a change cannot be made', async () => {
  const api = octocat('octo/a');
  api.next.push(problem(503, 'unavailable', 'Not available right now'));
  const { user } = open('/mapping', { api });
  expect(await screen.findByText('Could not load the repositories')).toBeVisible();
  await user.click(screen.getAllByRole('button', { name: 'Try again' })[0] as HTMLElement);
  await row('octo/a');
  api.next.push(new TypeError('refused'));
  await user.type(await field(), 'octo/b{Enter}');
  expect(await screen.findByText('Could not change the list')).toBeVisible();
  expect(screen.getByText(/Cannot reach the service/)).toBeVisible();
});
