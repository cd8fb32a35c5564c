//! What was once tried on the running services, and hurt.

mod strangers;
mod grants;
mod tenants;
