-- Where Slurm says that the Slurm job of an allocation stands.
ALTER TABLE allocations
    ADD COLUMN slurm_state      TEXT,
    ADD COLUMN slurm_reason     TEXT,
    -- When it started, or is expected to.
    ADD COLUMN slurm_starts_at  TIMESTAMPTZ,
    ADD COLUMN slurm_nodes      TEXT,
    -- The Slurm side was told that it is not wanted.
    ADD COLUMN cancelled_at     TIMESTAMPTZ;
CREATE INDEX allocations_watched ON allocations (submitted_at)
    WHERE submitted_at IS NOT NULL AND (slurm_state IS NULL OR slurm_state IN ('pending', 'running'));
CREATE INDEX allocations_to_cancel ON allocations (ended_at) WHERE state = 'withdrawn' AND cancelled_at IS NULL;
