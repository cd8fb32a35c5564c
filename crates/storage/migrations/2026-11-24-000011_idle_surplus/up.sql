-- The runner is not wanted any more and looks idle: from this time on GitHub is asked to deregister it.
ALTER TABLE allocations ADD COLUMN release_at TIMESTAMPTZ;
CREATE INDEX allocations_to_release ON allocations (release_at) WHERE release_at IS NOT NULL;
