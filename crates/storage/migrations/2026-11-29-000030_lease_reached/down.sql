ALTER TABLE leases DROP COLUMN reached;
