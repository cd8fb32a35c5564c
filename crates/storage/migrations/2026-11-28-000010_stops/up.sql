-- All launches are stopped, from `gha-slurm panic` to `gha-slurm resume`; what is over stays as a record. Whoever decides about a launch
-- reads this table in the same transaction: who changes it locks the table, and so waits for every decision that was made before.
CREATE TABLE stops (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Launch tokens that were issued up to then are never accepted again.
    since TIMESTAMPTZ NOT NULL,
    -- OS user and host.
    stopped_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- Whether Slurm jobs with a workflow job are cancelled, too.
    cancel_running BOOLEAN NOT NULL,
    -- Launches go on since then.
    until TIMESTAMPTZ,
    resumed_by TEXT
);
CREATE UNIQUE INDEX stops_current ON stops ((TRUE)) WHERE until IS NULL;
