//! The service's own port.

use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpServer, web};
use gha_slurm_telemetry::{Metrics, prometheus};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::settings::HttpSettings;

/// Threads that answer; a service waits more than it computes, and idle memory counts.
const WORKERS: usize = 2;
/// A client that does not send its request head in this time is cut off.
const REQUEST_HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Requests in flight get this long when the service stops.
const SHUTDOWN_TIMEOUT_S: u64 = 20;

/// An HTTP server with problem documents, request spans and request metrics.
pub struct HttpService {
    server: actix_web::dev::Server,
    port: u16,
}

/// Counts of requests, by route pattern.
#[derive(Clone)]
struct RequestMetrics {
    seconds: prometheus::HistogramVec,
}

impl HttpService {
    /// Binds the port of the section `[http]`; `routes` adds the service's routes and data.
    pub fn bind(
        settings: &HttpSettings,
        metrics: &Metrics,
        routes: impl Fn(&mut web::ServiceConfig) + Send + Clone + 'static,
    ) -> anyhow::Result<Self> {
        Self::bind_section("http", settings, metrics, routes)
    }

    /// Binds the port of another section, which also names its metric.
    pub fn bind_section(
        section: &str,
        settings: &HttpSettings,
        metrics: &Metrics,
        routes: impl Fn(&mut web::ServiceConfig) + Send + Clone + 'static,
    ) -> anyhow::Result<Self> {
        let seconds = metrics.seconds(
            &format!("gha_slurm_{section}_request_seconds"),
            "Time to answer HTTP requests, by method, route pattern and status",
            &["method", "route", "status"],
        )?;
        let request_metrics = RequestMetrics { seconds };
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(request_metrics.clone()))
                .wrap(from_fn(observe))
                .configure(crate::problem::configure)
                .configure(routes.clone())
                .default_service(web::to(crate::problem::not_found))
        })
        .workers(WORKERS)
        .client_request_timeout(REQUEST_HEAD_DEADLINE)
        .shutdown_timeout(SHUTDOWN_TIMEOUT_S)
        .disable_signals();
        let server = match &settings.tls {
            None => server.bind(settings.listen),
            Some(tls) => {
                let config = tls.config(&format!("{section}.tls"))?;
                server.bind_rustls_0_23(settings.listen, config)
            }
        }
        .map_err(|e| anyhow::anyhow!("{section}.listen: {}: {e}", settings.listen))?;
        let port = server.addrs().first().map_or(0, std::net::SocketAddr::port);
        Ok(Self {
            server: server.run(),
            port,
        })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers until `stop`, then finishes what is in flight.
    pub async fn run_until_stopped(self, stop: CancellationToken) -> anyhow::Result<()> {
        let handle = self.server.handle();
        tokio::select! {
            result = self.server => result.map_err(Into::into),
            () = stop.cancelled() => { handle.stop(true).await; Ok(()) }
        }
    }
}

async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let metrics = request.app_data::<web::Data<RequestMetrics>>().cloned();
    let method = request.method().to_string();
    let route = request
        .match_pattern()
        .unwrap_or_else(|| "unmatched".into());
    let span = tracing::info_span!("request", http.method = %method, http.route = %route);
    if let Some(parent) = request
        .headers()
        .get("traceparent")
        .and_then(|v| v.to_str().ok())
    {
        gha_slurm_telemetry::set_parent(&span, parent);
    }
    let start = std::time::Instant::now();
    let result = next.call(request).instrument(span.clone()).await;
    let elapsed = start.elapsed();
    let status = match &result {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    if let Some(metrics) = metrics {
        metrics
            .seconds
            .with_label_values(&[method.as_str(), route.as_str(), status.as_str()])
            .observe(elapsed.as_secs_f64());
    }
    span.in_scope(|| {
        tracing::debug!(
            http.status = status.as_u16(),
            duration_ms = elapsed.as_millis() as u64,
            "answered"
        );
    });
    result
}
