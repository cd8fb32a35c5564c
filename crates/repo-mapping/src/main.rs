//! Service: who may spend which Slurm user's allocation; the web application.
fn main() {}
