//! `gha-slurm runners`: a user's runners, from a login node.

use std::fmt::Write as _;

use chrono::Local;
use clap::{Args, Subcommand};
use gha_slurm_contract::self_service::{OwnLaunch, RunnerCancellation};
use gha_slurm_domain::SlurmState;
use reqwest::Method;

use crate::client::{Client, Options};

const PATH: &str = "/config/runners";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Cancel a runner. The workflow job that it runs, if any, fails on GitHub.
    Cancel {
        #[command(flatten)]
        options: Options,
        /// Id of the runner's Slurm job, as shown by `gha-slurm runners` and squeue.
        slurm_job_id: String,
    },
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<String> {
    match arguments.command {
        None => list(&arguments.options).await,
        Some(Command::Cancel {
            options,
            slurm_job_id,
        }) => {
            let cancellation = RunnerCancellation {
                slurm_job_id: slurm_job_id.clone(),
            };
            let client = Client::new(&options)?;
            client
                .call(Method::DELETE, PATH, Some(&cancellation))
                .await?;
            Ok(format!("Cancelled Slurm job {slurm_job_id}.\n"))
        }
    }
}

async fn list(options: &Options) -> anyhow::Result<String> {
    let client = Client::new(options)?;
    let (_, answer) = client.call(Method::GET, PATH, None::<&()>).await?;
    let own: Vec<OwnLaunch> = serde_json::from_slice(&answer)?;
    if own.is_empty() {
        return Ok("You have no runners.\n".into());
    }
    let mut text = String::new();
    for launch in own {
        let state = state(&launch);
        writeln!(
            text,
            "{}  {state}  {}",
            launch.slurm_job_id, launch.repository_url
        )?;
    }
    Ok(text)
}

/// `pending (Priority, starts ~14:05)`, `running on n3`; `running on n3 (WORD)` if only a newer Slurm has that word for it.
fn state(launch: &OwnLaunch) -> String {
    let Some(state) = launch.state else {
        return "submitted".into();
    };
    let is_running = state == SlurmState::Running;
    let mut text = state.as_str().replace('_', " ");
    if let Some(nodes) = launch.nodes.as_ref().filter(|_| is_running) {
        text = format!("{text} on {nodes}");
    }
    let starts = launch.starts_at.filter(|_| !is_running);
    let starts =
        starts.map(|at| format!("starts ~{}", at.with_timezone(&Local).format("%F %H:%M")));
    let why: Vec<String> = launch.reason.clone().into_iter().chain(starts).collect();
    if !why.is_empty() {
        text = format!("{text} ({})", why.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn people_read_where_it_runs_or_why_it_waits() {
        let launch = |state, reason: Option<&str>| OwnLaunch {
            launch: "0192f0c1-2345-7000-8123-456789abcdef".parse().unwrap(),
            slurm_job_id: "7".into(),
            repository_url: "https://github.com/acme/widgets".into(),
            submitted_at: DateTime::UNIX_EPOCH,
            state,
            reason: reason.map(str::to_owned),
            starts_at: None,
            nodes: Some("n3".into()),
        };
        for (state, reason, text) in [
            (None, None, "submitted"),
            (
                Some(SlurmState::Pending),
                Some("Priority"),
                "pending (Priority)",
            ),
            (Some(SlurmState::Running), None, "running on n3"),
            (
                Some(SlurmState::Running),
                Some("MIGRATING"),
                "running on n3 (MIGRATING)",
            ),
        ] {
            assert_eq!(super::state(&launch(state, reason)), text);
        }
        let starts = OwnLaunch {
            starts_at: Some(DateTime::UNIX_EPOCH),
            ..launch(Some(SlurmState::Pending), Some("Priority"))
        };
        assert!(super::state(&starts).starts_with("pending (Priority, starts ~19"));
    }
}
