DROP TABLE cluster_policies;
