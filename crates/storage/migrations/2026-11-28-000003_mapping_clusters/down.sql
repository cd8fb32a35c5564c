-- The oldest request for a repository stays.
DELETE FROM mapping_requests AS later
    USING mapping_requests AS earlier
    WHERE earlier.slurm_user = later.slurm_user
        AND earlier.repository_id = later.repository_id
        AND earlier.version < later.version;

ALTER TABLE mapping_requests
    DROP CONSTRAINT mapping_requests_pkey,
    ADD PRIMARY KEY (slurm_user, repository_id),
    DROP COLUMN version;

ALTER TABLE repository_mappings DROP COLUMN cluster;
