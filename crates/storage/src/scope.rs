//! The lock of a scope: a value without which nothing in the scope can be changed.

use std::future::Future;

use diesel::sql_types::BigInt;
use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use gha_slurm_domain::{LaunchId, RepositoryId};

use crate::launches::{self, Callback};
use crate::pool::{Database, StorageError};
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
    /// The scope.
    pub fn repository(&self) -> RepositoryId {
        self.repository
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
        repositories.sort_unstable();
        repositories.dedup();
        let wanted: Vec<i64> = repositories.iter().map(|r| r.0).collect();
        let taken: Vec<Taken> = diesel::sql_query(
            "SELECT repository FROM unnest($1) AS wanted (repository) \
             WHERE pg_try_advisory_xact_lock(repository)",
        )
        .bind::<diesel::sql_types::Array<BigInt>, _>(wanted)
        .load(conn)
        .await?;
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
                let result = async {
                    let mut conn = self.connection().await?;
                    let conn: &mut AsyncPgConnection = &mut conn;
                    transaction::begin(conn, &sql).await?;
                    let lock = ScopeLock {
                        conn: &mut *conn,
                        repository,
                    };
                    let result = work(lock).await;
                    transaction::finish(conn, result).await
                }
                .await;
                match attempts.pause_after(&result) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return result,
                }
            }
        }
    }

    /// Runs `work` in a transaction under the lock of the scope of `launch`, with what is known of the launch. `None`: no such launch.
    ///
    /// Nodes call back in herds, so this asks Postgres as seldom as it can: the transaction begins, takes the lock and reads in one
    /// round trip. If anything fails, the connection is closed, which ends the transaction.
    #[expect(
        clippy::manual_async_fn,
        reason = "that the future can be sent to another thread has to be written down"
    )]
    pub fn for_callback<'a, T, E, F>(
        &'a self,
        launch: LaunchId,
        work: F,
    ) -> impl Future<Output = Result<Option<T>, E>> + Send + 'a
    where
        for<'r> F: AsyncFn((ScopeLock<'r>, Callback)) -> Result<T, E>
            + Work<(ScopeLock<'r>, Callback), Result<T, E>, Fut: Send>
            + Send
            + Sync
            + 'a,
        T: Send + 'a,
        E: From<StorageError> + std::error::Error + Send + 'static,
    {
        async move {
            let mut open = OpenTransaction(Some(self.connection().await?));
            let begin = format!(
                "BEGIN; SELECT pg_advisory_xact_lock(repository_id) FROM launches WHERE id = '{}'",
                launch.0
            );
            let conn = open.conn()?;
            let found = {
                let shared = &*conn;
                let (mut first, mut second) = (shared, shared);
                let (begun, found) = futures_util::join!(
                    first.batch_execute(&begin),
                    launches::load_callback(&mut second, launch)
                );
                begun.map_err(StorageError::from)?;
                found?
            };
            let done = match found {
                Some(callback) => {
                    let repository = callback.loaded.launch.repository;
                    let lock = ScopeLock { conn, repository };
                    Some(work((lock, callback)).await?)
                }
                None => None,
            };
            open.commit().await?;
            Ok(done)
        }
    }
}

/// A connection with a transaction that diesel does not know of: it goes back to the pool only after the commit.
struct OpenTransaction(Option<Object<AsyncPgConnection>>);

impl OpenTransaction {
    fn conn(&mut self) -> Result<&mut AsyncPgConnection, StorageError> {
        match &mut self.0 {
            Some(conn) => Ok(conn),
            None => Err(StorageError::Unavailable("the transaction is over".into())),
        }
    }

    async fn commit(mut self) -> Result<(), StorageError> {
        self.conn()?.batch_execute("COMMIT").await?;
        // Back to the pool.
        self.0 = None;
        Ok(())
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            drop(Object::take(conn));
        }
    }
}
