import { describe, expect, it } from 'vitest';
import type { RepositoryList } from '../api/api';
import {
  add,
  chargesWhenSaved,
  difference,
  emptyDraft,
  entriesOf,
  isUnsaved,
  rebase,
  recharge,
  remove,
  restore,
  wanted,
  withRefusals,
} from './draft';

const list = (etag: string, ...names: string[]): RepositoryList => ({
  etag,
  repositories: names.map((name) => `https://github.com/${name}`),
  charges: {},
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

describe('what is charged', () => {
  const url = (name: string) => `https://github.com/${name}`;
  const draft = emptyDraft({
    ...list('"1"', 'octo/a', 'octo/b'),
    charges: { 'octo/a': { account: 'physics' } },
  });
  const edited = recharge(add(draft, 'octo/c'), 'octo/a', { account: 'chemistry', qos: 'high' });

  it('is sent for those only that were edited', () => {
    expect(wanted(draft)).toEqual([url('octo/a'), url('octo/b')]);
    expect(wanted(edited)).toEqual([
      { repository: url('octo/a'), account: 'chemistry', qos: 'high' },
      url('octo/b'),
      'octo/c',
    ]);
    expect(wanted(recharge(draft, 'octo/a', {}))[0]).toEqual({ repository: url('octo/a') });
  });

  it('is not edited once it is what is saved', () => {
    expect(isUnsaved(recharge(edited, 'octo/a', { account: 'physics' }))).toBe(true);
    expect(isUnsaved(remove(recharge(edited, 'octo/a', { account: 'physics' }), 'octo/c'))).toBe(
      false,
    );
  });

  it('is forgotten with an added line, and kept while a saved one is removed', () => {
    const forgotten = remove(recharge(edited, 'octo/c', { qos: 'low' }), 'octo/c');
    expect(wanted(add(forgotten, 'octo/c')).at(-1)).toBe('octo/c');
    expect(wanted(restore(remove(edited, 'octo/a'), 'octo/a'))).toEqual(wanted(edited));
    expect(wanted(remove(edited, 'octo/a'))).toEqual([url('octo/b'), 'octo/c']);
  });

  it('is known after a save without being asked for', () => {
    expect(chargesWhenSaved(edited, ['octo/a', 'octo/b', 'octo/c'].map(url))).toEqual({
      'octo/a': { account: 'chemistry', qos: 'high' },
      'octo/b': {},
      'octo/c': {},
    });
  });

  it('of somebody else’s is taken over, but for what I edited', () => {
    const theirs = {
      ...list('"2"', 'octo/a', 'octo/b', 'octo/c'),
      charges: { 'octo/a': { account: 'biology' }, 'octo/b': { account: 'biology' } },
    };
    expect(difference(edited.base, theirs).recharged).toEqual(['octo/a', 'octo/b'].map(url));
    const after = rebase(edited, theirs);
    expect(entriesOf(after).map(({ charge, recharged }) => [charge.account, recharged])).toEqual([
      ['chemistry', true],
      ['biology', false],
      [undefined, false],
    ]);
    const same = { ...theirs, charges: { 'octo/a': { account: 'chemistry', qos: 'high' } } };
    expect(isUnsaved(rebase(edited, same))).toBe(false);
  });
});

describe('rebase', () => {
  it('keeps both their changes and mine', () => {
    const mine = remove(add(emptyDraft(list('"1"', 'octo/a', 'octo/b')), 'octo/mine'), 'octo/a');
    const theirs = list('"2"', 'octo/a', 'octo/theirs');
    const after = rebase(mine, theirs);
    expect(
      entriesOf(after)
        .filter((each) => each.change !== 'removed')
        .map(({ key }) => key),
    ).toEqual(['octo/theirs', 'octo/mine']);
    expect(after.base.etag).toBe('"2"');
    expect(difference(mine.base, theirs)).toEqual({
      added: ['https://github.com/octo/theirs'],
      removed: ['https://github.com/octo/b'],
      recharged: [],
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
