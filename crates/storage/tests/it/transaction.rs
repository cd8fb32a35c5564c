use std::sync::atomic::{AtomicU32, Ordering};

use diesel::sql_types::{BigInt, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use gha_slurm_domain::launch::{Happening, Why};
use gha_slurm_storage::{AsyncPgConnection, Database, Failure, StorageError};
use gha_slurm_telemetry::Metrics;
use gha_slurm_test_support::{Middleman, TestDatabase, wait_until};
use tokio::sync::Barrier;

use crate::{REPOSITORY, now, plan, scope_with_queued, seed};

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
async fn the_statement_that_failed_is_named_not_those_that_were_sent_with_it() {
    let database = TestDatabase::create().await;
    let jobs = scope_with_queued(&database.pool(), 1).await;
    let planned = plan(&database.pool(), &jobs).await;
    let pool = Database::new(&database.url().into(), None, "test", 1).unwrap();
    // This connection knows the statement that appends to a timeline, so that it overtakes the one that changes the launch.
    seed(&pool, REPOSITORY).completed(1, now()).await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'not now' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON timeline FOR EACH ROW EXECUTE FUNCTION refuse()";
    let mut conn = pool.connection().await.unwrap();
    conn.batch_execute(refuse).await.unwrap();
    drop(conn);
    let why = Happening::NotWanted(Why::NoDemand);
    let error = pool
        .happen("test", REPOSITORY, planned[0], &why, now())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not now"), "{error}");
    assert_eq!(error.failure(), Failure::Unavailable);
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

/// A pooler that is frozen, or a server after a failover of which nobody told: every connection stays open, and nothing answers.
#[tokio::test]
async fn who_waits_for_a_server_that_has_gone_silent_is_told_so() {
    let database = TestDatabase::create().await;
    let way = Middleman::before(database.url()).await.unwrap();
    let url = way.through(database.url()).unwrap();
    let pool = Database::new(&url.into(), None, "test", 3).unwrap();
    let idle = async |_: &mut AsyncPgConnection| -> Result<(), StorageError> { Ok(()) };
    pool.transaction("before", idle).await.unwrap();

    let held = Barrier::new(3);
    let frozen = async |conn: &mut AsyncPgConnection| -> Result<(), StorageError> {
        held.wait().await;
        held.wait().await;
        lock(conn, 1).await
    };
    let query = async {
        let mut conn = pool.connection().await?;
        held.wait().await;
        held.wait().await;
        Ok::<_, StorageError>(conn.batch_execute("SELECT 1").await?)
    };
    let silenced = async {
        held.wait().await;
        way.silence();
        held.wait().await;
    };
    let deadline = std::time::Duration::from_secs(60);
    let both = async { tokio::join!(pool.transaction("frozen", frozen), query, silenced) };
    let (frozen, query, ()) = tokio::time::timeout(deadline, both)
        .await
        .expect("both end by themselves");
    for error in [frozen.unwrap_err(), query.unwrap_err()] {
        assert_eq!(error.failure(), Failure::Unavailable, "{error}");
    }
    way.speak();
    wait_until("the pool has connections that work", deadline, || async {
        pool.transaction("after", idle).await
    })
    .await;
}
