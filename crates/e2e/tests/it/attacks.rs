//! What was once tried on the running services, and hurt.

mod grants;
mod panic;
mod routes;
mod strangers;
mod tenants;
