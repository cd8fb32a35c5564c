//! The lock of a scope: a value without which nothing in the scope can be changed.

use std::future::Future;

use diesel::sql_types::BigInt;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::RepositoryId;

use crate::pool::{Database, StorageError};
use crate::prepared::Kept;
use crate::transaction::{self, Attempts, Work};

/// The scope's lock, held until the transaction ends. Whoever changes rows of a scope (workflow jobs, launches, runners, classes) has
/// one: what is read through it is what the previous holder committed, and nobody else changes it meanwhile. Never held across a call
/// to the outside.
pub struct ScopeLock<'t> {
    conn: &'t mut AsyncPgConnection,
    repository: RepositoryId,
}

/// The locks of several scopes, for work that is done for all of them in one transaction.
pub struct ScopeLocks<'t> {
    conn: &'t mut AsyncPgConnection,
    repositories: Vec<RepositoryId>,
}

impl ScopeLock<'_> {
    /// The lock that a transaction has taken on `conn`.
    pub(crate) fn taken(conn: &mut AsyncPgConnection, repository: RepositoryId) -> ScopeLock<'_> {
        ScopeLock { conn, repository }
    }

    /// The scope.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The connection, for statements that are sent together.
    pub(crate) fn shared(&self) -> &AsyncPgConnection {
        self.conn
    }

    /// The connection, for what is read and for rows that belong to no scope.
    pub fn conn(&mut self) -> &mut AsyncPgConnection {
        self.conn
    }
}

#[derive(diesel::QueryableByName)]
struct Taken {
    #[diesel(sql_type = BigInt)]
    repository: i64,
}

impl<'t> ScopeLocks<'t> {
    /// Takes the locks of those of `repositories` that nobody holds, in a transaction. It waits for none: two that wait for each
    /// other's would be a deadlock.
    pub async fn try_take(
        conn: &'t mut AsyncPgConnection,
        mut repositories: Vec<RepositoryId>,
    ) -> Result<ScopeLocks<'t>, StorageError> {
        if repositories.is_empty() {
            return Ok(Self { conn, repositories });
        }
        repositories.sort_unstable();
        repositories.dedup();
        let wanted: Vec<i64> = repositories.iter().map(|r| r.0).collect();
        let take = diesel::sql_query(
            "SELECT repository FROM unnest($1) AS wanted (repository) \
             WHERE pg_try_advisory_xact_lock(repository)",
        )
        .bind::<diesel::sql_types::Array<BigInt>, _>(wanted);
        let taken: Vec<Taken> = Kept(take).load(conn).await?;
        Ok(Self {
            conn,
            repositories: taken
                .into_iter()
                .map(|row| RepositoryId(row.repository))
                .collect(),
        })
    }

    /// Whether this scope is among them.
    pub fn holds(&self, repository: RepositoryId) -> bool {
        self.repositories.contains(&repository)
    }

    /// The lock of one of them.
    pub fn one(&mut self, repository: RepositoryId) -> Option<ScopeLock<'_>> {
        self.holds(repository).then_some(ScopeLock {
            conn: self.conn,
            repository,
        })
    }

    /// The connection, for what is read.
    pub fn conn(&mut self) -> &mut AsyncPgConnection {
        self.conn
    }
}

impl Database {
    /// Runs `work` in a transaction under the scope's lock. The lock is taken in a statement of its own: what is read afterwards is
    /// what the previous holder committed.
    #[expect(
        clippy::manual_async_fn,
        reason = "that the future can be sent to another thread has to be written down"
    )]
    pub fn in_scope<'a, T, E, F>(
        &'a self,
        name: &'static str,
        repository: RepositoryId,
        work: F,
    ) -> impl Future<Output = Result<T, E>> + Send + 'a
    where
        for<'r> F: AsyncFn(ScopeLock<'r>) -> Result<T, E>
            + Work<ScopeLock<'r>, Result<T, E>, Fut: Send>
            + Send
            + Sync
            + 'a,
        T: Send + 'a,
        E: From<StorageError> + std::error::Error + Send + 'static,
    {
        async move {
            let mut attempts = Attempts::new(self, name);
            let sql = format!("BEGIN; SELECT pg_advisory_xact_lock({})", repository.0);
            loop {
                let result = transaction::in_time(Box::pin(async {
                    let mut conn = transaction::begin(self, &sql).await?;
                    let conn: &mut AsyncPgConnection = &mut conn;
                    let lock = ScopeLock {
                        conn: &mut *conn,
                        repository,
                    };
                    let result = work(lock).await;
                    transaction::finish(conn, result).await
                }))
                .await;
                match attempts.pause_after(&result) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return result,
                }
            }
        }
    }
}
