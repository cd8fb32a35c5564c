import { Banner, Link } from '@primer/react';
import { InlineMessage } from '@primer/react/experimental';
import { useEffect, useRef } from 'react';
import { ApiError, hasCode } from '../api/problem';
import { ProblemBanner } from '../ui/ProblemBanner';
import { Status } from '../ui/Status';
import type { Entry } from './draft';
import { anchorOf } from './RepositoryRows';
import { fullNameOf } from './repositoryName';
import type { Mapping } from './useMapping';

interface Props {
  readonly user: string;
  readonly mapping: Mapping;
  readonly entries: readonly Entry[];
}

/** The outcome of the last attempt to save. */
export function SaveOutcome({ user, mapping, entries }: Props) {
  return (
    <>
      <Status>
        <Saved user={user} mapping={mapping} />
      </Status>
      <NotSaved mapping={mapping} entries={entries} />
    </>
  );
}

function Saved({ user, mapping }: Omit<Props, 'entries'>) {
  if (!mapping.save.isSuccess || mapping.unsaved) {
    return null;
  }
  const count = mapping.save.data.repositories.length;
  return (
    <InlineMessage variant="success">
      {`Saved. ${user} has ${count === 0 ? 'no' : count} ${count === 1 ? 'repository' : 'repositories'}.`}
    </InlineMessage>
  );
}

function NotSaved({ mapping, entries }: Omit<Props, 'user'>) {
  const { save } = mapping;
  const banner = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (save.isError) {
      banner.current?.focus();
    }
  }, [save.isError]);

  // ConflictBanner shows conflicts.
  if (!save.isError || hasCode(save.error, 'mapping_changed')) {
    return null;
  }
  const refused = entries.filter(({ refusal, change }) => refusal && change !== 'removed');
  return (
    <div ref={banner} tabIndex={-1}>
      {save.error instanceof ApiError && refused.length > 0 ? (
        <Banner
          variant="critical"
          title="Nothing was saved"
          description={
            <>
              {refused.length === 1 ? 'One repository was' : `${refused.length} repositories were`}{' '}
              refused; the reason is shown next to {refused.length === 1 ? 'it' : 'each'}:{' '}
              {refused.map((entry, index) => (
                <span key={entry.key}>
                  {index > 0 && ', '}
                  <Link href={`#${anchorOf(entry)}`} inline>
                    {fullNameOf(entry.repository)}
                  </Link>
                </span>
              ))}
              . Fix or remove {refused.length === 1 ? 'it' : 'them'}, then save again.
            </>
          }
        />
      ) : (
        <ProblemBanner title="Nothing was saved" error={save.error} onRetry={mapping.submit} />
      )}
    </div>
  );
}
