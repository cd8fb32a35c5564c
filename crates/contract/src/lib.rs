#![doc = include_str!("../README.md")]

pub mod agent;
pub mod build;
pub mod event;
pub mod launch_token;
pub mod mapping;
pub mod outbound;
pub mod people;
pub mod problem;
pub mod repository;
pub mod runner;
pub mod self_service;
pub mod slurm_token;
pub mod usage;

pub use event::Event;
pub use launch_token::LaunchClaims;
pub use problem::Problem;
