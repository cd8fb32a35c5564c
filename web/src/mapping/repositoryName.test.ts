import { describe, expect, it, test } from 'vitest';
import { fullNameOf, keyOf, parseRepositories, parseRepository } from './repositoryName';

describe('parseRepository', () => {
  test.each([
    ['octo/app', 'octo/app'],
    ['  octo/app  ', 'octo/app'],
    ['octo/app/', 'octo/app'],
    ['octo/app.git', 'octo/app'],
    ['Octo/App.js', 'Octo/App.js'],
    ['https://github.com/octo/app', 'https://github.com/octo/app'],
    ['http://GitHub.com/octo/app.git', 'https://github.com/octo/app'],
    ['https://github.com/octo/app/tree/main/src?tab=readme#usage', 'https://github.com/octo/app'],
    ['https://me:secret@github.com/octo/app', 'https://github.com/octo/app'],
    ['github.com/octo/app', 'https://github.com/octo/app'],
    ['git@github.com:octo/app.git', 'https://github.com/octo/app'],
    ['ssh://git@github.com/octo/app.git', 'https://github.com/octo/app'],
    ['https://ghe.example.org/octo/app', 'https://ghe.example.org/octo/app'],
  ])('reads %s', (text, repository) => {
    expect(parseRepository(text)).toEqual({ ok: true, repository });
  });

  test.each([
    ['octo', /owner\/name/],
    ['', /owner\/name/],
    ['/app', /owner\/name/],
    ['https://github.com/octo', /owner\/name/],
    ['octo/app/tree', /more parts than/],
    ['-octo/app', /not a valid GitHub account name/],
    ['oc to/app', /not a valid GitHub account name/],
    ['octo/a b', /not a valid repository name/],
    ['octo/..', /not a valid repository name/],
    ['octo/äpp', /not a valid repository name/],
  ])('refuses %s', (text, reason) => {
    const parsed = parseRepository(text);
    expect(parsed).toMatchObject({ ok: false, reason: expect.stringMatching(reason) });
  });

  it('never lets the credentials of a pasted address through', () => {
    expect(JSON.stringify(parseRepository('https://me:secret@github.com/octo/app'))).not.toContain(
      'secret',
    );
  });
});

it('reads several at once', () => {
  expect(parseRepositories('octo/a, octo/b\nocto/c;  nonsense')).toEqual([
    { ok: true, repository: 'octo/a' },
    { ok: true, repository: 'octo/b' },
    { ok: true, repository: 'octo/c' },
    { ok: false, text: 'nonsense', reason: expect.any(String) },
  ]);
});

it('knows two spellings of one repository', () => {
  expect(keyOf('https://github.com/Octo/App')).toBe(keyOf('octo/app'));
  expect(fullNameOf('https://github.com/Octo/App')).toBe('Octo/App');
});
