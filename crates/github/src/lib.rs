#![doc = include_str!("../README.md")]

mod budget;
mod client;
mod deliveries;
mod error;
pub mod payloads;
mod repositories;
mod runners;
mod workflow_jobs;

pub use budget::Urgency;
pub use client::{Github, Scope};
pub use deliveries::Delivery;
pub use error::GithubError;
pub use repositories::{Installation, Repository};
pub use runners::{Deletion, JitRunner, RegistrationToken, Runner};
