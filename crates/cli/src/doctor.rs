//! `gha-slurm doctor`: the Slurm agent's self-check.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use gha_slurm_domain::SlurmUser;

use crate::agent;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The agent's settings file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Also check from a compute node, with a Slurm job of about ten seconds that runs as this user.
    #[arg(long, value_name = "USER")]
    node: Option<SlurmUser>,
    /// URL of token-broker as the nodes reach it (the launcher's `cluster.token_url`). Default: the first of the
    /// agent's `token_broker.urls`.
    #[arg(long, value_name = "URL", requires = "node")]
    token_url: Option<String>,
    /// Seconds to wait for that Slurm job. Default: 300.
    #[arg(long, value_name = "SECONDS", requires = "node")]
    wait_s: Option<u32>,
}

/// Replaces this process by the agent's program.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<String> {
    let mut command = agent::command();
    command.arg("--doctor");
    if let Some(config) = arguments.config {
        command.arg("--config").arg(config);
    }
    if let Some(user) = arguments.node {
        command.args(["--node", user.as_str()]);
    }
    if let Some(url) = arguments.token_url {
        command.args(["--token-url", &url]);
    }
    if let Some(seconds) = arguments.wait_s {
        command.args(["--wait-s", &seconds.to_string()]);
    }
    let error = command.exec();
    let program = command.get_program().to_string_lossy();
    Err(anyhow!(
        "cannot run {program}: {error}; run this command where the Slurm agent is installed"
    ))
}
