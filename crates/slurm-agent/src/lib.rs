#![doc = include_str!("../README.md")]

mod application;
mod calls;
mod doctor;
mod dry_run;
pub mod keys;
pub mod ledger;
mod original;
mod outbound;
pub mod policy;
mod program;
mod relay;
pub mod runner;
pub mod self_check;
pub mod self_service;
pub mod settings;
pub mod slurm;
pub mod start;
pub mod submission;
pub mod tasks;
pub mod token_signer;
mod waiting;
pub mod watch;

pub use application::Application;
pub use settings::Settings;
