-- The policy that a cluster's agent had when it was asked last: what another one refused gets a fresh chance.
CREATE TABLE cluster_policies (
    cluster  TEXT PRIMARY KEY,
    version  TEXT NOT NULL
);
