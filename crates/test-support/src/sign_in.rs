//! Signing in at the page, as a browser does.

use anyhow::{Context, Result};
use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};

/// Signs a person in at repo-mapping with the base URL `page`: `decide` takes the address to which GitHub is sent, and returns the one to which
/// GitHub sends the browser back. Returns the `Cookie` header of their session.
pub async fn sign_in(
    page: &str,
    decide: impl AsyncFnOnce(&str) -> Result<String>,
) -> Result<String> {
    let browser = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()?;
    let begun = browser
        .get(format!("{page}/api/sign-in/github"))
        .send()
        .await?;
    let started = cookie(begun.headers(), "__Host-gha-slurm-sign-in")?;
    let github = begun.headers().get(LOCATION).context("no Location")?;
    let callback = decide(github.to_str()?).await?;
    let back = browser.get(callback).header(COOKIE, started).send().await?;
    cookie(back.headers(), "__Host-gha-slurm")
        .with_context(|| format!("sent back to {:?}", back.headers().get(LOCATION)))
}

/// `name=value` of a cookie that is set.
fn cookie(headers: &HeaderMap, name: &str) -> Result<String> {
    let set = headers.get_all(SET_COOKIE).iter();
    let mut pairs = set.filter_map(|value| value.to_str().ok()?.split(';').next());
    let pair = pairs.find(|pair| pair.split('=').next() == Some(name));
    Ok(pair
        .with_context(|| format!("no cookie {name}"))?
        .to_owned())
}
