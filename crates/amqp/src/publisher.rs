//! The confirmed publisher.

use std::time::Duration;

use gha_slurm_contract::Event;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::topology::{Broker, EVENTS_EXCHANGE, Interrupted, PERSISTENT, Pauses, open};

/// How often an idle connection is looked at; a broken one is noticed at once by whoever publishes.
const HEALTH_INTERVAL: Duration = Duration::from_millis(200);
/// A broker that takes longer to confirm (a quorum queue that lost its leader) is asked again on a new channel.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(3);
/// Before an event that the broker refused, because a queue is full, is published again.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// Why an event is not in the broker's hands.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The broker was away, or silent, for longer than the deadline. It may or may not have the event: publishing it
    /// again is safe.
    #[error("RabbitMQ did not confirm within {0:?}")]
    Unavailable(Duration),
    /// The broker took it and threw it away: no queue is bound.
    #[error("RabbitMQ has no queue for routing key {0}")]
    Unroutable(String),
    /// The event does not serialise.
    #[error("the event does not serialise: {0}")]
    Serialise(#[from] serde_json::Error),
}

/// Publishes events; every call returns only after the broker's confirm. Many callers share one channel. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    channel: watch::Receiver<Option<Channel>>,
    deadline: Duration,
}

impl Publisher {
    /// Starts the connection's supervisor, which reconnects until `stop`. `on_state` is called with whether
    /// the broker is connected.
    pub fn start(
        broker: Broker,
        name: &'static str,
        deadline: Duration,
        stop: CancellationToken,
        on_state: impl Fn(Result<(), Interrupted>) + Send + 'static,
    ) -> Self {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(supervise(broker, name, sender, stop, on_state));
        Self {
            channel: receiver,
            deadline,
        }
    }

    /// Publishes, persistent and mandatory, and waits for the confirm.
    pub async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        let body = serde_json::to_vec(event)?;
        let mut headers = FieldTable::default();
        if let Some(traceparent) = gha_slurm_telemetry::current_traceparent() {
            headers.insert(
                "traceparent".into(),
                AMQPValue::LongString(traceparent.into()),
            );
        }
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_message_id(event.delivery.as_str().into())
            .with_type(event.name().into())
            .with_headers(headers);
        let key = event.routing_key();
        match tokio::time::timeout(
            self.deadline,
            self.until_confirmed(&key, &body, &properties),
        )
        .await
        {
            Ok(result) => result,
            Err(_) => Err(PublishError::Unavailable(self.deadline)),
        }
    }

    async fn until_confirmed(
        &self,
        key: &str,
        body: &[u8],
        properties: &BasicProperties,
    ) -> Result<(), PublishError> {
        let mut current = self.channel.clone();
        loop {
            let channel = match current.wait_for(Option::is_some).await {
                Ok(channel) => channel.clone(),
                // The supervisor has stopped: so does this process.
                Err(_) => return Err(PublishError::Unavailable(self.deadline)),
            };
            let Some(channel) = channel else { continue };
            let options = BasicPublishOptions {
                mandatory: true,
                ..Default::default()
            };
            let sent = channel
                .basic_publish(
                    EVENTS_EXCHANGE.into(),
                    key.into(),
                    options,
                    body,
                    properties.clone(),
                )
                .await;
            let confirmation = match sent {
                // A connection that dies may leave the confirm unanswered forever.
                Ok(confirm) => tokio::select! {
                    confirmation = confirm => confirmation,
                    _ = current.changed() => continue,
                    () = tokio::time::sleep(CONFIRM_PATIENCE) => {
                        // The supervisor opens a new channel; publishing again is safe.
                        let _ = channel.close(200, "no confirm".into()).await;
                        let _ = current.changed().await;
                        continue;
                    }
                },
                Err(error) => Err(error),
            };
            match confirmation {
                Ok(Confirmation::Ack(None)) => return Ok(()),
                // Returned and then acknowledged: a confirm does not mean routed.
                Ok(Confirmation::Ack(Some(_))) => {
                    return Err(PublishError::Unroutable(key.to_owned()));
                }
                Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => {
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "publish failed; waiting for a new connection");
                    let _ = tokio::time::timeout(HEALTH_INTERVAL, current.changed()).await;
                }
            }
        }
    }
}

async fn supervise(
    broker: Broker,
    name: &'static str,
    sender: watch::Sender<Option<Channel>>,
    stop: CancellationToken,
    on_state: impl Fn(Result<(), Interrupted>) + Send + 'static,
) {
    let mut pauses = Pauses::new();
    while !stop.is_cancelled() {
        let opened = async {
            let (connection, channel) = open(&broker, name).await?;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok::<_, lapin::Error>((connection, channel))
        };
        match opened.await {
            Ok((connection, channel)) => {
                pauses = Pauses::new();
                on_state(Ok(()));
                sender.send_replace(Some(channel.clone()));
                while connection.status().connected() && channel.status().connected() {
                    tokio::select! {
                        () = stop.cancelled() => {
                            let _ = connection.close(200, "bye".into()).await;
                            return;
                        }
                        () = tokio::time::sleep(HEALTH_INTERVAL) => {}
                    }
                }
                sender.send_replace(None);
                on_state(Err(Interrupted::Ended));
                tracing::warn!("the connection to RabbitMQ is lost");
            }
            Err(error) => {
                tracing::warn!(%error, "no connection to RabbitMQ");
                on_state(Err(Interrupted::Failed(error)));
            }
        }
        tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(pauses.next()) => {} }
    }
}
