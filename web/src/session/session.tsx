import {
  createContext,
  type ReactNode,
  use,
  useCallback,
  useEffect,
  useMemo,
  useState,
} from 'react';
import { createApi, type Me } from '../api/api';
import { isUnauthorized } from '../api/problem';
import type { Notice } from './outcome';

/** The key of the bearer token in the tab's session storage, which ends with the tab. */
const KEY = 'gha-slurm.token';

/** Why a session ended, as far as the page knows. */
export const SESSION_ENDED = 'Your session has expired or was ended elsewhere. Sign in again.';

type State =
  /** The service is being asked whether the browser has a session. */
  | { readonly phase: 'checking' }
  | {
      readonly phase: 'out';
      /** Why, for people. */
      readonly notice?: Notice | undefined;
      /** Why the service could not be asked. */
      readonly failure?: Error;
    }
  | {
      readonly phase: 'in';
      /** Left out for a session, whose cookie the browser sends. */
      readonly token?: string | undefined;
      readonly me: Me;
    };

interface Session {
  readonly state: State;
  readonly signIn: (token: string) => void;
  /** Shows the sign-in page, with the reason unless the user signed out. */
  readonly signOut: (why?: string) => void;
  /** Signs out at the user's request: forgets the token, or ends the session at the service. */
  readonly leave: (everywhere: boolean) => Promise<void>;
  /** Asks the service again whether the browser has a session. */
  readonly check: () => void;
  /** Asks the service again who is signed in and what they may see. */
  readonly refresh: () => Promise<void>;
}

const SessionContext = createContext<Session | undefined>(undefined);

export function useSession(): Session {
  const session = use(SessionContext);
  if (session === undefined) {
    throw new Error('useSession is used outside of SessionProvider');
  }
  return session;
}

/** Who is signed in. */
export function useMe(): Me {
  const { state } = useSession();
  if (state.phase !== 'in') {
    throw new Error('useMe needs a signed-in user');
  }
  return state.me;
}

/** A token belongs to the deployment's administrators, not to a person. */
function withToken(token: string): State {
  return { phase: 'in', token, me: { administrator: true } };
}

interface Props {
  /** Why the browser came back from GitHub without a session. */
  readonly outcome?: Notice | undefined;
  readonly children: ReactNode;
}

export function SessionProvider({ outcome, children }: Props) {
  const [state, setState] = useState<State>(() => {
    const token = sessionStorage.getItem(KEY);
    return token === null ? { phase: 'checking' } : withToken(token);
  });

  useEffect(() => {
    if (state.phase !== 'checking') {
      return;
    }
    const controller = new AbortController();
    const { signal } = controller;
    createApi()
      .me(signal)
      .then(
        (me) => signal.aborted || setState({ phase: 'in', me }),
        (failure) =>
          signal.aborted ||
          setState({
            phase: 'out',
            ...(isUnauthorized(failure) ? { notice: outcome } : { failure }),
          }),
      );
    return () => controller.abort();
  }, [state, outcome]);

  const signIn = useCallback((token: string) => {
    sessionStorage.setItem(KEY, token);
    setState(withToken(token));
  }, []);
  const signOut = useCallback((why?: string) => {
    sessionStorage.removeItem(KEY);
    const notice = why === undefined ? undefined : { title: 'You were signed out', text: why };
    setState({ phase: 'out', notice });
  }, []);
  const check = useCallback(() => setState({ phase: 'checking' }), []);

  const token = state.phase === 'in' ? state.token : undefined;
  const leave = useCallback(
    async (everywhere: boolean) => {
      if (token === undefined) {
        await createApi()
          .signOut(everywhere)
          .catch((error: unknown) => {
            // The session ended before.
            if (!isUnauthorized(error)) {
              throw error;
            }
          });
      }
      signOut();
    },
    [token, signOut],
  );
  const refresh = useCallback(async () => {
    try {
      const me = await createApi(token).me();
      setState((before) => (before.phase === 'in' ? { ...before, me } : before));
    } catch (error) {
      if (!isUnauthorized(error)) {
        throw error;
      }
      signOut(SESSION_ENDED);
    }
  }, [token, signOut]);

  const session = useMemo(
    () => ({ state, signIn, signOut, leave, check, refresh }),
    [state, signIn, signOut, leave, check, refresh],
  );
  return <SessionContext value={session}>{children}</SessionContext>;
}
