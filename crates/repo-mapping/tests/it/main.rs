//! repo-mapping at its HTTP boundary, with a real PostgreSQL and a GitHub that answers as told.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod builds;
mod mapping;
mod settings;
mod sign_in;
mod support;
mod usage;
mod users;
mod web_application;
