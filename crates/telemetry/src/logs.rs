//! Start-up of logs and traces.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// The `[log]` section of every service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `human` or `json`.
    pub format: LogFormat,
    /// What to log, in the syntax of `tracing_subscriber::EnvFilter`, for example `info,gha_slurm=debug`.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::Human,
            filter: "info".into(),
        }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.filter` is not a filter.
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The OTLP exporter refuses its variables.
    #[error("OTLP exporter (OTEL_EXPORTER_OTLP_*): {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// Something set a subscriber already.
    #[error("{0}")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
}

/// Flushes what is still to be exported when dropped.
#[must_use = "dropping it ends the export of traces"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last traces could not be exported");
        }
    }
}

/// Starts logs, and traces where the OTEL variables ask for them, for the whole process. Panics are logged and counted from now on. `service` is the service's
/// name in traces unless `OTEL_SERVICE_NAME` says otherwise.
pub fn init(service: &'static str, settings: &LogSettings) -> Result<Guard, TelemetryError> {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let filter = EnvFilter::try_new(&settings.filter)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(true);
    let lines = match settings.format {
        LogFormat::Human => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let provider = wants_otlp().then(|| exporter(service)).transpose()?;
    // Without an exporter the spans still carry a trace id, so that one trace can be followed through the logs and
    // handed on to a peer that does export.
    let exporting = provider.is_some();
    let tracer = provider.clone().unwrap_or_default().tracer(service);
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        // Nothing of ours asks OpenTelemetry for its current context; spans find their parents without it.
        .with_context_activation(false)
        // Nobody would see these.
        .with_location(exporting)
        .with_threads(exporting)
        .with_tracked_inactivity(exporting);
    tracing_subscriber::registry()
        .with(NoAlarm::beside(&settings.filter))
        .with(filter)
        .with(lines)
        .with(spans)
        .try_init()?;
    crate::panics::install_hook();
    Ok(Guard { provider })
}

/// Lines that libraries write as errors and that are none. actix: for each malformed request of a stranger, and for a connection that
/// arrives while a service stops. octocrab: for a call that got no response, which is an error that its caller handles. They are left out
/// unless `log.filter` asks for debug lines, or names the library.
struct NoAlarm {
    all: bool,
}

/// Where it is written, and how it begins.
const NO_ALARM: [(&str, &str); 3] = [
    ("actix_http", "stream error"),
    ("actix_server", "No workers"),
    ("octocrab", "failed with error"),
];

impl NoAlarm {
    /// `filter`: as in the settings.
    fn beside(filter: &str) -> Self {
        let mut directives = filter.split(',').map(str::trim);
        Self {
            all: directives.any(|d| {
                d == "debug" || d == "trace" || d.starts_with("actix") || d.starts_with("octocrab")
            }),
        }
    }
}

impl<S: Subscriber> Layer<S> for NoAlarm {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let target = event.metadata().target();
        let begins = NO_ALARM
            .iter()
            .find(|(from, _)| target.starts_with(from))
            .map(|(_, begins)| *begins);
        let Some(begins) = begins.filter(|_| !self.all) else {
            return true;
        };
        let mut message = Message(String::new());
        event.record(&mut message);
        !message.0.starts_with(begins)
    }
}

/// The text of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the OTEL variables are a standard of their own, not settings of ours"
)]
fn wants_otlp() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let endpoint =
        set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let other = set("OTEL_TRACES_EXPORTER").is_some_and(|v| v != "otlp");
    endpoint.is_some() && !disabled && !other
}

fn exporter(service: &'static str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .build()?;
    // The detector of the builder reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES; ours is only the default.
    #[expect(clippy::disallowed_methods, reason = "a standard variable, see above")]
    let named = std::env::var("OTEL_SERVICE_NAME").is_ok();
    let resource = Resource::builder();
    let resource = if named {
        resource
    } else {
        resource.with_service_name(service)
    };
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Counts what comes through.
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut message = Message(String::new());
            event.record(&mut message);
            self.0.lock().unwrap().push(message.0);
        }
    }

    fn seen(filter: &str) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry()
            .with(NoAlarm::beside(filter))
            .with(EnvFilter::new(filter))
            .with(Seen(Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "actix_http::h1::dispatcher", "stream error: {}", "x");
            tracing::error!(target: "actix_server::accept", "No workers");
            tracing::error!(target: "actix_server::accept", "Error accepting connection");
            tracing::error!(target: "octocrab", "failed with error {}", "x");
            tracing::error!(target: "gha_slurm", "stream error");
        });
        let lines = lines.lock().unwrap();
        lines.clone()
    }

    #[test]
    fn what_strangers_send_rings_no_alarm() {
        for filter in ["info", "info,gha_slurm=debug"] {
            let lines = seen(filter);
            assert_eq!(lines, ["Error accepting connection", "stream error"]);
        }
        for filter in ["debug", "info, actix_http=error", "info,octocrab=warn"] {
            assert_eq!(seen(filter).len(), 5, "{filter}");
        }
    }
}
