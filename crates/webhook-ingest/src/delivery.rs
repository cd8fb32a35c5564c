//! The way of one delivery.

use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_amqp::{PublishError, Publisher};
use gha_slurm_auth::webhook;
use gha_slurm_contract::{Event, Problem};
use gha_slurm_domain::Clock;
use gha_slurm_github::payloads::Payload;
use gha_slurm_service_kit::client_address::{Networks, client_address};
use gha_slurm_service_kit::{ApiError, Body};
use gha_slurm_telemetry::Metrics;
use gha_slurm_telemetry::prometheus::{self, HistogramVec, IntCounterVec};
use secrecy::SecretString;
use serde::Serialize;
use tracing::Span;
use tracing::field::Empty;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::{OpenApi, ToSchema};

use crate::convert;
use crate::encoding::Encoding;
use crate::refusal::{Refusal, Unverified};

/// A GUID has 36 characters.
const MAX_GUID: usize = 64;
/// Longer than the longest name of an event of GitHub's.
const MAX_EVENT: usize = 64;
/// The event of a delivery whose signature has not been seen to be right: a stranger invents no labels of metrics.
const UNVERIFIED: &str = "unverified";

/// What a delivery needs.
pub(crate) struct Ingest {
    pub(crate) secrets: Vec<SecretString>,
    /// Who is let in; empty: anybody.
    pub(crate) allowed: Networks,
    pub(crate) publisher: Publisher,
    pub(crate) clock: Clock,
    pub(crate) metrics: IngestMetrics,
    pub(crate) unverified: Unverified,
}

/// The service's own numbers.
pub(crate) struct IngestMetrics {
    deliveries: IntCounterVec,
    publish_seconds: HistogramVec,
}

impl IngestMetrics {
    pub(crate) fn register(metrics: &Metrics) -> prometheus::Result<Self> {
        Ok(Self {
            deliveries: metrics.counter(
                "gha_slurm_webhook_deliveries_total",
                "Deliveries, by event and by what became of them",
                &["event", "outcome"],
            )?,
            publish_seconds: metrics.seconds(
                "gha_slurm_webhook_publish_seconds",
                "Time from publishing an event to the broker's confirm, by outcome",
                &["outcome"],
            )?,
        })
    }
}

/// What became of an accepted delivery.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// RabbitMQ has confirmed the event.
    Published,
    /// Nothing here acts upon this event.
    Ignored,
    /// The answer to GitHub's `ping`.
    Pong,
}

/// The answer to an accepted delivery, which GitHub shows in the App's settings.
#[derive(Debug, Serialize, ToSchema)]
struct Answer<'a> {
    /// `X-GitHub-Delivery`.
    delivery: &'a str,
    outcome: Outcome,
}

/// A delivery whose signature is right.
struct Verified<'a> {
    /// `X-GitHub-Event`.
    event: &'a str,
    /// `X-GitHub-Delivery`.
    guid: &'a str,
}

