//! The stand-in runner's process.

fn main() -> std::process::ExitCode {
    gha_slurm_simulator::standin::main()
}
