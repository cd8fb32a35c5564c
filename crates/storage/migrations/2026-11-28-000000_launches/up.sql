-- One Slurm job of gha-slurm with its runner is a launch. In HPC an allocation is a budget.
ALTER TABLE allocations RENAME TO launches;
ALTER TABLE launches RENAME CONSTRAINT allocations_pkey TO launches_pkey;
ALTER TABLE launches RENAME CONSTRAINT allocations_state_check TO launches_state_check;
ALTER TABLE launches RENAME CONSTRAINT allocations_class_id_fkey TO launches_class_id_fkey;
ALTER TABLE launches RENAME CONSTRAINT allocations_repository_id_fkey TO launches_repository_id_fkey;
ALTER TABLE launches RENAME CONSTRAINT allocations_workflow_job_id_fkey TO launches_workflow_job_id_fkey;
ALTER INDEX allocations_supply RENAME TO launches_supply;
ALTER INDEX allocations_planned RENAME TO launches_planned;
ALTER INDEX allocations_workflow_job RENAME TO launches_workflow_job;
ALTER INDEX allocations_repository RENAME TO launches_repository;
ALTER INDEX allocations_watched RENAME TO launches_watched;
ALTER INDEX allocations_to_cancel RENAME TO launches_to_cancel;
ALTER INDEX allocations_to_release RENAME TO launches_to_release;
ALTER INDEX allocations_usage_to_come RENAME TO launches_usage_to_come;
ALTER INDEX allocations_limited RENAME TO launches_limited;

ALTER TABLE runners RENAME COLUMN allocation_id TO launch_id;
ALTER TABLE runners RENAME CONSTRAINT runners_allocation_id_key TO runners_launch_id_key;
ALTER TABLE runners RENAME CONSTRAINT runners_allocation_id_fkey TO runners_launch_id_fkey;

ALTER TABLE timeline RENAME COLUMN allocation_id TO launch_id;
ALTER INDEX timeline_allocation RENAME TO timeline_launch;

ALTER TABLE usages RENAME COLUMN allocation_id TO launch_id;
ALTER TABLE usages RENAME CONSTRAINT usages_allocation_id_fkey TO usages_launch_id_fkey;
