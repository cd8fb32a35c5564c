//! What each role may do, and what it may not.

use gha_slurm_storage::{Database, Role, run_migrations};
use gha_slurm_test_support::{PrivatePostgres, TestDatabase};
use secrecy::SecretString;
use tokio_postgres::{Client, NoTls};

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The SQLSTATE of a statement's error; `None`: it is allowed. It has no effect.
async fn refusal(client: &Client, statement: &str) -> Option<String> {
    client.batch_execute("BEGIN").await.unwrap();
    let done = client.batch_execute(statement).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    done.err().map(|error| {
        let code = error
            .code()
            .unwrap_or_else(|| panic!("{statement}: {error}"));
        code.code().to_owned()
    })
}

const DENIED: &str = "42501";

/// Nobody but the owner.
const OF_THE_OWNER: [&str; 13] = [
    "SELECT lo_create(0)",
    "CREATE TABLE mine (id INT)",
    "CREATE TEMPORARY TABLE mine (id INT)",
    "CREATE FUNCTION mine() RETURNS INT LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "ALTER TABLE launches ADD COLUMN mine INT",
    "DROP TABLE launches",
    "TRUNCATE launches",
    "TRUNCATE timeline",
    "CREATE TRIGGER mine AFTER INSERT ON launches EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE ROLE mine",
    "ALTER ROLE gha_slurm_launcher SUPERUSER",
    "INSERT INTO __diesel_schema_migrations VALUES ('x')",
];

/// Statements that only these roles may run.
#[rustfmt::skip]
const STATEMENTS: &[(&str, &[Role])] = {
    use Role::{Launcher, RepoMapping, TokenBroker};
    &[
        ("SELECT version FROM __diesel_schema_migrations", &[Launcher, TokenBroker, RepoMapping]),
        ("SELECT pg_notify('replan', '1')", &[Launcher, TokenBroker, RepoMapping]),
        ("LISTEN replan", &[Launcher, TokenBroker, RepoMapping]),
        ("SELECT pg_advisory_xact_lock(1)", &[Launcher, TokenBroker, RepoMapping]),
        // Launches and their tokens.
        ("SELECT progress_token_hash FROM runners", &[Launcher, TokenBroker]),
        ("SELECT * FROM runners", &[Launcher, TokenBroker]),
        ("SELECT name FROM runners", &[Launcher, TokenBroker, RepoMapping]),
        ("SELECT token_expires_at FROM launches", &[Launcher, TokenBroker]),
        ("SELECT slurm_job_id FROM launches", &[Launcher, TokenBroker, RepoMapping]),
        ("SELECT lock_scope_of('00000000-0000-0000-0000-000000000000')", &[TokenBroker]),
        ("INSERT INTO launches (id) VALUES (NULL)", &[Launcher]),
        ("UPDATE launches SET delay = NULL", &[Launcher, TokenBroker]),
        ("DELETE FROM launches", &[Launcher]),
        ("INSERT INTO runners (id) VALUES (NULL)", &[TokenBroker]),
        ("UPDATE runners SET progress_token_hash = 'x'", &[Launcher, TokenBroker]),
        ("DELETE FROM runners", &[Launcher]),
        ("UPDATE runner_classes SET demand = 1", &[Launcher, TokenBroker]),
        ("INSERT INTO runner_classes (repository_id) VALUES (NULL)", &[Launcher]),
        // Whose account is spent, and for which repository.
        ("UPDATE runner_classes SET slurm_user = 'x'", &[]),
        ("UPDATE runner_classes SET repository_id = 1", &[]),
        ("UPDATE runner_classes SET resources = '{}'", &[]),
        ("UPDATE launches SET class_id = 1", &[]),
        ("UPDATE launches SET repository_id = 1", &[]),
        ("SELECT facts FROM workflow_jobs", &[Launcher, RepoMapping]),
        ("UPDATE workflow_jobs SET reason = NULL", &[Launcher]),
        // The timeline is only added to.
        ("INSERT INTO timeline (kind) VALUES (NULL)", &[Launcher, TokenBroker]),
        ("UPDATE timeline SET detail = ''", &[]),
        ("DELETE FROM timeline", &[Launcher]),
        ("SELECT detail FROM timeline", &[Launcher, RepoMapping]),
        // Who spends whose account.
        ("SELECT slurm_user FROM repository_mappings", &[Launcher, TokenBroker, RepoMapping]),
        ("INSERT INTO repository_mappings (repository_id) VALUES (NULL)", &[RepoMapping]),
        ("UPDATE repository_mappings SET account = NULL", &[RepoMapping]),
        ("DELETE FROM repository_mappings", &[RepoMapping]),
        ("SELECT slurm_user FROM mapping_requests", &[RepoMapping]),
        ("DELETE FROM mapping_requests", &[RepoMapping]),
        ("SELECT version FROM mapping_lists", &[RepoMapping]),
        ("UPDATE repositories SET name = 'x'", &[Launcher, TokenBroker, RepoMapping]),
        ("UPDATE repositories SET public_allowed_reason = 'x'", &[RepoMapping]),
        ("UPDATE repositories SET ask_at = NULL", &[Launcher]),
        ("UPDATE repositories SET id = 1", &[]),
        ("DELETE FROM repositories", &[]),
        ("UPDATE installations SET suspended = false", &[Launcher]),
        ("UPDATE installations SET ask_at = NULL", &[Launcher]),
        ("INSERT INTO installations (id, account) VALUES (NULL, NULL)", &[Launcher, TokenBroker, RepoMapping]),
        ("INSERT INTO installations (id, suspended) VALUES (NULL, true)", &[Launcher]),
        // What the launcher keeps for itself.
        ("UPDATE leases SET until = now()", &[Launcher]),
        ("SELECT id FROM database_identity", &[Launcher]),
        ("UPDATE database_identity SET id = gen_random_uuid()", &[]),
        ("UPDATE known_versions SET version = ''", &[Launcher]),
        ("INSERT INTO usages (launch_id) VALUES (NULL)", &[Launcher]),
        ("SELECT elapsed_s FROM usages", &[Launcher, RepoMapping]),
        ("UPDATE usage_sums SET builds = 0", &[Launcher]),
        ("DELETE FROM usage_sums", &[]),
        ("DELETE FROM replan_requests", &[Launcher]),
        ("UPDATE replan_requests SET forgive = true", &[Launcher, TokenBroker, RepoMapping]),
    ]
};

