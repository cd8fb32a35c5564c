//! What was once tried on the running services, and hurt.

mod routes;
mod strangers;
