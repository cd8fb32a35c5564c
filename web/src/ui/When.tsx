import { ago, duration, exactTime, localTime, useNow } from './time';

interface Props {
  /** An instant as the API writes it. */
  readonly at: string;
  /** When the server recorded what happened then. */
  readonly recordedAt?: string | undefined;
}

/** `3 minutes ago`; the exact local time is its tooltip. */
export function Ago({ at, recordedAt }: Props) {
  const instant = Date.parse(at);
  return (
    <time dateTime={at} title={tooltip(instant, recordedAt)}>
      {ago(instant, useNow())}
    </time>
  );
}

/** `14:03:12`, with the date if it is not today. */
export function LocalTime({ at, recordedAt }: Props) {
  const instant = Date.parse(at);
  return (
    <time dateTime={at} title={tooltip(instant, recordedAt)}>
      {localTime(instant, useNow())}
    </time>
  );
}

/** The time since an instant, counting: `2m 5s`. */
export function Elapsed({ since }: { readonly since: string }) {
  return <>{duration(useNow() - Date.parse(since))}</>;
}

function tooltip(instant: number, recordedAt: string | undefined): string {
  return exactTime(instant, recordedAt === undefined ? instant : Date.parse(recordedAt));
}
