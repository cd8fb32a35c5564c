import type { ListEntry, RepositoryList, UserRepository } from '../api/api';
import type { ProblemPart } from '../api/problem';
import { type Charge, sameCharge } from './charge';
import { keyOf } from './repositoryName';

/** Unsaved edits to a Slurm user's list, and the saved list they apply to. */
export interface Draft {
  readonly base: RepositoryList;
  readonly added: readonly string[];
  /** Keys (`keyOf`) of repositories of `base`. */
  readonly removed: ReadonlySet<string>;
  /** New charges by key, only where they differ from the saved ones. */
  readonly charges: ReadonlyMap<string, Charge>;
  /** Why the service refused an entry at the last save, by key. */
  readonly refusals: ReadonlyMap<string, ProblemPart>;
}

/** One line of the editor. */
export interface Entry {
  readonly repository: string;
  readonly key: string;
  readonly change: 'kept' | 'added' | 'removed';
  readonly charge: Charge;
  /** Whether `charge` differs from the saved one. */
  readonly recharged: boolean;
  readonly refusal: ProblemPart | undefined;
  /** The person's request for it, if it is not in the list until an administrator grants it. */
  readonly request?: UserRepository | undefined;
}

export function emptyDraft(base: RepositoryList): Draft {
  return { base, added: [], removed: new Set(), charges: new Map(), refusals: new Map() };
}

/** All rows of the editor: the saved list, removed rows included, then the added repositories. */
export function entriesOf(draft: Draft): Entry[] {
  const entry = (repository: string, change: Entry['change']): Entry => {
    const key = keyOf(repository);
    const charge = draft.charges.get(key);
    return {
      repository,
      key,
      change,
      charge: charge ?? draft.base.charges[key] ?? {},
      recharged: charge !== undefined,
      refusal: draft.refusals.get(key),
    };
  };
  return [
    ...draft.base.repositories.map((each) =>
      entry(each, draft.removed.has(keyOf(each)) ? 'removed' : 'kept'),
    ),
    ...draft.added.map((each) => entry(each, 'added')),
  ];
}

/** The list to send. Only edited charges are sent: the service keeps the others. */
export function wanted(draft: Draft): ListEntry[] {
  return entriesOf(draft)
    .filter(({ change }) => change !== 'removed')
    .map(({ repository, charge, recharged }) =>
      recharged ? { repository, ...charge } : repository,
    );
}

/** The charges after the service has saved `wanted(draft)`. */
export function chargesWhenSaved(draft: Draft, saved: readonly string[]): Record<string, Charge> {
  const charges = { ...draft.base.charges, ...Object.fromEntries(draft.charges) };
  return Object.fromEntries(saved.map((url) => [keyOf(url), charges[keyOf(url)] ?? {}]));
}

export function isUnsaved(draft: Draft): boolean {
  return draft.added.length > 0 || draft.removed.size > 0 || draft.charges.size > 0;
}

/** Adds a repository or undoes its removal. A repository that is already in the list changes nothing. */
export function add(draft: Draft, repository: string): Draft {
  const key = keyOf(repository);
  if (draft.removed.has(key)) {
    return restore(draft, key);
  }
  if (entriesOf(draft).some((entry) => entry.key === key)) {
    return draft;
  }
  return { ...draft, added: [...draft.added, repository] };
}

/** Marks a saved repository as removed, or drops an added one. */
export function remove(draft: Draft, key: string): Draft {
  const refusals = without(draft.refusals, key);
  if (draft.added.some((each) => keyOf(each) === key)) {
    return {
      ...draft,
      refusals,
      charges: without(draft.charges, key),
      added: draft.added.filter((each) => keyOf(each) !== key),
    };
  }
  return { ...draft, refusals, removed: new Set(draft.removed).add(key) };
}

/** Changes a repository's charge. Setting the saved charge undoes the edit. */
export function recharge(draft: Draft, key: string, charge: Charge): Draft {
  const same = sameCharge(charge, draft.base.charges[key] ?? {});
  return {
    ...draft,
    refusals: without(draft.refusals, key),
    charges: same ? without(draft.charges, key) : new Map(draft.charges).set(key, charge),
  };
}

function without<V>(map: ReadonlyMap<string, V>, key: string): ReadonlyMap<string, V> {
  return new Map([...map].filter(([each]) => each !== key));
}

export function restore(draft: Draft, key: string): Draft {
  const removed = new Set(draft.removed);
  removed.delete(key);
  return { ...draft, removed };
}

/** Applies the edits to a newer list. What another person added or removed stays added or removed. */
export function rebase(draft: Draft, base: RepositoryList): Draft {
  const there = new Set(base.repositories.map(keyOf));
  const added = draft.added.filter((each) => !there.has(keyOf(each)));
  const shown = new Set([...there, ...added.map(keyOf)]);
  return {
    base,
    added,
    removed: new Set([...draft.removed].filter((key) => there.has(key))),
    charges: new Map(
      [...draft.charges].filter(
        ([key, charge]) => shown.has(key) && !sameCharge(charge, base.charges[key] ?? {}),
      ),
    ),
    refusals: draft.refusals,
  };
}

/** What differs between two versions of a list. */
export function difference(from: RepositoryList, to: RepositoryList) {
  const before = new Set(from.repositories.map(keyOf));
  const after = new Set(to.repositories.map(keyOf));
  return {
    added: to.repositories.filter((each) => !before.has(keyOf(each))),
    removed: from.repositories.filter((each) => !after.has(keyOf(each))),
    recharged: to.repositories.filter((each) => {
      const key = keyOf(each);
      return before.has(key) && !sameCharge(from.charges[key] ?? {}, to.charges[key] ?? {});
    }),
  };
}

/**
 * Attaches each refusal to its entry. `list` is the list that was sent. Parts about no entry are left out: the
 * problem's own text covers them.
 */
export function withRefusals(
  draft: Draft,
  list: readonly ListEntry[],
  parts: readonly ProblemPart[],
): Draft {
  const sent = list.map((entry) => (typeof entry === 'string' ? entry : entry.repository));
  const keys = new Set(sent.map(keyOf));
  const refusals = new Map<string, ProblemPart>();
  for (const part of parts) {
    // Prefer the value. It may be shortened, or be the new name of a renamed repository.
    const value = part.value == null ? undefined : keyOf(part.value);
    const key = value !== undefined && keys.has(value) ? value : keyAt(sent, part.index);
    if (key !== undefined) {
      refusals.set(key, part);
    }
  }
  return { ...draft, refusals };
}

function keyAt(sent: readonly string[], index: number | null | undefined): string | undefined {
  const repository = index == null ? undefined : sent[index];
  return repository === undefined ? undefined : keyOf(repository);
}
