#![doc = include_str!("../README.md")]

mod access;
mod application;
mod builds;
mod cookies;
mod github;
mod mapping;
mod people;
mod public_repositories;
mod resolve;
mod routes;
mod session;
pub mod settings;
mod sign_in;
mod sign_in_settings;
mod state;
mod token_broker;
mod usage;
mod users;
mod web_application;

pub use application::Application;
pub use routes::openapi;
pub use settings::Settings;
