import { Button } from '@primer/react';
import type { Entry } from './draft';
import styles from './SaveBar.module.css';
import type { Mapping } from './useMapping';

interface Props {
  readonly mapping: Mapping;
  readonly entries: readonly Entry[];
}

/** Says that something is not saved, and what saving will do. */
export function SaveBar({ mapping, entries }: Props) {
  const added = entries.filter(({ change }) => change === 'added').length;
  const removed = entries.filter(({ change }) => change === 'removed').length;
  const recharged = entries.filter((each) => each.change === 'kept' && each.recharged).length;
  const parts = [
    added > 0 && `${added} added`,
    removed > 0 && `${removed} removed`,
    recharged > 0 && `${recharged} charged differently`,
  ].filter(Boolean);
  return (
    <section aria-label="Unsaved changes" className={styles.bar}>
      <div className={styles.text}>
        <strong>Not saved yet: {parts.join(', ')}</strong>
        {removed > 0 && (
          <div className={styles.hint}>
            Runners that still wait for what is removed will be withdrawn; running ones finish.
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
