//! The developer's commands, run as a developer does.

#![expect(clippy::unwrap_used, reason = "tests")]

mod demo;
mod proofs;
mod with_services;

use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);
