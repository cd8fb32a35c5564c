DROP TABLE usages;
DROP INDEX allocations_usage_to_come;
ALTER TABLE allocations DROP COLUMN usage_to_come;
