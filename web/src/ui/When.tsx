import { ago, duration, exactTime, localTime, useNow } from './time';

interface Props {
  /** An instant as the API writes it. */
  readonly at: string;
}

/** `3 minutes ago`; the exact local time is its tooltip. */
export function Ago({ at }: Props) {
  const instant = Date.parse(at);
  return (
    <time dateTime={at} title={exactTime(instant)}>
      {ago(instant, useNow())}
    </time>
  );
}

/** `14:03:12`, with the date if it is not today. */
export function LocalTime({ at }: Props) {
  const instant = Date.parse(at);
  return (
    <time dateTime={at} title={exactTime(instant)}>
      {localTime(instant, useNow())}
    </time>
  );
}

/** The time since an instant, counting: `2m 5s`. */
export function Elapsed({ since }: { readonly since: string }) {
  return <>{duration(useNow() - Date.parse(since))}</>;
}
