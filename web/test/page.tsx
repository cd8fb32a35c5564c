import { createMemoryHistory } from '@tanstack/react-router';
import { render } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import { http } from 'msw';
import { App } from '../src/app/App';
import { createPageRouter } from '../src/app/router';
import { takeOutcome } from '../src/session/outcome';
import { FakeApi } from './fakeApi';
import { server } from './server';

interface Options {
  readonly api?: FakeApi;
  /** Already signed in with the API's token (the default), or with this one, or as whom the API has a session for. */
  readonly token?: string | null;
}

/** Opens the whole page at an address, as a browser would. */
export function open(
  path: string,
  { api = new FakeApi(), token = api.me ? null : api.token }: Options = {},
) {
  server.use(http.all('*', ({ request }) => api.handle(request)));
  if (token !== null) {
    sessionStorage.setItem('gha-slurm.token', token);
  }
  const history = createMemoryHistory({ initialEntries: [path] });
  const outcome = takeOutcome(history);
  const router = createPageRouter(history);
  const user = userEvent.setup();
  render(<App router={router} outcome={outcome} retries={0} />);
  return { api, router, user };
}
