import { cleanup, screen, waitFor } from '@testing-library/react';
import { describe, expect, it } from 'vitest';
import { FakeApi, problem } from '../../test/fakeApi';
import { open } from '../../test/page';

const tokenField = () => screen.findByLabelText(/Bearer token/);
// Primer draws a banner's buttons twice, for narrow and for wide; a style sheet shows one of them.
const tryAgain = () => screen.getAllByRole('button', { name: 'Try again' })[0] as HTMLElement;
const signIn = () => screen.getByRole('button', { name: 'Sign in' });

it('takes a token that the service accepts, and keeps it for this tab', async () => {
  const { user, api } = open('/', { token: null });
  await user.type(await tokenField(), `  ${api.token}{Enter}`);
  expect(await screen.findByRole('heading', { name: 'All builds' })).toBeVisible();
  expect(sessionStorage.getItem('gha-slurm.token')).toBe(api.token);
});

it('explains a token that is refused, and keeps nothing', async () => {
  const { user } = open('/', { token: null });
  await user.type(await tokenField(), 'wrong');
  await user.click(signIn());
  expect(await screen.findByText(/does not accept this token/)).toBeVisible();
  expect(await tokenField()).toHaveAccessibleDescription(/does not accept this token/);
  expect(await tokenField()).toHaveFocus();
  expect(sessionStorage).toHaveLength(0);
});

it('sends nothing that cannot be a token', async () => {
  const { user, api } = open('/', { token: null });
  await tokenField();
  await user.click(signIn());
  expect(screen.getByText('Enter the bearer token.')).toBeVisible();
  await user.type(await tokenField(), 'Bearer abc');
  await user.click(signIn());
  expect(screen.getByText(/without “Bearer”/)).toBeVisible();
  await user.clear(await tokenField());
  await user.type(await tokenField(), 'naïve');
  await user.click(signIn());
  expect(screen.getByText(/Check what you pasted/)).toBeVisible();
  expect(api.requests).toEqual(['GET /api/me', 'GET /api/sign-in']);
});

it('says that the service is away, and keeps what was typed', async () => {
  const api = new FakeApi();
  api.next.push(new TypeError('refused'), new Response('<h1>Bad gateway</h1>', { status: 502 }));
  const { user } = open('/', { api, token: null });
  await user.type(await tokenField(), `${api.token}{Enter}`);
  expect(await screen.findByText(/Cannot reach the service/)).toBeVisible();
  await user.click(signIn());
  expect(await screen.findByText(/may be starting or overloaded/)).toBeVisible();
  await user.click(signIn());
  expect(await screen.findByRole('heading', { name: 'All builds' })).toBeVisible();
});

it('comes back here when the token is no longer accepted', async () => {
  open('/', { token: 'rotated-since' });
  expect(await screen.findByText('You were signed out')).toBeVisible();
  expect(screen.getByText(/no longer accepts your token/)).toBeVisible();
  expect(sessionStorage).toHaveLength(0);
});

it('forgets the token on the way out', async () => {
  const { user } = open('/');
  await user.click(await screen.findByRole('button', { name: 'Sign out' }));
  await waitFor(() => expect(signIn()).toBeVisible());
  expect(sessionStorage).toHaveLength(0);
});

const gitHub = () => screen.findByRole('link', { name: 'Sign in with GitHub' });

/** A site where people sign in with GitHub. */
function withGitHub(): FakeApi {
  const api = new FakeApi();
  api.github = true;
  return api;
}

describe('sign-in with GitHub', () => {
  it('comes back to the address that was opened', async () => {
    open('/usage?user=alice&month=2026-10', { api: withGitHub(), token: null });
    expect(await gitHub()).toHaveAttribute(
      'href',
      '/api/sign-in/github?return_to=%2Fusage%3Fuser%3Dalice%26month%3D2026-10',
    );
    expect(await tokenField()).not.toBeVisible();
  });

  it('leaves the token to those who have one', async () => {
    const { user, api } = open('/', { api: withGitHub(), token: null });
    await gitHub();
    await user.click(screen.getByText('Use a token'));
    await user.type(await tokenField(), `${api.token}{Enter}`);
    expect(await screen.findByRole('heading', { name: 'All builds' })).toBeVisible();
    expect(screen.getByText('Administrator’s token')).toBeVisible();
  });

  it.each([
    ['cancelled', /cancelled at GitHub.*sign in again/],
    ['expired', /took too long. Sign in again/],
    ['failed', /could not confirm who you are. Sign in again/],
    ['unavailable', /Try again in a few minutes/],
    ['made-up', /could not confirm who you are/],
  ])('that ended with “%s” is explained once', async (outcome, text) => {
    const { router } = open(`/?user=alice&sign_in=${outcome}`, { api: withGitHub(), token: null });
    expect(await screen.findByText('You are not signed in')).toBeVisible();
    expect(screen.getByText(text)).toBeVisible();
    expect(router.history.location.href).toBe('/?user=alice');
    expect((await gitHub()).getAttribute('href')).not.toContain('sign_in');
  });

  it('shows the page without the sign-in page before it', async () => {
    const api = new FakeApi();
    api.signIn('octocat', { slurmUser: 'alice' });
    open('/', { api });
    expect(document.body).not.toHaveTextContent(/Sign in/);
    expect(await screen.findByRole('heading', { name: 'Builds for alice' })).toBeVisible();
    expect(api.requests).not.toContain('GET /api/sign-in');
  });

  it('is offered again when the session has ended, and edits survive it', async () => {
    const api = new FakeApi();
    api.signIn('octocat', { administrator: true });
    api.map('alice', 'octo/a');
    const { user } = open('/mapping?user=alice', { api });
    const field = await screen.findByRole('textbox', { name: 'Add repositories' });
    await user.type(field, 'octo/b{Enter}');
    api.me = undefined;
    await user.click(screen.getByRole('button', { name: 'Save list' }));
    expect(await screen.findByText(/Your session has expired/)).toBeVisible();
    const link = await gitHub();
    link.addEventListener('click', (event) => event.preventDefault());
    await user.click(link);

    cleanup();
    api.signIn('octocat', { administrator: true });
    open('/mapping?user=alice', { api });
    expect(await screen.findByText('Unsaved changes: 1 added')).toBeVisible();
    expect(sessionStorage).toHaveLength(0);
  });
});

