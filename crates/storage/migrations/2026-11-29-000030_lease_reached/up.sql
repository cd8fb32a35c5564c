-- Until when the holders of a lease have done what there was to do: the next one begins there.
ALTER TABLE leases ADD COLUMN reached TIMESTAMPTZ;
