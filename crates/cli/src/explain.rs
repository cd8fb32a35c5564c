//! `gha-slurm explain`: what a workflow job with given labels would request.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use clap::Args;
use gha_slurm_contract::agent::DryRunRequest;
use gha_slurm_domain::admission::Charge;
use gha_slurm_domain::{LabelSet, LabelSettings, SlurmUser};
use gha_slurm_service_kit::settings::{Settings, load};
use serde::Deserialize;

use crate::agent;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The launcher's settings file. Reads `[labels]` and `cluster.name`.
    #[arg(long, value_name = "FILE")]
    launcher_config: PathBuf,
    /// The Slurm agent's settings file. Also shows what the agent would submit. Needs the agent's host.
    #[arg(long, value_name = "FILE", requires = "user")]
    agent_config: Option<PathBuf>,
    /// Slurm user that the repository is mapped to.
    #[arg(long, value_name = "USER")]
    user: Option<SlurmUser>,
    /// Account that the repository's mapping names. Labels cannot name another.
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// QOS that the repository's mapping names. Labels cannot name another.
    #[arg(long, value_name = "QOS")]
    qos: Option<String>,
    /// Numeric id of the repository, if the agent's `policy.consents` is set.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    repository_id: i64,
    /// Labels as in `runs-on`.
    #[arg(value_name = "LABEL", required = true)]
    labels: Vec<String>,
}

/// The launcher's settings that concern labels.
#[derive(Debug, Deserialize)]
struct LauncherSettings {
    cluster: Cluster,
    #[serde(default)]
    labels: LabelSettings,
}

#[derive(Debug, Deserialize)]
struct Cluster {
    name: String,
}

impl Settings for LauncherSettings {
    const PREFIX: &'static str = "LAUNCHER";
    const SECRETS: &'static [&'static str] = &[];
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<String> {
    let settings: LauncherSettings = load(Some(&arguments.launcher_config), std::env::vars())?;
    let policy = settings.labels.policy(&settings.cluster.name);
    let asked = match policy.classify(&arguments.labels) {
        Ok(asked) => asked,
        Err(reason) => bail!("not for this cluster: {reason}"),
    };
    let charge = Charge {
        account: arguments.account,
        qos: arguments.qos,
    };
    let resources = charge.complete(asked).context("refused")?;
    let mut text = String::from("Runs on this cluster. Runner class:\n");
    let labels: LabelSet = arguments.labels.iter().collect();
    writeln!(
        text,
        "  labels: {labels} (every runner also has {})",
        policy.base()
    )?;
    match &arguments.user {
        Some(user) => writeln!(text, "  Slurm user: {user}")?,
        None => writeln!(
            text,
            "  Slurm user: the user that the repository is mapped to"
        )?,
    }
    text.push_str("  resources (keys as in the settings):\n");
    let fields = serde_json::to_value(&resources)?;
    for (name, value) in fields.as_object().into_iter().flatten() {
        writeln!(text, "    {name} = {value}")?;
    }
    if fields.as_object().is_none_or(serde_json::Map::is_empty) {
        text.push_str("    none (Slurm's defaults apply)\n");
    }
    if let (Some(config), Some(slurm_user)) = (arguments.agent_config, arguments.user) {
        let request = DryRunRequest {
            slurm_user,
            repository_id: arguments.repository_id,
            resources,
        };
        match ask_agent(&config, &request) {
            Ok(preview) => write!(text, "The Slurm agent would submit:\n{preview}")?,
            // Show both: what was requested, and why the agent refuses it.
            Err(error) => {
                return Err(error.context(format!("{text}The Slurm agent would refuse it")));
            }
        }
    }
    Ok(text)
}

fn ask_agent(config: &Path, request: &DryRunRequest) -> anyhow::Result<String> {
    let mut command = agent::command();
    command.arg("--dry-run").arg("--config").arg(config);
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!("cannot run {program}; run this command where the Slurm agent is installed")
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that exits early explains why on standard error.
        let _ = stdin.write_all(&serde_json::to_vec(request)?);
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let errors = errors.trim();
    bail!(
        "{}",
        errors.strip_prefix("gha-slurm-munge: ").unwrap_or(errors)
    )
}
