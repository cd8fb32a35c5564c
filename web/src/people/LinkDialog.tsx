import { Dialog, FormControl, TextInput } from '@primer/react';
import { InlineMessage } from '@primer/react/experimental';
import { type FormEvent, useId, useRef, useState } from 'react';
import type { Person } from '../api/api';
import { ApiError, explanationOf } from '../api/problem';
import { slurmUserProblem } from '../mapping/slurmUser';
import styles from './LinkDialog.module.css';
import type { useLink } from './usePeople';

interface Props {
  readonly person: Person;
  readonly link: ReturnType<typeof useLink>;
  readonly onClose: () => void;
}

/** Links a person to a Slurm user. */
export function LinkDialog({ person, link, onClose }: Props) {
  const form = useId();
  const slurmUser = useRef<HTMLInputElement>(null);
  const cluster = useRef<HTMLInputElement>(null);
  const [problem, setProblem] = useState<string>();

  function submit(event: FormEvent) {
    event.preventDefault();
    const chosen = slurmUser.current?.value.trim() ?? '';
    const wrong = slurmUserProblem(chosen);
    setProblem(wrong);
    if (wrong !== undefined) {
      slurmUser.current?.focus();
    } else if (!link.isPending) {
      link.mutate(
        { slurmUser: chosen, cluster: cluster.current?.value.trim() || null },
        { onSuccess: onClose },
      );
    }
  }

  return (
    <Dialog
      title={`Link ${person.login}`}
      subtitle={`GitHub ID ${person.githubId}`}
      onClose={onClose}
      initialFocusRef={slurmUser}
      footerButtons={[
        { content: 'Cancel', onClick: onClose },
        {
          content: link.isPending ? 'Linking…' : 'Link',
          buttonType: 'primary',
          type: 'submit',
          form,
        },
      ]}
    >
      <form id={form} onSubmit={submit} className={styles.form} noValidate>
        <FormControl>
          <FormControl.Label>Slurm user</FormControl.Label>
          <TextInput
            ref={slurmUser}
            defaultValue={person.slurmUser ?? ''}
            monospace
            block
            autoCapitalize="off"
            autoComplete="off"
            spellCheck={false}
            validationStatus={problem === undefined ? undefined : 'error'}
          />
          {problem !== undefined && (
            <FormControl.Validation variant="error">{problem}</FormControl.Validation>
          )}
        </FormControl>
        <FormControl>
          <FormControl.Label>Cluster</FormControl.Label>
          <TextInput
            ref={cluster}
            defaultValue={person.cluster ?? ''}
            monospace
            block
            autoCapitalize="off"
            autoComplete="off"
            spellCheck={false}
          />
          <FormControl.Caption>Leave this empty if the site has one cluster.</FormControl.Caption>
        </FormControl>
        <div role="status">
          {link.isError && <InlineMessage variant="critical">{reasonOf(link.error)}</InlineMessage>}
        </div>
      </form>
    </Dialog>
  );
}

function reasonOf(error: Error): string {
  const parts = error instanceof ApiError ? (error.problem.errors ?? []) : [];
  return parts.length > 0 ? parts.map(({ detail }) => detail).join(' ') : explanationOf(error);
}
