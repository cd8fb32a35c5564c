//! Named transactions.

use std::future::Future;

use diesel_async::{AsyncConnection, AsyncPgConnection, TransactionManager};

use crate::pool::{Database, StorageError};

type Manager = <AsyncPgConnection as AsyncConnection>::TransactionManager;

/// What is done in a transaction: an async closure that may run more than once, whose future can be sent to another thread. (That
/// bound cannot be written on `AsyncFn` yet.)
pub trait Work<A, R>: AsyncFn(A) -> R + Fn(A) -> <Self as Work<A, R>>::Fut {
    /// Its future.
    type Fut: Future<Output = R>;
}

impl<F, A, Fut, R> Work<A, R> for F
where
    F: AsyncFn(A) -> R + Fn(A) -> Fut,
    Fut: Future<Output = R>,
{
    type Fut = Fut;
}

impl Database {
    /// Runs `work` in a transaction.
    pub fn transaction<'a, T, E, F>(
        &'a self,
        name: &'static str,
        work: F,
    ) -> impl Future<Output = Result<T, E>> + Send + 'a
    where
        for<'r> F: AsyncFn(&'r mut AsyncPgConnection) -> Result<T, E>
            + Work<&'r mut AsyncPgConnection, Result<T, E>, Fut: Send>
            + Send
            + Sync
            + 'a,
        T: Send + 'a,
        E: From<StorageError> + Send + 'a,
    {
        let _ = name;
        async move {
            let mut conn = self.connection().await?;
            Manager::begin_transaction(&mut *conn)
                .await
                .map_err(StorageError::from)?;
            let result = work(&mut conn).await;
            finish(&mut conn, result).await
        }
    }
}

/// Commits what went well, and rolls back the rest.
pub(crate) async fn finish<T, E: From<StorageError>>(
    conn: &mut AsyncPgConnection,
    result: Result<T, E>,
) -> Result<T, E> {
    match result {
        Ok(done) => {
            Manager::commit_transaction(conn)
                .await
                .map_err(StorageError::from)?;
            Ok(done)
        }
        Err(error) => {
            // One that cannot be rolled back is not used again: the pool sees that.
            let _ = Manager::rollback_transaction(conn).await;
            Err(error)
        }
    }
}

/// Begins a transaction with these statements.
pub(crate) async fn begin(conn: &mut AsyncPgConnection, sql: &str) -> Result<(), StorageError> {
    Ok(Manager::begin_transaction_sql(conn, sql).await?)
}
