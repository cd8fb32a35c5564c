//! The settings; `deploy/config/webhook-ingest.toml` is a commented sample.

use std::num::{NonZeroU32, NonZeroU64};

use gha_slurm_service_kit::body::BodyLimits;
use gha_slurm_service_kit::client_address::Networks;
use gha_slurm_service_kit::settings::{
    AmqpSettings, HttpSettings, OperationsSettings, Problems, check_listens, secrets,
};
use gha_slurm_telemetry::LogSettings;
use secrecy::SecretString;
use serde::Deserialize;

/// GitHub delivers no payload larger than 25 MB (GitHub docs, "Webhook events and payloads").
const GITHUB_PAYLOAD_CAP: NonZeroU32 = NonZeroU32::new(25 << 20).unwrap();
/// One of the largest bodies, and more than a thousand usual ones.
const BODIES_IN_HAND: NonZeroU32 = NonZeroU32::new(40 << 20).unwrap();
/// GitHub waits 10 s for the answer (GitHub docs, "Best practices for using webhooks").
const GITHUB_PATIENCE_S: NonZeroU64 = NonZeroU64::new(10).unwrap();
const BODY_DEADLINE_S: NonZeroU64 = GITHUB_PATIENCE_S;
/// Less than GitHub waits, so that it hears why.
const PUBLISH_DEADLINE_S: NonZeroU64 = NonZeroU64::new(8).unwrap();

/// webhook-ingest's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Accept addresses without TLS beyond this machine, though whoever is on the way can read and change what is sent.
    #[serde(default)]
    pub insecure: bool,
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

    fn check(&self, problems: &mut Problems) {
        self.amqp.check(problems);
        self.http.check("http", problems);
        let listens = [
            ("operations.listen", self.operations.listen),
            ("http.listen", self.http.listen),
        ];
        check_listens(&listens, problems);
        problems.note("webhook.max_bodies_bytes", self.webhook.check_bodies());
        if self.webhook.publish_deadline_s >= GITHUB_PATIENCE_S {
            problems.add(
                "webhook.publish_deadline_s",
                format_args!("must be less than {GITHUB_PATIENCE_S}: GitHub does not wait longer for the answer"),
            );
        }
    }
}

impl WebhookSettings {
    /// One of the largest bodies must fit into what all may take.
    pub(crate) fn check_bodies(&self) -> Result<(), BodiesTooSmall> {
        let (largest, all) = (self.max_body_bytes, self.max_bodies_bytes);
        if BodyLimits::fits(largest.get(), all.get()) {
            Ok(())
        } else {
            Err(BodiesTooSmall { largest, all })
        }
    }
}

/// `webhook.max_bodies_bytes` does not suffice.
#[derive(Debug, thiserror::Error)]
#[error(
    "{all} is too little for one body of webhook.max_body_bytes ({largest}): a quarter of it is kept for bodies of up to 128 KiB"
)]
pub(crate) struct BodiesTooSmall {
    largest: NonZeroU32,
    all: NonZeroU32,
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
