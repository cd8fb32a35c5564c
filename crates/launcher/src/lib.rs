#![doc = include_str!("../README.md")]

pub mod agent;
mod application;
pub mod events;
pub mod inquiry;
pub mod planning;
pub mod reconciler;
pub mod settings;
pub mod slurm_jobs;
pub mod submission;
mod surplus;

pub use application::Application;
pub use settings::Settings;
