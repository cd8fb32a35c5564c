#![doc = include_str!("../README.md")]

mod access;
mod application;
mod builds;
mod mapping;
mod public_repositories;
mod resolve;
mod routes;
pub mod settings;
mod state;
mod token_broker;
mod usage;
mod users;
mod web_application;

pub use application::Application;
pub use routes::openapi;
pub use settings::Settings;
