//! The simulator's time.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The moment in which something happens, the same for all that it changes.
pub(crate) type Now = DateTime<Utc>;

/// When something ends that begins now.
pub(crate) fn end(now: Now, lifetime: Duration) -> Now {
    TimeDelta::from_std(lifetime)
        .ok()
        .and_then(|lifetime| now.checked_add_signed(lifetime))
        .unwrap_or(Now::MAX_UTC)
}