describe('a service that is away', () => {
  it('can be asked again who is signed in', async () => {
    const api = new FakeApi();
    api.signIn('octocat', { slurmUser: 'alice' });
    api.trouble = () => Response.error();
    const { user } = open('/', { api });
    expect(await screen.findByText('Could not check whether you are signed in')).toBeVisible();
    expect(await tokenField()).toBeVisible();
    expect(screen.queryByText('Could not load the ways to sign in')).toBeNull();
    api.trouble = undefined;
    await user.click(tryAgain());
    expect(await screen.findByRole('heading', { name: 'Builds for alice' })).toBeVisible();
  });

  it('leaves the token, and can be asked again how to sign in', async () => {
    const api = withGitHub();
    const { user } = open('/', { api });
    await screen.findByRole('heading', { name: 'All builds' });
    api.trouble = () => Response.error();
    await user.click(screen.getByRole('button', { name: 'Sign out' }));
    expect(await screen.findByText('Could not load the ways to sign in')).toBeVisible();
    expect(await tokenField()).toBeVisible();
    api.trouble = undefined;
    await user.click(tryAgain());
    expect(await gitHub()).toBeVisible();
  });
});

describe('signing out of a session', () => {
  function signedIn(): FakeApi {
    const api = new FakeApi();
    api.signIn('octocat', { slurmUser: 'alice' });
    return api;
  }

  it('ends it at the service', async () => {
    const { user, api } = open('/', { api: signedIn() });
    await user.click(await screen.findByRole('button', { name: 'Sign out' }));
    expect(await gitHub()).toBeVisible();
    expect(screen.queryByText('You were signed out')).toBeNull();
    expect(api.requests).toContain('POST /api/sign-out');
    expect(api.me).toBeUndefined();
  });

  it('ends all of them on request', async () => {
    const { user, api } = open('/', { api: signedIn() });
    await user.click(await screen.findByRole('button', { name: 'Signed in as octocat' }));
    await user.click(await screen.findByRole('button', { name: 'Sign out everywhere' }));
    expect(await gitHub()).toBeVisible();
    expect(api.requests).toContain('POST /api/sign-out?everywhere=true');
  });

  it('that fails is said, and can be tried again', async () => {
    const { user, api } = open('/', { api: signedIn() });
    const signOut = await screen.findByRole('button', { name: 'Sign out' });
    api.trouble = () => problem(503, 'unavailable', 'Not available right now');
    await user.click(signOut);
    expect(await screen.findByText('Could not sign out')).toBeVisible();
    api.trouble = undefined;
    await user.click(tryAgain());
    expect(await gitHub()).toBeVisible();
  });
});

describe('a person without a Slurm user', () => {
  it('is told what an administrator has to do, and can check again', async () => {
    const api = new FakeApi();
    api.signIn('octocat');
    const { user } = open('/mapping', { api });
    expect(
      await screen.findByRole('heading', { name: 'Your account is not linked yet' }),
    ).toBeVisible();
    expect(screen.getByText(/Please link GitHub user octocat \(ID 583231\)/)).toBeVisible();
    await user.click(screen.getByRole('button', { name: 'Check again' }));
    expect(await screen.findByText('Your account is still not linked.')).toBeVisible();
    api.signIn('octocat', { slurmUser: 'alice' });
    await user.click(screen.getByRole('button', { name: 'Check again' }));
    expect(await screen.findByRole('heading', { name: 'Repositories for alice' })).toBeVisible();
  });

  it('can sign out', async () => {
    const api = new FakeApi();
    api.signIn('octocat');
    const { user } = open('/', { api });
    await user.click(await screen.findByRole('button', { name: 'Sign out' }));
    expect(await gitHub()).toBeVisible();
  });

  it('is told so as soon as an administrator unlinks them', async () => {
    const api = new FakeApi();
    api.signIn('octocat', { slurmUser: 'alice' });
    const { user } = open('/', { api });
    await screen.findByRole('heading', { name: 'Builds for alice' });
    api.signIn('octocat');
    await user.click(screen.getByRole('link', { name: 'Repositories' }));
    expect(await screen.findByText('Your account is not linked yet')).toBeVisible();
  });
});
