import { InboxIcon } from '@primer/octicons-react';
import { SkeletonBox, Text } from '@primer/react';
import { Blankslate } from '@primer/react/experimental';
import { PageHeading } from '../ui/PageHeading';
import { ProblemBanner } from '../ui/ProblemBanner';
import { RequestRows } from './RequestRows';
import styles from './RequestsPage.module.css';
import { useRequests } from './useRequests';

/** The pending requests of all users. */
export function RequestsPage() {
  const requests = useRequests();
  return (
    <>
      <div>
        <PageHeading title="Requests">Requests</PageHeading>
        <Text as="p" className={styles.lead}>
          Repositories that users requested, oldest first. Once you grant a request, workflow jobs
          of the repository run as that user and are charged to the user’s account. Check first that
          the user administers the repository on GitHub.
        </Text>
      </div>
      {requests.isError && (
        <ProblemBanner
          title={
            requests.data === undefined
              ? 'Could not load the requests'
              : 'The requests below may be out of date'
          }
          error={requests.error}
          onRetry={() => void requests.refetch()}
        />
      )}
      {requests.isPending && (
        <div role="status" aria-label="Loading requests" className={styles.loading}>
          <SkeletonBox height="4rem" />
          <SkeletonBox height="4rem" />
        </div>
      )}
      <RequestRows requests={requests.data ?? []} users />
      {requests.data?.length === 0 && <NoRequests />}
    </>
  );
}

function NoRequests() {
  return (
    <Blankslate border>
      <Blankslate.Visual>
        <InboxIcon size="medium" />
      </Blankslate.Visual>
      <Blankslate.Heading>No pending requests</Blankslate.Heading>
      <Blankslate.Description>
        Requests appear here when a user runs{' '}
        <code className={styles.command}>gha-slurm repos add owner/name</code> on a login node, or
        adds a repository on this page. Once an administrator grants a request, the repository is
        mapped to that user.
      </Blankslate.Description>
    </Blankslate>
  );
}
