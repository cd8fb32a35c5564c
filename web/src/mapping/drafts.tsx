import {
  createContext,
  type ReactNode,
  use,
  useCallback,
  useEffect,
  useMemo,
  useState,
} from 'react';
import type { Charge } from './charge';
import type { Draft } from './draft';

/** The key of the edits in the tab's session storage while the browser signs in at GitHub. */
const KEY = 'gha-slurm.drafts';

interface Drafts {
  readonly of: (user: string) => Draft | undefined;
  readonly update: (user: string, change: (draft: Draft | undefined) => Draft | undefined) => void;
  /** Whether any user's list has unsaved edits. */
  readonly any: boolean;
  readonly discardAll: () => void;
  /** Keeps the edits for the page that the browser opens in this tab next. */
  readonly store: () => void;
}

const DraftContext = createContext<Drafts | undefined>(undefined);

type Stored = Pick<Draft, 'base' | 'added'> & {
  readonly removed: string[];
  readonly charges: [string, Charge][];
};

function store(drafts: ReadonlyMap<string, Draft>) {
  if (drafts.size === 0) {
    return;
  }
  const stored = [...drafts].map(([user, { base, added, removed, charges }]): [string, Stored] => [
    user,
    { base, added, removed: [...removed], charges: [...charges] },
  ]);
  sessionStorage.setItem(KEY, JSON.stringify(stored));
}

/** Reads what `store` kept. */
function stored(): ReadonlyMap<string, Draft> {
  const entries = JSON.parse(sessionStorage.getItem(KEY) ?? '[]') as [string, Stored][];
  return new Map(
    entries.map(([user, { base, added, removed, charges }]) => [
      user,
      { base, added, removed: new Set(removed), charges: new Map(charges), refusals: new Map() },
    ]),
  );
}

/** Unsaved edits by Slurm user. They last as long as the tab, whichever page it shows. */
export function DraftProvider({ children }: { readonly children: ReactNode }) {
  const [drafts, setDrafts] = useState(stored);
  useEffect(() => sessionStorage.removeItem(KEY), []);

  const update = useCallback<Drafts['update']>((user, change) => {
    setDrafts((before) => {
      const after = new Map(before);
      const draft = change(before.get(user));
      if (draft === undefined) {
        after.delete(user);
      } else {
        after.set(user, draft);
      }
      return after;
    });
  }, []);
  const discardAll = useCallback(() => setDrafts(new Map()), []);

  const value = useMemo(
    () => ({
      of: (user: string) => drafts.get(user),
      update,
      any: drafts.size > 0,
      discardAll,
      store: () => store(drafts),
    }),
    [drafts, update, discardAll],
  );
  return <DraftContext value={value}>{children}</DraftContext>;
}

export function useDrafts(): Drafts {
  const drafts = use(DraftContext);
  if (drafts === undefined) {
    throw new Error('useDrafts is used outside of DraftProvider');
  }
  return drafts;
}
