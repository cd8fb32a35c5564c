import { Heading, Text } from '@primer/react';
import { ProblemBanner } from '../ui/ProblemBanner';
import { RequestRows } from './RequestRows';
import styles from './RequestsOfUser.module.css';
import { useRequests } from './useRequests';

/** What one user waits for; nothing is shown while that is nothing. */
export function RequestsOfUser({ user }: { readonly user: string }) {
  const requests = useRequests();
  return (
    <div className={styles.section}>
      {requests.isError && (
        <ProblemBanner
          title="What waits for an administrator could not be loaded"
          error={requests.error}
          onRetry={() => void requests.refetch()}
        />
      )}
      <RequestRows
        requests={requests.data?.filter((request) => request.user === user) ?? []}
        users={false}
        heading={
          <div>
            <Heading as="h2" className={styles.heading}>
              Waiting for an administrator
            </Heading>
            <Text as="p" className={styles.lead}>
              {user} asked for these on a login node. Check that {user} may administer the
              repository at GitHub before you grant one; a decision counts at once.
            </Text>
          </div>
        }
      />
    </div>
  );
}
