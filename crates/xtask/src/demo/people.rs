//! Somebody who signs in before anybody is there to click: whoever is linked to a Slurm user has signed in once.

use anyhow::{Context, Result, ensure};
use gha_slurm_test_support::Service;
use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use serde_json::{Value, json};

use super::stack::{Stack, USER};

/// Signs the demo's user in, once, and links them to this Slurm user with an administrator's token.
pub(super) async fn link(stack: &Stack, bearer_token: &str, slurm_user: &str) -> Result<()> {
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()?;
    let service = stack.deployment.url(Service::RepoMapping);
    let begun = http
        .get(format!("{service}/api/sign-in/github"))
        .send()
        .await?;
    let started = first(begun.headers(), "__Host-gha-slurm-sign-in=")?;
    let github = begun.headers().get(LOCATION).context("no Location")?;
    let clicked: Value = http
        .post(format!("{}/simulator/sign-ins", stack.github_url))
        .json(&json!({ "url": github.to_str()?, "login": USER }))
        .send()
        .await?
        .error_for_status()?
        .json()
        .await?;
    let callback = clicked.get("location").and_then(Value::as_str);
    let callback = callback.context("no location")?;
    let back = http.get(callback).header(COOKIE, started).send().await?;
    let session = first(back.headers(), "__Host-gha-slurm=")?;
    let me: Value = http
        .get(format!("{service}/api/me"))
        .header(COOKIE, session)
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

/// `name=value` of a cookie that is set.
fn first(headers: &HeaderMap, name: &str) -> Result<String> {
    let set = headers.get_all(SET_COOKIE).iter();
    let mut found = set.filter_map(|value| value.to_str().ok());
    let cookie = found.find(|value| value.starts_with(name));
    let cookie = cookie.and_then(|value| value.split(';').next());
    Ok(cookie
        .with_context(|| format!("no cookie {name}"))?
        .to_owned())
}
