//! What is submitted: the job script and its environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::runner::RunnerMode;
use gha_slurm_domain::{LaunchId, ResourceRequest, SlurmUser};
use gha_slurm_policy::BuildPolicy;
use gha_slurm_slurm::Submission;
use secrecy::{ExposeSecret, SecretString};

use crate::settings::RunnerSettings;

/// The job script we ship; its head documents the environment variables.
pub const JOB_SCRIPT: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-job.sh"
));

/// What the runner calls before the first step of a workflow job; its head documents it.
const JOB_STARTED_HOOK: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-job-started.sh"
));
/// The container hook of a cluster that offers no containers.
const NO_CONTAINERS_HOOK: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-no-containers.sh"
));

/// The Slurm job that `claims` ask for. Reads the site's job script, if there is one.
pub async fn prepare(
    claims: &LaunchClaims,
    launch_token: &SecretString,
    traceparent: Option<String>,
    runner: &RunnerSettings,
    builds: &BuildPolicy,
) -> Result<Submission, UnreadableScript> {
    let script = match &runner.job_script {
        None => JOB_SCRIPT.to_owned(),
        Some(path) => tokio::fs::read_to_string(path)
            .await
            .map_err(|source| UnreadableScript {
                path: path.clone(),
                source,
            })?,
    };
    let mut environment = BTreeMap::from([
        (
            "GHA_SLURM_LAUNCH_TOKEN",
            launch_token.expose_secret().to_owned(),
        ),
        ("GHA_SLURM_TOKEN_URL", claims.token_url.clone()),
        ("GHA_SLURM_LAUNCH", claims.sub.to_string()),
        (
            "GHA_SLURM_RUNNER_DIR",
            runner.folder.to_string_lossy().into_owned(),
        ),
        (
            "GHA_SLURM_RUNNER_MODE",
            claims.runner_mode.as_str().to_owned(),
        ),
        ("GHA_SLURM_GITHUB_HOSTS", runner.github_hosts.join(" ")),
        (
            "GHA_SLURM_IDLE_DEADLINE_S",
            runner.idle_deadline_s.to_string(),
        ),
        (
            "GHA_SLURM_SET_UP_DEADLINE_S",
            runner.set_up_deadline_s.to_string(),
        ),
        ("GHA_SLURM_JOB_STARTED_HOOK", JOB_STARTED_HOOK.to_owned()),
        (
            "GHA_SLURM_NO_CONTAINERS_HOOK",
            NO_CONTAINERS_HOOK.to_owned(),
        ),
    ]);
    if let Some(root) = &runner.work_root {
        environment.insert("GHA_SLURM_WORK_ROOT", root.to_string_lossy().into_owned());
    }
    environment.insert(
        "GHA_SLURM_BUILD_POLICY",
        builds.for_hook(claims.repository_id),
    );
    environment.extend(runner.network.environment());
    if let Some(hooks) = &runner.container_hooks {
        environment.insert(
            "GHA_SLURM_CONTAINER_HOOKS",
            hooks.to_string_lossy().into_owned(),
        );
    }
    if let Some(podman) = &runner.podman {
        environment.extend(podman.environment());
    }
    if let (Some(container), Some(apptainer)) = (&claims.resources.container, &runner.apptainer) {
        environment.insert("GHA_SLURM_CONTAINER", container.clone());
        environment.extend(apptainer.environment());
    }
    if let Some(traceparent) = traceparent {
        environment.insert("TRACEPARENT", traceparent);
    }
    Ok(Submission {
        launch: claims.sub,
        name: claims.runner_name.clone(),
        repository: format!("{}/{}", claims.owner, claims.repository_name),
        slurm_user: claims.slurm_user.clone(),
        resources: claims.resources.clone(),
        script,
        waits_for_namesakes: false,
        environment,
    })
}

/// What a Slurm job of the original contract has beside what every one has.
pub(crate) struct Extras {
    /// Instead of the job script.
    pub(crate) script: String,
    /// Beside the others.
    pub(crate) environment: [(&'static str, String); 3],
}

impl Extras {
    /// Makes a Slurm job that of the original contract.
    pub(crate) fn apply(self, submission: &mut Submission) {
        submission.script = self.script;
        submission.environment.extend(self.environment);
    }
}

/// Claims for a submission that no launch token asked for.
pub(crate) fn claims_without_token(
    launch: LaunchId,
    runner_name: String,
    slurm_user: SlurmUser,
    resources: ResourceRequest,
) -> LaunchClaims {
    LaunchClaims {
        iss: String::new(),
        aud: Vec::new(),
        sub: launch,
        jti: launch.0,
        iat: 0,
        nbf: 0,
        exp: 0,
        runner_name,
        cluster: String::new(),
        launcher: None,
        token_url: String::new(),
        owner: String::new(),
        repository_name: String::new(),
        repository_url: String::new(),
        repository_id: 0,
        labels: String::new(),
        workflow_id: 0,
        slurm_user,
        resources,
        runner_mode: RunnerMode::default(),
    }
}

/// `runner.job_script` cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("runner.job_script: {path}: {source}")]
pub struct UnreadableScript {
    path: PathBuf,
    source: std::io::Error,
}
