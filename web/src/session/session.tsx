import { createContext, type ReactNode, use, useCallback, useMemo, useState } from 'react';

/** Where the bearer token is kept: this tab only, gone when it is closed. */
const KEY = 'gha-slurm.token';

interface Session {
  readonly token: string | undefined;
  /** Why the last token was put aside, for people. */
  readonly ended: string | undefined;
  readonly signIn: (token: string) => void;
  /** `why` is said on the sign-in page; without it the person signed out. */
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
