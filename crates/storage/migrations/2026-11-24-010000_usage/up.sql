-- The Slurm job has ended, and the agent still asks what it used.
ALTER TABLE allocations ADD COLUMN usage_to_come BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX allocations_usage_to_come ON allocations (submitted_at) WHERE usage_to_come;

-- What the Slurm jobs of allocations used, as Slurm's accounting says.
CREATE TABLE usages (
    allocation_id    UUID PRIMARY KEY REFERENCES allocations (id),
    -- Of the Slurm job: the month it counts in.
    ended_at         TIMESTAMPTZ NOT NULL,
    elapsed_s        BIGINT NOT NULL,
    cpu_allocated_s  BIGINT NOT NULL,
    cpu_used_s       BIGINT NOT NULL,
    gpu_allocated_s  BIGINT NOT NULL,
    max_rss_bytes    BIGINT,
    tres             JSONB NOT NULL
);
CREATE INDEX usages_ended ON usages (ended_at);
