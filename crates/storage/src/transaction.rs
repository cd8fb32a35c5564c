//! Named transactions: tried again when they collide with others, and counted by name.

use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, TransactionManager};

use crate::pool::{Database, Failure, StorageError};

/// No attempt of a transaction takes longer: each of its statements has a limit, and it has few.
const LIMIT: Duration = Duration::from_secs(60);
/// Most further attempts of a transaction that collides.
const RETRIES: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(500);

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
    /// Runs `work` in a transaction on a connection from the pool, commits it when `work` succeeds, and otherwise rolls it back.
    /// `name` is for logs and metrics.
    ///
    /// A serialization failure or a deadlock is tried again a few times, so `work` may run more than once: it has no effect
    /// outside of the transaction. A connection that is not to be had, and a commit that fails, is a [`StorageError`].
    #[expect(
        clippy::manual_async_fn,
        reason = "that the future can be sent to another thread has to be written down"
    )]
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
        E: From<StorageError> + Error + Send + 'static,
    {
        async move {
            let mut attempts = Attempts::new(self, name);
            loop {
                let result = in_time(Box::pin(async {
                    let mut conn = begin(self, "BEGIN").await?;
                    let result = work(&mut conn).await;
                    finish(&mut conn, result).await
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

/// An attempt of a transaction, within the limit of all. One that is given up drops its connection amid a transaction, so that the pool
/// closes it.
pub(crate) async fn in_time<T, E: From<StorageError>>(
    attempt: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let late = |_| {
        let text = format!("a transaction took longer than {} s", LIMIT.as_secs());
        Err(StorageError::Unavailable(text).into())
    };
    tokio::time::timeout(LIMIT, attempt)
        .await
        .unwrap_or_else(late)
}

/// The attempts of one transaction, and their metrics.
pub(crate) struct Attempts<'a> {
    database: &'a Database,
    name: &'static str,
    begun: Instant,
    pauses: backon::ExponentialBackoff,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(database: &'a Database, name: &'static str) -> Self {
        Self {
            database,
            name,
            begun: Instant::now(),
            pauses: ExponentialBuilder::default()
                .with_min_delay(FIRST_PAUSE)
                .with_max_delay(LAST_PAUSE)
                .with_max_times(RETRIES)
                .with_jitter()
                .build(),
        }
    }

    /// How long to wait before the next attempt; `None`: this was the last one.
    pub(crate) fn pause_after<T, E: Error + 'static>(
        &mut self,
        result: &Result<T, E>,
    ) -> Option<Duration> {
        let failure = result.as_ref().err().map(|error| failure(error));
        let metrics = self.database.metrics();
        if let (Some(Some(Failure::Conflict)), Err(error)) = (failure, result)
            && let Some(pause) = self.pauses.next()
        {
            tracing::debug!(transaction = self.name, %error, "a transaction collided with another one; it is tried again");
            if let Some(metrics) = metrics {
                metrics.retries.with_label_values(&[self.name]).inc();
            }
            return Some(pause);
        }
        if let Some(metrics) = metrics {
            let outcome = match failure {
                None => "committed",
                Some(failure) => failure.map_or("refused", Failure::name),
            };
            let labels = [self.name, outcome];
            metrics.outcomes.with_label_values(&labels).inc();
            let seconds = self.begun.elapsed().as_secs_f64();
            metrics
                .seconds
                .with_label_values(&[self.name])
                .observe(seconds);
        }
        None
    }
}

/// A connection on which a transaction was begun with these statements. If one of them fails, such as a lock that takes too long, diesel
/// does not know of the transaction that the first one began: the connection is closed instead of going back to the pool.
pub(crate) async fn begin(
    database: &Database,
    sql: &str,
) -> Result<Object<AsyncPgConnection>, StorageError> {
    let mut conn = database.connection().await?;
    match AnsiTransactionManager::begin_transaction_sql(&mut *conn, sql).await {
        Ok(()) => Ok(conn),
        Err(error) => {
            drop(Object::take(conn));
            Err(error.into())
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
            AnsiTransactionManager::commit_transaction(conn)
                .await
                .map_err(StorageError::from)?;
            Ok(done)
        }
        Err(error) => {
            if let Err(rollback) = AnsiTransactionManager::rollback_transaction(conn).await {
                tracing::debug!(error = %rollback, "a transaction could not be rolled back; its connection is closed");
            }
            Err(error)
        }
    }
}

/// What became of statements of one transaction that were sent together, in whichever order Postgres ran them: after one that failed
/// it refuses the others, which says nothing about them.
pub(crate) fn first_cause<const N: usize>(
    results: [Result<(), StorageError>; N],
) -> Result<(), StorageError> {
    let mut refused = Ok(());
    for result in results {
        match result {
            Err(error) if error.is_aftermath() => refused = Err(error),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
    }
    refused
}

/// What `error`, or the first cause of it that is storage's, means. `None`: it is the caller's own.
fn failure(error: &(dyn Error + 'static)) -> Option<Failure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<StorageError>() {
            return Some(error.failure());
        }
        // `#[error(transparent)]` hides the StorageError around it.
        if let Some(error) = error.downcast_ref::<diesel::result::Error>() {
            return Some(Failure::of(error));
        }
        next = error.source();
    }
    None
}
