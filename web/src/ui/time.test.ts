import { expect, test } from 'vitest';
import { ago, duration, exactTime } from './time';

test.each([
  [0, '0.0s'],
  [340, '0.3s'],
  [4_200, '4s'],
  [59_600, '1m'],
  [125_000, '2m 5s'],
  [3_600_000, '1h'],
  [3_725_000, '1h 2m'],
  [90_000_000, '1d 1h'],
  [-5, '0.0s'],
])('%d ms last %s', (milliseconds, text) => {
  expect(duration(milliseconds)).toBe(text);
});

test.each([
  [0, 'just now'],
  [-3_000, 'just now'],
  [5_000, '5 seconds ago'],
  [60_000, '1 minute ago'],
  [7_200_000, '2 hours ago'],
  [86_400_000, 'yesterday'],
])('%d ms back is %s', (milliseconds, text) => {
  expect(ago(1_000_000_000 - milliseconds, 1_000_000_000)).toBe(text);
});

test.each([
  [0, false],
  [-5_000, false],
  [60_000, false],
  [60_001, true],
])('a record %d ms later is mentioned: %s', (later, mentioned) => {
  const at = 1_000_000_000;
  const both = `${exactTime(at)} (recorded ${exactTime(at + later)})`;
  expect(exactTime(at, at + later)).toBe(mentioned ? both : exactTime(at));
});
