use gha_slurm_storage::run_migrations;
use gha_slurm_test_support::TestDatabase;

#[tokio::test]
async fn migrations_run_twice_and_from_two_processes_at_once() {
    let database = TestDatabase::create().await;
    let (one, two) = tokio::join!(
        run_migrations(database.url()),
        run_migrations(database.url())
    );
    one.unwrap();
    two.unwrap();
    database.pool().ping().await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_away_says_so() {
    let port = gha_slurm_test_support::free_port();
    let error = run_migrations(&format!("postgres://postgres@127.0.0.1:{port}/none"))
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
}
