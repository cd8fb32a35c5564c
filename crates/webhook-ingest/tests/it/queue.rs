//! What is in the launcher's queue.

use std::collections::BTreeSet;

use gha_slurm_amqp::LAUNCHER_QUEUE;
use gha_slurm_contract::Event;
use gha_slurm_test_support::wait_until;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};

use crate::DEADLINE;

/// A message of the launcher's queue.
pub(crate) struct Message {
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: serde_json::Value,
}

impl Message {
    pub(crate) fn event(&self) -> Event {
        serde_json::from_value(self.body.clone()).unwrap()
    }
}

/// Takes everything out of the queue. Does not wait for what may still come: what is confirmed is there.
pub(crate) async fn drain(amqp_url: &str) -> Vec<Message> {
    let connection = Connection::connect(amqp_url, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut messages = Vec::new();
    while let Some(message) = channel
        .basic_get(LAUNCHER_QUEUE.into(), BasicGetOptions::default())
        .await
        .unwrap()
    {
        let delivery = message.delivery;
        messages.push(Message {
            routing_key: delivery.routing_key.to_string(),
            properties: delivery.properties.clone(),
            body: serde_json::from_slice(&delivery.data).unwrap(),
        });
        delivery
            .acker
            .ack(BasicAckOptions::default())
            .await
            .unwrap();
    }
    connection.close(200, "bye".into()).await.unwrap();
    messages
}

/// Takes messages out of the queue until these deliveries were seen; the others too.
pub(crate) async fn drain_until(amqp_url: &str, expected: &BTreeSet<String>) -> Vec<String> {
    let seen = std::sync::Mutex::new(Vec::new());
    wait_until(
        "every delivery answered 202 is in the queue",
        DEADLINE,
        || async {
            let more = drain(amqp_url).await;
            let mut seen = seen.lock().unwrap();
            seen.extend(more.iter().map(|m| m.event().delivery));
            expected.iter().all(|d| seen.contains(d)).then_some(())
        },
    )
    .await;
    seen.into_inner().unwrap()
}