/// Takes a webhook of the GitHub App and answers when RabbitMQ has confirmed its event. GitHub sends it; the secret of the webhook
/// signs it.
#[utoipa::path(
    post,
    path = "/api/github/webhooks",
    operation_id = "receiveWebhook",
    params(
        ("X-Hub-Signature-256" = String, Header, description = "`sha256=` and the HMAC-SHA-256 of the body, in hexadecimal, with the webhook's secret"),
        ("X-GitHub-Event" = String, Header, description = "The event, such as `workflow_job`"),
        ("X-GitHub-Delivery" = String, Header, description = "The delivery's GUID; a redelivery keeps it"),
    ),
    request_body(
        description = "GitHub's payload; in a form, it is the field `payload`",
        content((Object = "application/json"), (Object = "application/x-www-form-urlencoded")),
    ),
    responses(
        (status = 200, description = "The answer to `ping`", body = Answer<'_>),
        (status = 202, description = "The event is published, or nothing acts upon it", body = Answer<'_>),
        (status = 400, description = "A header or the payload is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The signature is missing or wrong", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The address is not one of `webhook.allowed_addresses`", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The content type is neither JSON nor a form, or the body is compressed", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The event could not be written", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "RabbitMQ does not confirm, or too many large bodies arrive at once, or from this address: redeliver", body = Problem, content_type = "application/problem+json"),
    ),
    security(("webhookSignature" = []))
)]
#[tracing::instrument(name = "delivery", skip_all, fields(delivery.guid = Empty, delivery.event = Empty))]
pub(crate) async fn receive(
    request: HttpRequest,
    body: Result<Body, ApiError>,
    ingest: web::Data<Ingest>,
) -> Result<HttpResponse, Refusal> {
    let mut event = UNVERIFIED;
    let result = ingest.accept(&request, body, &mut event).await;
    let outcome = match &result {
        Ok((_, Outcome::Published)) => "published",
        Ok((_, Outcome::Ignored)) => "ignored",
        Ok((_, Outcome::Pong)) => "pong",
        Err(refusal) => refusal.code(),
    };
    ingest
        .metrics
        .deliveries
        .with_label_values(&[event, outcome])
        .inc();
    match result {
        Ok((delivery, outcome)) => {
            let mut response = match outcome {
                Outcome::Pong => HttpResponse::Ok(),
                Outcome::Published | Outcome::Ignored => HttpResponse::Accepted(),
            };
            Ok(response.json(Answer { delivery, outcome }))
        }
        Err(refusal) => {
            match &refusal {
                Refusal::Publish(error) => tracing::error!(%error, "a delivery is not published"),
                other if event == UNVERIFIED => ingest.unverified.log(other),
                other => tracing::info!(reason = %other, "a delivery is refused"),
            }
            Err(refusal)
        }
    }
}

impl Ingest {
    /// `event` becomes the event's name as soon as it can be believed.
    async fn accept<'r>(
        &self,
        request: &'r HttpRequest,
        body: Result<Body, ApiError>,
        event: &mut &'r str,
    ) -> Result<(&'r str, Outcome), Refusal> {
        self.check_address(request)?;
        let encoding = Encoding::of(request)?;
        let body = body.map_err(Refusal::Body)?;
        let signature = header(request, "X-Hub-Signature-256").ok_or(Refusal::NoSignature)?;
        let body = body.parts().await.map_err(Refusal::Body)?;
        webhook::verify_parts(&self.secrets, &body.iter(), signature)
            .map_err(Refusal::Signature)?;
        let body = body.join();
        let delivery = Verified::of(request)?;
        *event = label_of(delivery.event);
        let span = Span::current();
        span.record("delivery.guid", delivery.guid);
        span.record("delivery.event", delivery.event);
        let payload =
            Payload::parse(delivery.event, &encoding.json(&body)?).map_err(Refusal::Payload)?;
        // The event is small; the body need not wait for the broker.
        drop(body);
        let Some(payload) = payload else {
            return Ok((delivery.guid, Outcome::Ignored));
        };
        let Some(event) = convert::event(payload, delivery.guid.to_owned(), self.clock.now())
        else {
            return Ok((delivery.guid, Outcome::Pong));
        };
        self.publish(&event).await.map_err(Refusal::Publish)?;
        Ok((delivery.guid, Outcome::Published))
    }

    /// Before anything is read.
    fn check_address(&self, request: &HttpRequest) -> Result<(), Refusal> {
        let address = client_address(request);
        if self.allowed.is_empty() || address.is_some_and(|a| self.allowed.contain(a)) {
            Ok(())
        } else {
            Err(Refusal::Address)
        }
    }

    async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        let start = Instant::now();
        let result = self.publisher.publish(event).await;
        let outcome = match &result {
            Ok(()) => "confirmed",
            Err(PublishError::Unavailable(_)) => "unavailable",
            Err(PublishError::Unroutable(_)) => "unroutable",
            Err(PublishError::Serialise(_)) => "failed",
        };
        self.metrics
            .publish_seconds
            .with_label_values(&[outcome])
            .observe(start.elapsed().as_secs_f64());
        result
    }
}

impl<'r> Verified<'r> {
    fn of(request: &'r HttpRequest) -> Result<Self, Refusal> {
        let word = |name: &'static str, max: usize| {
            header(request, name)
                .filter(|v| !v.is_empty() && v.len() <= max)
                .filter(|v| {
                    v.bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                })
                .ok_or(Refusal::Header(name))
        };
        Ok(Self {
            event: word("X-GitHub-Event", MAX_EVENT)?,
            guid: word("X-GitHub-Delivery", MAX_GUID)?,
        })
    }
}

/// The event as a label. The signature does not cover the header, so whoever has seen one delivery can send it with any event.
fn label_of(event: &str) -> &str {
    if Payload::EVENTS.contains(&event) {
        event
    } else {
        "other"
    }
}

fn header<'r>(request: &'r HttpRequest, name: &str) -> Option<&'r str> {
    request.headers().get(name)?.to_str().ok()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "webhook-ingest",
        description = "What GitHub sends to webhook-ingest."
    ),
    paths(receive),
    modifiers(&Security)
)]
struct Document;

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let signature = ApiKeyValue::with_description(
            "X-Hub-Signature-256",
            "`sha256=` and the HMAC-SHA-256 of the body, in hexadecimal, with one of `webhook.secret`.",
        );
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme(
                "webhookSignature",
                SecurityScheme::ApiKey(ApiKey::Header(signature)),
            );
    }
}

/// The OpenAPI document of the service's port.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
