//! The Slurm agent's program, which carries out some commands.

use std::process::Command;

const PROGRAM: &str = "gha-slurm-munge";

/// Returns a command for `gha-slurm-munge`: the file beside this program, otherwise the one on PATH.
pub(crate) fn command() -> Command {
    let beside = std::env::current_exe().ok().and_then(|own| {
        let path = own.parent()?.join(PROGRAM);
        path.is_file().then_some(path)
    });
    beside.map_or_else(|| Command::new(PROGRAM), Command::new)
}
