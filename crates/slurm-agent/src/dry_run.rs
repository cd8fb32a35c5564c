//! `gha-slurm-munge --dry-run`: what would be submitted for a request, or why not.

use std::io::Read;

use anyhow::Context;
use gha_slurm_contract::agent::DryRunRequest;
use gha_slurm_domain::{Clock, LaunchId};
use secrecy::SecretString;

use crate::backend;
use crate::settings::Settings;
use crate::submission::{claims_without_token, prepare};
use gha_slurm_policy::PolicySettings;
use gha_slurm_slurm::settings::Backend;

/// Reads the request, applies the policy and returns what would be submitted to Slurm. How many launches are live is not looked at:
/// that changes by the minute.
pub(crate) async fn run(settings: &Settings, mut input: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    input.read_to_string(&mut text).context("standard input")?;
    let request: DryRunRequest =
        serde_json::from_str(&text).context("the request on standard input")?;
    let policy: &PolicySettings = &settings.policy;
    let resources = policy.check_resources(&request.resources)?;
    let mut claims = claims_without_token(
        LaunchId(uuid::Uuid::nil()),
        "gha-slurm-dry-run".into(),
        request.slurm_user,
        resources,
    );
    claims.repository_id = request.repository_id;
    claims.token_url = "https://token-broker.invalid".into();
    let consent =
        || policy.check_consent(&claims.slurm_user, claims.repository_id, "the repository");
    settings.stop_file().check(&claims.slurm_user)?;
    if settings.slurm.backend == Backend::Local {
        consent()?;
        return Ok("the local backend runs the job script beside the agent, without limits".into());
    }
    policy.check_user(claims.slurm_user.as_str())?;
    consent()?;
    let slurm = backend::connect(settings, Clock::system())?;
    let submission = prepare(
        &claims,
        &SecretString::from(""),
        None,
        &settings.runner,
        &settings.policy.builds,
    )
    .await?;
    Ok(slurm.preview(&submission).await?)
}
