#![doc = include_str!("../README.md")]

mod application;
mod calls;
pub mod keys;
pub mod ledger;
pub mod policy;
pub mod runner;
pub mod settings;
pub mod slurm;
pub mod start;
pub mod submission;
pub mod token_signer;
pub mod watch;

pub use application::Application;
pub use settings::Settings;
