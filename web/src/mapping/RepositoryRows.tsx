import { RepoIcon, TrashIcon, UndoIcon } from '@primer/octicons-react';
import { IconButton, Label, Link } from '@primer/react';
import { Blankslate, InlineMessage } from '@primer/react/experimental';
import type { Entry } from './draft';
import styles from './RepositoryRows.module.css';
import { fullNameOf } from './repositoryName';

interface Props {
  readonly entries: readonly Entry[];
  readonly onRemove: (entry: Entry) => void;
  readonly onRestore: (entry: Entry) => void;
}

/** The list as it will be saved: what is new and what goes is marked, what was refused says why. */
export function RepositoryRows({ entries, onRemove, onRestore }: Props) {
  if (entries.length === 0) {
    return (
      <Blankslate border>
        <Blankslate.Visual>
          <RepoIcon size="medium" />
        </Blankslate.Visual>
        <Blankslate.Heading>No repositories yet</Blankslate.Heading>
        <Blankslate.Description>
          Add one above and save the list. Its queued workflow jobs start as soon as it is saved;
          the GitHub App has to be installed on it.
        </Blankslate.Description>
      </Blankslate>
    );
  }
  return (
    <ul className={styles.list} aria-label="Repositories">
      {entries.map((entry) => (
        <Row key={entry.key} entry={entry} onRemove={onRemove} onRestore={onRestore} />
      ))}
    </ul>
  );
}

/** The address of an entry's line within the page. */
export function anchorOf(entry: Entry): string {
  return `repository-${entry.key.replace('/', '-')}`;
}

/** What was typed with another host than GitHub's own keeps it: that may be what is wrong with it. */
function nameOf({ repository, change }: Entry): string {
  return change === 'added' && !repository.startsWith('https://github.com/')
    ? repository.replace('https://', '')
    : fullNameOf(repository);
}

function Row({ entry, onRemove, onRestore }: Omit<Props, 'entries'> & { readonly entry: Entry }) {
  const name = nameOf(entry);
  const removed = entry.change === 'removed';
  return (
    <li id={anchorOf(entry)} tabIndex={-1} className={styles.row} data-change={entry.change}>
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
      </span>
      {entry.change === 'added' && <Label variant="success">New</Label>}
      {removed && <Label variant="danger">Removed</Label>}
      <IconButton
        // One button all the time: it keeps the focus when it changes its meaning.
        icon={removed ? UndoIcon : TrashIcon}
        aria-label={removed ? `Keep ${name}` : `Remove ${name}`}
        variant="invisible"
        className={styles.action}
        onClick={() => (removed ? onRestore(entry) : onRemove(entry))}
      />
      {entry.refusal && !removed && (
        <div className={styles.refusal}>
          <InlineMessage variant="critical">
            <span>
              {entry.refusal.detail}{' '}
              {entry.refusal.link != null && (
                <Link href={entry.refusal.link} inline target="_blank" rel="noreferrer">
                  {entry.refusal.link.includes('/installations') ||
                  entry.refusal.link.includes('/apps/')
                    ? 'Install the GitHub App'
                    : 'See at GitHub'}
                </Link>
              )}
            </span>
          </InlineMessage>
        </div>
      )}
    </li>
  );
}
