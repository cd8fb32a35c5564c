//! Exchanges and queues.

use std::path::Path;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use secrecy::{ExposeSecret, SecretString};

/// Topic exchange of the events; routing key `<event>.<action>`.
pub const EVENTS_EXCHANGE: &str = "gha-slurm.events";
/// Queue of the launcher.
pub const LAUNCHER_QUEUE: &str = "launcher.events";
/// Where events go that could not be handled, for a person to look at.
pub const DEAD_QUEUE: &str = "launcher.events.dead";

/// The exchange of the dead letters.
pub(crate) const DEAD_EXCHANGE: &str = "gha-slurm.dead";
/// RabbitMQ docs, "Quorum queues", poison message handling.
pub(crate) const DELIVERY_LIMIT: i32 = 20;
/// Delivery mode 2 is persistent (AMQP 0.9.1, basic properties).
pub(crate) const PERSISTENT: u8 = 2;
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Where RabbitMQ is.
#[derive(Debug, Clone)]
pub struct Broker {
    url: SecretString,
    tls: OwnedTLSConfig,
}

impl Broker {
    /// The broker at `url`, `amqp://` or `amqps://`. `ca_file`: a PEM file of CAs that are trusted beside the system's.
    pub fn new(url: SecretString, ca_file: Option<&Path>) -> Result<Self, BrokerError> {
        let cert_chain = match ca_file {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| BrokerError(format!("{}: {error}", path.display())))?;
                if !text.contains("-----BEGIN CERTIFICATE-----") {
                    let path = path.display();
                    return Err(BrokerError(format!(
                        "{path}: there is no certificate (PEM) in it"
                    )));
                }
                Some(text)
            }
        };
        Ok(Self {
            url,
            tls: OwnedTLSConfig {
                identity: None,
                cert_chain,
            },
        })
    }
}

/// `amqp.ca_file` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("amqp.ca_file: {0}")]
pub struct BrokerError(String);

/// Why no events pass through RabbitMQ.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// It ended without an error.
    #[error("RabbitMQ ended the connection")]
    Ended,
    /// It failed, or could not be made.
    #[error("no connection to RabbitMQ: {0}")]
    Failed(#[from] lapin::Error),
    /// There is a connection, but no event is done with.
    #[error("none of {waiting} events has been applied for {} s", .since.as_secs())]
    Stalled {
        /// Events that are queued or being handled.
        waiting: usize,
        /// For so long.
        since: Duration,
    },
}

/// Opens a connection and a channel, and declares everything.
pub(crate) async fn open(broker: &Broker, name: &str) -> lapin::Result<(Connection, Channel)> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime()?;
    let attempt = async {
        let (url, tls) = (broker.url.expose_secret(), broker.tls.clone());
        let connection = Connection::connect_with_config(url, properties, tls, runtime).await?;
        let channel = connection.create_channel().await?;
        declare(&channel).await?;
        Ok((connection, channel))
    };
    match tokio::time::timeout(CONNECT_DEADLINE, attempt).await {
        Ok(result) => result,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// How many messages of a queue no consumer has.
pub(crate) async fn depth(channel: &Channel, queue: &str) -> lapin::Result<u32> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let queue = channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await?;
    Ok(queue.message_count())
}

async fn declare(channel: &Channel) -> lapin::Result<()> {
    let exchange = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let queue = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let none = FieldTable::default;
    let text = |t: &str| AMQPValue::LongString(t.into());

    channel
        .exchange_declare(
            EVENTS_EXCHANGE.into(),
            ExchangeKind::Topic,
            exchange,
            none(),
        )
        .await?;
    channel
        .exchange_declare(DEAD_EXCHANGE.into(), ExchangeKind::Direct, exchange, none())
        .await?;

    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    channel
        .queue_declare(DEAD_QUEUE.into(), queue, arguments)
        .await?;
    channel
        .queue_bind(
            DEAD_QUEUE.into(),
            DEAD_EXCHANGE.into(),
            LAUNCHER_QUEUE.into(),
            QueueBindOptions::default(),
            none(),
        )
        .await?;

    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert(
        "x-delivery-limit".into(),
        AMQPValue::LongInt(DELIVERY_LIMIT),
    );
    arguments.insert("x-dead-letter-exchange".into(), text(DEAD_EXCHANGE));
    arguments.insert("x-dead-letter-routing-key".into(), text(LAUNCHER_QUEUE));
    // At-least-once dead-lettering needs reject-publish: a full queue refuses the publish instead of dropping.
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    channel
        .queue_declare(LAUNCHER_QUEUE.into(), queue, arguments)
        .await?;
    channel
        .queue_bind(
            LAUNCHER_QUEUE.into(),
            EVENTS_EXCHANGE.into(),
            "#".into(),
            QueueBindOptions::default(),
            none(),
        )
        .await?;
    Ok(())
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_millis(6400);

/// The pauses between attempts to reach the broker: doubled each time up to a last one, then repeated forever; with jitter.
#[derive(Debug)]
pub(crate) struct Pauses(ExponentialBackoff);

impl Pauses {
    /// From the shortest one.
    pub(crate) fn new() -> Self {
        Self(
            ExponentialBuilder::default()
                .with_min_delay(FIRST_PAUSE)
                .with_max_delay(LAST_PAUSE)
                .without_max_times()
                .with_jitter()
                .build(),
        )
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> Duration {
        self.0.next().unwrap_or(LAST_PAUSE)
    }
}
