//! A person who signs in before the demo is shown: only who has signed in once can be linked to a Slurm user.

use anyhow::{Context, Result, ensure};
use gha_slurm_test_support::{Service, sign_in};
use serde_json::{Value, json};

use super::stack::{Stack, USER};

/// Signs the demo's user in, once, and links them to this Slurm user with an administrator's token.
pub(super) async fn link(stack: &Stack, bearer_token: &str, slurm_user: &str) -> Result<()> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let service = stack.deployment.url(Service::RepoMapping);
    let decide = async |url: &str| {
        let decided: Value = http
            .post(format!("{}/simulator/sign-ins", stack.github_url))
            .json(&json!({ "url": url, "login": USER }))
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        let callback = decided.get("location").and_then(Value::as_str);
        Ok(callback.context("no location")?.to_owned())
    };
    let session = sign_in(&service, decide).await?;
    let me: Value = http
        .get(format!("{service}/api/me"))
        .header(reqwest::header::COOKIE, session)
        .send()
        .await?
        .error_for_status()?
        .json()
        .await?;
    let id = me.get("githubId").context("no id")?;
    let linked = http
        .put(format!("{service}/api/people/{id}/slurm-user"))
        .bearer_auth(bearer_token)
        .json(&json!({ "slurmUser": slurm_user }))
        .send()
        .await?;
    ensure!(linked.status().is_success(), "{}", linked.text().await?);
    Ok(())
}
