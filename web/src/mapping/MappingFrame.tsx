import { SkeletonBox, Text } from '@primer/react';
import type { UseQueryResult } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { PageHeading } from '../ui/PageHeading';
import { ProblemBanner } from '../ui/ProblemBanner';
import styles from './MappingFrame.module.css';

interface Props {
  readonly user: string;
  readonly list: UseQueryResult;
  /** The list, once it is loaded. */
  readonly children: ReactNode;
}

/** The heading of a user's repositories, and the state of loading them. */
export function MappingFrame({ user, list, children }: Props) {
  return (
    <>
      <div>
        <PageHeading title={`Repositories for ${user}`}>
          Repositories for <span className={styles.user}>{user}</span>
        </PageHeading>
        <Text as="p" className={styles.lead}>
          Workflow jobs of these repositories run as Slurm user {user} and are charged to that
          user’s account.
        </Text>
      </div>
      {list.isError && (
        <ProblemBanner
          title="Could not load the repositories"
          error={list.error}
          onRetry={() => void list.refetch()}
        />
      )}
      {children ?? (list.isPending && <Loading />)}
    </>
  );
}

function Loading() {
  return (
    <div role="status" aria-label="Loading repositories" className={styles.loading}>
      <SkeletonBox height="3rem" />
      <SkeletonBox height="3rem" />
      <SkeletonBox height="3rem" />
    </div>
  );
}
