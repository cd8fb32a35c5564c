//! The service's own port.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, HeaderMap, HeaderValue, STRICT_TRANSPORT_SECURITY,
};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, ResponseError, web};
use gha_slurm_telemetry::{Metrics, prometheus};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::body::{BodyLimits, Unread};
use crate::client_address::unheard_proxy;
use crate::connection::Turn;
use crate::files;
use crate::places::Places;
use crate::problem::ApiError;
use crate::server::{Bound, Bounds};
use crate::settings::HttpSettings;

/// An HTTP server with problem documents, request spans and request metrics.
pub struct HttpService(Bound);

/// Threads that answer; a service waits more than it computes, and idle memory counts.
const WORKERS: usize = 2;
/// Requests in flight get this long when the service stops.
const SHUTDOWN_TIMEOUT_S: u64 = 20;
/// Browsers that were here by HTTPS once come by HTTPS for a year (RFC 6797).
const HTTPS_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");
/// Answers are for whoever asked, now: no cache keeps one unless its route says otherwise.
const NOT_STORED: HeaderValue = HeaderValue::from_static("no-store");

/// What is done with every request.
#[derive(Clone)]
struct Common {
    /// Counts of requests, by route pattern.
    seconds: prometheus::HistogramVec,
    tls: bool,
    /// Whether the log has named a proxy that is not trusted.
    warned: Arc<AtomicBool>,
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
        let common = Common {
            seconds,
            tls: settings.tls.is_some(),
            warned: Arc::default(),
        };
        let proxies = settings.trusted_proxies.clone();
        let limits = BodyLimits::default();
        let refused = metrics.counter(
            &format!("gha_slurm_{section}_connections_refused_total"),
            "Connections beyond http.connections_per_address",
            &[],
        )?;
        let tls = settings.tls.as_ref();
        let tls = tls.map(|tls| tls.config(&format!("{section}.tls")));
        let bounds = Bounds {
            workers: WORKERS,
            connections: files::connections(),
            shutdown_timeout_s: SHUTDOWN_TIMEOUT_S,
            places: Places::new(
                settings.connections_per_address.get().into(),
                settings.trusted_proxies.clone(),
            ),
            refused: refused.with_label_values::<&str>(&[]),
            tls: tls.transpose()?,
        };
        let app = move || {
            App::new()
                .app_data(web::Data::new(common.clone()))
                .app_data(web::Data::new(proxies.clone()))
                .app_data(web::Data::new(limits.clone()))
                .wrap(from_fn(observe))
                .configure(crate::problem::configure)
                .configure(routes.clone())
                .default_service(web::to(crate::problem::not_found))
        };
        let listen = settings.listen;
        Bound::bind(listen, bounds, app)
            .map(Self)
            .map_err(|e| anyhow::anyhow!("{section}.listen: {listen}: {e}"))
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// Answers until `stop`, then finishes what is in flight.
    pub async fn run_until_stopped(self, stop: CancellationToken) -> anyhow::Result<()> {
        self.0.run_until_stopped(stop).await
    }
}

/// The method as a label: anybody can make up others, and each would be a time series.
fn label_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "OTHER",
    }
}

/// 415 for a body that would have to be decompressed: a small one can become a thousand times as large.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), ApiError> {
    let encoded = headers
        .get_all(CONTENT_ENCODING)
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_encoding_unsupported",
            "The body is compressed",
        )
        .detail("Send it without Content-Encoding."));
    }
    Ok(())
}

fn not_due() -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "request_not_due",
        "This connection was to end",
    )
    .detail("A request with a chunked body is the last one on its connection.")
}

/// Middleware of every server: keeps the turns of a [connection](crate::connection).
pub(crate) async fn observe<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let common = request.app_data::<web::Data<Common>>().cloned();
    let method = label_of(request.method());
    let route = request
        .match_pattern()
        .unwrap_or_else(|| "unmatched".into());
    let span = tracing::info_span!("request", http.method = method, http.route = %route);
    if let Some(parent) = request
        .headers()
        .get("traceparent")
        .and_then(|v| v.to_str().ok())
    {
        gha_slurm_telemetry::set_parent(&span, parent);
    }
    if let Some(common) = &common
        && let Some(proxy) = unheard_proxy(request.request())
        && !common.warned.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(
            %proxy,
            "X-Forwarded-For is not believed, and all clients of this address count as one: if it is a reverse proxy, name it in http.trusted_proxies"
        );
    }
    let turn = request.request().conn_data::<Rc<Turn>>().cloned();
    let is_due = turn.as_ref().is_none_or(|turn| turn.begin(&request));
    let (request, unread) = Unread::set_aside(request);
    let start = std::time::Instant::now();
    let due = if is_due { Ok(()) } else { Err(not_due()) };
    let mut result = match due.and_then(|()| refuse_encoded(request.headers())) {
        Ok(()) => next
            .call(request)
            .instrument(span.clone())
            .await
            .map(ServiceResponse::map_into_left_body),
        Err(refusal) => Ok(request
            .into_response(refusal.error_response())
            .map_into_right_body()),
    };
    let elapsed = start.elapsed();
    let status = match &result {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    if let Some(common) = common {
        common
            .seconds
            .with_label_values(&[method, route.as_str(), status.as_str()])
            .observe(elapsed.as_secs_f64());
        if let Ok(response) = &mut result {
            let headers = response.headers_mut();
            if !headers.contains_key(CACHE_CONTROL) {
                headers.insert(CACHE_CONTROL, NOT_STORED);
            }
            if common.tls {
                headers.insert(STRICT_TRANSPORT_SECURITY, HTTPS_ONLY);
            }
        }
    }
    if let Some(turn) = turn {
        if turn.is_last()
            && let Ok(response) = &mut result
        {
            let head = response.response_mut().head_mut();
            head.set_connection_type(ConnectionType::Close);
        }
        turn.answered();
    }
    span.in_scope(|| {
        tracing::debug!(
            http.status = status.as_u16(),
            duration_ms = elapsed.as_millis() as u64,
            "answered"
        );
    });
    result.map(|response| unread.keep_in(response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_counted_by_names_that_nobody_can_make_up() {
        for method in [
            "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE",
        ] {
            assert_eq!(label_of(&method.parse().unwrap()), method);
        }
        for method in ["get", "FOO", "PROPFIND"] {
            assert_eq!(label_of(&method.parse().unwrap()), "OTHER");
        }
    }
}
