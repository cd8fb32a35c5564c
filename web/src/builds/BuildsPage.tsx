import { PlayIcon } from '@primer/octicons-react';
import { Button, SegmentedControl, SkeletonBox } from '@primer/react';
import { Blankslate } from '@primer/react/experimental';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { useState } from 'react';
import { useMe } from '../session/session';
import { useSlurmUser } from '../session/useSlurmUser';
import { PageLink } from '../ui/links';
import { PageHeading } from '../ui/PageHeading';
import { ProblemBanner } from '../ui/ProblemBanner';
import { BuildRow } from './BuildRow';
import styles from './BuildsPage.module.css';
import { LiveMark } from './LiveMark';
import { useBuilds } from './useBuilds';

const PAGE = 30;
/** The API's largest page. */
const MOST = 200;

/** A live list of a Slurm user's builds, or of all builds. */
export function BuildsPage() {
  const user = useSlurmUser();
  const { administrator } = useMe();
  const { show } = useSearch({ from: '/' });
  const navigate = useNavigate();
  const whose = show === 'everyone' && administrator ? undefined : user;
  const title = whose === undefined ? 'All builds' : `Builds for ${whose}`;
  return (
    <>
      <div className={styles.head}>
        <PageHeading title={title}>
          {whose === undefined ? (
            'All builds'
          ) : (
            <>
              Builds for <span className={styles.user}>{whose}</span>
            </>
          )}
        </PageHeading>
        {user !== undefined && administrator && (
          <SegmentedControl
            aria-label="Show builds for"
            size="small"
            onChange={(index) =>
              void navigate({
                to: '/',
                search: (before) => ({ ...before, show: index === 1 ? 'everyone' : undefined }),
              })
            }
          >
            <SegmentedControl.Button selected={show !== 'everyone'}>{user}</SegmentedControl.Button>
            <SegmentedControl.Button selected={show === 'everyone'}>
              Everyone
            </SegmentedControl.Button>
          </SegmentedControl>
        )}
      </div>
      <BuildList key={whose ?? ''} user={whose} />
    </>
  );
}

function BuildList({ user }: { readonly user: string | undefined }) {
  const [limit, setLimit] = useState(PAGE);
  const builds = useBuilds({ user, limit });
  return (
    <>
      {builds.isError && (
        <ProblemBanner
          title={
            builds.data === undefined
              ? 'Could not load the builds'
              : 'The builds below may be out of date'
          }
          error={builds.error}
          onRetry={() => void builds.refetch()}
        />
      )}
      {builds.isPending && (
        <div role="status" aria-label="Loading builds" className={styles.loading}>
          <SkeletonBox height="4.5rem" />
          <SkeletonBox height="4.5rem" />
          <SkeletonBox height="4.5rem" />
        </div>
      )}
      {builds.data?.length === 0 && <NoBuilds user={user} />}
      {builds.data !== undefined && builds.data.length > 0 && (
        <div className={styles.box}>
          <div className={styles.boxHead}>
            <LiveMark updatedAt={builds.dataUpdatedAt} failing={builds.isError} />
          </div>
          <ul className={styles.list} aria-label="Builds">
            {builds.data.map((build) => (
              <BuildRow key={build.workflowJobId} build={build} user={user} />
            ))}
          </ul>
          {builds.data.length >= limit && limit < MOST && (
            <div className={styles.more}>
              <Button
                variant="invisible"
                disabled={builds.isPlaceholderData}
                onClick={() => setLimit(Math.min(limit + PAGE, MOST))}
              >
                {builds.isPlaceholderData ? 'Loading more…' : 'Show more'}
              </Button>
            </div>
          )}
        </div>
      )}
    </>
  );
}

function NoBuilds({ user }: { readonly user: string | undefined }) {
  return (
    <Blankslate border>
      <Blankslate.Visual>
        <PlayIcon size="medium" />
      </Blankslate.Visual>
      <Blankslate.Heading>
        {user === undefined ? 'No builds yet' : `No builds for ${user} yet`}
      </Blankslate.Heading>
      <Blankslate.Description>
        Builds appear here shortly after GitHub queues them. To get started:
      </Blankslate.Description>
      <ol className={styles.next}>
        <li>Install the GitHub App on your repository.</li>
        <li>
          Map the repository to {user === undefined ? 'a Slurm user' : user} under{' '}
          <PageLink to="/mapping" inline>
            Repositories
          </PageLink>
          .
        </li>
        <li>
          Push a workflow whose <code>runs-on</code> selects this cluster, for example{' '}
          <code>[self-hosted, slurm]</code>.
        </li>
      </ol>
    </Blankslate>
  );
}
