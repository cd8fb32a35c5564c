//! The gha-slurm command.
fn main() {}
