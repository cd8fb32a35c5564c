#![doc = include_str!("../README.md")]

pub mod builds;
pub mod identity;
pub mod launches;
pub mod leases;
pub mod mappings;
pub mod pool;
pub mod replan;
pub mod repositories;
pub mod runners;
mod schema;
mod server;
pub mod slurm_jobs;
mod sqlstate;
pub mod timeline;
mod transaction;
pub mod usage;
pub mod workflow_jobs;

pub use diesel_async::{AsyncConnection, AsyncPgConnection};
pub use pool::{Database, Failure, StorageError, lock_scope, run_migrations};
