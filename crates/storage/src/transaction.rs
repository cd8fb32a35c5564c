//! Named transactions: tried again when they collide with others, and counted by name.

use std::error::Error;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, TransactionManager};
use gha_slurm_telemetry::Metrics;
use gha_slurm_telemetry::prometheus::{self, HistogramVec, IntCounterVec};

use crate::pool::{Database, Failure, StorageError};

/// Most further attempts of a transaction that collides.
const RETRIES: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Counts transactions by name.
#[derive(Debug, Clone)]
pub(crate) struct TransactionMetrics {
    outcomes: IntCounterVec,
    retries: IntCounterVec,
    seconds: HistogramVec,
}

impl TransactionMetrics {
    pub(crate) fn register(metrics: &Metrics) -> prometheus::Result<Self> {
        Ok(Self {
            outcomes: metrics.counter(
                "gha_slurm_transactions_total",
                "Transactions by name and outcome: committed, refused (by the caller's own rule), or why Postgres failed",
                &["transaction", "outcome"],
            )?,
            retries: metrics.counter(
                "gha_slurm_transaction_retries_total",
                "Further attempts of transactions that collided with others",
                &["transaction"],
            )?,
            seconds: metrics.seconds(
                "gha_slurm_transaction_seconds",
                "Duration of transactions, with their retries",
                &["transaction"],
            )?,
        })
    }
}

impl Database {
    /// Runs `work` in a transaction on a connection from the pool, commits it when `work` succeeds, and otherwise rolls it back.
    /// `name` is for logs and metrics.
    ///
    /// A serialization failure or a deadlock is tried again a few times, so `work` may run more than once: it has no effect
    /// outside of the transaction. A connection that is not to be had, and a commit that fails, is a [`StorageError`].
    pub async fn transaction<T, E, F>(&self, name: &'static str, work: F) -> Result<T, E>
    where
        F: AsyncFn(&mut AsyncPgConnection) -> Result<T, E>,
        E: From<StorageError> + Error + 'static,
    {
        let begun = Instant::now();
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LAST_PAUSE)
            .with_max_times(RETRIES)
            .with_jitter()
            .build();
        let result = loop {
            let result = self.attempt(&work).await;
            let Err(error) = &result else { break result };
            if failure(error) != Some(Failure::Conflict) {
                break result;
            }
            let Some(pause) = pauses.next() else {
                break result;
            };
            tracing::debug!(transaction = name, %error, "a transaction collided with another one; it is tried again");
            if let Some(metrics) = self.metrics() {
                metrics.retries.with_label_values(&[name]).inc();
            }
            tokio::time::sleep(pause).await;
        };
        if let Some(metrics) = self.metrics() {
            let outcome = match &result {
                Ok(_) => "committed",
                Err(error) => failure(error).map_or("refused", Failure::name),
            };
            metrics.outcomes.with_label_values(&[name, outcome]).inc();
            let seconds = begun.elapsed().as_secs_f64();
            metrics.seconds.with_label_values(&[name]).observe(seconds);
        }
        result
    }

    async fn attempt<T, E, F>(&self, work: &F) -> Result<T, E>
    where
        F: AsyncFn(&mut AsyncPgConnection) -> Result<T, E>,
        E: From<StorageError>,
    {
        let mut conn = self.connection().await?;
        let conn: &mut AsyncPgConnection = &mut conn;
        let query = |error: diesel::result::Error| E::from(StorageError::Query(error));
        // Dropped in between, the connection counts as broken and leaves the pool.
        AnsiTransactionManager::begin_transaction(conn)
            .await
            .map_err(query)?;
        match work(conn).await {
            Ok(value) => {
                AnsiTransactionManager::commit_transaction(conn)
                    .await
                    .map_err(query)?;
                Ok(value)
            }
            Err(error) => {
                if let Err(rollback) = AnsiTransactionManager::rollback_transaction(conn).await {
                    tracing::debug!(error = %rollback, "a transaction could not be rolled back; its connection is closed");
                }
                Err(error)
            }
        }
    }
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
