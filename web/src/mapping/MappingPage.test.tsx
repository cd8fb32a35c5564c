import { screen, waitFor, within } from '@testing-library/react';
import type { UserEvent } from '@testing-library/user-event';
import { describe, expect, it } from 'vitest';
import { FakeApi, problem } from '../../test/fakeApi';
import { open } from '../../test/page';

const field = () => screen.findByRole('textbox', { name: 'Add repositories' });
const rows = async () => within(await screen.findByRole('list', { name: 'Repositories' }));
const row = async (name: string) => {
  const item = (await rows()).getByText(name).closest('li');
  if (item === null) {
    throw new Error(`no row of ${name}`);
  }
  return within(item);
};
const save = () => screen.getByRole('button', { name: 'Save list' });
// Primer draws a banner's buttons twice, for narrow and for wide; a style sheet shows one of them.
const inBanner = (name: string) => screen.getAllByRole('button', { name })[0] as HTMLElement;
const unsaved = () => screen.queryByRole('region', { name: 'Unsaved changes' });
const url = (name: string) => `https://github.com/${name}`;

function alice(...names: string[]): FakeApi {
  const api = new FakeApi();
  api.map('alice', ...names);
  return api;
}

it('asks for a Slurm user first, and remembers it in the address', async () => {
  const { user, router } = open('/mapping', { api: alice('octo/app') });
  expect(await screen.findByText('Choose a Slurm user')).toBeVisible();
  const name = screen.getByRole('textbox', { name: 'Slurm user' });
  await user.type(name, '4711{Enter}');
  expect(await screen.findByText(/Enter a Unix user name/)).toBeVisible();
  await user.clear(name);
  await user.type(name, 'alice{Enter}');
  expect((await rows()).getByRole('link', { name: 'octo/app' })).toHaveAttribute(
    'href',
    url('octo/app'),
  );
  expect(router.state.location.search).toEqual({ user: 'alice' });
});

it('says what to do with an empty list', async () => {
  open('/mapping?user=alice');
  expect(await screen.findByText('No repositories yet')).toBeVisible();
  expect(screen.getByText(/Add a repository above and save/)).toBeVisible();
});

it('saves the whole list, edited', async () => {
  const { user, api } = open('/mapping?user=alice', { api: alice('octo/a', 'octo/b') });
  await user.type(await field(), 'octo/c, https://github.com/octo/d/issues{Enter}');
  await user.click(await screen.findByRole('button', { name: 'Remove octo/a' }));
  expect(await screen.findByText('Unsaved changes: 2 added, 1 removed')).toBeVisible();
  expect(screen.getByRole('link', { name: /Repositories \(unsaved\)/ })).toBeVisible();
  expect((await row('octo/c')).getByText('New')).toBeVisible();
  expect((await row('octo/a')).getByText('Removed')).toBeVisible();

  await user.click(save());
  expect(await screen.findByText('Saved. alice has 3 repositories.')).toBeVisible();
  expect(api.lists.get('alice')?.repositories).toEqual(['octo/b', 'octo/c', 'octo/d'].map(url));
  expect(unsaved()).toBeNull();
  expect((await rows()).queryByText('octo/a')).toBeNull();
});

it('takes a removal back, and forgets everything on request', async () => {
  const { user, api } = open('/mapping?user=alice', { api: alice('octo/a') });
  await user.click(await screen.findByRole('button', { name: 'Remove octo/a' }));
  expect(screen.getByRole('button', { name: 'Keep octo/a' })).toHaveFocus();
  await user.keyboard('{Enter}');
  expect(unsaved()).toBeNull();
  await user.type(await field(), 'octo/b{Enter}');
  await user.click(screen.getByRole('button', { name: 'Discard' }));
  expect((await rows()).queryByText('octo/b')).toBeNull();
  expect(api.requests.filter((request) => request.startsWith('POST'))).toEqual([]);
});

describe('what is typed', () => {
  it('is refused at once when it cannot be a repository, and stays to be mended', async () => {
    const { user } = open('/mapping?user=alice');
    await user.type(await field(), 'octo/good nonsense{Enter}');
    expect(await screen.findByText(/nonsense: Enter owner\/name/)).toBeVisible();
    expect(await field()).toHaveValue('nonsense');
    expect((await rows()).getByText('octo/good')).toBeVisible();
  });

  it('is not added twice', async () => {
    const { user } = open('/mapping?user=alice', { api: alice('octo/a') });
    await user.type(await field(), 'https://github.com/OCTO/A{Enter}');
    expect(await screen.findByText('OCTO/A is already in the list.')).toBeVisible();
    expect(unsaved()).toBeNull();
  });

  it('can come with the address', async () => {
    const { user, router } = open('/mapping?user=alice&add=octo/waiting');
    expect(await field()).toHaveValue('octo/waiting');
    await user.click(screen.getByRole('button', { name: 'Add' }));
    expect((await rows()).getByText('octo/waiting')).toBeVisible();
    expect(router.state.location.search).toEqual({ user: 'alice' });
  });
});

