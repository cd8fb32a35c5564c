#![doc = include_str!("../README.md")]

pub mod agent;
mod agents;
mod application;
pub mod events;
pub mod inquiry;
pub mod mailbox;
pub mod planning;
pub mod reconciler;
pub mod retention;
pub mod rowless;
pub mod settings;
pub mod slurm_jobs;
pub mod submission;
pub mod submitter;
mod surplus;

pub use agents::openapi;
pub use application::Application;
pub use settings::Settings;
