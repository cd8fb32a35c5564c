#![doc = include_str!("../README.md")]

mod consumer;
pub mod dead_letters;
mod publisher;
mod topology;

pub use consumer::{Outcome, consume};
pub use publisher::{PublishError, Publisher};
pub use topology::{Broker, BrokerError, DEAD_QUEUE, EVENTS_EXCHANGE, Interrupted, LAUNCHER_QUEUE};
