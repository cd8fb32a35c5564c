import { Button, FormControl, TextInput } from '@primer/react';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { type FormEvent, type RefObject, useState } from 'react';
import styles from './AddRepositories.module.css';
import type { Entry } from './draft';
import { fullNameOf, keyOf, parseRepositories } from './repositoryName';

interface Props {
  readonly ref: RefObject<HTMLInputElement | null>;
  readonly entries: readonly Entry[];
  readonly onAdd: (repositories: string[]) => void;
}

/** Adds repositories in any form that people paste, and reports invalid ones at once. */
export function AddRepositories({ ref, entries, onAdd }: Props) {
  // A link from a build that waits for a mapping names its repository.
  const { add: suggested } = useSearch({ from: '/mapping' });
  const navigate = useNavigate();
  const [text, setText] = useState(suggested ?? '');
  const [problems, setProblems] = useState<readonly string[]>([]);

  function submit(event: FormEvent) {
    event.preventDefault();
    const parsed = parseRepositories(text);
    const taken = new Set(entries.filter((e) => e.change !== 'removed').map((e) => e.key));
    const good: string[] = [];
    const wrong: string[] = [];
    const messages: string[] = [];
    for (const each of parsed) {
      if (!each.ok) {
        wrong.push(each.text);
        messages.push(parsed.length > 1 ? `${each.text}: ${each.reason}` : each.reason);
      } else if (taken.has(keyOf(each.repository))) {
        messages.push(`${fullNameOf(each.repository)} is already in the list.`);
      } else {
        taken.add(keyOf(each.repository));
        good.push(each.repository);
      }
    }
    if (parsed.length === 0) {
      messages.push('Enter a repository.');
    }
    onAdd(good);
    setText(wrong.join(' '));
    setProblems(messages);
    ref.current?.focus();
    if (suggested !== undefined) {
      void navigate({ to: '/mapping', replace: true });
    }
  }

  return (
    <form onSubmit={submit} className={styles.form} noValidate>
      <FormControl className={styles.control}>
        <FormControl.Label>Add repositories</FormControl.Label>
        <TextInput
          ref={ref}
          value={text}
          onChange={(event) => {
            setText(event.target.value);
            setProblems([]);
          }}
          placeholder="owner/name"
          block
          autoCapitalize="off"
          autoComplete="off"
          spellCheck={false}
          validationStatus={problems.length === 0 ? undefined : 'error'}
        />
        {problems.length > 0 && (
          <FormControl.Validation variant="error">{problems.join(' ')}</FormControl.Validation>
        )}
        <FormControl.Caption>
          owner/name or a GitHub URL. Separate several with spaces or commas.
        </FormControl.Caption>
      </FormControl>
      <Button type="submit" className={styles.button}>
        Add
      </Button>
    </form>
  );
}
