import { PersonIcon } from '@primer/octicons-react';
import { Button, FormControl, TextInput } from '@primer/react';
import { useNavigate } from '@tanstack/react-router';
import { type FormEvent, useRef, useState } from 'react';
import { slurmUserProblem } from '../mapping/slurmUser';
import styles from './SlurmUserForm.module.css';

interface Props {
  /** The Slurm user whose builds and repositories are shown. */
  readonly user: string | undefined;
}

/** Selects the Slurm user, which is kept in the address. */
export function SlurmUserForm({ user }: Props) {
  const navigate = useNavigate();
  const input = useRef<HTMLInputElement>(null);
  const [problem, setProblem] = useState<string>();

  function submit(event: FormEvent) {
    event.preventDefault();
    const chosen = input.current?.value.trim() ?? '';
    const wrong = slurmUserProblem(chosen);
    setProblem(wrong);
    if (wrong === undefined) {
      void navigate({
        to: '.',
        search: (before) => ({ ...before, user: chosen, show: undefined }),
      });
    } else {
      input.current?.focus();
    }
  }

  return (
    <form onSubmit={submit} className={styles.form} noValidate>
      <FormControl id="slurm-user" className={styles.control}>
        <FormControl.Label visuallyHidden>Slurm user</FormControl.Label>
        <TextInput
          ref={input}
          defaultValue={user ?? ''}
          placeholder="Slurm user"
          leadingVisual={PersonIcon}
          monospace
          block
          autoCapitalize="off"
          autoComplete="username"
          spellCheck={false}
          maxLength={64}
          onChange={() => setProblem(undefined)}
          validationStatus={problem === undefined ? undefined : 'error'}
        />
        {problem !== undefined && (
          <FormControl.Validation variant="error">{problem}</FormControl.Validation>
        )}
      </FormControl>
      <Button type="submit">Show</Button>
    </form>
  );
}
