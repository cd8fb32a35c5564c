//! Prometheus metrics of one service.

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::panics::PANICS;

/// Seconds: from a millisecond to half a minute.
const DURATION_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0,
];

/// A registry, handed to whoever counts something. Cheap to clone. Holds `gha_slurm_panics_total`, the panics of the process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        if let Some(panics) = &*PANICS {
            // A new registry holds no other metric of this name.
            let _ = registry.register(Box::new(panics.clone()));
        }
        Self { registry }
    }
}

impl Metrics {
    /// A counter `name` with labels. Asking twice for one name is a mistake of the program and gives an error.
    pub fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// A gauge `name` with labels.
    pub fn gauge(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntGaugeVec> {
        let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// A histogram of seconds `name` with labels.
    pub fn seconds(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
        let metric = HistogramVec::new(options, labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// Everything, in the Prometheus text format.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut buffer = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_in_the_text() {
        let metrics = Metrics::default();
        let counter = metrics
            .counter("gha_slurm_events_total", "Events", &["event"])
            .unwrap();
        counter.with_label_values(&["ping"]).inc_by(3);
        assert!(
            metrics
                .text()
                .unwrap()
                .contains("gha_slurm_events_total{event=\"ping\"} 3")
        );
        assert!(
            metrics
                .counter("gha_slurm_events_total", "again", &[])
                .is_err()
        );
    }
}
