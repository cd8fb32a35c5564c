DROP INDEX launches_due;
CREATE INDEX launches_due ON launches (due_at) WHERE due_at IS NOT NULL;
