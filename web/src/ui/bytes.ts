const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;
const number = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });

/** `3.17 MiB`. */
export function bytes(count: number): string {
  let rest = count;
  let unit = 0;
  while (rest >= 1000 && unit < UNITS.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return `${number.format(rest)} ${UNITS[unit]}`;
}
