-- Who has signed in with GitHub. A row stays while the person is linked to a Slurm user or may have a session.
CREATE TABLE people (
    -- GitHub's id of the account: logins change hands.
    github_id BIGINT PRIMARY KEY,
    login TEXT NOT NULL,
    signed_in_at TIMESTAMPTZ NOT NULL,
    -- The Slurm user that they are, of which cluster, and who said so.
    slurm_user TEXT,
    cluster TEXT,
    linked_by TEXT,
    linked_at TIMESTAMPTZ,
    CHECK (num_nulls(slurm_user, cluster, linked_by, linked_at) IN (0, 4))
);

CREATE TABLE sessions (
    -- SHA-256 of the token in the cookie.
    token_hash BYTEA PRIMARY KEY,
    github_id BIGINT NOT NULL REFERENCES people ON DELETE CASCADE,
    created_at TIMESTAMPTZ NOT NULL,
    last_seen_at TIMESTAMPTZ NOT NULL,
    CHECK (octet_length(token_hash) = 32)
);
CREATE INDEX sessions_of_person ON sessions (github_id, last_seen_at);
CREATE INDEX sessions_by_age ON sessions (created_at);
CREATE INDEX sessions_by_use ON sessions (last_seen_at);
