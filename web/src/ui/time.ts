import { useSyncExternalStore } from 'react';

const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
const UNITS: readonly [Intl.RelativeTimeFormatUnit, number][] = [
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
];

/** `3 minutes ago`, as seen at `now` (both in milliseconds). */
export function ago(at: number, now: number): string {
  // Clocks differ a little: never show an event in the future.
  const seconds = Math.max(0, Math.round((now - at) / 1000));
  for (const [unit, size] of UNITS) {
    if (seconds >= size) {
      return relative.format(-Math.floor(seconds / size), unit);
    }
  }
  return seconds < 2 ? 'just now' : `${seconds} seconds ago`;
}

/** `1h 2m`, `2m 5s`, `4s`, `0.3s`: a length of time in milliseconds, its two largest units. */
export function duration(milliseconds: number): string {
  const total = Math.max(0, milliseconds) / 1000;
  if (total < 0.95) {
    return `${total.toFixed(1)}s`;
  }
  const seconds = Math.round(total);
  const parts: readonly [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  return parts
    .slice(first, first + 2)
    .filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount}${unit}`)
    .join(' ');
}

const clockTime = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
const dateAndTime = new Intl.DateTimeFormat(undefined, {
  dateStyle: 'medium',
  timeStyle: 'medium',
});
const precise = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });

/** Local time for people: the clock for today, the date as well for older days. */
export function localTime(at: number, now: number): string {
  const sameDay = new Date(at).toDateString() === new Date(now).toDateString();
  return (sameDay ? clockTime : dateAndTime).format(at);
}

/** A record this much later than what it is about is worth mentioning, in milliseconds. */
const LATE = 60_000;

/** Local date and time with its zone, for a tooltip; also of the record, if that came late. */
export function exactTime(at: number, recordedAt = at): string {
  const exact = precise.format(at);
  return recordedAt - at > LATE ? `${exact} (recorded ${precise.format(recordedAt)})` : exact;
}

// One clock for the whole page: all relative times tick together, and only while one is shown.
const listeners = new Set<() => void>();
let timer: ReturnType<typeof setInterval> | undefined;
let current = Date.now();

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  timer ??= setInterval(() => {
    current = Date.now();
    for (const each of listeners) {
      each();
    }
  }, 1000);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) {
      clearInterval(timer);
      timer = undefined;
    }
  };
}

/** The time in milliseconds, renewed every second. */
export function useNow(): number {
  return useSyncExternalStore(subscribe, () => {
    if (timer === undefined) {
      current = Date.now();
    }
    return current;
  });
}
