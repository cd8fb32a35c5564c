import { LinkExternalIcon } from '@primer/octicons-react';
import { Banner, Breadcrumbs, LinkButton, SkeletonBox } from '@primer/react';
import { useParams } from '@tanstack/react-router';
import type { Build, BuildDetail } from '../api/api';
import { ApiError } from '../api/problem';
import { NotFound } from '../app/NotFound';
import { fullNameOf } from '../mapping/repositoryName';
import { PageLink } from '../ui/links';
import { PageHeading } from '../ui/PageHeading';
import { ProblemBanner } from '../ui/ProblemBanner';
import { Status } from '../ui/Status';
import styles from './BuildPage.module.css';
import { BuildTimeline } from './BuildTimeline';
import { hasSteps, isMoving, type Phase, standingOf } from './build';
import { Facts } from './Facts';
import { LiveMark } from './LiveMark';
import { StateIcon } from './StateIcon';
import { Steps } from './Steps';
import { useBuild } from './useBuilds';
import { WhyText } from './WhyText';

/** One build: its state, the reason for it, and its timeline. */
export function BuildPage() {
  const { workflowJobId } = useParams({ from: '/builds/$workflowJobId' });
  const id = /^[1-9]\d{0,15}$/.test(workflowJobId) ? Number(workflowJobId) : undefined;
  return id === undefined ? <NotFound what="build" /> : <BuildOf key={id} workflowJobId={id} />;
}

function BuildOf({ workflowJobId }: { readonly workflowJobId: number }) {
  const build = useBuild(workflowJobId);
  if (build.error instanceof ApiError && build.error.problem.status === 404) {
    return <NotFound what="build" />;
  }
  return (
    <>
      {build.isError && (
        <ProblemBanner
          title={
            build.data === undefined
              ? 'Could not load the build'
              : 'The build below may be out of date'
          }
          error={build.error}
          onRetry={() => void build.refetch()}
        />
      )}
      {build.isPending && (
        <div role="status" aria-label="Loading the build" className={styles.loading}>
          <SkeletonBox height="2rem" width="60%" />
          <SkeletonBox height="6rem" />
          <SkeletonBox height="16rem" />
        </div>
      )}
      {build.data !== undefined && (
        <Detail detail={build.data} updatedAt={build.dataUpdatedAt} failing={build.isError} />
      )}
    </>
  );
}

interface DetailProps {
  readonly detail: BuildDetail;
  readonly updatedAt: number;
  readonly failing: boolean;
}

function Detail({ detail, updatedAt, failing }: DetailProps) {
  const { build, timeline } = detail;
  const { phase, label } = standingOf(build);
  return (
    <>
      <Breadcrumbs>
        <PageLink to="/" className={styles.crumb}>
          Builds
        </PageLink>
        <Breadcrumbs.Item selected>{fullNameOf(build.repositoryUrl)}</Breadcrumbs.Item>
      </Breadcrumbs>
      <div className={styles.head}>
        <StateIcon phase={phase} size={24} />
        <PageHeading title={`${build.name}: ${label}`}>{build.name}</PageHeading>
        <span className={styles.state} data-phase={phase}>
          {label}
        </span>
        {build.htmlUrl != null && (
          <LinkButton
            href={build.htmlUrl}
            size="small"
            className={styles.github}
            trailingVisual={LinkExternalIcon}
          >
            View on GitHub
          </LinkButton>
        )}
      </div>
      <Status hidden>{`${build.name}: ${label}`}</Status>
      {build.status.why != null && <Why build={build} phase={phase} label={label} />}
      {hasSteps(build) && <Steps detail={detail} />}
      <Facts detail={detail} />
      <section aria-labelledby="timeline" className={styles.timeline}>
        <div className={styles.timelineHead}>
          <h2 id="timeline">Timeline</h2>
          {isMoving(build) && <LiveMark updatedAt={updatedAt} failing={failing} />}
        </div>
        <BuildTimeline timeline={timeline} conclusion={build.conclusion} />
      </section>
    </>
  );
}

const WHY: Partial<Record<Phase, string>> = {
  unmapped: 'Repository not mapped',
  refused: 'This job was refused',
  ignored: 'Not for this cluster',
};

interface WhyProps {
  readonly build: Build;
  readonly phase: Phase;
  readonly label: string;
}

const VARIANTS: Partial<Record<Phase, 'critical' | 'warning'>> = {
  refused: 'critical',
  failed: 'critical',
  stuck: 'warning',
  unmapped: 'warning',
};

/** Why the build waits or is refused, and what the reader can do about it. */
function Why({ build, phase, label }: WhyProps) {
  const { status } = build;
  return (
    <Banner
      variant={VARIANTS[phase] ?? 'info'}
      title={WHY[phase] ?? label}
      description={
        <>
          <WhyText status={status} />{' '}
          {phase === 'unmapped' ? (
            <PageLink to="/mapping" search={{ add: fullNameOf(build.repositoryUrl) }} inline>
              Map it to a Slurm user
            </PageLink>
          ) : (
            status.remedy
          )}
        </>
      }
    />
  );
}
