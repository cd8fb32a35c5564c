use std::sync::atomic::{AtomicU32, Ordering};

use diesel::sql_types::{BigInt, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use gha_slurm_storage::{AsyncPgConnection, Failure, StorageError};
use gha_slurm_telemetry::Metrics;
use gha_slurm_test_support::TestDatabase;
use tokio::sync::Barrier;

async fn lock(conn: &mut AsyncPgConnection, key: i64) -> Result<(), StorageError> {
    diesel::sql_query("SELECT pg_advisory_xact_lock($1)")
        .bind::<BigInt, _>(key)
        .execute(conn)
        .await?;
    Ok(())
}

#[tokio::test]
async fn what_postgres_refuses_for_ever_is_told_from_a_postgres_that_is_away() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let nul = async |conn: &mut AsyncPgConnection| -> Result<(), StorageError> {
        let query = diesel::sql_query("SELECT $1").bind::<Text, _>("a\0b");
        query.execute(conn).await?;
        Ok(())
    };
    let error = pool.transaction("nul", nul).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Rejected, "{error}");
    assert!(error.to_string().contains("[22021] "), "{error}");

    for (statement, code, failure) in [
        (
            "SELECT 9223372036854775807::bigint + 1",
            "22003",
            Failure::Rejected,
        ),
        (
            "SELECT pg_terminate_backend(pg_backend_pid())",
            "57P01",
            Failure::Unavailable,
        ),
        (
            "SET LOCAL statement_timeout = '5ms'; SELECT pg_sleep(10)",
            "57014",
            Failure::Unavailable,
        ),
    ] {
        let run = async |conn: &mut AsyncPgConnection| -> Result<(), StorageError> {
            Ok(conn.batch_execute(statement).await?)
        };
        let error = pool.transaction("statement", run).await.unwrap_err();
        assert_eq!(error.failure(), failure, "{error}");
        assert!(error.to_string().contains(&format!("[{code}] ")), "{error}");
        // The pool has a connection that works.
        pool.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_deadlock_is_tried_again_until_both_commit() {
    let database = TestDatabase::create().await;
    let metrics = Metrics::default();
    let pool = database.pool().with_metrics(&metrics).unwrap();
    let both = Barrier::new(2);
    let attempts = AtomicU32::new(0);
    let take = async |first: i64, second: i64| {
        let work = async |conn: &mut AsyncPgConnection| -> Result<(), StorageError> {
            lock(conn, first).await?;
            // Only the first attempts meet each other.
            if attempts.fetch_add(1, Ordering::SeqCst) < 2 {
                both.wait().await;
            }
            lock(conn, second).await
        };
        pool.transaction("locks", work).await
    };
    let (one, two) = tokio::join!(take(1, 2), take(2, 1));
    one.unwrap();
    two.unwrap();
    assert_eq!(AtomicU32::load(&attempts, Ordering::SeqCst), 3);
    let text = metrics.text().unwrap();
    for line in [
        "gha_slurm_transactions_total{outcome=\"committed\",transaction=\"locks\"} 2",
        "gha_slurm_transaction_retries_total{transaction=\"locks\"} 1",
        "gha_slurm_transaction_seconds_count{transaction=\"locks\"} 2",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test]
async fn what_the_work_refuses_is_rolled_back_and_not_tried_again() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let attempts = AtomicU32::new(0);
    let refuse = async |conn: &mut AsyncPgConnection| -> Result<(), StorageError> {
        attempts.fetch_add(1, Ordering::SeqCst);
        conn.batch_execute("CREATE TABLE left_behind ()").await?;
        Err(StorageError::Unknown("test"))
    };
    let error = pool.transaction("refuse", refuse).await.unwrap_err();
    assert!(matches!(error, StorageError::Unknown("test")), "{error}");
    assert_eq!(AtomicU32::load(&attempts, Ordering::SeqCst), 1);
    let create = async |conn: &mut AsyncPgConnection| -> Result<(), StorageError> {
        Ok(conn.batch_execute("CREATE TABLE left_behind ()").await?)
    };
    pool.transaction("create", create).await.unwrap();
}
