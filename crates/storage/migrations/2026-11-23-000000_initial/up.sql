-- What GitHub tells about installations of the App.
CREATE TABLE installations (
    id          BIGINT PRIMARY KEY,
    account     TEXT,
    suspended   BOOLEAN NOT NULL DEFAULT FALSE,
    deleted     BOOLEAN NOT NULL DEFAULT FALSE,
    updated_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Identity is GitHub's numeric id; owner and name are display and follow renames.
CREATE TABLE repositories (
    id                     BIGINT PRIMARY KEY,
    installation_id        BIGINT,
    owner                  TEXT NOT NULL,
    name                   TEXT NOT NULL,
    private                BOOLEAN,
    reachable              BOOLEAN NOT NULL DEFAULT TRUE,
    public_allowed_reason  TEXT,
    updated_at             TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX repositories_installation ON repositories (installation_id);

-- The version of a Slurm user's list, for ETag and If-Match.
CREATE TABLE mapping_lists (
    slurm_user  TEXT PRIMARY KEY,
    version     BIGINT NOT NULL
);

CREATE TABLE repository_mappings (
    repository_id  BIGINT PRIMARY KEY REFERENCES repositories (id),
    slurm_user     TEXT NOT NULL REFERENCES mapping_lists (slurm_user),
    position       INTEGER NOT NULL,
    created_at     TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX repository_mappings_user ON repository_mappings (slurm_user, position);

-- What makes workflow jobs and runners interchangeable.
CREATE TABLE runner_classes (
    id                   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository_id        BIGINT NOT NULL REFERENCES repositories (id),
    slurm_user           TEXT NOT NULL,
    labels               TEXT NOT NULL,
    resources            JSONB NOT NULL,
    failures             INTEGER NOT NULL DEFAULT 0,
    last_failure_at      TIMESTAMPTZ,
    last_failure_reason  TEXT,
    UNIQUE (repository_id, slurm_user, labels, resources)
);

CREATE TABLE workflow_jobs (
    id               BIGINT PRIMARY KEY,
    repository_id    BIGINT NOT NULL REFERENCES repositories (id),
    installation_id  BIGINT,
    run_id           BIGINT NOT NULL,
    run_attempt      BIGINT NOT NULL DEFAULT 1,
    name             TEXT NOT NULL,
    workflow_name    TEXT,
    html_url         TEXT,
    head_branch      TEXT,
    labels           TEXT[] NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('waiting', 'queued', 'in_progress', 'completed')),
    conclusion       TEXT,
    verdict          TEXT NOT NULL CHECK (verdict IN ('undecided', 'ours', 'not_ours', 'waiting_for_mapping', 'refused')),
    reason           TEXT,
    class_id         BIGINT REFERENCES runner_classes (id),
    runner_name      TEXT,
    queued_at        TIMESTAMPTZ,
    started_at       TIMESTAMPTZ,
    completed_at     TIMESTAMPTZ,
    traceparent      TEXT,
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at       TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX workflow_jobs_open ON workflow_jobs (repository_id) WHERE state IN ('waiting', 'queued');
CREATE INDEX workflow_jobs_demand ON workflow_jobs (class_id) WHERE state = 'queued' AND verdict = 'ours';
CREATE INDEX workflow_jobs_recent ON workflow_jobs (updated_at DESC);
CREATE INDEX workflow_jobs_runner ON workflow_jobs (runner_name) WHERE runner_name IS NOT NULL;

CREATE TABLE allocations (
    id                UUID PRIMARY KEY,
    class_id          BIGINT NOT NULL REFERENCES runner_classes (id),
    repository_id     BIGINT NOT NULL REFERENCES repositories (id),
    -- The workflow job that caused it; nothing binds it to that one.
    workflow_job_id   BIGINT NOT NULL REFERENCES workflow_jobs (id),
    state             TEXT NOT NULL CHECK (state IN ('planned', 'submitted', 'redeemed', 'ended', 'withdrawn', 'refused')),
    -- Counts as supply: on the way or with a runner, and no workflow job attributed to it yet.
    in_supply         BOOLEAN NOT NULL DEFAULT TRUE,
    reason            TEXT,
    planned_at        TIMESTAMPTZ NOT NULL,
    not_before        TIMESTAMPTZ NOT NULL,
    verify_demand     BOOLEAN NOT NULL DEFAULT FALSE,
    submit_attempts   INTEGER NOT NULL DEFAULT 0,
    lease_until       TIMESTAMPTZ,
    cluster           TEXT,
    slurm_job_id      TEXT,
    token_expires_at  TIMESTAMPTZ,
    traceparent       TEXT,
    submitted_at      TIMESTAMPTZ,
    redeemed_at       TIMESTAMPTZ,
    ended_at          TIMESTAMPTZ
);
CREATE INDEX allocations_supply ON allocations (class_id) WHERE in_supply;
CREATE INDEX allocations_planned ON allocations (not_before) WHERE state = 'planned';
CREATE INDEX allocations_workflow_job ON allocations (workflow_job_id);
CREATE INDEX allocations_repository ON allocations (repository_id);

-- Today one per allocation; a table of its own because one allocation will later serve several runners in turn.
CREATE TABLE runners (
    id                   UUID PRIMARY KEY,
    allocation_id        UUID NOT NULL UNIQUE REFERENCES allocations (id),
    name                 TEXT NOT NULL UNIQUE,
    state                TEXT NOT NULL CHECK (state IN ('redeeming', 'registered', 'listening', 'busy', 'ended')),
    mode                 TEXT NOT NULL CHECK (mode IN ('jit', 'registration')),
    -- Redemption is bound to this Slurm job and restart.
    slurm_job_id         TEXT NOT NULL,
    restart_count        INTEGER NOT NULL,
    node                 TEXT,
    mint_attempt         INTEGER NOT NULL,
    github_runner_id     BIGINT,
    -- SHA-256 of the progress token.
    progress_token_hash  BYTEA UNIQUE,
    workflow_job_id      BIGINT REFERENCES workflow_jobs (id),
    run_id               BIGINT,
    run_attempt          BIGINT,
    created_at           TIMESTAMPTZ NOT NULL,
    listening_at         TIMESTAMPTZ,
    busy_at              TIMESTAMPTZ,
    ended_at             TIMESTAMPTZ,
    end_reason           TEXT
);
CREATE INDEX runners_unattributed ON runners (busy_at) WHERE busy_at IS NOT NULL AND workflow_job_id IS NULL;

-- What people see. Append-only.
CREATE TABLE timeline (
    id               BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at               TIMESTAMPTZ NOT NULL,
    kind             TEXT NOT NULL,
    detail           TEXT NOT NULL,
    workflow_job_id  BIGINT,
    allocation_id    UUID,
    log_tail         TEXT
);
CREATE INDEX timeline_workflow_job ON timeline (workflow_job_id) WHERE workflow_job_id IS NOT NULL;
CREATE INDEX timeline_allocation ON timeline (allocation_id) WHERE allocation_id IS NOT NULL;

-- Scopes the launcher shall look at again; whoever changes what matters writes one and NOTIFYs `replan`.
CREATE TABLE replan_requests (
    repository_id  BIGINT PRIMARY KEY,
    -- Policy or mapping changed: refusals and given-up classes get a fresh chance.
    forgive        BOOLEAN NOT NULL,
    reason         TEXT NOT NULL,
    requested_at   TIMESTAMPTZ NOT NULL DEFAULT now()
);
