import { BaseStyles } from '@primer/react';
import { MutationCache, QueryCache, QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { type AnyRouter, RouterProvider } from '@tanstack/react-router';
import { useMemo, useState } from 'react';
import { createApi } from '../api/api';
import { ApiError, isTransient, isUnauthorized } from '../api/problem';
import { DraftProvider } from '../mapping/drafts';
import { NotLinked } from '../session/NotLinked';
import type { Notice } from '../session/outcome';
import { SignIn } from '../session/SignIn';
import { SESSION_ENDED, SessionProvider, useSession } from '../session/session';
import { ApiContext } from './apiContext';

interface Props {
  readonly router: AnyRouter;
  /** Why the browser came back from GitHub without a session. */
  readonly outcome?: Notice | undefined;
  /** How often to retry a read that failed for a transient reason before showing the error. */
  readonly retries?: number;
}

/** The whole page. */
export function App({ router, outcome, retries = 2 }: Props) {
  return (
    // index.html selects the colour mode, by attributes that Primer's style sheets read.
    <BaseStyles>
      <SessionProvider outcome={outcome}>
        {/* Outside the session: edits survive a token or session that is no longer accepted. */}
        <DraftProvider>
          <Gate router={router} retries={retries} />
        </DraftProvider>
      </SessionProvider>
    </BaseStyles>
  );
}

interface InnerProps {
  readonly router: AnyRouter;
  readonly retries: number;
}

function Gate({ router, retries }: InnerProps) {
  const { state } = useSession();
  if (state.phase === 'checking') {
    return null;
  }
  if (state.phase === 'out') {
    const { pathname, search } = router.history.location;
    return (
      <SignIn notice={state.notice} failure={state.failure} returnTo={`${pathname}${search}`} />
    );
  }
  const { token, me } = state;
  if (!me.administrator && me.slurmUser == null) {
    return <NotLinked me={me} />;
  }
  // Loaded data is not shown to another person, or to the same person with other rights. Unsaved edits are: they are outside.
  const key = token ?? `${me.githubId} ${me.administrator} ${me.slurmUser}`;
  return <SignedIn key={key} token={token} router={router} retries={retries} />;
}

function SignedIn({ token, router, retries }: InnerProps & { readonly token: string | undefined }) {
  const { signOut, refresh } = useSession();
  const api = useMemo(() => createApi(token), [token]);
  const [queries] = useState(() => {
    const onError = (error: Error) => {
      if (isUnauthorized(error)) {
        signOut(
          token === undefined
            ? SESSION_ENDED
            : `The service no longer accepts your token. ${error.message}`,
        );
      } else if (error instanceof ApiError && error.problem.status === 403) {
        // The person's rights may have changed. If not, the page shows the refusal.
        refresh().catch(() => undefined);
      }
    };
    return new QueryClient({
      queryCache: new QueryCache({ onError }),
      mutationCache: new MutationCache({ onError }),
      defaultOptions: {
        queries: { retry: (failures, error) => isTransient(error) && failures < retries },
        // Only the user repeats a write.
        mutations: { retry: false },
      },
    });
  });
  return (
    <ApiContext value={api}>
      <QueryClientProvider client={queries}>
        <RouterProvider router={router} />
      </QueryClientProvider>
    </ApiContext>
  );
}
