import { PersonIcon } from '@primer/octicons-react';
import { Blankslate } from '@primer/react/experimental';
import { useRef } from 'react';
import { RequestsOfUser } from '../requests/RequestsOfUser';
import { useRequests } from '../requests/useRequests';
import { useMe } from '../session/session';
import { useSlurmUser } from '../session/useSlurmUser';
import { PageHeading } from '../ui/PageHeading';
import { AddRepositories } from './AddRepositories';
import { ConflictBanner } from './ConflictBanner';
import { chargeOf } from './charge';
import { type Draft, entriesOf } from './draft';
import { MappingFrame } from './MappingFrame';
import { OwnRepositories } from './OwnRepositories';
import { RepositoryRows } from './RepositoryRows';
import { keyOf } from './repositoryName';
import { SaveBar } from './SaveBar';
import { SaveOutcome } from './SaveOutcome';
import { type Mapping, useMapping } from './useMapping';

/** Shows and edits which repositories a Slurm user's account pays for. */
export function MappingPage() {
  const user = useSlurmUser();
  const { administrator } = useMe();
  if (user === undefined) {
    return (
      <>
        <PageHeading title="Repositories">Repositories</PageHeading>
        <Blankslate border>
          <Blankslate.Visual>
            <PersonIcon size="medium" />
          </Blankslate.Visual>
          <Blankslate.Heading>Choose a Slurm user</Blankslate.Heading>
          <Blankslate.Description>
            Each Slurm user has a list of repositories whose workflow jobs are charged to that
            user’s account. Enter a user name at the top of the page to view and edit the list.
          </Blankslate.Description>
        </Blankslate>
      </>
    );
  }
  return administrator ? <MappingOf key={user} user={user} /> : <OwnRepositories user={user} />;
}

function MappingOf({ user }: { readonly user: string }) {
  const mapping = useMapping(user);
  const { list, draft } = mapping;
  return (
    <MappingFrame user={user} list={list}>
      {draft && <Editor user={user} mapping={mapping} draft={draft} />}
    </MappingFrame>
  );
}

interface EditorProps {
  readonly user: string;
  readonly mapping: Mapping;
  readonly draft: Draft;
}

function Editor({ user, mapping, draft }: EditorProps) {
  const input = useRef<HTMLInputElement>(null);
  const entries = entriesOf(draft);
  const requests = useRequests().data ?? [];
  const asked = new Map(
    requests
      .filter((request) => request.user === user)
      .map((request) => [keyOf(request.url), chargeOf(request)]),
  );
  return (
    <>
      {mapping.conflict && <ConflictBanner user={user} conflict={mapping.conflict} />}
      <SaveOutcome user={user} mapping={mapping} entries={entries} />
      <AddRepositories
        ref={input}
        entries={entries}
        onAdd={(repositories) => mapping.add(repositories, asked)}
      />
      <RepositoryRows
        entries={entries}
        howToAdd="Add a repository above and save the list. The GitHub App must be installed on the repository. Its queued workflow jobs start once the list is saved."
        onRemove={(entry) => {
          mapping.remove(entry.key);
          // The row disappears with its button, so the focus must move.
          if (entry.change === 'added') {
            input.current?.focus();
          }
        }}
        onRestore={(entry) => mapping.restore(entry.key)}
        onRecharge={(entry, charge) => mapping.recharge(entry.key, charge)}
      />
      {mapping.unsaved && <SaveBar mapping={mapping} entries={entries} />}
      <RequestsOfUser user={user} />
    </>
  );
}
