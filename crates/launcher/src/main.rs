//! Service: consumes events, plans allocations, submits them to the Slurm side, reconciles.
fn main() {}
