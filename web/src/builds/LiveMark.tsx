import { ago, useNow } from '../ui/time';
import styles from './LiveMark.module.css';

interface Props {
  /** When the service last answered, in milliseconds. */
  readonly updatedAt: number;
  readonly failing: boolean;
}

/** Shows whether the data is live, or when it was last updated. */
export function LiveMark({ updatedAt, failing }: Props) {
  const now = useNow();
  // Longer than the longest polling interval.
  const stale = failing || now - updatedAt > 20_000;
  return (
    <span className={styles.mark} data-stale={stale}>
      <span className={styles.dot} aria-hidden="true" />
      {stale ? `Updated ${ago(updatedAt, now)}` : 'Live'}
    </span>
  );
}
