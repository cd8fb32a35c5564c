//! gha-slurm-munge: the agent inside the MUNGE domain that submits to Slurm.
fn main() {}
