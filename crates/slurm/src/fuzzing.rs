//! What the crate `fuzz` calls.

use crate::backend::{JobUsage, Numbers, Queue};
use crate::sacct;
use crate::squeue::Separator;

/// What squeue prints, with `separator` after each column.
pub fn squeue(listing: &str, separator: &str) -> Queue {
    Separator::known(separator).read(listing, &Numbers::default())
}

/// What sacct prints.
pub fn sacct(listing: &str) -> Vec<JobUsage> {
    sacct::usages(listing)
}
