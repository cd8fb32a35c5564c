ALTER TABLE allocations DROP COLUMN limited;
