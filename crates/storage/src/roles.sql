-- What each service may do in the database. `gha-slurm migrate` runs this as the owner of the tables after every migration, in one
-- transaction: what is not granted here is revoked. A new table is closed to every service until it is named here. For a table that
-- a service may only append to, grant INSERT alone (as `timeline` to token-broker).
--
-- UPDATE and INSERT need SELECT on the columns that their conditions read. Foreign keys are checked with the owner's rights, and
-- identity columns need no right to their sequences.

-- Only tables of the owner's: extensions put theirs here too.
DO $$
DECLARE
    relation REGCLASS;
    made REGPROCEDURE;
BEGIN
    FOR relation IN
        SELECT oid FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND pg_has_role(relowner, 'USAGE')
    LOOP
        -- The rights to single columns go with those to the table.
        EXECUTE format(
            'REVOKE ALL ON %s FROM PUBLIC, gha_slurm_launcher, gha_slurm_token_broker, gha_slurm_repo_mapping', relation);
    END LOOP;
    -- Whoever owns the schema or the database decides about them; PostgreSQL 15 made the owner of a database also that of `public`.
    IF pg_has_role((SELECT nspowner FROM pg_namespace WHERE nspname = 'public'), 'USAGE') THEN
        REVOKE CREATE ON SCHEMA public FROM PUBLIC, gha_slurm_launcher, gha_slurm_token_broker, gha_slurm_repo_mapping;
        GRANT USAGE ON SCHEMA public TO gha_slurm_launcher, gha_slurm_token_broker, gha_slurm_repo_mapping;
    END IF;
    IF pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE') THEN
        EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    END IF;
    -- Large objects, which nobody here uses, would fill the disk. Only a superuser can take them away.
    FOR made IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN ('lo_creat', 'lo_create', 'lo_from_bytea')
            AND pg_has_role(proowner, 'USAGE')
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', made);
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION lock_scope_of(UUID) FROM PUBLIC, gha_slurm_launcher, gha_slurm_token_broker, gha_slurm_repo_mapping;

-- All of them compare the schema with their own when they start.
GRANT SELECT ON __diesel_schema_migrations TO gha_slurm_launcher, gha_slurm_token_broker, gha_slurm_repo_mapping;

-- launcher: workflow jobs, launches and what becomes of them. It reads who mapped what, and creates no runners.
GRANT SELECT, INSERT, UPDATE ON installations TO gha_slurm_launcher;
GRANT SELECT,
    INSERT (id, installation_id, owner, name, private, updated_at),
    UPDATE (installation_id, owner, name, private, reachable, updated_at, ask_at)
    ON repositories TO gha_slurm_launcher;
GRANT SELECT ON repository_mappings TO gha_slurm_launcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON workflow_jobs TO gha_slurm_launcher;
-- Whose account a class spends, and which class and repository a launch is for, is written once and never changed.
GRANT SELECT, INSERT, DELETE ON runner_classes, launches TO gha_slurm_launcher;
GRANT UPDATE (failures, last_failure_at, last_failure_reason, demand, supply, redeemed, refused, stopped)
    ON runner_classes TO gha_slurm_launcher, gha_slurm_token_broker;
GRANT UPDATE (workflow_job_id, state, in_supply, delay, not_before, verify_demand, submit_attempts, lease_until, cluster, slurm_job_id,
    token_expires_at, submitted_at, ended_at, slurm_state, slurm_reason, slurm_starts_at, slurm_nodes, cancelled_at, deregister_at,
    usage_to_come, limited, outcome, cancel_at, watched)
    ON launches TO gha_slurm_launcher, gha_slurm_token_broker;
GRANT SELECT, UPDATE, DELETE ON runners TO gha_slurm_launcher;
GRANT SELECT, INSERT, DELETE ON timeline, usages TO gha_slurm_launcher;
GRANT SELECT, INSERT, UPDATE ON usage_sums, known_versions TO gha_slurm_launcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON replan_requests, leases TO gha_slurm_launcher;
GRANT SELECT, INSERT ON database_identity TO gha_slurm_launcher;
-- Stops are the owner's: `gha-slurm panic`.
GRANT SELECT ON stops TO gha_slurm_launcher, gha_slurm_token_broker;

-- token-broker: launches whose nodes call back, and their runners. It makes no launches and removes nothing.
GRANT EXECUTE ON FUNCTION lock_scope_of(UUID) TO gha_slurm_token_broker;
GRANT SELECT, INSERT (id, account) ON installations TO gha_slurm_token_broker;
GRANT SELECT,
    INSERT (id, installation_id, owner, name, private, updated_at),
    UPDATE (installation_id, owner, name, private, reachable, updated_at)
    ON repositories TO gha_slurm_token_broker;
GRANT SELECT ON repository_mappings TO gha_slurm_token_broker;
GRANT SELECT ON runner_classes, launches TO gha_slurm_token_broker;
GRANT SELECT, INSERT, UPDATE ON runners TO gha_slurm_token_broker;
GRANT INSERT ON timeline TO gha_slurm_token_broker;
GRANT SELECT, INSERT, UPDATE ON replan_requests TO gha_slurm_token_broker;

-- repo-mapping: who mapped what. Of launches and runners it sees what the page shows, and no hash of a token.
GRANT INSERT (id, account) ON installations TO gha_slurm_repo_mapping;
GRANT SELECT,
    INSERT (id, installation_id, owner, name, private, updated_at),
    UPDATE (installation_id, owner, name, private, reachable, public_allowed_reason, updated_at)
    ON repositories TO gha_slurm_repo_mapping;
GRANT SELECT, INSERT, UPDATE ON mapping_lists TO gha_slurm_repo_mapping;
GRANT SELECT, INSERT, UPDATE, DELETE ON repository_mappings, mapping_requests TO gha_slurm_repo_mapping;
GRANT SELECT, INSERT, UPDATE ON replan_requests TO gha_slurm_repo_mapping;
GRANT SELECT ON workflow_jobs, timeline, usages, usage_sums TO gha_slurm_repo_mapping;
GRANT SELECT (id, slurm_user, stopped, refused) ON runner_classes TO gha_slurm_repo_mapping;
GRANT SELECT (id, class_id, repository_id, workflow_job_id, slurm_job_id,
    state, in_supply, planned_at, not_before, delay, slurm_state, slurm_reason, slurm_starts_at, slurm_nodes, outcome)
    ON launches TO gha_slurm_repo_mapping;
GRANT SELECT (since, stopped_by, reason, cancel_running, until) ON stops TO gha_slurm_repo_mapping;
GRANT SELECT (launch_id, name, workflow_job_id) ON runners TO gha_slurm_repo_mapping;
-- Nobody else sees who has signed in.
GRANT SELECT, INSERT, UPDATE, DELETE ON people, sessions TO gha_slurm_repo_mapping;
