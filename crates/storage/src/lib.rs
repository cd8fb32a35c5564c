#![doc = include_str!("../README.md")]

pub mod builds;
mod callback;
pub mod classes;
pub mod identity;
pub mod launches;
pub mod leases;
pub mod mappings;
mod metrics;
pub mod migrations;
pub mod notice;
pub mod people;
mod pool;
mod prepared;
pub mod replan;
pub mod repositories;
pub mod retention;
mod roles;
mod schema;
pub mod scope;
mod server;
mod silence;
mod sqlstate;
pub mod stops;
mod stored;
pub mod timeline;
pub mod transaction;
pub mod usage;
pub mod versions;
pub mod workflow_jobs;

pub use diesel_async::{AsyncConnection, AsyncPgConnection};
pub use migrations::run_migrations;
pub use pool::{Database, Failure, StorageError};
pub use roles::Role;
pub use scope::{ScopeLock, ScopeLocks};
