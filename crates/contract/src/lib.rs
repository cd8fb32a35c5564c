#![doc = include_str!("../README.md")]

pub mod agent;
pub mod build;
pub mod event;
pub mod launch;
pub mod mapping;
pub mod problem;
pub mod runner;
pub mod self_service;

pub use event::Event;
pub use launch::LaunchClaims;
pub use problem::Problem;
