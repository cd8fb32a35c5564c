//! The transaction of a node's call, in as few round trips as can be.

use std::future::Future;

use diesel::sql_types::Uuid;
use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use gha_slurm_domain::{LaunchId, RepositoryId};

use crate::launches::{self, Callback, Loaded};
use crate::pool::{Database, StorageError};
use crate::prepared::Kept;
use crate::scope::ScopeLock;
use crate::transaction::Work;

/// Every statement finds its rows by their keys: a plan for these very values is never better than the one that is there already, and
/// for a join of seven tables costs more than the transaction.
const BEGIN: &str = "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan";
const LOCK: &str = "SELECT pg_advisory_xact_lock(repository_id) FROM launches WHERE id = $1";

/// What a call about one launch needs to know of it.
pub trait OfLaunch: Sized + Send {
    /// Reads it, with no more than one statement.
    fn read(
        conn: &AsyncPgConnection,
        launch: LaunchId,
    ) -> impl Future<Output = Result<Option<Self>, StorageError>> + Send;

    /// The scope of the launch.
    fn scope(&self) -> RepositoryId;
}

impl OfLaunch for Loaded {
    async fn read(
        mut conn: &AsyncPgConnection,
        launch: LaunchId,
    ) -> Result<Option<Self>, StorageError> {
        launches::load_any(&mut conn, launch).await
    }

    fn scope(&self) -> RepositoryId {
        self.launch.repository
    }
}

impl OfLaunch for Callback {
    async fn read(
        mut conn: &AsyncPgConnection,
        launch: LaunchId,
    ) -> Result<Option<Self>, StorageError> {
        launches::load_callback(&mut conn, launch).await
    }

    fn scope(&self) -> RepositoryId {
        self.loaded.scope()
    }
}

impl Database {
    /// Runs `work` in a transaction under the lock of the scope of `launch`, with `L` of the launch. `None`: no such launch.
    ///
    /// Nodes call back in herds, so this asks Postgres as seldom as it can: the transaction begins, takes the lock and reads in one
    /// round trip. If anything fails, the connection is closed, which ends the transaction.
    #[expect(
        clippy::manual_async_fn,
        reason = "that the future can be sent to another thread has to be written down"
    )]
    pub fn for_callback<'a, L, T, E, F>(
        &'a self,
        launch: LaunchId,
        work: F,
    ) -> impl Future<Output = Result<Option<T>, E>> + Send + 'a
    where
        L: OfLaunch + 'a,
        for<'r> F: AsyncFn((ScopeLock<'r>, L)) -> Result<T, E>
            + Work<(ScopeLock<'r>, L), Result<T, E>, Fut: Send>
            + Send
            + Sync
            + 'a,
        T: Send + 'a,
        E: From<StorageError> + std::error::Error + Send + 'static,
    {
        async move {
            let mut open = OpenTransaction(Some(self.connection().await?));
            let conn = open.conn()?;
            let found = {
                let shared = &*conn;
                let (mut first, mut second) = (shared, shared);
                // Postgres runs them in this order. Where a statement is new to the connection, it is sent only once Postgres has
                // prepared it, which it does in this order too; and what reads is never prepared before what locks.
                let (begun, locked, found) = futures_util::join!(
                    first.batch_execute(BEGIN),
                    Kept(diesel::sql_query(LOCK).bind::<Uuid, _>(launch.0)).execute(&mut second),
                    L::read(shared, launch)
                );
                begun.map_err(StorageError::from)?;
                locked.map_err(StorageError::from)?;
                found?
            };
            let done = match found {
                Some(found) => {
                    let lock = ScopeLock::taken(conn, found.scope());
                    Some(work((lock, found)).await?)
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
