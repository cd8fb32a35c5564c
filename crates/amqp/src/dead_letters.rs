//! Events that could not be handled: put aside with the reason, looked at, and put back.

use std::time::Duration;

use gha_slurm_contract::Event;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};

use crate::topology::{
    Broker, DEAD_EXCHANGE, DEAD_QUEUE, DELIVERY_LIMIT, LAUNCHER_QUEUE, PERSISTENT, depth, open,
};

/// Header with the reason.
const REASON: &str = "x-gha-slurm-reason";
/// Headers of RabbitMQ that belong to one delivery, or say how an event got here.
const OF_BROKER: [&str; 6] = [
    "x-delivery-count",
    "x-acquired-count",
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
];
/// The default exchange, which routes by the name of a queue (AMQP 0.9.1).
const TO_QUEUE: &str = "";
const CONFIRM_PATIENCE: Duration = Duration::from_secs(10);
const GET_PATIENCE: Duration = Duration::from_secs(10);
/// A reason longer than this is cut.
const LONGEST_REASON: usize = 2000;

/// An event that waits for a person.
#[derive(Debug)]
pub struct DeadLetter {
    /// GitHub's delivery GUID.
    pub delivery: Option<String>,
    /// Why it could not be handled.
    pub reason: String,
    /// What it says; the error says why it cannot be read.
    pub event: Result<Event, serde_json::Error>,
}

/// Why the dead letters cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum DeadLettersError {
    /// RabbitMQ cannot be reached, or ended the connection.
    #[error("RabbitMQ: {0}")]
    Broker(#[from] lapin::Error),
    /// It did not answer.
    #[error("RabbitMQ did not answer within {} s", GET_PATIENCE.as_secs())]
    Silent,
}

/// The oldest `most` dead letters and how many there are. They stay; those behind them become the oldest.
pub async fn list(broker: &Broker, most: u32) -> Result<(Vec<DeadLetter>, u32), DeadLettersError> {
    let mut found = Vec::new();
    let all = each(broker, most, |letters, delivery| {
        found.push(read(&delivery));
        async move {
            // Not given back, which would count against a delivery limit: after so many looks, RabbitMQ 4 drops it.
            letters
                .hand_on(&delivery, TO_QUEUE, DEAD_QUEUE, Reason::Stays)
                .await
        }
    })
    .await?;
    Ok((found, all))
}

/// Puts dead letters back into the launcher's queue: those whose delivery GUID `is_wanted`. Returns how many. Handling an event twice
/// changes nothing.
pub async fn replay(
    broker: &Broker,
    is_wanted: impl Fn(&DeadLetter) -> bool,
) -> Result<u32, DeadLettersError> {
    let mut replayed = 0;
    each(broker, u32::MAX, |letters, delivery| {
        let is_wanted = is_wanted(&read(&delivery));
        replayed += u32::from(is_wanted);
        async move {
            if is_wanted {
                letters.put_back(&delivery).await
            } else {
                letters
                    .hand_on(&delivery, TO_QUEUE, DEAD_QUEUE, Reason::Stays)
                    .await
            }
        }
    })
    .await?;
    Ok(replayed)
}

/// Does something with each of the `most` oldest dead letters, and returns how many there are.
async fn each<F>(
    broker: &Broker,
    most: u32,
    mut visit: impl FnMut(Letters, Delivery) -> F,
) -> Result<u32, DeadLettersError>
where
    F: Future<Output = lapin::Result<bool>>,
{
    let (connection, channel) = open(broker, "gha-slurm dead-letters").await?;
    let letters = Letters::on(channel.clone()).await?;
    let all = depth(&channel, DEAD_QUEUE).await?;
    for _ in 0..all.min(most) {
        let got = channel.basic_get(DEAD_QUEUE.into(), BasicGetOptions::default());
        let got = tokio::time::timeout(GET_PATIENCE, got)
            .await
            .map_err(|_| DeadLettersError::Silent)??;
        // Somebody else took them.
        let Some(message) = got else { break };
        visit(letters.clone(), message.delivery).await?;
    }
    let _ = connection.close(200, "bye".into()).await;
    Ok(all)
}

fn read(delivery: &Delivery) -> DeadLetter {
    let headers = delivery.properties.headers().as_ref();
    let reason = headers.and_then(|headers| text(headers.inner().get(REASON)?));
    let by_broker = || {
        format!(
            "its handler failed {DELIVERY_LIMIT} times; the log of the launcher says why, under its delivery"
        )
    };
    DeadLetter {
        delivery: delivery
            .properties
            .message_id()
            .as_ref()
            .map(ToString::to_string),
        reason: reason.unwrap_or_else(by_broker),
        event: serde_json::from_slice(&delivery.data),
    }
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// Moves events from one queue to another, and loses none: the copy is confirmed before the original is acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Letters(Channel);

impl Letters {
    pub(crate) async fn on(channel: Channel) -> lapin::Result<Self> {
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Self(channel))
    }

    /// To the end of the launcher's queue, with all its deliveries before it.
    pub(crate) async fn put_back(&self, delivery: &Delivery) -> lapin::Result<bool> {
        self.hand_on(delivery, TO_QUEUE, LAUNCHER_QUEUE, Reason::Goes)
            .await
    }

    /// To the dead letters.
    pub(crate) async fn bury(&self, delivery: &Delivery, reason: &str) -> lapin::Result<bool> {
        let reason: String = reason.chars().take(LONGEST_REASON).collect();
        self.hand_on(delivery, DEAD_EXCHANGE, LAUNCHER_QUEUE, Reason::Is(reason))
            .await
    }

    /// If the copy is not confirmed, the original is given back.
    async fn hand_on(
        &self,
        delivery: &Delivery,
        exchange: &str,
        key: &str,
        reason: Reason,
    ) -> lapin::Result<bool> {
        let properties = properties(&delivery.properties, reason);
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let publish = async {
            let body = &delivery.data;
            let confirm =
                self.0
                    .basic_publish(exchange.into(), key.into(), options, body, properties);
            confirm.await?.await
        };
        match tokio::time::timeout(CONFIRM_PATIENCE, publish).await {
            Ok(Ok(Confirmation::Ack(None))) => delivery.ack(BasicAckOptions::default()).await,
            Ok(Err(error)) => Err(error),
            // Refused, returned, or silent.
            Ok(Ok(_)) | Err(_) => {
                tracing::warn!(key, "RabbitMQ did not take an event; it is given back");
                let requeue = BasicNackOptions {
                    requeue: true,
                    ..BasicNackOptions::default()
                };
                delivery.nack(requeue).await
            }
        }
    }
}

/// What becomes of the reason that an event has.
enum Reason {
    Stays,
    Goes,
    Is(String),
}

fn properties(original: &BasicProperties, reason: Reason) -> BasicProperties {
    let keeps_reason = matches!(reason, Reason::Stays);
    let mut headers = FieldTable::default();
    for (name, value) in original.headers().iter().flatten() {
        let is_reason = name.as_str() == REASON;
        if !OF_BROKER.contains(&name.as_str()) && (keeps_reason || !is_reason) {
            headers.insert(name.clone(), value.clone());
        }
    }
    if let Reason::Is(reason) = reason {
        headers.insert(REASON.into(), AMQPValue::LongString(reason.into()));
    }
    original
        .clone()
        .with_delivery_mode(PERSISTENT)
        .with_headers(headers)
}
