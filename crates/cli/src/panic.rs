//! `gha-slurm panic` and `gha-slurm resume`: stop everything, and let it go on. Straight against the database, so that they work while
//! services are down or cannot be trusted.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;
use gha_slurm_domain::stop::MAX_REASON;
use gha_slurm_storage::Database;
use gha_slurm_storage::stops::{self, Counts, Current};

use crate::{database, keys};

const NOT_STOPPED: &str = "launches are NOT stopped. Stop the launcher and token-broker, and run `gha-slurm-munge stop` on the \
    agent's host. If the table `stops` is missing, run `gha-slurm migrate`";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    database: database::Options,
    /// Why, for everybody who has builds waiting.
    #[arg(long, value_name = "TEXT", default_value = "no reason given", value_parser = reason)]
    reason: String,
    /// Also cancel Slurm jobs in which a workflow job runs; it fails on GitHub.
    #[arg(long)]
    cancel_running: bool,
    /// Also replace the launch-token keys in this folder, `keys.folder` of the launcher: tokens made with a stolen key are refused, too.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Change nothing; only show whether launches are stopped, and what is left to withdraw.
    #[arg(long, conflicts_with_all = ["reason", "cancel_running", "keys"])]
    status: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArguments {
    #[command(flatten)]
    database: database::Options,
}

fn reason(text: &str) -> anyhow::Result<String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MAX_REASON || text.chars().any(char::is_control) {
        bail!("write one line of 1 to {MAX_REASON} characters");
    }
    Ok(text.to_owned())
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<String> {
    if arguments.status {
        return status(&arguments.database.open()?).await;
    }
    // Both are tried, whichever fails.
    let stopped = stop(&arguments).await;
    let revoked = arguments.keys.as_deref().map(revoke).transpose();
    match (stopped, revoked) {
        (Ok(stopped), Ok(revoked)) => Ok(stopped + &revoked.unwrap_or_else(keys_hint)),
        (Ok(stopped), Err(error)) => {
            Err(error.context(format!("{stopped}The keys are NOT replaced")))
        }
        (Err(error), Ok(Some(revoked))) => Err(error.context(format!("{revoked}However"))),
        (Err(error), Ok(None)) => Err(error),
        (Err(error), Err(keys)) => {
            Err(error.context(format!("the keys are NOT replaced: {keys:#}")))
        }
    }
}

async fn stop(arguments: &Arguments) -> anyhow::Result<String> {
    let database = arguments.database.open().context(NOT_STOPPED)?;
    let (stop, is_new) = database
        .stop_launches(&operator(), &arguments.reason, arguments.cancel_running)
        .await
        .context(NOT_STOPPED)?;
    let mut text = String::new();
    if !is_new {
        text.push_str("Launches were stopped already.\n");
    }
    describe(&mut text, &stop)?;
    writeln!(
        text,
        "Nothing is planned or submitted, and token-broker gives out no runner token. Launch tokens issued before are revoked."
    )?;
    write!(text, "{}", left(&database, &stop).await)?;
    writeln!(
        text,
        "Watch it with `gha-slurm panic --status`; let launches go on with `gha-slurm resume`.\n\
         The launcher withdraws. Where it is down, or nothing but Slurm can be trusted, also run `gha-slurm-munge stop` on the agent's host."
    )?;
    Ok(text)
}

async fn status(database: &Database) -> anyhow::Result<String> {
    let current = {
        let mut conn = database.connection().await?;
        stops::current(&mut conn).await?
    };
    let Some(stop) = current else {
        return Ok("Launches are not stopped.\n".to_owned());
    };
    let mut text = String::new();
    describe(&mut text, &stop)?;
    text.push_str(&left(database, &stop).await);
    Ok(text)
}

