#![doc = include_str!("../README.md")]

mod application;
mod keys;
mod progress;
mod progress_tokens;
mod redemption;
mod repositories;
mod routes;
pub mod settings;

pub use application::Application;
pub use routes::openapi;
pub use settings::Settings;
