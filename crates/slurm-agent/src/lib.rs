#![doc = include_str!("../README.md")]

mod answer;
mod application;
mod backend;
pub mod book;
mod calls;
mod configuration;
mod doctor;
mod dry_run;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod keys;
pub mod launches;
pub mod ledger;
mod openapi;
mod original;
mod outbound;
mod polling;
mod quota;
mod relay;
pub mod runner;
pub mod self_check;
pub mod self_service;
pub mod settings;
pub mod start;
mod stop;
pub mod submission;
pub mod tasks;

pub use application::Application;
pub use openapi::openapi;
pub use relay::PATHS as RELAYED_PATHS;
pub use settings::Settings;
