-- How far a launch is: one state in place of the states of launches and runners that had to be kept in step.
-- The rules are code (crates/domain/src/launch); what is derived from a state is stored beside it, so that loops find it.
CREATE TYPE launch_state AS ENUM
    ('planned', 'submitted', 'redeeming', 'registered', 'listening', 'busy', 'over');
CREATE TYPE workflow_job_state AS ENUM ('waiting', 'queued', 'in_progress', 'completed');
CREATE TYPE verdict AS ENUM ('undecided', 'ours', 'not_ours', 'waiting_for_mapping', 'refused');

DROP INDEX launches_supply;
DROP INDEX launches_planned;
DROP INDEX launches_watched;
DROP INDEX launches_to_cancel;
DROP INDEX launches_to_release;
DROP INDEX launches_usage_to_come;
DROP INDEX launches_limited;
ALTER TABLE launches DROP CONSTRAINT launches_state_check;

ALTER TABLE launches
    -- Why it ended.
    ADD COLUMN outcome    JSONB,
    -- From then on the agent is asked to cancel its Slurm job.
    ADD COLUMN cancel_at  TIMESTAMPTZ,
    -- Slurm is asked how it is.
    ADD COLUMN watched    BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE launches SET outcome = CASE state
        WHEN 'withdrawn' THEN jsonb_build_object('kind', 'withdrawn', 'why',
            jsonb_build_object('kind', 'recorded', 'words', coalesce(reason, 'withdrawn')))
        WHEN 'refused' THEN jsonb_build_object('kind', 'refused', 'words', coalesce(reason, 'refused'))
        ELSE jsonb_build_object('kind', 'recorded', 'words', coalesce(reason, 'ended'))
    END
    WHERE state IN ('ended', 'withdrawn', 'refused')
        OR EXISTS (SELECT FROM runners WHERE runners.launch_id = launches.id AND runners.state = 'ended');
UPDATE launches SET cancel_at = coalesce(ended_at, now())
    WHERE state = 'withdrawn' AND cancelled_at IS NULL AND submit_attempts > 0;
UPDATE launches SET watched = TRUE
    WHERE submitted_at IS NOT NULL
        AND (slurm_state IS NULL OR slurm_state IN ('pending', 'running') OR usage_to_come);
UPDATE launches SET reason = NULL WHERE state <> 'planned';
UPDATE launches SET limited = FALSE WHERE state <> 'planned';
UPDATE launches SET state = CASE
        WHEN state IN ('ended', 'withdrawn', 'refused') THEN 'over'
        WHEN state = 'redeemed' THEN coalesce(
            (SELECT CASE
                    WHEN runners.state = 'ended' THEN 'over'
                    WHEN runners.busy_at IS NOT NULL OR runners.workflow_job_id IS NOT NULL THEN 'busy'
                    ELSE runners.state
                END
                FROM runners WHERE runners.launch_id = launches.id),
            'redeeming')
        ELSE state
    END;
UPDATE launches SET ended_at = coalesce(ended_at, now()) WHERE state = 'over';
ALTER TABLE launches ALTER COLUMN state TYPE launch_state USING state::launch_state;
ALTER TABLE launches RENAME COLUMN reason TO delay;
ALTER TABLE launches RENAME COLUMN release_at TO deregister_at;
ALTER TABLE launches DROP COLUMN redeemed_at;

ALTER TABLE runners
    DROP COLUMN state,
    DROP COLUMN ended_at,
    DROP COLUMN end_reason,
    -- GitHub knows no workflow job that it took, however long it was asked.
    ADD COLUMN attribution_given_up BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE runners SET attribution_given_up = TRUE
    FROM launches
    WHERE launches.id = runners.launch_id AND NOT launches.in_supply
        AND runners.busy_at IS NOT NULL AND runners.workflow_job_id IS NULL;

-- Supply of a class, and what it does without first.
CREATE INDEX launches_supply ON launches (class_id, state, planned_at DESC, id DESC) WHERE in_supply;
CREATE INDEX launches_due ON launches (state, not_before) WHERE in_supply;
CREATE INDEX launches_expiring ON launches (token_expires_at) WHERE in_supply;
CREATE INDEX launches_limited ON launches (class_id, planned_at, id) WHERE limited;
CREATE INDEX launches_watched ON launches (submitted_at) WHERE watched;
CREATE INDEX launches_to_cancel ON launches (cancel_at) WHERE cancel_at IS NOT NULL;
CREATE INDEX launches_to_deregister ON launches (deregister_at) WHERE deregister_at IS NOT NULL;
CREATE INDEX launches_ended ON launches (ended_at) WHERE ended_at IS NOT NULL;
-- What refers to rows that are removed.
CREATE INDEX launches_class ON launches (class_id);
CREATE INDEX runners_workflow_job ON runners (workflow_job_id) WHERE workflow_job_id IS NOT NULL;

