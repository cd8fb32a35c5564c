import { Button } from '@primer/react';
import type { Entry } from './draft';
import styles from './SaveBar.module.css';
import type { Mapping } from './useMapping';

interface Props {
  readonly mapping: Mapping;
  readonly entries: readonly Entry[];
}

/** Shows unsaved changes and what saving them does. */
export function SaveBar({ mapping, entries }: Props) {
  const added = entries.filter(({ change }) => change === 'added').length;
  const removed = entries.filter(({ change }) => change === 'removed').length;
  const recharged = entries.filter((each) => each.change === 'kept' && each.recharged).length;
  const parts = [
    added > 0 && `${added} added`,
    removed > 0 && `${removed} removed`,
    recharged > 0 && `${recharged} with a new account or QOS`,
  ].filter(Boolean);
  return (
    <section aria-label="Unsaved changes" className={styles.bar}>
      <div className={styles.text}>
        <strong>Unsaved changes: {parts.join(', ')}</strong>
        {removed > 0 && (
          <div className={styles.hint}>
            Runners waiting for removed repositories will be withdrawn. Running workflow jobs will
            finish.
          </div>
        )}
      </div>
      <Button onClick={mapping.discard} disabled={mapping.save.isPending}>
        Discard
      </Button>
      <Button
        variant="primary"
        onClick={mapping.submit}
        disabled={mapping.conflict !== undefined}
        aria-disabled={mapping.save.isPending}
      >
        {mapping.save.isPending ? 'Saving…' : 'Save list'}
      </Button>
    </section>
  );
}
