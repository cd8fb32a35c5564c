import { CreditCardIcon, RepoIcon, TrashIcon, UndoIcon } from '@primer/octicons-react';
import { IconButton, Label, Link } from '@primer/react';
import { Blankslate } from '@primer/react/experimental';
import { useState } from 'react';
import { ChargeDialog } from './ChargeDialog';
import { ChargeText } from './ChargeText';
import { type Charge, isSet } from './charge';
import type { Entry } from './draft';
import { Refusal } from './Refusal';
import styles from './RepositoryRows.module.css';
import { fullNameOf } from './repositoryName';

interface Props {
  readonly entries: readonly Entry[];
  /** Shown while the list is empty. */
  readonly howToAdd: string;
  readonly onRemove: (entry: Entry) => void;
  /** Left out where a removal takes effect at once. */
  readonly onRestore?: (entry: Entry) => void;
  /** Left out for those who may not change what a repository is charged to. */
  readonly onRecharge?: (entry: Entry, charge: Charge) => void;
}

/** The list as it will be saved: rows are marked as new, edited or removed, and refused rows show the reason. */
export function RepositoryRows({ entries, howToAdd, ...on }: Props) {
  if (entries.length === 0) {
    return (
      <Blankslate border>
        <Blankslate.Visual>
          <RepoIcon size="medium" />
        </Blankslate.Visual>
        <Blankslate.Heading>No repositories yet</Blankslate.Heading>
        <Blankslate.Description>{howToAdd}</Blankslate.Description>
      </Blankslate>
    );
  }
  return (
    <ul className={styles.list} aria-label="Repositories">
      {entries.map((entry) => (
        <Row
          key={entry.request ? `${entry.key} ${entry.request.cluster}` : entry.key}
          entry={entry}
          {...on}
        />
      ))}
    </ul>
  );
}

/** The anchor of an entry's row. */
export function anchorOf(entry: Entry): string {
  return `repository-${entry.key.replace('/', '-')}`;
}

/** Keeps the host of a typed address if it is not GitHub's: the host may be the mistake. */
function nameOf({ repository, change }: Entry): string {
  return change === 'added' && !repository.startsWith('https://github.com/')
    ? repository.replace('https://', '')
    : fullNameOf(repository);
}

function Row({
  entry,
  onRemove,
  onRestore,
  onRecharge,
}: Omit<Props, 'entries' | 'howToAdd'> & { readonly entry: Entry }) {
  const [editing, setEditing] = useState(false);
  const name = nameOf(entry);
  const removed = entry.change === 'removed';
  return (
    <li
      id={entry.request ? undefined : anchorOf(entry)}
      tabIndex={-1}
      className={styles.row}
      data-change={entry.change === 'kept' && entry.recharged ? 'recharged' : entry.change}
    >
      <span className={styles.icon}>
        <RepoIcon />
      </span>
      <span className={styles.name}>
        {entry.change === 'kept' ? (
          <Link href={entry.repository} className={styles.link}>
            {name}
          </Link>
        ) : removed ? (
          <del>{name}</del>
        ) : (
          name
        )}
        {(isSet(entry.charge) || entry.recharged) && !removed && (
          <ChargeText charge={entry.charge} />
        )}
      </span>
      {entry.change === 'added' && <Label variant="success">New</Label>}
      {entry.change === 'kept' && entry.recharged && <Label variant="attention">Edited</Label>}
      {entry.request && <Label variant="attention">Waiting for an administrator</Label>}
      {removed && <Label variant="danger">Removed</Label>}
      <span className={styles.actions}>
        {!removed && onRecharge && (
          <IconButton
            icon={CreditCardIcon}
            aria-label={`Account and QOS of ${name}`}
            variant="invisible"
            onClick={() => setEditing(true)}
          />
        )}
        <IconButton
          // One button for both, so that it keeps the focus when its meaning changes.
          icon={removed ? UndoIcon : TrashIcon}
          aria-label={removed ? `Keep ${name}` : `Remove ${name}`}
          variant="invisible"
          onClick={() => (removed ? onRestore?.(entry) : onRemove(entry))}
        />
      </span>
      {entry.refusal && !removed && (
        <div className={styles.refusal}>
          <Refusal part={entry.refusal} />
        </div>
      )}
      {editing && onRecharge && (
        <ChargeDialog
          name={name}
          charge={entry.charge}
          onClose={() => setEditing(false)}
          onChange={(charge) => onRecharge(entry, charge)}
        />
      )}
    </li>
  );
}
