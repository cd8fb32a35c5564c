//! The transaction of a node's call, in as few round trips as can be.

use std::future::Future;

use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use gha_slurm_domain::{LaunchId, RepositoryId};

use crate::pool::{Database, StorageError};
use crate::scope::ScopeLock;
use crate::transaction::{self, Work};

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

impl Database {
    /// Runs `work` in a transaction under the lock of the scope of `launch`, with `L` of the launch. `None`: no such launch.
    ///
    /// Nodes call back in herds, so this asks Postgres as seldom as it can: the transaction begins, takes the lock and reads in one
    /// round trip. If anything fails, the connection is closed, which ends the transaction.
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
        transaction::in_time(Box::pin(async move {
            let mut open = OpenTransaction(Some(self.connection().await?));
            // Every statement finds its rows by their keys. A plan made for these very values is never better than the one that is there
            // already, and making it costs more than the transaction.
            let begin = format!(
                "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan; SELECT lock_scope_of('{}')",
                launch.0
            );
            let conn = open.conn()?;
            let found = {
                let shared = &*conn;
                let mut first = shared;
                // In this order: what begins and locks needs no preparation, so it is sent first.
                let (begun, found) =
                    futures_util::join!(first.batch_execute(&begin), L::read(shared, launch));
                begun.map_err(StorageError::from)?;
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
        }))
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
