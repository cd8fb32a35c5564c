//! What `gha-slurm-munge` does instead of running: `--doctor`, `--dry-run`, `stop` and `resume`.

use std::num::NonZeroU32;
use std::process::ExitCode;

use clap::Args;
use gha_slurm_domain::SlurmUser;
use gha_slurm_service_kit::Task;

use crate::answer::{complain, say};
use crate::settings::Settings;
use crate::stop::{self, Switch};
use crate::{doctor, dry_run};

/// Arguments of the tasks.
#[derive(Debug, Args)]
pub struct Tasks {
    /// Check what the agent needs, print a line for each thing, and exit; not with 0 where there is a problem.
    #[arg(long, conflicts_with_all = ["check_config", "check_ready"])]
    doctor: bool,
    /// With --doctor: also check a compute node, by a short Slurm job of this user.
    #[arg(long, value_name = "USER", requires = "doctor")]
    node: Option<SlurmUser>,
    /// With --node: token-broker as the nodes reach it (the launcher's `cluster.token_url`); otherwise the first of
    /// `token_broker.urls`.
    #[arg(long, value_name = "URL", requires = "node")]
    token_url: Option<String>,
    /// With --node: seconds to wait for the Slurm job.
    #[arg(long, value_name = "SECONDS", requires = "node", default_value = "300")]
    wait_s: NonZeroU32,
    /// Read a request (JSON: slurmUser, repositoryId, resources) from standard input, print what would be submitted, or why
    /// not, and exit. Submits nothing.
    #[arg(long, conflicts_with_all = ["check_config", "check_ready", "doctor"])]
    dry_run: bool,
    #[command(subcommand)]
    switch: Option<Switch>,
}

/// What the arguments ask for, if they ask for a task.
pub fn find(tasks: Tasks, settings: &Settings) -> Option<Task> {
    let settings = settings.clone();
    if let Some(switch) = tasks.switch {
        return Some(Box::pin(stop::run(settings, switch)));
    }
    if tasks.doctor {
        let node = tasks.node.map(|user| doctor::Node {
            user,
            token_url: tasks.token_url,
            wait_s: tasks.wait_s,
        });
        return Some(Box::pin(doctor::run(settings, node)));
    }
    if tasks.dry_run {
        return Some(Box::pin(async move {
            match dry_run::run(&settings, std::io::stdin()).await {
                Ok(text) => {
                    say(text.trim_end());
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    complain(&format!("{error:#}"));
                    ExitCode::FAILURE
                }
            }
        }));
    }
    None
}
