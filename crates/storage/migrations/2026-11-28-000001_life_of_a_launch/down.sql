DROP TABLE usage_sums;

DELETE FROM known_versions WHERE what NOT LIKE 'policy of %';
UPDATE known_versions SET what = substr(what, length('policy of ') + 1);
ALTER TABLE known_versions RENAME CONSTRAINT known_versions_pkey TO cluster_policies_pkey;
ALTER TABLE known_versions RENAME COLUMN what TO cluster;
ALTER TABLE known_versions RENAME TO cluster_policies;

ALTER TABLE replan_requests DROP COLUMN decided_through;

ALTER TABLE timeline DROP COLUMN happened_at;
ALTER TABLE timeline RENAME COLUMN recorded_at TO at;

DROP INDEX runner_classes_repository;
ALTER TABLE runner_classes
    DROP COLUMN demand,
    DROP COLUMN supply,
    DROP COLUMN refused,
    DROP COLUMN stopped;

DROP INDEX workflow_jobs_demand;
DROP INDEX workflow_jobs_old;
DROP INDEX workflow_jobs_class;
DROP INDEX workflow_jobs_unfinished;
ALTER TABLE workflow_jobs
    ALTER COLUMN state TYPE TEXT USING state::TEXT,
    ALTER COLUMN verdict TYPE TEXT USING verdict::TEXT,
    ADD COLUMN run_id         BIGINT,
    ADD COLUMN run_attempt    BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN name           TEXT,
    ADD COLUMN workflow_name  TEXT,
    ADD COLUMN html_url       TEXT,
    ADD COLUMN head_branch    TEXT,
    ADD COLUMN labels         TEXT[],
    ADD COLUMN conclusion     TEXT,
    ADD COLUMN runner_name    TEXT,
    ADD COLUMN queued_at      TIMESTAMPTZ,
    ADD COLUMN started_at     TIMESTAMPTZ,
    ADD COLUMN completed_at   TIMESTAMPTZ;
UPDATE workflow_jobs SET
    run_id = (facts ->> 'runId')::BIGINT,
    run_attempt = coalesce((facts ->> 'runAttempt')::BIGINT, 1),
    name = facts ->> 'name',
    workflow_name = facts ->> 'workflowName',
    html_url = facts ->> 'htmlUrl',
    head_branch = facts ->> 'headBranch',
    labels = ARRAY(SELECT jsonb_array_elements_text(facts -> 'labels')),
    conclusion = facts ->> 'conclusion',
    runner_name = facts ->> 'runnerName',
    queued_at = (facts ->> 'createdAt')::TIMESTAMPTZ,
    started_at = (facts ->> 'startedAt')::TIMESTAMPTZ,
    completed_at = (facts ->> 'completedAt')::TIMESTAMPTZ;
ALTER TABLE workflow_jobs
    ALTER COLUMN run_id SET NOT NULL,
    ALTER COLUMN name SET NOT NULL,
    ALTER COLUMN labels SET NOT NULL,
    DROP COLUMN facts,
    DROP COLUMN demand,
    ADD CONSTRAINT workflow_jobs_state_check
        CHECK (state IN ('waiting', 'queued', 'in_progress', 'completed')),
    ADD CONSTRAINT workflow_jobs_verdict_check
        CHECK (verdict IN ('undecided', 'ours', 'not_ours', 'waiting_for_mapping', 'refused'));
CREATE INDEX workflow_jobs_open ON workflow_jobs (repository_id) WHERE state IN ('waiting', 'queued');
CREATE INDEX workflow_jobs_demand ON workflow_jobs (class_id) WHERE state = 'queued' AND verdict = 'ours';
CREATE INDEX workflow_jobs_runner ON workflow_jobs (runner_name) WHERE runner_name IS NOT NULL;
CREATE INDEX workflow_jobs_unfinished ON workflow_jobs (repository_id) WHERE state <> 'completed';

DROP INDEX launches_supply;
DROP INDEX launches_due;
DROP INDEX launches_expiring;
DROP INDEX launches_limited;
DROP INDEX launches_watched;
DROP INDEX launches_to_cancel;
DROP INDEX launches_to_deregister;
DROP INDEX launches_ended;
DROP INDEX launches_class;
DROP INDEX runners_workflow_job;

ALTER TABLE runners
    DROP COLUMN attribution_given_up,
    ADD COLUMN state       TEXT,
    ADD COLUMN ended_at    TIMESTAMPTZ,
    ADD COLUMN end_reason  TEXT;
ALTER TABLE launches
    ALTER COLUMN state TYPE TEXT USING state::TEXT,
    ADD COLUMN redeemed_at TIMESTAMPTZ;
ALTER TABLE launches RENAME COLUMN delay TO reason;
ALTER TABLE launches RENAME COLUMN deregister_at TO release_at;
UPDATE runners SET
    state = CASE launches.state WHEN 'over' THEN 'ended' ELSE launches.state END,
    ended_at = launches.ended_at,
    end_reason = coalesce(outcome ->> 'words', outcome ->> 'reason', outcome -> 'why' ->> 'words', outcome ->> 'kind')
    FROM launches WHERE launches.id = runners.launch_id;
UPDATE launches SET redeemed_at = runners.created_at FROM runners WHERE runners.launch_id = launches.id;
UPDATE launches SET
    reason = CASE WHEN outcome IS NULL THEN reason ELSE
        coalesce(outcome ->> 'words', outcome ->> 'reason', outcome -> 'why' ->> 'words', outcome ->> 'kind') END,
    state = CASE
        WHEN state IN ('redeeming', 'registered', 'listening', 'busy') THEN 'redeemed'
        WHEN state <> 'over' THEN state
        WHEN outcome ->> 'kind' IN ('withdrawn', 'refused') THEN outcome ->> 'kind'
        ELSE 'ended'
    END;
ALTER TABLE runners
    ALTER COLUMN state SET NOT NULL,
    ADD CONSTRAINT runners_state_check
        CHECK (state IN ('redeeming', 'registered', 'listening', 'busy', 'ended'));
ALTER TABLE launches
    DROP COLUMN outcome,
    DROP COLUMN cancel_at,
    DROP COLUMN watched,
    ADD CONSTRAINT launches_state_check
        CHECK (state IN ('planned', 'submitted', 'redeemed', 'ended', 'withdrawn', 'refused'));
CREATE INDEX launches_supply ON launches (class_id) WHERE in_supply;
CREATE INDEX launches_planned ON launches (not_before) WHERE state = 'planned';
CREATE INDEX launches_watched ON launches (submitted_at)
    WHERE submitted_at IS NOT NULL AND (slurm_state IS NULL OR slurm_state IN ('pending', 'running'));
CREATE INDEX launches_to_cancel ON launches (ended_at) WHERE state = 'withdrawn' AND cancelled_at IS NULL;
CREATE INDEX launches_to_release ON launches (release_at) WHERE release_at IS NOT NULL;
CREATE INDEX launches_usage_to_come ON launches (submitted_at) WHERE usage_to_come;
CREATE INDEX launches_limited ON launches (class_id, planned_at, id) WHERE state = 'planned' AND limited;

DROP TYPE launch_state;
DROP TYPE workflow_job_state;
DROP TYPE verdict;
