//! Whether GitHub accepts the App's credentials, shown to people and monitoring.

use std::convert::Infallible;
use std::time::Duration;

use gha_slurm_telemetry::Metrics;
use gha_slurm_telemetry::prometheus::{self, IntGauge};
use tokio_util::sync::CancellationToken;

use crate::every::Periodic;
use crate::operations::Readiness;

/// It is shown this often.
const INTERVAL: Duration = Duration::from_secs(5);

/// The metric `gha_slurm_github_app_refused`, and a note called `github` in `/health/ready`. The service stays ready: what needs no call
/// to GitHub goes on.
#[derive(Debug)]
pub struct AppTrouble(IntGauge);

impl AppTrouble {
    /// Registers the metric, once for a registry.
    pub fn register(metrics: &Metrics) -> prometheus::Result<Self> {
        let gauge = metrics.gauge(
            "gha_slurm_github_app_refused",
            "1 while GitHub does not accept the App's credentials, otherwise 0",
            &[],
        )?;
        Ok(Self(gauge.with_label_values::<&str>(&[])))
    }

    /// Shows what `trouble` returns, until `stop`: the reason, or `None` if GitHub accepts them.
    pub async fn show(
        self,
        readiness: &Readiness,
        periodic: &Periodic,
        stop: CancellationToken,
        trouble: impl Fn() -> Option<String>,
    ) {
        let round = || {
            let trouble = trouble();
            self.0.set(trouble.is_some().into());
            readiness.note("github", trouble);
            std::future::ready(Ok::<_, Infallible>(()))
        };
        periodic.every("github", INTERVAL).run(stop, round).await;
    }
}