pub(crate) async fn resume(arguments: ResumeArguments) -> anyhow::Result<String> {
    let database = arguments.database.open()?;
    let ended = database.resume_launches(&operator()).await?;
    let Some(ended) = ended else {
        return Ok("Launches were not stopped; nothing to resume.\n".to_owned());
    };
    let since = ended.stop.since.format("%F %H:%M:%S UTC");
    Ok(format!(
        "Launches go on. They were stopped since {since} by {}: {}\n\
         {} without a workflow job withdrawn meanwhile; what still waits on GitHub gets new ones now.\n\
         Launch tokens issued before {since} stay revoked. If agents were stopped, too: `gha-slurm-munge resume` on their hosts.\n",
        ended.stop.stopped_by,
        ended.stop.reason,
        were(ended.withdrawn, "launch", "launches"),
    ))
}

fn describe(text: &mut String, stop: &Current) -> std::fmt::Result {
    writeln!(
        text,
        "All launches are stopped since {} by {}: {}",
        stop.since.format("%F %H:%M:%S UTC"),
        stop.stopped_by,
        stop.reason
    )
}

/// What a stop still has to withdraw, and what goes on.
async fn left(database: &Database, stop: &Current) -> String {
    let counts = async {
        let mut conn = database.connection().await?;
        stops::counts(&mut conn).await
    };
    match counts.await {
        Ok(counts) => words(&counts, stop.cancel_running),
        Err(error) => format!("What is left to withdraw cannot be counted: {error}\n"),
    }
}

fn words(counts: &Counts, cancel_running: bool) -> String {
    let Counts {
        planned,
        submitted,
        idle,
        running,
        to_cancel,
    } = *counts;
    let pending = submitted + to_cancel;
    let running_words = if cancel_running {
        "being cancelled; GitHub shows them as failed"
    } else {
        "left to finish (to end them, too: `gha-slurm panic --cancel-running`)"
    };
    let lines = [
        (
            planned,
            "launch that is not submitted",
            "launches that are not submitted",
            "being withdrawn",
        ),
        (
            pending,
            "pending Slurm job",
            "pending Slurm jobs",
            "being cancelled",
        ),
        (
            idle,
            "runner without a workflow job",
            "runners without a workflow job",
            "being deregistered",
        ),
        (
            running,
            "running workflow job",
            "running workflow jobs",
            running_words,
        ),
    ];
    let mut text = String::new();
    for (count, one, many, what) in lines.into_iter().filter(|(count, ..)| *count > 0) {
        let is = if count == 1 { "is" } else { "are" };
        let noun = if count == 1 { one } else { many };
        let _ = writeln!(text, "- {count} {noun} {is} {what}.");
    }
    if text.is_empty() {
        text.push_str("Nothing is left to withdraw, and no workflow job runs.\n");
    }
    text
}

fn were(count: i64, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one} was"),
        _ => format!("{count} {many} were"),
    }
}

fn revoke(dir: &Path) -> anyhow::Result<String> {
    let (new, old) = keys::replace_all(dir)?;
    let names: Vec<String> = old.iter().map(|kid| format!("{kid}.pub.pem")).collect();
    let names = names.join(" ");
    Ok(format!(
        "{new} signs launch tokens now; revoked: {}. The launcher signs with the new key in a few seconds, token-broker refuses \
         the old ones in a few seconds, and agents that read keys from keys.jwks_url within a minute.\n\
         Where token-broker or an agent has a copy of the public keys (keys.folder, keys.public_keys): copy {new}.pub.pem there and remove {names}\n\
         there; an agent notices within a minute, without a restart.\n",
        old.join(", "),
    ))
}

fn keys_hint() -> String {
    "If a launch-token key may be stolen, run `gha-slurm panic --keys DIR` on the launcher's host: agents verify tokens by the keys alone.\n"
        .to_owned()
}

/// Who runs this: OS user and host, and who became that user by sudo.
#[expect(
    clippy::disallowed_methods,
    reason = "sudo tells in no other way who calls"
)]
fn operator() -> String {
    let output = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let user = output("id", "-un").unwrap_or_else(|| "unknown".to_owned());
    let host = output("uname", "-n").unwrap_or_else(|| "unknown".to_owned());
    match std::env::var("SUDO_USER") {
        Ok(caller) if caller != user => format!("{user}@{host} (sudo by {caller})"),
        _ => format!("{user}@{host}"),
    }
}
