//! Measures the floor and the service in turn.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::Measured;
use crate::report::median;
use crate::surroundings::cpu_seconds;

/// Columns of [`rows`].
pub(crate) const COLUMNS: [&str; 6] = [
    "load",
    "requests/s",
    "of the floor",
    "p50 ms",
    "p99 ms",
    "CPU µs/request",
];

/// Length and number of the measurements.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Effort {
    /// Seconds of each stretch of load on webhook-ingest.
    #[arg(long, default_value_t = 3)]
    pub(crate) seconds: u32,
    /// Callbacks of each stretch of load on token-broker.
    #[arg(long, default_value_t = 800)]
    pub(crate) callbacks: u32,
    /// How often each stretch is repeated, the floor and the service in turn; the middle one is shown.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
}

impl Effort {
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// One stretch of load on one process.
pub(crate) struct Round {
    measured: Measured,
    /// Of the process itself, not of the servers it uses.
    cpu_micros: f64,
}

impl Round {
    /// Measures `load` on `process`.
    pub(crate) async fn of(
        process: u32,
        load: impl Future<Output = Result<Measured>>,
    ) -> Result<Self> {
        let before = cpu_seconds(process)?;
        let measured = load.await?;
        let used = cpu_seconds(process)? - before;
        Ok(Self {
            cpu_micros: used * 1e6 / measured.requests.max(1) as f64,
            measured,
        })
    }

    pub(crate) fn requests(&self) -> u64 {
        self.measured.requests
    }
}

/// The middle round of each, and how the service's rate compares: the middle of all pairs, the least and the most.
pub(crate) fn rows(
    load: &str,
    service: &str,
    rounds: Vec<(Round, Round)>,
) -> Result<[Vec<String>; 2]> {
    let ratios: Vec<f64> = rounds
        .iter()
        .map(|(floor, service)| service.measured.per_second / floor.measured.per_second)
        .collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let middle = median(ratios, |ratio| *ratio).context("no round")?;
    let compared = format!("{middle:.2} ({least:.2} to {most:.2})");
    let (floors, services): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
    Ok([
        row(format!("{load}: floor"), floors, String::new())?,
        row(format!("{load}: {service}"), services, compared)?,
    ])
}

fn row(name: String, rounds: Vec<Round>, compared: String) -> Result<Vec<String>> {
    let Round {
        measured,
        cpu_micros,
    } = median(rounds, |round| round.measured.per_second).context("no round")?;
    Ok(vec![
        name,
        format!("{:.0}", measured.per_second),
        compared,
        format!("{:.2}", measured.millis(0.5)),
        format!("{:.2}", measured.millis(0.99)),
        format!("{cpu_micros:.0}"),
    ])
}