#[tokio::test]
async fn each_role_may_do_what_it_needs_and_no_more() {
    let database = TestDatabase::create().await;
    // Grants are made anew each time.
    run_migrations(database.url()).await.unwrap();
    let mut wrong = Vec::new();
    for role in Role::ALL {
        let client = connect(&database.url_of(role)).await;
        for statement in OF_THE_OWNER {
            let refusal = refusal(&client, statement).await;
            if refusal.as_deref() != Some(DENIED) {
                wrong.push(format!("{role:?}: {statement}: {refusal:?}"));
            }
        }
        for (statement, allowed) in STATEMENTS {
            let refusal = refusal(&client, statement).await;
            // What is allowed may fail otherwise: a value is missing.
            if (refusal.as_deref() == Some(DENIED)) == allowed.contains(&role) {
                wrong.push(format!("{role:?}: {statement}: {refusal:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_was_granted_by_hand_is_revoked() {
    let database = TestDatabase::create().await;
    let grants = "GRANT ALL ON runners TO PUBLIC; GRANT SELECT (progress_token_hash) ON runners TO gha_slurm_repo_mapping; \
                  GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE TABLE of_tomorrow (id INT); GRANT ALL ON of_tomorrow TO PUBLIC";
    database.execute(grants).await.unwrap();
    let client = connect(&database.url_of(Role::RepoMapping)).await;
    let statements = [
        "SELECT progress_token_hash FROM runners",
        "TRUNCATE runners",
        "CREATE TABLE mine (id INT)",
        "SELECT * FROM of_tomorrow",
    ];
    for statement in statements {
        assert_eq!(refusal(&client, statement).await, None, "{statement}");
    }
    run_migrations(database.url()).await.unwrap();
    for statement in statements {
        let refusal = refusal(&client, statement).await;
        assert_eq!(refusal.as_deref(), Some(DENIED), "{statement}");
    }
}

fn pool(url: &str) -> Database {
    Database::new(&SecretString::from(url), None, "test", 1).unwrap()
}

#[tokio::test]
async fn a_service_that_starts_wrong_is_told_what_to_do() {
    let database = TestDatabase::create().await;
    let as_launcher = pool(&database.url_of(Role::Launcher));
    as_launcher.check(Role::Launcher).await.unwrap();
    // An owner may do more than is needed: the log warns.
    database.pool().check(Role::Launcher).await.unwrap();
    let other = as_launcher.check(Role::RepoMapping).await.unwrap_err();
    assert!(
        other
            .to_string()
            .contains("GRANT gha_slurm_repo_mapping TO gha_slurm_launcher"),
        "{other}"
    );

    let last = "DELETE FROM __diesel_schema_migrations WHERE version = (SELECT max(version) FROM __diesel_schema_migrations)";
    database.execute(last).await.unwrap();
    let old = as_launcher.check(Role::Launcher).await.unwrap_err();
    assert!(
        old.to_string().contains("lacks the migration 2026"),
        "{old}"
    );
    assert!(old.to_string().contains("gha-slurm migrate"), "{old}");
    let empty = TestDatabase::create_empty().await;
    let empty = pool(&empty.url_of(Role::Launcher))
        .check(Role::Launcher)
        .await
        .unwrap_err();
    assert!(empty.to_string().contains("is empty"), "{empty}");
    // No role migrates.
    let refused = as_launcher.migrate(Vec::new()).await.unwrap_err();
    assert!(refused.to_string().contains(DENIED), "{refused}");
}

#[tokio::test]
async fn an_owner_who_is_no_superuser_migrates() {
    // Its own server: roles belong to all databases.
    let server = PrivatePostgres::start().await;
    let administrator = connect(&server.url("postgres")).await;
    administrator
        .batch_execute("CREATE ROLE owner LOGIN")
        .await
        .unwrap();
    administrator
        .batch_execute("CREATE DATABASE site OWNER owner")
        .await
        .unwrap();
    let url = server.url("site").replace("postgres@", "owner@");

    let refused = run_migrations(&url).await.unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.contains("gha-slurm migrate --print-roles"),
        "{refused}"
    );
    assert!(
        refused.contains("gha_slurm_launcher, gha_slurm_repo_mapping, gha_slurm_token_broker"),
        "{refused}"
    );
    for role in Role::ALL {
        administrator.batch_execute(&role.create()).await.unwrap();
    }
    run_migrations(&url).await.unwrap();

    // The site's login is a member of the role.
    administrator
        .batch_execute("CREATE ROLE web LOGIN IN ROLE gha_slurm_repo_mapping")
        .await
        .unwrap();
    let web = server.url("site").replace("postgres@", "web@");
    pool(&web).check(Role::RepoMapping).await.unwrap();
    let client = connect(&web).await;
    assert_eq!(
        refusal(&client, "SELECT slurm_user FROM repository_mappings").await,
        None
    );
    assert_eq!(
        refusal(&client, "DELETE FROM launches").await.as_deref(),
        Some(DENIED)
    );

    // A schema of PostgreSQL 14 or older, which the owner of the database does not own.
    let site = connect(&server.url("site")).await;
    site.batch_execute(
        "ALTER SCHEMA public OWNER TO postgres; GRANT ALL ON SCHEMA public TO PUBLIC",
    )
    .await
    .unwrap();
    let open = run_migrations(&url).await.unwrap_err();
    assert!(
        open.to_string()
            .contains("REVOKE CREATE ON SCHEMA public FROM PUBLIC"),
        "{open}"
    );
}

/// What a role has set for itself, or for the login that is a member of it, at its next login.
#[tokio::test]
async fn settings_that_a_role_made_for_itself_are_reset() {
    // Its own server: roles belong to all databases.
    let server = PrivatePostgres::start().await;
    let url = server.database("site").await.unwrap();
    run_migrations(&url).await.unwrap();
    let administrator = connect(&url).await;
    administrator
        .batch_execute(
            "ALTER ROLE gha_slurm_launcher LOGIN; CREATE ROLE web LOGIN IN ROLE gha_slurm_repo_mapping; \
             CREATE ROLE stranger; ALTER ROLE stranger SET jit = off",
        )
        .await
        .unwrap();
    let as_launcher = url.replace("postgres@", "gha_slurm_launcher@");
    let sabotage = "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on; \
        ALTER ROLE CURRENT_USER IN DATABASE site SET statement_timeout = '1h'; \
        ALTER ROLE CURRENT_USER IN DATABASE postgres SET search_path = nowhere";
    let thief = connect(&as_launcher).await;
    thief.batch_execute(sabotage).await.unwrap();
    let refused = connect(&as_launcher).await;
    let refused = refusal(&refused, "UPDATE runner_classes SET demand = 1").await;
    assert_eq!(refused.as_deref(), Some("25006"), "read-only");

    let warnings = pool(&url).migrate(Vec::new()).await.unwrap();
    assert_eq!(warnings, [""; 0]);
    let left = "SELECT count(*) FROM pg_db_role_setting JOIN pg_roles ON oid = setrole WHERE rolname LIKE 'gha\\_slurm%'";
    let left: i64 = administrator.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
    let launcher = connect(&as_launcher).await;
    let refused = refusal(&launcher, "UPDATE runner_classes SET demand = 1").await;
    assert_eq!(refused, None);

    // The login is the site's.
    let web = connect(&url.replace("postgres@", "web@")).await;
    web.batch_execute("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on")
        .await
        .unwrap();
    let warning = only_warning(&url).await;
    assert!(
        warning.contains("run ALTER ROLE web RESET ALL"),
        "{warning}"
    );
    assert!(
        warning.contains("default_transaction_read_only"),
        "{warning}"
    );
}

/// What a migration warns of.
async fn only_warning(url: &str) -> String {
    let mut warnings = pool(url).migrate(Vec::new()).await.unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    warnings.remove(0)
}

/// An owner without `CREATEROLE` migrates, and is told what is left to do.
#[tokio::test]
async fn who_may_not_reset_settings_of_roles_is_told() {
    let server = PrivatePostgres::start().await;
    let administrator = connect(&server.url("postgres")).await;
    administrator
        .batch_execute("CREATE ROLE owner LOGIN")
        .await
        .unwrap();
    for role in Role::ALL {
        administrator.batch_execute(&role.create()).await.unwrap();
    }
    administrator
        .batch_execute("CREATE DATABASE site OWNER owner")
        .await
        .unwrap();
    let url = server.url("site").replace("postgres@", "owner@");
    assert_eq!(pool(&url).migrate(Vec::new()).await.unwrap(), [""; 0]);
    administrator
        .batch_execute(
            "ALTER ROLE gha_slurm_launcher IN DATABASE site SET default_transaction_read_only = on",
        )
        .await
        .unwrap();
    let warning = only_warning(&url).await;
    assert!(
        warning.contains("run ALTER ROLE gha_slurm_launcher IN DATABASE site RESET ALL"),
        "{warning}"
    );
}

#[tokio::test]
async fn a_password_is_not_sent_in_the_clear() {
    let server = PrivatePostgres::start().await;
    let url = server.database("site").await.unwrap();
    let password = SecretString::from("it's a secret");
    pool(&url)
        .migrate(vec![(Role::Launcher, password)])
        .await
        .unwrap();
    let administrator = connect(&url).await;
    let stored: String = administrator
        .query_one("SELECT rolpassword FROM pg_authid WHERE rolname = 'gha_slurm_launcher' AND rolcanlogin", &[])
        .await
        .unwrap()
        .get(0);
    assert!(stored.starts_with("SCRAM-SHA-256$"), "{stored}");
    let others: i64 = administrator
        .query_one(
            "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'gha\\_slurm%' AND rolcanlogin",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(others, 1, "the others are only for members");
}
