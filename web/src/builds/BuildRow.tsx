import { GitBranchIcon, PersonIcon, RepoIcon, ServerIcon } from '@primer/octicons-react';
import type { Build } from '../api/api';
import { fullNameOf } from '../mapping/repositoryName';
import { PageLink } from '../ui/links';
import { Ago, Elapsed } from '../ui/When';
import styles from './BuildRow.module.css';
import { standingOf } from './build';
import { Labels } from './Labels';
import { StateIcon } from './StateIcon';
import { WhyText } from './WhyText';

interface Props {
  readonly build: Build;
  /** The Slurm user whose builds the list shows. `undefined` lists all builds, and each row names its user. */
  readonly user: string | undefined;
}

/** A build in the list. */
export function BuildRow({ build, user }: Props) {
  const { phase, label } = standingOf(build);
  const repository = fullNameOf(build.repositoryUrl);
  return (
    <li className={styles.row}>
      <span className={styles.icon}>
        <StateIcon phase={phase} />
      </span>
      <div className={styles.main}>
        <div className={styles.title}>
          <PageLink
            to="/builds/$workflowJobId"
            params={{ workflowJobId: String(build.workflowJobId) }}
            className={styles.name}
          >
            {build.name}
          </PageLink>
          {build.workflowName != null && <span className={styles.muted}>{build.workflowName}</span>}
        </div>
        <div className={styles.facts}>
          <span className={styles.fact}>
            <RepoIcon size={12} /> {repository}
          </span>
          {build.headBranch != null && (
            <span className={styles.fact}>
              <GitBranchIcon size={12} /> {build.headBranch}
            </span>
          )}
          {user === undefined && build.slurmUser != null && (
            <span className={styles.fact}>
              <PersonIcon size={12} /> {build.slurmUser}
            </span>
          )}
          <Labels labels={build.labels} />
        </div>
        {build.status.why != null && (
          <p className={styles.reason} data-phase={phase}>
            <WhyText status={build.status} />{' '}
            {phase === 'unmapped' && (
              <PageLink to="/mapping" search={{ add: repository }} inline>
                Map repository
              </PageLink>
            )}
          </p>
        )}
      </div>
      <div className={styles.side}>
        <span className={styles.state}>{label}</span>
        <span className={styles.muted}>
          <Since build={build} />
        </span>
        {build.runnerName != null && (
          <span className={styles.fact}>
            <ServerIcon size={12} /> <span className={styles.runner}>{build.runnerName}</span>
          </span>
        )}
      </div>
    </li>
  );
}

function Since({ build }: { readonly build: Build }) {
  if (build.state === 'completed') {
    return <Ago at={build.completedAt ?? build.updatedAt} />;
  }
  const since = build.state === 'in_progress' ? build.startedAt : build.queuedAt;
  return (
    <>
      for <Elapsed since={since ?? build.updatedAt} />
    </>
  );
}
