//! The settings; `deploy/config/webhook-ingest.toml` is a commented sample.

use std::num::{NonZeroU32, NonZeroU64};

use gha_slurm_service_kit::client_address::Networks;
use gha_slurm_service_kit::settings::{AmqpSettings, HttpSettings, OperationsSettings, secrets};
use gha_slurm_telemetry::LogSettings;
use secrecy::SecretString;
use serde::Deserialize;

/// GitHub delivers no payload larger than 25 MB (GitHub docs, "Webhook events and payloads").
const GITHUB_PAYLOAD_CAP: NonZeroU32 = NonZeroU32::new(25 << 20).unwrap();
/// One of the largest bodies, and more than a thousand usual ones.
const BODIES_IN_HAND: NonZeroU32 = NonZeroU32::new(40 << 20).unwrap();
/// GitHub waits 10 s for the answer (GitHub docs, "Best practices for using webhooks").
const BODY_DEADLINE_S: NonZeroU64 = NonZeroU64::new(10).unwrap();
/// Less than GitHub waits, so that it hears why.
const PUBLISH_DEADLINE_S: NonZeroU64 = NonZeroU64::new(8).unwrap();

/// webhook-ingest's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Logs.
    #[serde(default)]
    pub log: LogSettings,
    /// Where GitHub's deliveries arrive.
    #[serde(default = "default_http")]
    pub http: HttpSettings,
    /// Liveness, readiness, metrics.
    #[serde(default = "default_operations")]
    pub operations: OperationsSettings,
    /// RabbitMQ.
    pub amqp: AmqpSettings,
    /// Deliveries.
    pub webhook: WebhookSettings,
}

impl gha_slurm_service_kit::Settings for Settings {
    const PREFIX: &'static str = "WEBHOOK_INGEST";
    const SECRETS: &'static [&'static str] = &["amqp.url", "webhook.secret"];
}

fn default_http() -> HttpSettings {
    HttpSettings::plain(std::net::SocketAddr::from(([127, 0, 0, 1], 8001)))
}

fn default_operations() -> OperationsSettings {
    OperationsSettings {
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 9001)),
    }
}

/// `[webhook]`: what a delivery may cost, and who may send one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// The webhook secret; two of them during a rotation, as a list or as two lines.
    #[serde(deserialize_with = "secrets")]
    pub secret: Vec<SecretString>,
    /// Networks from which deliveries are taken, such as the `hooks` of `GET https://api.github.com/meta`; from anywhere, if it is
    /// not set.
    #[serde(default)]
    pub allowed_addresses: Networks,
    /// Largest body, bytes.
    #[serde(default = "max_body_bytes")]
    pub max_body_bytes: NonZeroU32,
    /// Most bytes of all bodies in hand together; whoever needs more is told to come again.
    #[serde(default = "max_bodies_bytes")]
    pub max_bodies_bytes: NonZeroU32,
    /// Seconds in which a body must have arrived.
    #[serde(default = "body_deadline")]
    pub body_deadline_s: NonZeroU64,
    /// Seconds in which RabbitMQ must have confirmed an event.
    #[serde(default = "publish_deadline")]
    pub publish_deadline_s: NonZeroU64,
}

fn max_body_bytes() -> NonZeroU32 {
    GITHUB_PAYLOAD_CAP
}

fn max_bodies_bytes() -> NonZeroU32 {
    BODIES_IN_HAND
}

fn body_deadline() -> NonZeroU64 {
    BODY_DEADLINE_S
}

fn publish_deadline() -> NonZeroU64 {
    PUBLISH_DEADLINE_S
}
