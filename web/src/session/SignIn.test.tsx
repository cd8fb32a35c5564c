import { screen, waitFor } from '@testing-library/react';
import { expect, it } from 'vitest';
import { FakeApi } from '../../test/fakeApi';
import { open } from '../../test/page';

const tokenField = () => screen.getByLabelText(/Bearer token/);
const signIn = () => screen.getByRole('button', { name: 'Sign in' });

it('takes a token that the service accepts, and keeps it for this tab', async () => {
  const { user, api } = open('/', { token: null });
  await user.type(tokenField(), `  ${api.token}{Enter}`);
  expect(await screen.findByRole('heading', { name: 'All builds' })).toBeVisible();
  expect(sessionStorage.getItem('gha-slurm.token')).toBe(api.token);
});

it('explains a token that is refused, and keeps nothing', async () => {
  const { user } = open('/', { token: null });
  await user.type(tokenField(), 'wrong');
  await user.click(signIn());
  expect(await screen.findByText(/does not accept this token/)).toBeVisible();
  expect(tokenField()).toHaveAccessibleDescription(/does not accept this token/);
  expect(tokenField()).toHaveFocus();
  expect(sessionStorage).toHaveLength(0);
});

it('sends nothing that cannot be a token', async () => {
  const { user, api } = open('/', { token: null });
  await user.click(signIn());
  expect(screen.getByText('Enter the bearer token.')).toBeVisible();
  await user.type(tokenField(), 'Bearer abc');
  await user.click(signIn());
  expect(screen.getByText(/without “Bearer”/)).toBeVisible();
  await user.clear(tokenField());
  await user.type(tokenField(), 'naïve');
  await user.click(signIn());
  expect(screen.getByText(/Check what you pasted/)).toBeVisible();
  expect(api.requests).toEqual([]);
});

it('says that the service is away, and keeps what was typed', async () => {
  const api = new FakeApi();
  api.next.push(new TypeError('refused'), new Response('<h1>Bad gateway</h1>', { status: 502 }));
  const { user } = open('/', { api, token: null });
  await user.type(tokenField(), `${api.token}{Enter}`);
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
