#![doc = include_str!("../README.md")]

mod application;
pub mod keys;
pub mod ledger;
pub mod settings;
pub mod slurm;
pub mod start;
pub mod submission;

pub use application::Application;
pub use settings::Settings;
