import { Heading, Text } from '@primer/react';
import { ProblemBanner } from '../ui/ProblemBanner';
import { RequestRows } from './RequestRows';
import styles from './RequestsOfUser.module.css';
import { useRequests } from './useRequests';

/** A user's pending requests. Shows nothing if there are none. */
export function RequestsOfUser({ user }: { readonly user: string }) {
  const requests = useRequests();
  return (
    <div className={styles.section}>
      {requests.isError && (
        <ProblemBanner
          title="Could not load pending requests"
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
              {user} requested these. Before you grant a request, check that {user} administers the
              repository on GitHub. Decisions take effect immediately.
            </Text>
          </div>
        }
      />
    </div>
  );
}
