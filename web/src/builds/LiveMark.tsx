import { ago, useNow } from '../ui/time';
import styles from './LiveMark.module.css';

interface Props {
  /** When the service last answered, in milliseconds. */
  readonly updatedAt: number;
  readonly failing: boolean;
}

/** Says whether what is shown is what is. */
export function LiveMark({ updatedAt, failing }: Props) {
  const now = useNow();
  // Up to the longest interval between two questions it goes without saying.
  const stale = failing || now - updatedAt > 20_000;
  return (
    <span className={styles.mark} data-stale={stale}>
      <span className={styles.dot} aria-hidden="true" />
      {stale ? `As of ${ago(updatedAt, now)}` : 'Live'}
    </span>
  );
}
