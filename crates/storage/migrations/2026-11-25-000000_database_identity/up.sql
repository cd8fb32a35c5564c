-- Tells this database from others: what the Slurm side has for it, and what it has for another launcher. A copy has the same
-- id, which is right for one that was restored from a backup, and wrong for one beside the original.
CREATE TABLE database_identity (
    one  BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    id   UUID NOT NULL
);
