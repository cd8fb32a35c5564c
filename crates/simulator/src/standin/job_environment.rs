//! The folders and environment variables of a workflow job.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::runner_protocol::messages::{Session, Work};

/// Options for the runner itself: never passed on.
const INPUTS: &str = "ACTIONS_RUNNER_INPUT_";

pub(crate) struct JobEnvironment {
    pub(crate) workspace: PathBuf,
    pub(crate) temporary: PathBuf,
    pub(crate) tracking_id: String,
    pub(crate) variables: BTreeMap<OsString, OsString>,
}

pub(crate) fn prepare(
    work_folder: &Path,
    session: &Session,
    work: &Work,
) -> Result<JobEnvironment> {
    let name = work.repository.split('/').next_back().unwrap_or_default();
    let owner = work.repository.split('/').next().unwrap_or_default();
    let workspace = made(work_folder.join(name).join(name))?;
    let temporary = made(work_folder.join("_temp"))?;
    let tool_cache = made(work_folder.join("_tool"))?;
    let event = made(temporary.join("_github_workflow"))?.join("event.json");
    std::fs::write(&event, work.event.to_string())?;
    let tracking_id = format!("github_{}", uuid::Uuid::new_v4());
    let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os()
        .filter(|(name, _)| !name.to_string_lossy().starts_with(INPUTS))
        .collect();
    let texts = [
        ("CI", "true"),
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_ACTOR", &work.actor),
        ("GITHUB_ACTOR_ID", &work.actor_id.to_string()),
        // Nobody runs it again here.
        ("GITHUB_TRIGGERING_ACTOR", &work.actor),
        ("GITHUB_API_URL", &work.api_url),
        ("GITHUB_EVENT_NAME", &work.event_name),
        // The key in the workflow file; the stand-in has only the name.
        ("GITHUB_JOB", &work.name),
        ("GITHUB_REF", &format!("refs/heads/{}", work.head_branch)),
        ("GITHUB_REF_NAME", &work.head_branch),
        ("GITHUB_REPOSITORY", &work.repository),
        ("GITHUB_REPOSITORY_ID", &work.repository_id.to_string()),
        ("GITHUB_REPOSITORY_OWNER", owner),
        ("GITHUB_RUN_ATTEMPT", "1"),
        ("GITHUB_RUN_ID", &work.run_id.to_string()),
        ("GITHUB_RUN_NUMBER", &work.run_number.to_string()),
        ("GITHUB_SERVER_URL", &work.server_url),
        ("GITHUB_SHA", &work.head_sha),
        ("GITHUB_WORKFLOW", "CI"),
        (
            "RUNNER_ARCH",
            if cfg!(target_arch = "aarch64") {
                "ARM64"
            } else {
                "X64"
            },
        ),
        ("RUNNER_ENVIRONMENT", "self-hosted"),
        ("RUNNER_NAME", &session.runner_name),
        ("RUNNER_OS", "Linux"),
        ("RUNNER_TRACKING_ID", &tracking_id),
    ];
    variables.extend(texts.map(|(name, value)| (name.into(), value.into())));
    let paths = [
        ("GITHUB_EVENT_PATH", &event),
        ("GITHUB_WORKSPACE", &workspace),
        ("RUNNER_TEMP", &temporary),
        ("RUNNER_TOOL_CACHE", &tool_cache),
    ];
    variables.extend(paths.map(|(name, path)| (name.into(), path.into())));
    Ok(JobEnvironment {
        workspace,
        temporary,
        tracking_id,
        variables,
    })
}

/// Creates the folder and those above it, and returns its path.
pub(crate) fn made(folder: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
