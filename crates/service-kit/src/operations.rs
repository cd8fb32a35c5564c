//! The operations port: `/health/live`, `/health/ready`, `/metrics`. Kept apart from the service's own port, so that it
//! can stay inside.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpResponse, web};
use anyhow::{Context, bail};
use gha_slurm_telemetry::Metrics;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;

use crate::client_address::TrustedProxies;
use crate::every::Periodic;
use crate::files::OPERATIONS_CONNECTIONS;
use crate::http::observe;
use crate::places::Places;
use crate::server::{Bound, Bounds};
use crate::settings::OperationsSettings;

const WATCH_INTERVAL: Duration = Duration::from_secs(5);
const CHECK_DEADLINE: Duration = Duration::from_secs(5);
/// So that one that holds its connections leaves some to other programs that watch the service.
const CONNECTIONS_PER_ADDRESS: usize = OPERATIONS_CONNECTIONS / 2;
/// Answers are short.
const SHUTDOWN_TIMEOUT_S: u64 = 1;

/// Named conditions that must all hold for the service to be ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    /// `None`: it holds. Otherwise why not.
    conditions: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
    /// What people should know of a service that is ready.
    notes: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// A condition holds.
    pub fn ready(&self, name: &'static str) {
        self.set(name, None);
    }

    /// A condition does not hold.
    pub fn not_ready(&self, name: &'static str, reason: impl Into<String>) {
        self.set(name, Some(reason.into()));
    }

    fn set(&self, name: &'static str, obstacle: Option<String>) {
        self.conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, obstacle);
    }

    /// Says something to people who look at the readiness of the service, without a change of it: what restarts services that are not
    /// ready must not restart one that does what an administrator wanted. Logs what is new. `None`: there is nothing to say any more.
    pub fn note(&self, name: &'static str, text: Option<String>) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.get(name) == text.as_ref() {
            return;
        }
        if let Some(text) = text {
            tracing::warn!(note = name, "{text}");
            notes.insert(name, text);
        } else {
            tracing::info!(note = name, "this is over");
            notes.remove(name);
        }
    }

    /// What people should know, whether it is ready or not.
    pub fn notes(&self) -> BTreeMap<&'static str, String> {
        let notes = self.notes.lock();
        notes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks a condition every few seconds until `stop`; from then on the service is not ready. Each check is a round of a
    /// [periodic](Periodic) task called `name`.
    pub async fn watch<F, E>(
        self,
        periodic: &Periodic,
        name: &'static str,
        stop: CancellationToken,
        check: impl Fn() -> F,
    ) where
        F: Future<Output = Result<(), E>>,
        E: std::fmt::Display,
    {
        let round = || async {
            let result = check().await;
            match &result {
                Ok(()) => self.ready(name),
                Err(error) => self.not_ready(name, error.to_string()),
            }
            result
        };
        periodic.every(name, WATCH_INTERVAL).run(stop, round).await;
        self.not_ready("running", "stopping");
    }

    /// Those that do not hold, with their reasons.
    pub fn obstacles(&self) -> BTreeMap<&'static str, String> {
        self.conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter_map(|(name, obstacle)| Some((*name, obstacle.clone()?)))
            .collect()
    }
}

/// The server of the operations port.
pub struct Operations(Bound);

impl Operations {
    /// Binds the port.
    pub fn bind(
        settings: &OperationsSettings,
        readiness: Readiness,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let bounds = Bounds {
            workers: 1,
            connections: OPERATIONS_CONNECTIONS,
            shutdown_timeout_s: SHUTDOWN_TIMEOUT_S,
            places: Places::new(CONNECTIONS_PER_ADDRESS, TrustedProxies::none()),
            refused: metrics
                .counter(
                    "gha_slurm_operations_connections_refused_total",
                    "Connections of an address to the operations port beyond those it may have",
                    &[],
                )?
                .with_label_values::<&str>(&[]),
            tls: None,
        };
        let app = move || {
            App::new()
                .app_data(web::Data::new(readiness.clone()))
                .app_data(web::Data::new(metrics.clone()))
                .wrap(from_fn(observe))
                .route("/health/live", web::get().to(live))
                .route("/health/ready", web::get().to(ready))
                .route("/metrics", web::get().to(text))
                .default_service(web::to(crate::problem::not_found))
        };
        let listen = settings.listen;
        Bound::bind(listen, bounds, app)
            .map(Self)
            .map_err(|e| anyhow::anyhow!("operations.listen: {listen}: {e}"))
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// Answers until `stopped`, which comes after the service itself has drained.
    pub async fn run_until(self, stopped: CancellationToken) -> anyhow::Result<()> {
        self.0.run_until_stopped(stopped).await
    }
}

/// Asks the service that runs on this machine with these settings whether it is ready; the error says what is in the way. For
/// `--check-ready`, so that a container needs no HTTP client for its health check.
pub async fn check_ready(settings: &OperationsSettings) -> anyhow::Result<()> {
    let mut address = settings.listen;
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            address.set_ip(Ipv6Addr::LOCALHOST.into());
        }
        _ => {}
    }
    let url = format!("http://{address}/health/ready");
    let http = reqwest::Client::builder()
        .timeout(CHECK_DEADLINE)
        .no_proxy()
        .build()?;
    let answer = http.get(&url).send().await.context("no answer")?;
    let status = answer.status();
    if !status.is_success() {
        let body = answer.text().await.unwrap_or_default();
        bail!("{url}: {status}: {body}");
    }
    Ok(())
}

/// Whether the process runs.
#[utoipa::path(
    get,
    path = "/health/live",
    operation_id = "live",
    responses((status = 200, description = "It runs", content_type = "application/json")),
    security(())
)]
async fn live() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({"status": "live"}))
}

/// Whether the service can do its work.
#[utoipa::path(
    get,
    path = "/health/ready",
    operation_id = "ready",
    responses(
        (status = 200, description = "It can", content_type = "application/json"),
        (status = 503, description = "It cannot; `because` has the reasons by name", content_type = "application/json"),
    ),
    security(())
)]
async fn ready(readiness: web::Data<Readiness>) -> HttpResponse {
    let obstacles = readiness.obstacles();
    let notes = readiness.notes();
    let (mut answer, mut body) = if obstacles.is_empty() {
        (HttpResponse::Ok(), serde_json::json!({"status": "ready"}))
    } else {
        let body = serde_json::json!({"status": "not ready", "because": obstacles});
        (HttpResponse::ServiceUnavailable(), body)
    };
    if !notes.is_empty()
        && let Some(body) = body.as_object_mut()
    {
        body.insert("notes".into(), serde_json::json!(notes));
    }
    answer.json(body)
}

/// The metrics, in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    responses((status = 200, description = "All metrics", body = String, content_type = "text/plain")),
    security(())
)]
async fn text(metrics: web::Data<Metrics>) -> HttpResponse {
    match metrics.text() {
        Ok(text) => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "text/plain; version=0.0.4"))
            .body(text),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "operations",
        description = "The operations port of every service, for monitoring: whoever reaches it may read it."
    ),
    paths(live, ready, text)
)]
struct Document;

/// The OpenAPI document of the operations port.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
