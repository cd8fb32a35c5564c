import { createMemoryHistory } from '@tanstack/react-router';
import { render } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import { http } from 'msw';
import { App } from '../src/app/App';
import { createPageRouter } from '../src/app/router';
import { FakeApi } from './fakeApi';
import { server } from './server';

interface Options {
  readonly api?: FakeApi;
  /** Already signed in with the API's token (the default), or with this one, or not. */
  readonly token?: string | null;
}

/** Opens the whole page at an address, as a browser would. */
export function open(path: string, { api = new FakeApi(), token = api.token }: Options = {}) {
  server.use(http.all('*', ({ request }) => api.handle(request)));
  if (token !== null) {
    sessionStorage.setItem('gha-slurm.token', token);
  }
  const router = createPageRouter(createMemoryHistory({ initialEntries: [path] }));
  const user = userEvent.setup();
  render(<App router={router} retries={0} />);
  return { api, router, user };
}
