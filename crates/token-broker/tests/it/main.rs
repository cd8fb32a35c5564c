//! token-broker at its HTTP boundary, with a real PostgreSQL and a GitHub that answers as told.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]

mod progress;
mod redemption;
mod settings;
mod stops;
mod support;
