DROP INDEX allocations_to_cancel;
DROP INDEX allocations_watched;
ALTER TABLE allocations
    DROP COLUMN cancelled_at,
    DROP COLUMN slurm_nodes,
    DROP COLUMN slurm_starts_at,
    DROP COLUMN slurm_reason,
    DROP COLUMN slurm_state;
