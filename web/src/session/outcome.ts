import type { RouterHistory } from '@tanstack/react-router';

/** Why nobody is signed in, for people. */
export interface Notice {
  readonly title: string;
  readonly text: string;
}

const FAILED =
  'GitHub could not confirm who you are. Sign in again. If that fails too, ask an administrator for help.';

const TEXTS: Readonly<Record<string, string>> = {
  cancelled:
    'Signing in was cancelled at GitHub. To use gha-slurm, sign in again and authorize it there.',
  expired: 'Signing in took too long. Sign in again.',
  failed: FAILED,
  unavailable: 'The service could not complete the sign-in. Try again in a few minutes.',
};

/** Removes from the address why the browser came back from GitHub without a session, and returns it. */
export function takeOutcome(history: RouterHistory): Notice | undefined {
  const { pathname, search, hash } = history.location;
  const parameters = new URLSearchParams(search);
  const outcome = parameters.get('sign_in');
  if (outcome === null) {
    return undefined;
  }
  parameters.delete('sign_in');
  history.replace(`${pathname}${parameters.size > 0 ? `?${parameters}` : ''}${hash}`);
  return { title: 'You are not signed in', text: TEXTS[outcome] ?? FAILED };
}
