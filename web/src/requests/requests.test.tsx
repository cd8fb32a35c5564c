import { screen, waitFor, within } from '@testing-library/react';
import { describe, expect, it } from 'vitest';
import { FakeApi, problem } from '../../test/fakeApi';
import { open } from '../../test/page';

const button = (name: string) => screen.findByRole('button', { name });
const lines = async () =>
  within(await screen.findByRole('list', { name: 'Requests' })).getAllByRole('listitem');
const addresses = (api: FakeApi, user: string) => api.lists.get(user)?.repositories ?? [];

/** alice and bob ask for something. */
function asked(): FakeApi {
  const api = new FakeApi();
  api.map('alice', 'octo/a');
  const requestedAt = new Date(Date.now() - 7_200_000).toISOString();
  api.ask('alice', 'octo/first', { requestedAt, account: 'chemistry' });
  api.ask('bob', 'octo/second', { cluster: 'other' });
  return api;
}

describe('the requests of everyone', () => {
  it('are there, the oldest first, with who asked, when and where', async () => {
    open('/requests', { api: asked() });
    const [first, second] = await lines();
    expect(first).toHaveTextContent(
      'octo/firstFor alice, requested 2 hours ago from cluster mainCharged to account chemistry',
    );
    expect(second).toHaveTextContent('octo/secondFor bob, requested just now from cluster other');
    expect(second).toHaveTextContent('Charged to the site’s default, or as labels say');
    expect(screen.getByRole('link', { name: 'bob' })).toHaveAttribute('href', '/mapping?user=bob');
  });

  it('are counted in the navigation, on every page', async () => {
    const { user } = open('/', { api: asked() });
    expect(await screen.findByRole('link', { name: /Requests.*2/ })).toBeVisible();
    await user.click(screen.getByRole('link', { name: /Requests/ }));
    await user.click(await button('Refuse octo/second to bob'));
    expect(await screen.findByRole('link', { name: /Requests.*1/ })).toBeVisible();
    await user.click(await button('Refuse octo/first to alice'));
    await waitFor(() =>
      expect(screen.getByRole('link', { name: /Requests/ })).not.toHaveTextContent(/\d/),
    );
  });

  it('say what would be here, and how users ask, when there are none', async () => {
    open('/requests');
    expect(await screen.findByText('No pending requests')).toBeVisible();
    expect(screen.getByText('gha-slurm repos add owner/name')).toBeVisible();
  });

  it('that cannot be loaded are asked for again', async () => {
    const api = asked();
    api.trouble = () => problem(503, 'unavailable', 'Not available right now');
    const { user } = open('/requests', { api });
    expect(await screen.findByText('Could not load the requests')).toBeVisible();
    api.trouble = undefined;
    await user.click(screen.getAllByRole('button', { name: 'Try again' })[0] as HTMLElement);
    expect(await lines()).toHaveLength(2);
  });
});