describe('what is charged', () => {
  const charged = async (user: UserEvent, name: string, account: string, qos = '') => {
    await user.click(await screen.findByRole('button', { name: `Account and QOS of ${name}` }));
    const dialog = within(await screen.findByRole('dialog', { name: 'Account and QOS' }));
    for (const [label, value] of [
      ['Account', account],
      ['QOS', qos],
    ] as const) {
      await user.clear(dialog.getByLabelText(label));
      if (value !== '') {
        await user.type(dialog.getByLabelText(label), value);
      }
    }
    await user.click(dialog.getByRole('button', { name: 'Apply' }));
  };

  it('is shown, and saved for those only whose charge was edited', async () => {
    const api = alice('octo/a', 'octo/b');
    api.charge('alice', 'octo/a', { account: 'physics', qos: 'high' });
    const { user } = open('/mapping?user=alice', { api });
    expect((await row('octo/a')).getByText(/Charged to/)).toHaveTextContent(
      'Charged to account physics, QOS high',
    );
    expect((await row('octo/b')).queryByText(/Charged to/)).toBeNull();

    await charged(user, 'octo/b', ' chemistry ');
    expect(await screen.findByText('Unsaved changes: 1 with a new account or QOS')).toBeVisible();
    expect((await row('octo/b')).getByText('Edited')).toBeVisible();
    await user.click(save());
    expect(await screen.findByText('Saved. alice has 2 repositories.')).toBeVisible();
    expect(api.sent).toEqual([url('octo/a'), { repository: url('octo/b'), account: 'chemistry' }]);
    expect((await row('octo/b')).getByText(/Charged to/)).toHaveTextContent(
      'Charged to account chemistry',
    );
    expect((await row('octo/a')).getByText(/Charged to/)).toHaveTextContent('account physics');
    expect(unsaved()).toBeNull();
  });

  it('can be left to the site’s settings again', async () => {
    const api = alice('octo/a');
    api.charge('alice', 'octo/a', { account: 'physics' });
    const { user } = open('/mapping?user=alice', { api });
    await charged(user, 'octo/a', '');
    expect((await row('octo/a')).getByText(/the site’s default/)).toBeVisible();
    await user.click(save());
    expect(await screen.findByText('Saved. alice has 1 repository.')).toBeVisible();
    expect(api.lists.get('alice')?.charges.get('octo/a')).toEqual({});
    expect((await row('octo/a')).queryByText(/Charged to/)).toBeNull();
  });

  it('is as the user asked for it, when what they wait for is added to the list', async () => {
    const api = alice('octo/a');
    api.ask('alice', 'octo/waiting', { account: 'chemistry' });
    api.ask('bob', 'octo/b', { account: 'biology' });
    const { user } = open('/mapping?user=alice', { api });
    await screen.findByText('Waiting for an administrator');
    await user.type(await field(), 'octo/waiting octo/b{Enter}');
    expect((await row('octo/waiting')).getByText(/Charged to/)).toHaveTextContent(
      'Charged to account chemistry',
    );
    await user.click(save());
    expect(await screen.findByText('Saved. alice has 3 repositories.')).toBeVisible();
    expect(api.sent).toEqual([
      url('octo/a'),
      { repository: 'octo/waiting', account: 'chemistry' },
      'octo/b',
    ]);
    await waitFor(() => expect(screen.queryByText('Waiting for an administrator')).toBeNull());
  });

  it('is refused beside its entry', async () => {
    const api = alice('octo/a', 'octo/b');
    const { user } = open('/mapping?user=alice', { api });
    await charged(user, 'octo/b', '$(reboot)');
    await user.click(save());
    expect(await screen.findByText(/One repository was refused/)).toBeVisible();
    expect((await row('octo/b')).getByText(/^account: the value must be/)).toBeVisible();
    expect(api.lists.get('alice')?.version).toBe(1);
    await charged(user, 'octo/b', 'chemistry');
    expect((await row('octo/b')).queryByText(/the value must be/)).toBeNull();
    await user.click(save());
    expect(await screen.findByText('Saved. alice has 2 repositories.')).toBeVisible();
  });

  it('that somebody else changed meanwhile is not overwritten unseen', async () => {
    const api = alice('octo/a', 'octo/b');
    const { user } = open('/mapping?user=alice', { api });
    await charged(user, 'octo/a', 'chemistry');
    api.charge('alice', 'octo/b', { account: 'biology' });
    await user.click(save());
    expect(await screen.findByText(/Account or QOS changed: octo\/b/)).toBeVisible();
    await user.click(inBanner('Load list and keep my changes'));
    await user.click(save());
    expect(await screen.findByText('Saved. alice has 2 repositories.')).toBeVisible();
    expect(api.sent).toEqual([{ repository: url('octo/a'), account: 'chemistry' }, url('octo/b')]);
    expect(api.lists.get('alice')?.charges.get('octo/b')).toEqual({ account: 'biology' });
  });
});

