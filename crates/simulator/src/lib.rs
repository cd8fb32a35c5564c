#![doc = include_str!("../README.md")]

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
pub mod standin;
mod webhooks;
mod world;

pub use app_key::AppKeyError;
pub use application::Simulator;
pub use handle::Handle;
pub use settings::{AppFacts, AppKey, Settings, Timing};
