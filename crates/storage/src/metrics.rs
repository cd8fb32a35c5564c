//! What is counted of transactions.

use gha_slurm_telemetry::Metrics;
use gha_slurm_telemetry::prometheus::{self, HistogramVec, IntCounterVec};

/// Counts transactions by name.
#[derive(Debug, Clone)]
pub(crate) struct TransactionMetrics {
    pub(crate) outcomes: IntCounterVec,
    pub(crate) retries: IntCounterVec,
    pub(crate) seconds: HistogramVec,
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