describe('a refusal', () => {
  it('is explained beside its entry, and nothing is saved', async () => {
    const api = alice('octo/a');
    api.notInstalled.add('octo/secret');
    const { user } = open('/mapping?user=alice', { api });
    await user.type(await field(), 'octo/fine octo/secret https://gitlab.com/octo/x{Enter}');
    await user.click(save());

    expect(await screen.findByText('Nothing was saved')).toBeVisible();
    expect(screen.getByText(/2 repositories were refused/)).toBeVisible();
    const refused = await row('octo/secret');
    expect(refused.getByText(/not installed on it/)).toBeVisible();
    expect(refused.getByRole('link', { name: 'Install the GitHub App' })).toHaveAttribute(
      'href',
      'https://github.com/apps/gha-slurm/installations/new',
    );
    expect((await row('gitlab.com/octo/x')).getByText('Not a repository at GitHub.')).toBeVisible();
    expect((await row('octo/fine')).queryByText(/installed/)).toBeNull();
    expect(api.lists.get('alice')?.version).toBe(1);

    await user.click(screen.getByRole('button', { name: 'Remove octo/secret' }));
    await user.click(screen.getByRole('button', { name: 'Remove gitlab.com/octo/x' }));
    await user.click(save());
    expect(await screen.findByText('Saved. alice has 2 repositories.')).toBeVisible();
    expect(screen.queryByText('Nothing was saved')).toBeNull();
  });

  it('names a repository that belongs to another user', async () => {
    const api = alice('octo/a');
    api.map('bob', 'octo/shared');
    const { user } = open('/mapping?user=alice', { api });
    await user.type(await field(), 'octo/shared{Enter}');
    await user.click(save());
    expect(await screen.findByText(/mapped to another Slurm user/)).toBeVisible();
    expect(screen.queryByText(/bob/)).toBeNull();
  });

  it('of no entry in particular is said in the service’s words, and can be tried again', async () => {
    const api = alice('octo/a');
    const { user } = open('/mapping?user=alice', { api });
    await user.type(await field(), 'octo/b{Enter}');
    api.next.push(
      problem(503, 'unavailable', 'Not available right now', { detail: 'GitHub is away.' }),
    );
    await user.click(save());
    expect(await screen.findByText(/Not available right now. GitHub is away./)).toBeVisible();
    await user.click(inBanner('Try again'));
    expect(await screen.findByText('Saved. alice has 2 repositories.')).toBeVisible();
  });
});

describe('a list that somebody else changed meanwhile', () => {
  it('is shown, and can be taken over without losing one’s own edits', async () => {
    const api = alice('octo/a', 'octo/b');
    const { user } = open('/mapping?user=alice', { api });
    await user.type(await field(), 'octo/mine{Enter}');
    await user.click(screen.getByRole('button', { name: 'Remove octo/a' }));
    api.map('alice', 'octo/a', 'octo/theirs');
    await user.click(save());

    expect(await screen.findByText('Someone else changed alice’s list')).toBeVisible();
    expect(screen.getByText(/Added: octo\/theirs. Removed: octo\/b./)).toBeVisible();
    expect(save()).toBeDisabled();
    await user.click(inBanner('Load list and keep my changes'));
    expect(screen.queryByText(/Someone else/)).toBeNull();
    await user.click(save());
    expect(await screen.findByText('Saved. alice has 2 repositories.')).toBeVisible();
    expect(api.lists.get('alice')?.repositories).toEqual(['octo/theirs', 'octo/mine'].map(url));
  });
});

it('keeps edits while one looks at the builds', async () => {
  const { user } = open('/mapping?user=alice', { api: alice('octo/a') });
  await user.type(await field(), 'octo/b{Enter}');
  await user.click(screen.getByRole('link', { name: 'Builds' }));
  expect(await screen.findByRole('heading', { name: 'Builds for alice' })).toHaveFocus();
  await user.click(screen.getByRole('link', { name: /Repositories \(unsaved\)/ }));
  expect((await row('octo/b')).getByText('New')).toBeVisible();
});

it('keeps edits over a token that is no longer accepted', async () => {
  const api = alice('octo/a');
  const { user } = open('/mapping?user=alice', { api });
  await user.type(await field(), 'octo/b{Enter}');
  api.token = 'rotated';
  await user.click(save());
  expect(await screen.findByText('You were signed out')).toBeVisible();
  await user.type(await screen.findByLabelText(/Bearer token/), 'rotated{Enter}');
  expect((await row('octo/b')).getByText('New')).toBeVisible();
});

it('asks before edits are lost by signing out', async () => {
  const { user } = open('/mapping?user=alice', { api: alice('octo/a') });
  await user.type(await field(), 'octo/b{Enter}');
  await user.click(screen.getByRole('button', { name: 'Sign out' }));
  const question = within(await screen.findByRole('alertdialog'));
  await user.click(question.getByRole('button', { name: 'Cancel' }));
  expect((await rows()).getByText('octo/b')).toBeVisible();
});

it('says when the list cannot be loaded, and tries again', async () => {
  const api = alice('octo/a');
  api.next.push(problem(500, 'internal', 'Something is wrong on our side'));
  const { user } = open('/mapping?user=alice', { api });
  expect(await screen.findByText('Could not load the repositories')).toBeVisible();
  await user.click(inBanner('Try again'));
  expect((await rows()).getByText('octo/a')).toBeVisible();
});
