import type { UsageSum } from '../api/api';

/** Whether `text` is a month as the API writes it: `2026-11`. */
export function isMonth(text: string): boolean {
  return /^\d{4}-(0[1-9]|1[0-2])$/.test(text);
}

/** The month of an instant in milliseconds, in UTC, as the API counts. */
export function monthOf(at: number): string {
  return new Date(at).toISOString().slice(0, 7);
}

const name = new Intl.DateTimeFormat('en', { month: 'long', year: 'numeric', timeZone: 'UTC' });

/** `November 2026`. */
export function monthName(month: string): string {
  return name.format(Date.parse(`${month}-01T00:00:00Z`));
}

const number = new Intl.NumberFormat('en', { maximumFractionDigits: 2 });

/** Seconds in hours: `12.5`. Less than 0.01 hours is `< 0.01`, not `0`. */
export function hours(seconds: number): string {
  const shown = number.format(seconds / 3600);
  return shown === '0' && seconds > 0 ? '< 0.01' : shown;
}

type Numbers = Omit<UsageSum, 'repositoryUrl' | 'slurmUser' | 'maxRssBytes'>;

/** The total of all sums. */
export function total(sums: readonly UsageSum[]): Numbers {
  const of = (key: keyof Numbers) => sums.reduce((before, sum) => before + sum[key], 0);
  return {
    builds: of('builds'),
    launches: of('launches'),
    elapsedS: of('elapsedS'),
    cpuAllocatedS: of('cpuAllocatedS'),
    cpuUsedS: of('cpuUsedS'),
    gpuAllocatedS: of('gpuAllocatedS'),
  };
}
