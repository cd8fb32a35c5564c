import { InboxIcon } from '@primer/octicons-react';
import { SkeletonBox, Text } from '@primer/react';
import { Blankslate } from '@primer/react/experimental';
import { PageHeading } from '../ui/PageHeading';
import { ProblemBanner } from '../ui/ProblemBanner';
import { RequestRows } from './RequestRows';
import styles from './RequestsPage.module.css';
import { useRequests } from './useRequests';

/** What users of all clusters wait for. */
export function RequestsPage() {
  const requests = useRequests();
  return (
    <>
      <div>
        <PageHeading title="Requests">Requests</PageHeading>
        <Text as="p" className={styles.lead}>
          Repositories that users asked for on a login node, the oldest first. Granted, a
          repository’s workflow jobs run as that user and spend the user’s launch: check that
          the user may administer it at GitHub.
        </Text>
      </div>
      {requests.isError && (
        <ProblemBanner
          title={
            requests.data === undefined
              ? 'The requests could not be loaded'
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
      <Blankslate.Heading>Nobody waits for an administrator</Blankslate.Heading>
      <Blankslate.Description>
        A repository shows up here when a user of a cluster asks for it on a login node, with{' '}
        <code className={styles.command}>gha-slurm repos add owner/name</code>. It is mapped to that
        user once an administrator grants it.
      </Blankslate.Description>
    </Blankslate>
  );
}
