DROP TABLE leases;
DROP INDEX workflow_jobs_unfinished;
ALTER TABLE workflow_jobs DROP COLUMN ask_at;
