import { describe, expect, it } from 'vitest';
import type { RepositoryList } from '../api/api';
import {
  add,
  difference,
  emptyDraft,
  entriesOf,
  isUnsaved,
  rebase,
  remove,
  restore,
  wanted,
  withRefusals,
} from './draft';
import { keyOf } from './repositoryName';

const list = (etag: string, ...names: string[]): RepositoryList => ({
  etag,
  repositories: names.map((name) => `https://github.com/${name}`),
});

describe('edits', () => {
  const draft = emptyDraft(list('"1"', 'octo/a', 'octo/b'));

  it('change nothing by themselves', () => {
    expect(isUnsaved(draft)).toBe(false);
    expect(wanted(draft)).toEqual(draft.base.repositories);
  });

  it('add what is not there yet, whatever its spelling', () => {
    const after = ['octo/c', 'OCTO/C', 'https://github.com/Octo/A'].reduce(add, draft);
    expect(wanted(after)).toEqual([...draft.base.repositories, 'octo/c']);
    expect(entriesOf(after).at(-1)).toMatchObject({ repository: 'octo/c', change: 'added' });
  });

  it('keep a removed line until it is saved, and take it back', () => {
    const removed = remove(draft, 'octo/a');
    expect(entriesOf(removed).map(({ change }) => change)).toEqual(['removed', 'kept']);
    expect(wanted(removed)).toEqual(['https://github.com/octo/b']);
    expect(isUnsaved(restore(removed, 'octo/a'))).toBe(false);
    expect(isUnsaved(add(removed, 'octo/A'))).toBe(false);
  });

  it('forget an added line that is removed', () => {
    expect(isUnsaved(remove(add(draft, 'octo/c'), 'octo/c'))).toBe(false);
  });
});

describe('rebase', () => {
  it('keeps both their changes and mine', () => {
    const mine = remove(add(emptyDraft(list('"1"', 'octo/a', 'octo/b')), 'octo/mine'), 'octo/a');
    const theirs = list('"2"', 'octo/a', 'octo/theirs');
    const after = rebase(mine, theirs);
    expect(wanted(after).map(keyOf)).toEqual(['octo/theirs', 'octo/mine']);
    expect(after.base.etag).toBe('"2"');
    expect(difference(mine.base, theirs)).toEqual({
      added: ['https://github.com/octo/theirs'],
      removed: ['https://github.com/octo/b'],
    });
  });

  it('has nothing left to save when somebody made the same edits', () => {
    const mine = remove(add(emptyDraft(list('"1"', 'octo/a')), 'octo/b'), 'octo/a');
    expect(isUnsaved(rebase(mine, list('"2"', 'Octo/B')))).toBe(false);
  });
});

describe('refusals', () => {
  const draft = add(emptyDraft(list('"1"', 'octo/a', 'octo/b')), 'octo/c');

  it('are put beside the entry they are about, by index or by value', () => {
    const after = withRefusals(remove(draft, 'octo/a'), wanted(remove(draft, 'octo/a')), [
      { index: 1, code: 'x', detail: 'by index' },
      { value: 'Octo/B', code: 'x', detail: 'by value' },
      { index: 99, code: 'x', detail: 'of nothing' },
    ]);
    expect(entriesOf(after).map(({ key, refusal }) => [key, refusal?.detail])).toEqual([
      ['octo/a', undefined],
      ['octo/b', 'by value'],
      ['octo/c', 'by index'],
    ]);
  });

  it('go with the entry', () => {
    const refused = withRefusals(draft, wanted(draft), [{ index: 2, code: 'x', detail: 'no' }]);
    const again = add(remove(refused, 'octo/c'), 'octo/c');
    expect(entriesOf(again).at(-1)?.refusal).toBeUndefined();
  });
});
