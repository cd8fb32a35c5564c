#![doc = include_str!("../README.md")]

mod consumer;
mod publisher;
mod topology;

pub use consumer::{Outcome, consume};
pub use publisher::{PublishError, Publisher};
pub use topology::{
    Broker, BrokerError, DEAD_QUEUE, Disconnected, EVENTS_EXCHANGE, LAUNCHER_QUEUE,
};
