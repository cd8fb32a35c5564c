import { Label } from '@primer/react';
import styles from './Labels.module.css';

/** The strings of a workflow job's `runs-on`. */
export function Labels({ labels }: { readonly labels: readonly string[] }) {
  if (labels.length === 0) {
    return null;
  }
  return (
    <ul className={styles.labels} aria-label="Labels">
      {labels.map((label) => (
        <li key={label}>
          <Label size="small" variant="secondary" className={styles.label}>
            {label}
          </Label>
        </li>
      ))}
    </ul>
  );
}
