import { Banner, Button } from '@primer/react';
import { fullNameOf } from './repositoryName';
import type { Mapping } from './useMapping';

interface Props {
  readonly user: string;
  readonly conflict: NonNullable<Mapping['conflict']>;
}

/** Shows what another person changed in the list since it was loaded, and loads it without losing local edits. */
export function ConflictBanner({ user, conflict }: Props) {
  const { added, removed, recharged, rebase } = conflict;
  return (
    <Banner
      variant="warning"
      title={`Someone else changed ${user}’s list`}
      description={
        <>
          {added.length > 0 && <>Added: {named(added)}. </>}
          {removed.length > 0 && <>Removed: {named(removed)}. </>}
          {recharged.length > 0 && <>Account or QOS changed: {named(recharged)}. </>}
          Your changes are not saved, but not lost either. Load the new list, review it, and save
          again.
        </>
      }
      primaryAction={<Button onClick={rebase}>Load list and keep my changes</Button>}
    />
  );
}

function named(repositories: readonly string[]): string {
  const names = repositories.slice(0, 5).map(fullNameOf).join(', ');
  return repositories.length > 5 ? `${names} and ${repositories.length - 5} more` : names;
}
