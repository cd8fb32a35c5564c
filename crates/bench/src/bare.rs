//! Bare submissions: `sbatch`, or a call of slurmrestd, with what the agent would submit, and nothing else.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS};
use http::{Request, StatusCode};
use hyper::body::Bytes;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::load::{Call, Measured, Target, closed_loop, closed_loop_of};

/// The job script that the agent submits.
const SCRIPT: &str = include_str!("../../../deploy/job-script/gha-slurm-job.sh");
/// The hooks that the agent hands over with it.
const HOOKS: [&str; 2] = [
    include_str!("../../../deploy/job-script/gha-slurm-job-started.sh"),
    include_str!("../../../deploy/job-script/gha-slurm-no-containers.sh"),
];
/// As long as a launch token.
const TOKEN_LENGTH: usize = 1200;
const VERSION: &str = "v0.0.38";

/// How Slurm is spoken to.
#[derive(Clone)]
pub(crate) enum Bare {
    Sbatch { conf: String, output: String },
    Slurmrestd { target: Target, call: Box<Call> },
}

impl Bare {
    /// By `sbatch`, as the agent calls it when it is root.
    pub(crate) fn sbatch(slurm: &PrivateSlurm, output: &str) -> Self {
        Self::Sbatch {
            conf: slurm.conf().display().to_string(),
            output: output.into(),
        }
    }

    /// By slurmrestd, as the agent calls it.
    pub(crate) async fn slurmrestd(slurm: &PrivateSlurm, output: &str) -> Result<Self> {
        let user = SLURM_USERS[0];
        let of_user = format!("username={user}");
        let token = slurm
            .run("scontrol", &["token", &of_user, "lifespan=7200"])
            .await?;
        let (_, token) = token.trim().split_once('=').context("a Slurm token")?;
        let environment: serde_json::Map<String, serde_json::Value> = environment()
            .into_iter()
            .chain([("PATH", "/usr/bin:/bin".to_owned())])
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let body = json!({
            "script": SCRIPT,
            "job": {
                "name": "bare", "comment": "bare", "current_working_directory": "/",
                "standard_output": format!("{output}/bare.log"), "environment": environment,
                "open_mode": "append", "no_requeue": true,
            },
        });
        let url = slurm.rest_url();
        let address = url.strip_prefix("http://").unwrap_or(&url);
        let call = Request::post(format!("/slurm/{VERSION}/job/submit"))
            .header("host", address)
            .header("content-type", "application/json")
            .header("x-slurm-user-name", user)
            .header("x-slurm-user-token", token)
            .body(Bytes::from(body.to_string()).into())?;
        let target = Target {
            address: address.parse()?,
            expected: StatusCode::OK,
        };
        let call = Box::new(call);
        Ok(Self::Slurmrestd { target, call })
    }

    /// Submits `count` times, from as many submitters at once.
    pub(crate) async fn submit(&self, submitters: usize, count: u64) -> Result<Measured> {
        match self.clone() {
            Self::Sbatch { conf, output } => {
                let call = move || sbatch(conf.clone(), output.clone());
                closed_loop_of(submitters, count, call).await
            }
            Self::Slurmrestd { target, call } => {
                let calls = move |number| (number < count).then(|| *call.clone());
                closed_loop(&target, submitters, calls).await
            }
        }
    }
}

async fn sbatch(conf: String, output: String) -> Result<()> {
    let mut child = tokio::process::Command::new("/usr/bin/sbatch")
        .args(["--parsable", "--job-name=bare", "--comment=bare"])
        .arg(format!("--output={output}/bare.log"))
        .args(["--open-mode=append", "--chdir=/", "--export=ALL"])
        .args(["--signal=B:TERM@120", "--no-requeue"])
        .arg(format!("--uid={}", SLURM_USERS[0]))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("SLURM_CONF", conf)
        .envs(environment())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut script = child.stdin.take().context("standard input")?;
    script.write_all(SCRIPT.as_bytes()).await?;
    drop(script);
    let said = child.wait_with_output().await?;
    let errors = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "sbatch: {errors}");
    Ok(())
}

/// As many variables of about the same length as the agent gives.
fn environment() -> [(&'static str, String); 10] {
    let text = |length| "x".repeat(length);
    let [job_started, no_containers] = HOOKS;
    [
        ("GHA_SLURM_LAUNCH_TOKEN", text(TOKEN_LENGTH)),
        ("GHA_SLURM_TOKEN_URL", text(20)),
        ("GHA_SLURM_LAUNCH", text(36)),
        ("GHA_SLURM_RUNNER_DIR", text(30)),
        ("GHA_SLURM_RUNNER_MODE", text(3)),
        ("GHA_SLURM_IDLE_DEADLINE_S", text(3)),
        ("GHA_SLURM_SET_UP_DEADLINE_S", text(3)),
        ("GHA_SLURM_JOB_STARTED_HOOK", job_started.to_owned()),
        ("GHA_SLURM_NO_CONTAINERS_HOOK", no_containers.to_owned()),
        ("TRACEPARENT", text(55)),
    ]
}
