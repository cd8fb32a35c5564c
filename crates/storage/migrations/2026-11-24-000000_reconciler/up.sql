-- Set: ask GitHub about this workflow job then; what it answers is the truth.
ALTER TABLE workflow_jobs ADD COLUMN ask_at TIMESTAMPTZ;
CREATE INDEX workflow_jobs_ask ON workflow_jobs (ask_at) WHERE ask_at IS NOT NULL;
CREATE INDEX workflow_jobs_unfinished ON workflow_jobs (repository_id) WHERE state <> 'completed';

-- Work that one process does at a time; another takes it over when `until` has passed.
CREATE TABLE leases (
    name    TEXT PRIMARY KEY,
    holder  UUID NOT NULL,
    until   TIMESTAMPTZ NOT NULL
);
