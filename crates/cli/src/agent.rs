//! The Slurm agent's program, which answers some commands.

use std::process::Command;

const PROGRAM: &str = "gha-slurm-munge";

/// `gha-slurm-munge`: the one beside this program, or the one on PATH.
pub(crate) fn command() -> Command {
    let beside = std::env::current_exe().ok().and_then(|own| {
        let path = own.parent()?.join(PROGRAM);
        path.is_file().then_some(path)
    });
    beside.map_or_else(|| Command::new(PROGRAM), Command::new)
}
