//! The build that is shown: maps a repository, lets the simulator queue a workflow job, prints the timeline.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use gha_slurm_contract::build::{BuildDetail, TimelineKind, WorkflowJobState};
use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS, Service};
use serde_json::json;

use super::stack::{REPOSITORY, Stack};

/// Whose account it spends: a user that every Debian has.
pub(super) const SLURM_USER: &str = SLURM_USERS[0];
/// A label that the launcher's default settings know.
const LABELS: [&str; 2] = ["self-hosted", "slurm"];
/// What the workflow job does.
const SCRIPT: &str = "echo \"Hello from $(uname -n)\"; sleep 1";
/// It takes a few seconds.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A queued workflow job.
pub(super) struct Build {
    http: reqwest::Client,
    url: String,
    bearer_token: String,
}

/// What the simulator is asked to queue.
fn workflow_job() -> serde_json::Value {
    json!({ "repository": REPOSITORY, "labels": LABELS, "script": SCRIPT })
}

/// The shell command that queues another one.
pub(super) fn command_for_another(stack: &Stack) -> String {
    format!(
        "curl -sS --json '{}' {}/simulator/workflow-jobs",
        workflow_job(),
        stack.github_url
    )
}

impl Build {
    /// Maps the repository and queues a workflow job in it; GitHub's signed webhook is on its way then.
    pub(super) async fn begin(stack: &Stack, bearer_token: String) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .no_proxy()
            .build()?;
        let service = stack.deployment.url(Service::RepoMapping);
        let mapping = http
            .post(format!("{service}/repositories/{SLURM_USER}"))
            .bearer_auth(&bearer_token)
            .json(&[REPOSITORY]);
        checked(mapping).await.context("mapping the repository")?;
        println!("{REPOSITORY} is mapped to the Slurm user {SLURM_USER}");
        let queue = http
            .post(format!("{}/simulator/workflow-jobs", stack.github_url))
            .json(&workflow_job());
        let workflow_job = checked(queue).await.context("queueing a workflow job")?;
        let id = workflow_job.get("id").and_then(serde_json::Value::as_i64);
        let id = id.context("a workflow job without id")?;
        println!(
            "Workflow job {id} is queued; its signed webhook (the payload is the example that GitHub publishes) is on its way.\n"
        );
        Ok(Self {
            http,
            url: format!("{service}/api/builds/{id}"),
            bearer_token,
        })
    }

    /// Prints the timeline as it happens, until the workflow job has completed; answers its conclusion.
    pub(super) async fn follow(
        &self,
        stack: &mut Stack,
        slurm: Option<&PrivateSlurm>,
    ) -> Result<String> {
        let start = Instant::now();
        let mut printed = HashSet::new();
        let mut zero = None;
        loop {
            stack.check()?;
            let seen = self.look().await?;
            if let Some(detail) = &seen {
                for entry in &detail.timeline {
                    if !printed.insert((entry.recorded_at, entry.kind, entry.detail.clone())) {
                        continue;
                    }
                    let zero: DateTime<Utc> = *zero.get_or_insert(entry.happened_at);
                    let after = (entry.happened_at - zero).as_seconds_f64();
                    let clock = entry
                        .happened_at
                        .with_timezone(&chrono::Local)
                        .format("%H:%M:%S%.3f");
                    println!(
                        "{clock}  {after:+7.3} s  {:<22} {}",
                        entry.kind.as_str(),
                        entry.detail
                    );
                    if let Some(slurm) = slurm.filter(|_| entry.kind == TimelineKind::Allocated) {
                        println!("{}", queue(slurm).await?);
                    }
                }
                if detail.build.state == WorkflowJobState::Completed {
                    let conclusion = detail.build.conclusion.clone().unwrap_or_default();
                    if conclusion != "success" {
                        bail!(
                            "the workflow job has completed, but its conclusion is `{conclusion}`"
                        );
                    }
                    return Ok(conclusion);
                }
            }
            if start.elapsed() > DEADLINE {
                bail!("{}", not_completed(seen.as_ref()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// `None`: the webhook has not come through yet.
    async fn look(&self) -> Result<Option<BuildDetail>> {
        let request = self.http.get(&self.url).bearer_auth(&self.bearer_token);
        let answer = request.send().await?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(answer.error_for_status()?.json().await?))
    }
}

/// What squeue says now, indented.
async fn queue(slurm: &PrivateSlurm) -> Result<String> {
    let columns = "--format=%.9i %.9P %.34j %.8u %.10T %.6M %R";
    let listing = slurm.run("squeue", &[columns]).await?;
    let lines = listing
        .lines()
        .map(|line| format!("\n              {line}"));
    Ok(format!(
        "\n              $ squeue{}\n",
        lines.collect::<String>()
    ))
}

fn not_completed(seen: Option<&BuildDetail>) -> String {
    let what = match seen {
        None => "no webhook of the workflow job came through".to_owned(),
        Some(BuildDetail { build, .. }) => format!(
            "the workflow job is {}, {}{}",
            build.state.as_str(),
            build.verdict.as_str(),
            build
                .status
                .why
                .as_ref()
                .map_or(String::new(), |why| format!(": {why}"))
        ),
    };
    format!(
        "not completed within {} s: {what}; see the logs",
        DEADLINE.as_secs()
    )
}

async fn checked(request: reqwest::RequestBuilder) -> Result<serde_json::Value> {
    let answer = request.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    if !status.is_success() {
        bail!("{status}: {text}");
    }
    Ok(serde_json::from_str(&text)?)
}
