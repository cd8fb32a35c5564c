import { PeopleIcon } from '@primer/octicons-react';
import { Button, Label, SkeletonBox, Text, useConfirm } from '@primer/react';
import { Blankslate } from '@primer/react/experimental';
import { useState } from 'react';
import type { Person } from '../api/api';
import { explanationOf } from '../api/problem';
import { PageHeading } from '../ui/PageHeading';
import { ProblemBanner } from '../ui/ProblemBanner';
import table from '../ui/Table.module.css';
import { Ago } from '../ui/When';
import { LinkDialog } from './LinkDialog';
import styles from './PeoplePage.module.css';
import { useLink, usePeople } from './usePeople';

/** Links the people who have signed in to their Slurm users. */
export function PeoplePage() {
  const people = usePeople();
  return (
    <>
      <div>
        <PageHeading title="People">People</PageHeading>
        <Text as="p" className={styles.lead}>
          Everyone who has signed in with GitHub. A person sees builds, usage and repositories only
          of the Slurm user they are linked to; administrators see those of all users. Before you
          link a person, check that the GitHub account is theirs: compare its ID, because a login
          can change hands.
        </Text>
      </div>
      {people.isError && (
        <ProblemBanner
          title={
            people.data === undefined
              ? 'Could not load the people'
              : 'The people below may be out of date'
          }
          error={people.error}
          onRetry={() => void people.refetch()}
        />
      )}
      {people.isPending && (
        <div role="status" aria-label="Loading people">
          <SkeletonBox height="12rem" />
        </div>
      )}
      {people.data?.length === 0 && (
        <Blankslate border>
          <Blankslate.Visual>
            <PeopleIcon size="medium" />
          </Blankslate.Visual>
          <Blankslate.Heading>Nobody has signed in yet</Blankslate.Heading>
          <Blankslate.Description>
            People appear here after they sign in with GitHub for the first time.
          </Blankslate.Description>
        </Blankslate>
      )}
      {people.data !== undefined && people.data.length > 0 && <Table people={people.data} />}
    </>
  );
}

function Table({ people }: { readonly people: readonly Person[] }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls has to take the focus
    <section className={table.box} aria-label="People" tabIndex={0}>
      <table className={table.table}>
        <thead>
          <tr>
            <th scope="col">GitHub user</th>
            <th scope="col">Slurm user</th>
            <th scope="col">Cluster</th>
            <th scope="col">Linked</th>
            <th scope="col">Last sign-in</th>
            <th scope="col">Actions</th>
          </tr>
        </thead>
        <tbody>
          {people.map((person) => (
            <Row key={person.githubId} person={person} />
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Row({ person }: { readonly person: Person }) {
  const { login, slurmUser, cluster, linkedAt, linkedBy } = person;
  const link = useLink(person);
  const confirm = useConfirm();
  const [editing, setEditing] = useState(false);
  const linked = slurmUser != null;

  async function unlink() {
    const sure = await confirm({
      title: `Unlink ${login} from ${slurmUser}?`,
      content: `${login} will no longer see the builds and repositories of ${slurmUser}. Nothing else changes for ${slurmUser}.`,
      confirmButtonContent: 'Unlink',
      confirmButtonType: 'danger',
    });
    if (sure && !link.isPending) {
      link.mutate(undefined);
    }
  }

  return (
    <tr>
      <th scope="row">
        {login} {person.administrator && <Label>Administrator</Label>}
        <div className={styles.id}>ID {person.githubId}</div>
      </th>
      <td className={styles.user}>{slurmUser ?? '–'}</td>
      <td>{cluster ?? '–'}</td>
      <td>
        {linkedAt == null ? (
          '–'
        ) : (
          <>
            <Ago at={linkedAt} />
            {linkedBy != null && ` by ${linkedBy}`}
          </>
        )}
      </td>
      <td>
        <Ago at={person.signedInAt} />
      </td>
      <td>
        <div className={styles.buttons}>
          <Button
            size="small"
            aria-label={linked ? `Change the Slurm user of ${login}` : `Link ${login}`}
            onClick={() => {
              link.reset();
              setEditing(true);
            }}
          >
            {linked ? 'Change' : 'Link'}
          </Button>
          {linked && (
            <Button
              size="small"
              variant="danger"
              aria-label={`Unlink ${login}`}
              aria-disabled={link.isPending}
              onClick={() => void unlink()}
            >
              Unlink
            </Button>
          )}
        </div>
        <div role="status" className={styles.failure}>
          {link.isError && !editing && explanationOf(link.error)}
        </div>
        {editing && <LinkDialog person={person} link={link} onClose={() => setEditing(false)} />}
      </td>
    </tr>
  );
}