describe('a decision', () => {
  it('maps what is granted, charged as it was asked for', async () => {
    const api = asked();
    const { user } = open('/requests', { api });
    await user.click(await button('Grant octo/first to alice'));
    const said = await screen.findByText('Granted. octo/first is now mapped to alice.');
    expect(document.activeElement).toContainElement(said);
    expect(await lines()).toHaveLength(1);
    expect(addresses(api, 'alice')).toContain('https://github.com/octo/first');
    expect(api.lists.get('alice')?.charges.get('octo/first')).toEqual({ account: 'chemistry' });
  });

  it('removes what is refused', async () => {
    const api = asked();
    const { user } = open('/requests', { api });
    await user.click(await button('Refuse octo/second to bob'));
    expect(
      await screen.findByText('Refused. octo/second is not mapped to bob. The user can ask again.'),
    ).toBeVisible();
    expect(api.requested.map(({ user }) => user)).toEqual(['alice']);
    expect(api.requests).toContain('DELETE /api/users/bob/repositories/octo/second');
  });

  it('on a repository of another user is explained, and the request goes on waiting', async () => {
    const api = asked();
    api.map('carol', 'octo/second');
    const { user } = open('/requests', { api });
    await user.click(await button('Grant octo/second to bob'));
    const [, second] = await lines();
    await waitFor(() =>
      expect(second).toHaveTextContent(
        /mapped to another Slurm user, who has to give it up first.*The request is still pending/,
      ),
    );
    expect(screen.queryByText(/carol/)).toBeNull();
    expect(api.requested).toHaveLength(2);
    expect(addresses(api, 'bob')).toEqual([]);
  });

  it('on a repository without the App says where to install it', async () => {
    const api = asked();
    api.notInstalled.add('octo/second');
    const { user } = open('/requests', { api });
    await user.click(await button('Grant octo/second to bob'));
    expect(await screen.findByRole('link', { name: 'Install the GitHub App' })).toBeVisible();
  });

  it('that the service does not take now can be repeated', async () => {
    const api = asked();
    const { user } = open('/requests', { api });
    await button('Grant octo/second to bob');
    api.next.push(
      problem(503, 'unavailable', 'Not available right now', { detail: 'GitHub is away.' }),
    );
    await user.click(await button('Grant octo/second to bob'));
    expect(await screen.findByText('Not available right now. GitHub is away.')).toBeVisible();
    await user.click(await button('Grant octo/second to bob'));
    expect(await screen.findByText('Granted. octo/second is now mapped to bob.')).toBeVisible();
  });

  it.each(['Grant', 'Refuse'])(
    'to %s what the user has changed shows what it is now',
    async (verdict) => {
      const api = asked();
      const { user } = open('/requests', { api });
      const early = await button(`${verdict} octo/first to alice`);
      api.requested = api.requested.filter((each) => each.user !== 'alice');
      api.ask('alice', 'octo/first', { id: 1000, account: 'physics' });
      await user.click(early);
      expect(
        await screen.findByText(/The request has changed since you looked.*account physics/),
      ).toBeVisible();
      expect(await screen.findByText('Charged to account')).toHaveTextContent('account physics');
      expect(addresses(api, 'alice')).toEqual(['https://github.com/octo/a']);
      expect(api.requested).toHaveLength(2);
      await user.click(await button(`${verdict} octo/first to alice`));
      expect(await screen.findByText(verdict === 'Grant' ? /^Granted/ : /^Refused/)).toBeVisible();
      expect(api.lists.get('alice')?.charges.get('octo/first')).toEqual(
        verdict === 'Grant' ? { account: 'physics' } : undefined,
      );
    },
  );

  it.each(['Grant', 'Refuse'])('to %s what somebody else decided does nothing', async (verdict) => {
    const api = asked();
    const { user } = open('/requests', { api });
    const late = await button(`${verdict} octo/first to alice`);
    // Granted and refused by others: neither is to be undone.
    api.requested = [];
    api.map('alice', 'octo/a', ...(verdict === 'Refuse' ? ['octo/first'] : []));
    const before = addresses(api, 'alice');
    await user.click(late);
    expect(await screen.findByText(/request for octo\/first is no longer pending/)).toBeVisible();
    expect(addresses(api, 'alice')).toEqual(before);
    expect(await screen.findByText('No pending requests')).toBeVisible();
  });
});

describe('on the page of a user', () => {
  it('only that user’s wait below the list, and a granted one moves into it', async () => {
    const { user } = open('/mapping?user=alice', { api: asked() });
    expect(await screen.findByText('Waiting for an administrator')).toBeVisible();
    expect(screen.queryByText('octo/second')).toBeNull();
    expect(await lines()).toHaveLength(1);
    await user.click(await button('Grant octo/first to alice'));
    expect(await screen.findByText('Granted. octo/first is now mapped to alice.')).toBeVisible();
    const list = within(screen.getByRole('list', { name: 'Repositories' }));
    expect(await list.findByText('octo/first')).toBeVisible();
    expect(screen.queryByText('Waiting for an administrator')).toBeNull();
  });

  it('one’s own grant is no conflict with unsaved edits', async () => {
    const api = asked();
    const { user } = open('/mapping?user=alice', { api });
    await user.click(await button('Remove octo/a'));
    await user.click(await button('Grant octo/first to alice'));
    const list = within(screen.getByRole('list', { name: 'Repositories' }));
    expect(await list.findByText('octo/first')).toBeVisible();
    expect(screen.queryByText(/Someone else/)).toBeNull();
    await user.click(await button('Save list'));
    expect(await screen.findByText('Saved. alice has 1 repository.')).toBeVisible();
    expect(addresses(api, 'alice')).toEqual(['https://github.com/octo/first']);
  });

  it('a grant does not hide what somebody else changed as well', async () => {
    const api = asked();
    const { user } = open('/mapping?user=alice', { api });
    await user.click(await button('Remove octo/a'));
    api.map('alice', 'octo/a', 'octo/theirs');
    await user.click(await button('Grant octo/first to alice'));
    expect(await screen.findByText('Someone else changed alice’s list')).toBeVisible();
  });
});
