import { expect, test } from 'vitest';
import type { TimelineEntry, TimelineKind } from '../api/api';
import { lookOf } from './kinds';

const entry = (kind: TimelineKind): TimelineEntry => ({
  happenedAt: '2026-01-01T00:00:00Z',
  recordedAt: '2026-01-01T00:00:00Z',
  kind,
  detail: kind,
});

test.each([
  ['success', 'good'],
  ['failure', 'bad'],
  ['cancelled', 'neutral'],
])('the end of a build with the conclusion %s is marked %s', (conclusion, mark) => {
  expect(lookOf(entry('completed'), conclusion)).toMatchObject({ name: 'Completed', mark });
});

test('a name for people', () => {
  expect(lookOf(entry('not_ours'), undefined).name).toBe('Not for this cluster');
});

test.each([
  ['something_new', 'Something new'],
  ['constructor', 'Constructor'],
])('a newer server’s kind %s is shown as %s', (kind, name) => {
  expect(lookOf(entry(kind as TimelineKind), undefined)).toMatchObject({ name, mark: 'neutral' });
});