-- What GitHub says of a workflow job has one shape, the same in webhooks, events and here.
ALTER TABLE workflow_jobs
    ADD COLUMN facts   JSONB,
    -- It wants a runner now.
    ADD COLUMN demand  BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE workflow_jobs SET
    facts = jsonb_build_object(
        'id', id, 'runId', run_id, 'runAttempt', run_attempt, 'name', name, 'workflowName', workflow_name,
        'headBranch', head_branch, 'headSha', NULL, 'htmlUrl', html_url, 'labels', to_jsonb(labels), 'status', state,
        'conclusion', conclusion, 'runnerId', NULL, 'runnerName', runner_name, 'createdAt', queued_at,
        'startedAt', started_at, 'completedAt', completed_at),
    demand = state = 'queued' AND verdict = 'ours';
DROP INDEX workflow_jobs_open;
DROP INDEX workflow_jobs_demand;
DROP INDEX workflow_jobs_runner;
DROP INDEX workflow_jobs_unfinished;
ALTER TABLE workflow_jobs DROP CONSTRAINT workflow_jobs_state_check, DROP CONSTRAINT workflow_jobs_verdict_check;
ALTER TABLE workflow_jobs
    ALTER COLUMN facts SET NOT NULL,
    ALTER COLUMN state TYPE workflow_job_state USING state::workflow_job_state,
    ALTER COLUMN verdict TYPE verdict USING verdict::verdict,
    DROP COLUMN run_id,
    DROP COLUMN run_attempt,
    DROP COLUMN name,
    DROP COLUMN workflow_name,
    DROP COLUMN html_url,
    DROP COLUMN head_branch,
    DROP COLUMN labels,
    DROP COLUMN conclusion,
    DROP COLUMN runner_name,
    DROP COLUMN queued_at,
    DROP COLUMN started_at,
    DROP COLUMN completed_at;
CREATE INDEX workflow_jobs_demand ON workflow_jobs (class_id, created_at, id) WHERE demand;
CREATE INDEX workflow_jobs_class ON workflow_jobs (class_id) WHERE class_id IS NOT NULL;
CREATE INDEX workflow_jobs_old ON workflow_jobs (verdict, updated_at);
CREATE INDEX workflow_jobs_unfinished ON workflow_jobs (repository_id, id) WHERE state <> 'completed';

-- Counted as rows change, so that an event costs the same however many wait.
ALTER TABLE runner_classes
    ADD COLUMN demand   INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN supply   INTEGER NOT NULL DEFAULT 0,
    -- The agent or Slurm refused it for good.
    ADD COLUMN refused  BOOLEAN NOT NULL DEFAULT FALSE,
    -- Why nothing is launched for it, for people.
    ADD COLUMN stopped  TEXT;
UPDATE runner_classes SET
    demand = (SELECT count(*) FROM workflow_jobs WHERE class_id = runner_classes.id AND demand),
    supply = (SELECT count(*) FROM launches WHERE class_id = runner_classes.id AND in_supply);
CREATE INDEX runner_classes_repository ON runner_classes (repository_id);

-- When it happened beside when it was recorded.
ALTER TABLE timeline RENAME COLUMN at TO recorded_at;
ALTER TABLE timeline ADD COLUMN happened_at TIMESTAMPTZ;
UPDATE timeline SET happened_at = recorded_at;
ALTER TABLE timeline ALTER COLUMN happened_at SET NOT NULL;

-- All workflow jobs of a scope are decided again in batches: up to this id it is done.
ALTER TABLE replan_requests ADD COLUMN decided_through BIGINT NOT NULL DEFAULT 0;

-- Versions that were seen last, of clusters' policies and of this deployment's labels: another one is a fresh chance.
ALTER TABLE cluster_policies RENAME TO known_versions;
ALTER TABLE known_versions RENAME COLUMN cluster TO what;
ALTER TABLE known_versions RENAME CONSTRAINT cluster_policies_pkey TO known_versions_pkey;
UPDATE known_versions SET what = 'policy of ' || what;

-- Sums of usage whose launches are not kept any more.
CREATE TABLE usage_sums (
    month            DATE NOT NULL,
    repository_id    BIGINT NOT NULL REFERENCES repositories (id),
    slurm_user       TEXT NOT NULL,
    launches         BIGINT NOT NULL,
    builds           BIGINT NOT NULL,
    elapsed_s        BIGINT NOT NULL,
    cpu_allocated_s  BIGINT NOT NULL,
    cpu_used_s       BIGINT NOT NULL,
    gpu_allocated_s  BIGINT NOT NULL,
    max_rss_bytes    BIGINT,
    PRIMARY KEY (month, repository_id, slurm_user)
);
