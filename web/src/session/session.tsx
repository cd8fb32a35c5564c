import { createContext, type ReactNode, use, useCallback, useMemo, useState } from 'react';

/** The key of the bearer token in the tab's session storage, which ends with the tab. */
const KEY = 'gha-slurm.token';

interface Session {
  readonly token: string | undefined;
  /** Why the last session ended, for people. */
  readonly ended: string | undefined;
  readonly signIn: (token: string) => void;
  /** `why` is shown on the sign-in page; leave it out when the user signed out. */
  readonly signOut: (why?: string) => void;
}

const SessionContext = createContext<Session | undefined>(undefined);

export function useSession(): Session {
  const session = use(SessionContext);
  if (session === undefined) {
    throw new Error('useSession is used outside of SessionProvider');
  }
  return session;
}

export function SessionProvider({ children }: { readonly children: ReactNode }) {
  const [token, setToken] = useState(() => sessionStorage.getItem(KEY) ?? undefined);
  const [ended, setEnded] = useState<string>();

  const signIn = useCallback((given: string) => {
    sessionStorage.setItem(KEY, given);
    setEnded(undefined);
    setToken(given);
  }, []);
  const signOut = useCallback((why?: string) => {
    sessionStorage.removeItem(KEY);
    setEnded(why);
    setToken(undefined);
  }, []);

  const session = useMemo(
    () => ({ token, ended, signIn, signOut }),
    [token, ended, signIn, signOut],
  );
  return <SessionContext value={session}>{children}</SessionContext>;
}
