-- What may be submitted is taken from each repository in turn.
DROP INDEX launches_due;
CREATE INDEX launches_due ON launches (repository_id, due_at) WHERE due_at IS NOT NULL;
