use std::time::Duration;

use gha_slurm_domain::RepositoryId;
use gha_slurm_storage::{AsyncPgConnection, Database, ScopeLock, ScopeLocks, StorageError};
use gha_slurm_test_support::TestDatabase;

const DEADLINE: Duration = Duration::from_secs(5);
const ONE: RepositoryId = RepositoryId(1);
const TWO: RepositoryId = RepositoryId(2);
const THREE: RepositoryId = RepositoryId(3);

/// Which of these scopes could be locked, at once.
async fn lockable(pool: &Database, wanted: &[RepositoryId]) -> Vec<RepositoryId> {
    let taken = pool.transaction("lockable", async |conn: &mut AsyncPgConnection| {
        let locks = ScopeLocks::try_take(conn, wanted.to_vec()).await?;
        let taken = wanted.iter().copied().filter(|id| locks.holds(*id));
        Ok::<_, StorageError>(taken.collect())
    });
    tokio::time::timeout(DEADLINE, taken)
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn locks_of_several_scopes_are_taken_without_waiting() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    pool.transaction("first", async |conn: &mut AsyncPgConnection| {
        // In another order, and twice.
        let mut first = ScopeLocks::try_take(conn, vec![TWO, ONE, TWO]).await?;
        assert!(first.holds(ONE) && first.holds(TWO) && !first.holds(THREE));
        assert!(first.one(THREE).is_none());
        assert_eq!(lockable(&pool, &[ONE, TWO]).await, []);
        assert_eq!(lockable(&pool, &[THREE, TWO, ONE]).await, [THREE]);
        Ok::<_, StorageError>(())
    })
    .await
    .unwrap();
    // The locks end with the transaction, as does that of one scope.
    assert_eq!(lockable(&pool, &[ONE, TWO]).await, [ONE, TWO]);
    pool.in_scope("one", ONE, async |lock: ScopeLock<'_>| {
        assert_eq!(lock.repository(), ONE);
        assert_eq!(lockable(&pool, &[ONE, TWO]).await, [TWO]);
        Ok::<_, StorageError>(())
    })
    .await
    .unwrap();
    assert_eq!(lockable(&pool, &[ONE]).await, [ONE]);
}

/// A lock that takes too long ends the transaction, and its connection does not come back from the pool in that state.
#[tokio::test]
async fn a_lock_that_takes_too_long_leaves_no_broken_connection() {
    let test_database = gha_slurm_test_support::TestDatabase::create().await;
    let url = test_database.url().to_owned().into();
    let pool = gha_slurm_storage::Database::new(&url, None, "test", 1).unwrap();
    let (holder, connection) = tokio_postgres::connect(test_database.url(), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    holder
        .batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1)")
        .await
        .unwrap();
    let nothing = async |_lock: ScopeLock<'_>| Ok::<_, StorageError>(());
    let error = pool.in_scope("test", ONE, nothing).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    holder.batch_execute("COMMIT").await.unwrap();
    pool.in_scope("test", ONE, nothing).await.unwrap();
    pool.ping().await.unwrap();
}
