//! The relay: what nodes say to token-broker, where they reach only the agent. Three calls pass, as they are, and nothing else.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_service_kit::authentication::token_missing;
use gha_slurm_service_kit::body::LargestBody;
use gha_slurm_service_kit::problem::method_not_allowed;
use gha_slurm_service_kit::{ApiError, Body};

use crate::settings::RelaySettings;

/// What passes: routes of token-broker, which decides who is let in.
pub const PATHS: [&str; 3] = ["/gha/runner", "/gha/runner/release", PROGRESS];
const PROGRESS: &str = "/gha/runner/progress";
/// Headers of a call and of its answer that matter.
const ASKED: [&str; 3] = ["authorization", "content-type", "traceparent"];
const ANSWERED: [&str; 4] = ["content-type", "retry-after", "www-authenticate", "allow"];
/// As token-broker's: a report of progress holds at most a log tail, escaped.
const PROGRESS_LIMIT: usize = 1 << 20;
/// The other bodies hold a few words. Whoever sends them may be a stranger: token-broker says who is let in.
const BODY_LIMIT: usize = 4 << 10;
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// token-broker may wait for GitHub.
const CALL_DEADLINE: Duration = Duration::from_secs(60);
const RETRY_AFTER_S: u64 = 5;

/// The way to token-broker.
#[derive(Clone)]
pub(crate) struct Relay {
    http: reqwest::Client,
    upstream: String,
}

impl Relay {
    pub(crate) fn new(settings: &RelaySettings) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(CALL_DEADLINE)
            .connect_timeout(CONNECT_DEADLINE)
            // The tokens are for token-broker alone.
            .redirect(reqwest::redirect::Policy::none());
        Ok(Self {
            http: settings
                .upstream_tls
                .apply(http, "relay.upstream_tls")?
                .build()?,
            upstream: settings.upstream.to_string(),
        })
    }

    pub(crate) fn configure(&self, config: &mut web::ServiceConfig) {
        config.app_data(web::Data::new(self.clone()));
        for path in PATHS {
            let largest = if path == PROGRESS {
                PROGRESS_LIMIT
            } else {
                BODY_LIMIT
            };
            config.service(
                web::resource(path)
                    .app_data(LargestBody(largest))
                    .route(web::post().to(forward))
                    .default_service(method_not_allowed("POST")),
            );
        }
    }
}

async fn forward(
    relay: web::Data<Relay>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    // token-broker says who is let in; it need not be asked about a call without a token.
    if !request.headers().contains_key(AUTHORIZATION) {
        return Err(token_missing());
    }
    // It counts until token-broker has it.
    let body = web::Bytes::from_owner(body.read().await?);
    let mut call = relay
        .http
        .post(format!("{}{}", relay.upstream, request.path()))
        .body(body);
    for name in ASKED {
        if let Some(value) = request.headers().get(name) {
            call = call.header(name, value.as_bytes());
        }
    }
    let answer = call
        .send()
        .await
        .map_err(|e| ApiError::unavailable("token-broker", &e.without_url(), RETRY_AFTER_S))?;
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = HttpResponse::build(status);
    for name in ANSWERED {
        if let Some(value) = answer.headers().get(name) {
            response.insert_header((name, value.as_bytes()));
        }
    }
    Ok(response.streaming(answer.bytes_stream()))
}
