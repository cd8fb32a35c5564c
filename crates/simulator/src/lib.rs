#![doc = include_str!("../README.md")]
#![expect(
    clippy::disallowed_types,
    reason = "tests and the demo are the only ones who call it"
)]

mod app_key;
mod application;
mod bodies;
mod control;
mod handle;
pub mod model;
pub mod request;
mod rest;
mod runner_protocol;
mod settings;
mod shared;
mod sign_in;
pub mod standin;
mod webhooks;
mod world;

pub use app_key::AppKeyError;
pub use application::Simulator;
pub use handle::Handle;
pub use settings::{AppFacts, AppKey, Settings, Timing};
pub use world::FIRST_ACCOUNT;
