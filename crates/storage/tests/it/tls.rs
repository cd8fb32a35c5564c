//! A real PostgreSQL that speaks TLS.

use gha_slurm_storage::{Database, StorageError, notice};
use gha_slurm_test_support::{PrivatePostgres, TestCa};

#[tokio::test(flavor = "multi_thread")]
async fn queries_migrations_and_notifications_go_by_tls() {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::new(folder.path(), "ca");
    TestCa::new(folder.path(), "other-ca");
    let postgres = PrivatePostgres::start_with_tls(ca.issue("postgres", &[])).await;
    let url = format!(
        "{}?sslmode=verify-full",
        postgres.database("db").await.unwrap()
    );
    let open = |ca: &str| -> Result<Database, StorageError> {
        let ca = folder.path().join(ca);
        Database::new(&url.as_str().into(), Some(&ca), "test", 2)
    };
    let database = open("ca.pem").unwrap();
    database.migrate(Vec::new()).await.unwrap();
    database.ping().await.unwrap();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let listening = {
        let database = database.clone();
        let heard = move |notice| sender.send(notice).unwrap();
        tokio::spawn(async move { notice::listen(&database, heard).await })
    };
    heard.recv().await.unwrap();
    let (plain, connection) = tokio_postgres::connect(&postgres.url("db"), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let query = "SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
        WHERE datname = 'db' AND pid <> pg_backend_pid()";
    let row = plain.query_one(query, &[]).await.unwrap();
    let (by_tls, all): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!((by_tls, all), (2, 2), "one of the pool, and that of LISTEN");
    listening.abort();

    let error = open("other-ca.pem").unwrap().ping().await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}
