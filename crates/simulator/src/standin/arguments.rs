//! The command line. Every option can come from `ACTIONS_RUNNER_INPUT_<NAME>` as well (CommandSettings.cs).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A stand-in for GitHub's self-hosted runner (bin/Runner.Listener) that talks to gha-slurm-simulator.
#[derive(Debug, Parser)]
#[command(disable_version_flag = true)]
pub(crate) struct Arguments {
    /// Prints the version it stands for.
    #[arg(long)]
    pub(crate) version: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Listens for workflow jobs (what happens without a command as well).
    Run(RunOptions),
    /// Registers this folder as a runner.
    Configure(ConfigureOptions),
    /// Removes the registration.
    Remove(RemoveOptions),
    /// Lays out a folder as the real runner's: bin/Runner.Listener, run.sh, config.sh.
    Install {
        /// Made when it does not exist.
        folder: PathBuf,
    },
}

impl Default for Command {
    fn default() -> Self {
        Self::Run(RunOptions::default())
    }
}

#[derive(Debug, Default, Args)]
pub(crate) struct RunOptions {
    /// A just-in-time configuration.
    #[arg(long, env = "ACTIONS_RUNNER_INPUT_JITCONFIG", hide_env_values = true)]
    pub(crate) jitconfig: Option<String>,
    /// One workflow job only (deprecated in favour of --ephemeral).
    #[arg(long)]
    pub(crate) once: bool,
    /// Accepted and of no meaning here.
    #[arg(long)]
    pub(crate) startuptype: Option<String>,
    /// How long another listener's session is waited for, in seconds.
    #[arg(long, hide = true, env = "STANDIN_RUNNER_CONFLICT_SECONDS")]
    pub(crate) conflict_seconds: Option<u64>,
    /// Ends at once with this exit code, to try what callers make of it.
    #[arg(long, hide = true, env = "STANDIN_RUNNER_EXIT_WITH")]
    pub(crate) exit_with: Option<u8>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigureOptions {
    /// The repository's address.
    #[arg(long, env = "ACTIONS_RUNNER_INPUT_URL")]
    pub(crate) url: Option<String>,
    /// A registration token.
    #[arg(long, env = "ACTIONS_RUNNER_INPUT_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The runner's name [default: the host's].
    #[arg(long, env = "ACTIONS_RUNNER_INPUT_NAME")]
    pub(crate) name: Option<String>,
    /// Labels besides the default ones, separated by commas.
    #[arg(long, env = "ACTIONS_RUNNER_INPUT_LABELS", value_delimiter = ',')]
    pub(crate) labels: Vec<String>,
    /// Without self-hosted, Linux and the architecture; needs --labels.
    #[arg(long)]
    pub(crate) no_default_labels: bool,
    /// The folder for its work.
    #[arg(long, env = "ACTIONS_RUNNER_INPUT_WORK", default_value = "_work")]
    pub(crate) work: String,
    /// Removed after one workflow job.
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// Takes over a name that exists.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Asks nothing; the stand-in never does.
    #[arg(long)]
    pub(crate) unattended: bool,
    /// Accepted: the stand-in never updates itself.
    #[arg(long)]
    pub(crate) disableupdate: bool,
    /// Accepted: there is one group.
    #[arg(long)]
    pub(crate) runnergroup: Option<String>,
    /// The simulator, where the repository's address is not its own (for example https://github.com/owner/name).
    #[arg(long, hide = true, env = "STANDIN_RUNNER_SERVER_URL")]
    pub(crate) server_url: Option<url::Url>,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveOptions {
    /// A remove token.
    #[arg(long, env = "ACTIONS_RUNNER_INPUT_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Only forgets the registration here.
    #[arg(long)]
    pub(crate) local: bool,
}
