import { createContext, type ReactNode, use, useCallback, useMemo, useState } from 'react';
import type { Draft } from './draft';

interface Drafts {
  readonly of: (user: string) => Draft | undefined;
  readonly update: (user: string, change: (draft: Draft | undefined) => Draft | undefined) => void;
  /** Whether any user's list has unsaved edits. */
  readonly any: boolean;
  readonly discardAll: () => void;
}

const DraftContext = createContext<Drafts | undefined>(undefined);

/** Unsaved edits by Slurm user. They last as long as the tab, whichever page it shows. */
export function DraftProvider({ children }: { readonly children: ReactNode }) {
  const [drafts, setDrafts] = useState<ReadonlyMap<string, Draft>>(new Map());

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
    () => ({ of: (user: string) => drafts.get(user), update, any: drafts.size > 0, discardAll }),
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
