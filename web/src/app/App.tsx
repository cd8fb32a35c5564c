import { BaseStyles } from '@primer/react';
import { MutationCache, QueryCache, QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { type AnyRouter, RouterProvider } from '@tanstack/react-router';
import { useMemo, useState } from 'react';
import { createApi } from '../api/api';
import { isTransient, isUnauthorized } from '../api/problem';
import { DraftProvider } from '../mapping/drafts';
import { SignIn } from '../session/SignIn';
import { SessionProvider, useSession } from '../session/session';
import { ApiContext } from './apiContext';

interface Props {
  readonly router: AnyRouter;
  /** How often to retry a read that failed for a transient reason before showing the error. */
  readonly retries?: number;
}

/** The whole page. */
export function App({ router, retries = 2 }: Props) {
  return (
    // index.html selects the colour mode, by attributes that Primer's style sheets read.
    <BaseStyles>
      <SessionProvider>
        {/* Outside the session: edits survive a token that is no longer accepted. */}
        <DraftProvider>
          <Gate router={router} retries={retries} />
        </DraftProvider>
      </SessionProvider>
    </BaseStyles>
  );
}

function Gate({ router, retries }: Required<Props>) {
  const { token } = useSession();
  return token === undefined ? (
    <SignIn />
  ) : (
    <SignedIn key={token} token={token} router={router} retries={retries} />
  );
}

function SignedIn({ token, router, retries }: Required<Props> & { readonly token: string }) {
  const { signOut } = useSession();
  const api = useMemo(() => createApi(token), [token]);
  const [queries] = useState(() => {
    const onError = (error: Error) => {
      if (isUnauthorized(error)) {
        signOut(`The service no longer accepts your token. ${error.message}`);
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
