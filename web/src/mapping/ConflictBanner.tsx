import { Banner, Button } from '@primer/react';
import { fullNameOf } from './repositoryName';
import type { Mapping } from './useMapping';

interface Props {
  readonly user: string;
  readonly conflict: NonNullable<Mapping['conflict']>;
}

/** Somebody else saved the list meanwhile: says what they changed, and takes it in without losing one's own edits. */
export function ConflictBanner({ user, conflict }: Props) {
  const { added, removed, recharged, rebase } = conflict;
  return (
    <Banner
      variant="warning"
      title={`Somebody else changed ${user}’s list meanwhile`}
      description={
        <>
          {added.length > 0 && <>Added: {named(added)}. </>}
          {removed.length > 0 && <>Removed: {named(removed)}. </>}
          {recharged.length > 0 && <>Charged differently: {named(recharged)}. </>}
          Nothing of yours was saved or lost. Load the new list, look at it, then save again.
        </>
      }
      primaryAction={<Button onClick={rebase}>Load it and keep my changes</Button>}
    />
  );
}

function named(repositories: readonly string[]): string {
  const names = repositories.slice(0, 5).map(fullNameOf).join(', ');
  return repositories.length > 5 ? `${names} and ${repositories.length - 5} more` : names;
}
