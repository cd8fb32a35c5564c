import { Link } from '@primer/react';
import type { ReactNode } from 'react';
import type { BuildDetail } from '../api/api';
import { fullNameOf } from '../mapping/repositoryName';
import { bytes } from '../ui/bytes';
import { duration } from '../ui/time';
import { Ago, Elapsed, LocalTime } from '../ui/When';
import styles from './Facts.module.css';
import { Labels } from './Labels';
import { slurmJobsOf } from './timeline';

/** The known facts about a build. Unknown facts are left out. */
export function Facts({ detail: { build, timeline, usage } }: { readonly detail: BuildDetail }) {
  const slurmJobs = slurmJobsOf(timeline);
  return (
    <dl className={styles.facts}>
      <Fact name="Repository">
        <Link href={build.repositoryUrl} muted>
          {fullNameOf(build.repositoryUrl)}
        </Link>
      </Fact>
      {build.workflowName != null && <Fact name="Workflow">{build.workflowName}</Fact>}
      {build.headBranch != null && <Fact name="Branch">{build.headBranch}</Fact>}
      <Fact name="Labels">
        {build.labels.length === 0 ? 'none' : <Labels labels={build.labels} />}
      </Fact>
      {build.slurmUser != null && <Fact name="Slurm user">{build.slurmUser}</Fact>}
      {slurmJobs.length > 0 && (
        <Fact name={slurmJobs.length === 1 ? 'Slurm job' : 'Slurm jobs'}>
          <span className={styles.mono}>{slurmJobs.join(', ')}</span>
        </Fact>
      )}
      {build.runnerName != null && (
        <Fact name="Runner">
          <span className={styles.mono}>{build.runnerName}</span>
        </Fact>
      )}
      {build.queuedAt != null && (
        <Fact name="Queued">
          <LocalTime at={build.queuedAt} /> (<Ago at={build.queuedAt} />)
        </Fact>
      )}
      {build.startedAt != null && build.state !== 'queued' && (
        <Fact name="Run time">
          {build.completedAt == null ? (
            <Elapsed since={build.startedAt} />
          ) : (
            duration(Date.parse(build.completedAt) - Date.parse(build.startedAt))
          )}
        </Fact>
      )}
      {usage != null && <UsageFacts usage={usage} />}
      <Fact name="Workflow job">
        <span className={styles.mono}>{build.workflowJobId}</span>
      </Fact>
    </dl>
  );
}

/** What the build's Slurm job used, from Slurm's accounting. */
function UsageFacts({ usage }: { readonly usage: NonNullable<BuildDetail['usage']> }) {
  const time = (seconds: number) => duration(seconds * 1000);
  return (
    <>
      <Fact name="Slurm job run time">{time(usage.elapsedS)}</Fact>
      <Fact name="CPU time">
        {time(usage.cpuUsedS)} used of {time(usage.cpuAllocatedS)} allocated
      </Fact>
      {usage.gpuAllocatedS > 0 && <Fact name="GPU time">{time(usage.gpuAllocatedS)}</Fact>}
      {usage.maxRssBytes != null && <Fact name="Peak memory">{bytes(usage.maxRssBytes)}</Fact>}
      {usage.tres !== '' && (
        <Fact name="Allocated">
          <span className={styles.mono}>{usage.tres}</span>
        </Fact>
      )}
    </>
  );
}

function Fact({ name, children }: { readonly name: string; readonly children: ReactNode }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
