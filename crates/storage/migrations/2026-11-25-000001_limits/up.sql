-- A limit of the Slurm side's delays it: of its class, the oldest such one tries again, for all.
ALTER TABLE allocations ADD COLUMN limited BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX allocations_limited ON allocations (class_id, planned_at, id) WHERE state = 'planned' AND limited;
