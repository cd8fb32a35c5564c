//! Tables as diesel sees them; the migrations are the truth and a test compares the two.

diesel::table! {
    installations (id) {
        id -> BigInt,
        account -> Nullable<Text>,
        suspended -> Bool,
        deleted -> Bool,
        updated_at -> Timestamptz,
        ask_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    repositories (id) {
        id -> BigInt,
        installation_id -> Nullable<BigInt>,
        owner -> Text,
        name -> Text,
        private -> Nullable<Bool>,
        reachable -> Bool,
        public_allowed_reason -> Nullable<Text>,
        updated_at -> Timestamptz,
        ask_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    mapping_lists (slurm_user) {
        slurm_user -> Text,
        version -> BigInt,
    }
}

diesel::table! {
    repository_mappings (repository_id) {
        repository_id -> BigInt,
        slurm_user -> Text,
        position -> Integer,
        created_at -> Timestamptz,
        account -> Nullable<Text>,
        qos -> Nullable<Text>,
        cluster -> Nullable<Text>,
    }
}

diesel::table! {
    mapping_requests (cluster, slurm_user, repository_id) {
        slurm_user -> Text,
        repository_id -> BigInt,
        cluster -> Text,
        account -> Nullable<Text>,
        qos -> Nullable<Text>,
        requested_at -> Timestamptz,
        version -> BigInt,
    }
}

diesel::table! {
    runner_classes (id) {
        id -> BigInt,
        repository_id -> BigInt,
        slurm_user -> Text,
        labels -> Text,
        resources -> Jsonb,
        failures -> Integer,
        last_failure_at -> Nullable<Timestamptz>,
        last_failure_reason -> Nullable<Text>,
        demand -> Integer,
        supply -> Integer,
        redeemed -> Integer,
        refused -> Bool,
        stopped -> Nullable<Text>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Bool, Jsonb, Nullable, Text, Timestamptz};
    use crate::stored::sql_types::{VerdictSql, WorkflowJobStateSql};

    workflow_jobs (id) {
        id -> BigInt,
        repository_id -> BigInt,
        installation_id -> Nullable<BigInt>,
        state -> WorkflowJobStateSql,
        verdict -> VerdictSql,
        reason -> Nullable<Text>,
        class_id -> Nullable<BigInt>,
        traceparent -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        ask_at -> Nullable<Timestamptz>,
        facts -> Jsonb,
        demand -> Bool,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Bool, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid};
    use crate::stored::sql_types::LaunchStateSql;

    launches (id) {
        id -> Uuid,
        class_id -> BigInt,
        repository_id -> BigInt,
        workflow_job_id -> BigInt,
        state -> LaunchStateSql,
        in_supply -> Bool,
        delay -> Nullable<Text>,
        planned_at -> Timestamptz,
        not_before -> Timestamptz,
        verify_demand -> Bool,
        submit_attempts -> Integer,
        lease_until -> Nullable<Timestamptz>,
        cluster -> Nullable<Text>,
        slurm_job_id -> Nullable<Text>,
        token_expires_at -> Nullable<Timestamptz>,
        traceparent -> Nullable<Text>,
        submitted_at -> Nullable<Timestamptz>,
        ended_at -> Nullable<Timestamptz>,
        slurm_state -> Nullable<Text>,
        slurm_reason -> Nullable<Text>,
        slurm_starts_at -> Nullable<Timestamptz>,
        slurm_nodes -> Nullable<Text>,
        cancelled_at -> Nullable<Timestamptz>,
        deregister_at -> Nullable<Timestamptz>,
        usage_to_come -> Bool,
        limited -> Bool,
        outcome -> Nullable<Jsonb>,
        cancel_at -> Nullable<Timestamptz>,
        watched -> Bool,
        due_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    runners (id) {
        id -> Uuid,
        launch_id -> Uuid,
        name -> Text,
        mode -> Text,
        slurm_job_id -> Text,
        restart_count -> Integer,
        node -> Nullable<Text>,
        mint_attempt -> Integer,
        github_runner_id -> Nullable<BigInt>,
        progress_token_hash -> Nullable<Bytea>,
        workflow_job_id -> Nullable<BigInt>,
        run_id -> Nullable<BigInt>,
        run_attempt -> Nullable<BigInt>,
        created_at -> Timestamptz,
        listening_at -> Nullable<Timestamptz>,
        busy_at -> Nullable<Timestamptz>,
        attribution_given_up -> Bool,
        not_wanted -> Nullable<Jsonb>,
        set_up_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    timeline (id) {
        id -> BigInt,
        recorded_at -> Timestamptz,
        kind -> Text,
        detail -> Text,
        workflow_job_id -> Nullable<BigInt>,
        launch_id -> Nullable<Uuid>,
        log_tail -> Nullable<Text>,
        happened_at -> Timestamptz,
    }
}

diesel::table! {
    replan_requests (repository_id) {
        repository_id -> BigInt,
        forgive -> Bool,
        reason -> Text,
        requested_at -> Timestamptz,
        decided_through -> BigInt,
    }
}

diesel::table! {
    leases (name) {
        name -> Text,
        holder -> Uuid,
        until -> Timestamptz,
        reached -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    known_versions (what) {
        what -> Text,
        version -> Text,
    }
}

diesel::table! {
    database_identity (one) {
        one -> Bool,
        id -> Uuid,
    }
}

diesel::table! {
    usages (launch_id) {
        launch_id -> Uuid,
        ended_at -> Timestamptz,
        elapsed_s -> BigInt,
        cpu_allocated_s -> BigInt,
        cpu_used_s -> BigInt,
        gpu_allocated_s -> BigInt,
        max_rss_bytes -> Nullable<BigInt>,
        tres -> Jsonb,
    }
}

diesel::table! {
    usage_sums (month, repository_id, slurm_user) {
        month -> Date,
        repository_id -> BigInt,
        slurm_user -> Text,
        launches -> BigInt,
        builds -> BigInt,
        elapsed_s -> BigInt,
        cpu_allocated_s -> BigInt,
        cpu_used_s -> BigInt,
        gpu_allocated_s -> BigInt,
        max_rss_bytes -> Nullable<BigInt>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz};

    stops (id) {
        id -> BigInt,
        since -> Timestamptz,
        stopped_by -> Text,
        reason -> Text,
        cancel_running -> Bool,
        until -> Nullable<Timestamptz>,
        resumed_by -> Nullable<Text>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};

    people (github_id) {
        github_id -> BigInt,
        login -> Text,
        signed_in_at -> Timestamptz,
        slurm_user -> Nullable<Text>,
        cluster -> Nullable<Text>,
        linked_by -> Nullable<Text>,
        linked_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Bytea, Timestamptz};

    sessions (token_hash) {
        token_hash -> Bytea,
        github_id -> BigInt,
        created_at -> Timestamptz,
        last_seen_at -> Timestamptz,
    }
}

diesel::joinable!(launches -> runner_classes (class_id));
diesel::joinable!(launches -> repositories (repository_id));
diesel::joinable!(runners -> launches (launch_id));
diesel::joinable!(workflow_jobs -> repositories (repository_id));
diesel::joinable!(workflow_jobs -> runner_classes (class_id));
diesel::joinable!(repository_mappings -> repositories (repository_id));
diesel::joinable!(mapping_requests -> repositories (repository_id));
diesel::joinable!(repositories -> installations (installation_id));
diesel::joinable!(sessions -> people (github_id));
diesel::allow_tables_to_appear_in_same_query!(
    installations,
    repositories,
    mapping_lists,
    repository_mappings,
    mapping_requests,
    runner_classes,
    workflow_jobs,
    launches,
    runners,
    timeline,
    replan_requests,
    leases,
    known_versions,
    database_identity,
    usages,
    usage_sums,
    stops,
    people,
    sessions,
);
