#![doc = include_str!("../README.md")]
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "test code: a broken set-up shall stop the test with its reason"
)]

mod postgres;
mod rabbitmq;
mod server;
mod wait;

pub use postgres::TestDatabase;
pub use rabbitmq::{PrivateRabbitMq, TestBroker};
pub use server::free_port;
pub use wait::wait_until;
