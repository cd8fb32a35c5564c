//! How people sign in: the settings, and what is made of them.

use std::num::NonZeroU16;

use chrono::TimeDelta;
use gha_slurm_service_kit::UnknownTokens;
use gha_slurm_service_kit::settings::{Address, Problems, default_api_url, default_web_url, token};
use gha_slurm_storage::people::Lifetime;
use secrecy::SecretString;
use serde::Deserialize;

use crate::github::GithubSignIn;

/// `[sign_in]`: people sign in with GitHub, as users of the App.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignInSettings {
    /// Where people reach the page: `https://ci.example.org`, without a path.
    pub public_url: Address,
    /// The App's client id.
    pub client_id: String,
    /// One of the App's client secrets.
    #[serde(deserialize_with = "token")]
    pub client_secret: SecretString,
    /// GitHub's REST API, `https://api.github.com`.
    #[serde(default = "default_api_url")]
    pub api_url: Address,
    /// Days after which people have to sign in again.
    #[serde(default = "default_session_days")]
    pub session_days: NonZeroU16,
    /// Hours without use after which they have to, too.
    #[serde(default = "default_idle_hours")]
    pub idle_hours: NonZeroU16,
}

fn default_session_days() -> NonZeroU16 {
    NonZeroU16::new(14).unwrap_or(NonZeroU16::MIN)
}

fn default_idle_hours() -> NonZeroU16 {
    NonZeroU16::new(48).unwrap_or(NonZeroU16::MIN)
}

impl SignInSettings {
    pub(crate) fn check(&self, web_url: &Address, problems: &mut Problems) {
        let is_github_com = web_url.as_str() == default_web_url().as_str();
        if is_github_com != (self.api_url.as_str() == default_api_url().as_str()) {
            problems.add(
                "sign_in.api_url",
                format!("is of another GitHub than github.web_url, {web_url}: people's tokens and the client secret would go there"),
            );
        }
        if let Err(problem) = origin(&self.public_url) {
            problems.add("sign_in.public_url", problem);
        }
        if self.client_id.trim().is_empty() {
            problems.add(
                "sign_in.client_id",
                "is empty: the App's page on GitHub has it",
            );
        }
    }
}

/// Why an address is not that of the page.
#[derive(Debug, thiserror::Error)]
enum NotAPage {
    #[error("is no address: {0}")]
    NoAddress(#[from] url::ParseError),
    #[error("must have no path: cookies and the page's files are those of the whole host")]
    HasPath,
    #[error("must be https: browsers keep the cookie of a session over TLS alone")]
    Plain,
}

/// Scheme, host and port of an address without a path, as browsers write them into `Origin`.
fn origin(public_url: &Address) -> Result<String, NotAPage> {
    let url = url::Url::parse(public_url)?;
    if url.path() != "/" {
        return Err(NotAPage::HasPath);
    }
    let is_here = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() != "https" && !is_here {
        return Err(NotAPage::Plain);
    }
    Ok(url.origin().ascii_serialization())
}

/// How people sign in.
pub(crate) struct SignIn {
    pub(crate) github: GithubSignIn,
    pub(crate) sessions: Lifetime,
    /// Of the page.
    pub(crate) origin: String,
    pub(crate) unknown: UnknownTokens,
}

impl SignIn {
    pub(crate) fn new(settings: SignInSettings, web_url: &Address) -> anyhow::Result<Self> {
        let SignInSettings {
            public_url,
            client_id,
            client_secret,
            api_url,
            session_days,
            idle_hours,
        } = settings;
        let origin = origin(&public_url)?;
        Ok(Self {
            github: GithubSignIn::new(&origin, web_url, &api_url, &client_id, client_secret)?,
            sessions: Lifetime {
                most: TimeDelta::days(session_days.get().into()),
                idle: TimeDelta::hours(idle_hours.get().into()),
            },
            origin,
            unknown: UnknownTokens::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_host_that_browsers_trust() {
        let origin = |text: &str| origin(&text.parse().unwrap()).map_err(|e| e.to_string());
        for (text, expected) in [
            ("https://ci.example.org/", "https://ci.example.org"),
            ("https://ci.example.org:8443", "https://ci.example.org:8443"),
            ("https://ci.example.org:443", "https://ci.example.org"),
            ("http://127.0.0.1:8004", "http://127.0.0.1:8004"),
            ("http://[::1]:8004", "http://[::1]:8004"),
            ("http://localhost:8004", "http://localhost:8004"),
        ] {
            assert_eq!(origin(text).as_deref(), Ok(expected));
        }
        for (text, problem) in [
            ("https://example.org/ci", "must have no path"),
            ("http://ci.example.org", "must be https"),
            ("http://10.0.0.1", "must be https"),
        ] {
            let told = origin(text).unwrap_err();
            assert!(told.starts_with(problem), "{text}: {told}");
        }
    }
}
