//! What was once tried on the running services, and hurt.

mod panic;
mod strangers;
