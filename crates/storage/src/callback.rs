//! The transaction of a node's call, in as few round trips as can be.

use std::future::Future;

use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use gha_slurm_domain::LaunchId;

use crate::launches::{self, Callback};
use crate::pool::{Database, StorageError};
use crate::scope::ScopeLock;
use crate::transaction::Work;

impl Database {
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
                    let lock = ScopeLock::taken(conn, repository);
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
