-- What the allocations of a mapping are charged to, where the labels of a workflow job do not say.
ALTER TABLE repository_mappings
    ADD COLUMN account  TEXT,
    ADD COLUMN qos      TEXT;

-- Mappings that Slurm users ask for from a login node. An administrator makes them true: that the user may administer the
-- repository at GitHub is not proved by MUNGE.
CREATE TABLE mapping_requests (
    slurm_user     TEXT NOT NULL,
    repository_id  BIGINT NOT NULL REFERENCES repositories (id),
    -- Whose agent asserted the user.
    cluster        TEXT NOT NULL,
    account        TEXT,
    qos            TEXT,
    requested_at   TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (slurm_user, repository_id)
);
