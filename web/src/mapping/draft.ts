import type { RepositoryList } from '../api/api';
import type { ProblemPart } from '../api/problem';
import { keyOf } from './repositoryName';

/** Unsaved edits to a Slurm user's list, and the list they were made to. */
export interface Draft {
  readonly base: RepositoryList;
  readonly added: readonly string[];
  /** Keys (`keyOf`) of repositories of `base`. */
  readonly removed: ReadonlySet<string>;
  /** What the service said of an entry when it was last saved, by key. */
  readonly refusals: ReadonlyMap<string, ProblemPart>;
}

/** One line of the editor. */
export interface Entry {
  readonly repository: string;
  readonly key: string;
  readonly change: 'kept' | 'added' | 'removed';
  readonly refusal: ProblemPart | undefined;
}

export function emptyDraft(base: RepositoryList): Draft {
  return { base, added: [], removed: new Set(), refusals: new Map() };
}

/** Everything the editor shows: the saved list with what is removed from it, then what is added. */
export function entriesOf(draft: Draft): Entry[] {
  const entry = (repository: string, change: Entry['change']): Entry => {
    const key = keyOf(repository);
    return { repository, key, change, refusal: draft.refusals.get(key) };
  };
  return [
    ...draft.base.repositories.map((each) =>
      entry(each, draft.removed.has(keyOf(each)) ? 'removed' : 'kept'),
    ),
    ...draft.added.map((each) => entry(each, 'added')),
  ];
}

/** The list to send. */
export function wanted(draft: Draft): string[] {
  return entriesOf(draft)
    .filter(({ change }) => change !== 'removed')
    .map(({ repository }) => repository);
}

export function isUnsaved(draft: Draft): boolean {
  return draft.added.length > 0 || draft.removed.size > 0;
}

/** Adds a repository, or takes its removal back. One that is there already changes nothing. */
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

/** Marks a saved repository as removed; forgets an added one. */
export function remove(draft: Draft, key: string): Draft {
  const refusals = new Map(draft.refusals);
  refusals.delete(key);
  if (draft.added.some((each) => keyOf(each) === key)) {
    return { ...draft, refusals, added: draft.added.filter((each) => keyOf(each) !== key) };
  }
  return { ...draft, refusals, removed: new Set(draft.removed).add(key) };
}

export function restore(draft: Draft, key: string): Draft {
  const removed = new Set(draft.removed);
  removed.delete(key);
  return { ...draft, removed };
}

/** The same edits made to a newer list: what somebody else added or removed meanwhile stays so. */
export function rebase(draft: Draft, base: RepositoryList): Draft {
  const there = new Set(base.repositories.map(keyOf));
  return {
    base,
    added: draft.added.filter((each) => !there.has(keyOf(each))),
    removed: new Set([...draft.removed].filter((key) => there.has(key))),
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
  };
}

/**
 * Puts what the service refused beside the entries it is about. `sent` is the list as it was sent. Parts that are
 * about no entry are left out: the problem's own text has to speak for them.
 */
export function withRefusals(
  draft: Draft,
  sent: readonly string[],
  parts: readonly ProblemPart[],
): Draft {
  const keys = new Set(sent.map(keyOf));
  const refusals = new Map<string, ProblemPart>();
  for (const part of parts) {
    // The value says it best; it may be shortened, or be the name that a renamed repository has now.
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
