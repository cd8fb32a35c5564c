import { screen, within } from '@testing-library/react';
import type { UserEvent } from '@testing-library/user-event';
import { expect, it } from 'vitest';
import { FakeApi, problem } from '../../test/fakeApi';
import { open } from '../../test/page';

const row = async (login: string) =>
  within(await screen.findByRole('row', { name: RegExp(`^${login} `) }));
const dialog = async (login: string) =>
  within(await screen.findByRole('dialog', { name: `Link ${login}` }));
const ago = (hours: number) => new Date(Date.now() - hours * 3_600_000).toISOString();

/** An administrator is signed in. octocat is linked, and hubot is not. */
function people(): FakeApi {
  const api = new FakeApi();
  api.signIn('root', { administrator: true });
  api.people = [
    {
      githubId: 1,
      login: 'octocat',
      administrator: false,
      slurmUser: 'alice',
      cluster: 'main',
      linkedBy: 'root',
      linkedAt: ago(2),
      signedInAt: ago(1),
    },
    { githubId: 2, login: 'hubot', administrator: false, signedInAt: ago(5) },
    { githubId: 583_231, login: 'root', administrator: true, signedInAt: ago(0) },
  ];
  return api;
}

async function link(user: UserEvent, slurmUser: string, cluster = '') {
  const form = await dialog('hubot');
  await user.clear(form.getByLabelText('Slurm user'));
  await user.type(form.getByLabelText('Slurm user'), slurmUser);
  await user.clear(form.getByLabelText('Cluster'));
  if (cluster !== '') {
    await user.type(form.getByLabelText('Cluster'), cluster);
  }
  await user.click(form.getByRole('button', { name: 'Link' }));
}

it('lists who has signed in, and who is linked to which Slurm user', async () => {
  const { user } = open('/', { api: people() });
  await user.click(await screen.findByRole('link', { name: 'People' }));
  expect((await row('octocat')).getAllByRole('cell').map((cell) => cell.textContent)).toEqual([
    'alice',
    'main',
    '2 hours ago by root',
    '1 hour ago',
    'ChangeUnlink',
  ]);
  expect((await row('octocat')).getByRole('rowheader')).toHaveTextContent('octocat ID 1');
  expect((await row('hubot')).queryByRole('button', { name: 'Unlink hubot' })).toBeNull();
  expect((await row('root')).getByText('Administrator')).toBeVisible();
});

it('links a person, and says what is wrong with the link', async () => {
  const { user, api } = open('/people', { api: people() });
  await user.click(await screen.findByRole('button', { name: 'Link hubot' }));
  await link(user, '4711');
  expect((await dialog('hubot')).getByText(/Enter a Unix user name/)).toBeVisible();
  await link(user, 'bob', 'elsewhere');
  expect(await screen.findByText('There is no such cluster')).toBeVisible();
  await link(user, 'bob');
  expect((await row('hubot')).getByText('bob')).toBeVisible();
  expect(screen.queryByRole('dialog')).toBeNull();
  expect((await row('hubot')).getByText(/by root/)).toBeVisible();
  expect(api.people[1]).toMatchObject({ slurmUser: 'bob', cluster: null });
});

it('unlinks a person after a question', async () => {
  const { user, api } = open('/people', { api: people() });
  await user.click(await screen.findByRole('button', { name: 'Unlink octocat' }));
  const question = within(await screen.findByRole('alertdialog'));
  expect(question.getByText('Unlink octocat from alice?')).toBeVisible();
  await user.click(question.getByRole('button', { name: 'Unlink' }));
  expect(await screen.findByRole('button', { name: 'Link octocat' })).toBeVisible();
  expect(api.people[0]?.slurmUser).toBeNull();
});

it('says that a person could not be unlinked', async () => {
  const { user, api } = open('/people', { api: people() });
  await user.click(await screen.findByRole('button', { name: 'Unlink octocat' }));
  const question = within(await screen.findByRole('alertdialog'));
  api.next.push(problem(503, 'unavailable', 'Not available right now'));
  await user.click(question.getByRole('button', { name: 'Unlink' }));
  expect(await (await row('octocat')).findByText('Not available right now')).toBeVisible();
});

it('says when nobody has signed in yet', async () => {
  open('/people');
  expect(await screen.findByText('Nobody has signed in yet')).toBeVisible();
});

it('says when the people cannot be loaded, and tries again', async () => {
  const api = people();
  api.next.push(problem(503, 'unavailable', 'Not available right now'));
  const { user } = open('/people', { api });
  expect(await screen.findByText('Could not load the people')).toBeVisible();
  await user.click(screen.getAllByRole('button', { name: 'Try again' })[0] as HTMLElement);
  expect((await row('hubot')).getByText('ID 2')).toBeVisible();
});
