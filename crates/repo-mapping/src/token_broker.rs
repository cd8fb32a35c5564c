//! token-broker, which asks GitHub as the App: repo-mapping, which the world reaches, has no key of the App.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use gha_slurm_contract::Problem;
use gha_slurm_contract::repository::{REPOSITORY_UNREACHABLE, Repository};
use gha_slurm_domain::RepositoryFullName;
use gha_slurm_service_kit::settings::{Address, token};
use gha_slurm_service_kit::tls::ClientTlsSettings;
use gha_slurm_service_kit::tls::http::{self, BodyError};
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// A connection to token-broker is made in this time.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// One repository, all attempts together. A Slurm agent waits 30 s for repo-mapping.
const DEADLINE: Duration = Duration::from_secs(20);
/// Attempts after the first.
const RETRIES: usize = 2;
/// Before the second attempt, unless token-broker asks for more.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Whoever is asked to wait longer tells the caller so.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// When to try again, where token-broker does not say.
const RETRY_LATER: Duration = Duration::from_secs(5);
/// An answer is a few hundred bytes.
const LONGEST_ANSWER: usize = 64 << 10;

/// `[token_broker]`: who asks GitHub for repo-mapping.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBrokerSettings {
    /// Base URL, as this service reaches it.
    pub url: Address,
    /// One of token-broker's `access.service_tokens`.
    #[serde(deserialize_with = "token")]
    pub service_token: SecretString,
    /// A private CA, a client's certificate.
    #[serde(default)]
    pub tls: ClientTlsSettings,
}

/// What token-broker says of a repository.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The App sees it.
    Found(Repository),
    /// It does not exist, or the App is not installed on it: here is where to install it.
    Unreachable { install_url: Option<String> },
}

/// Why token-broker said nothing of a repository.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    /// GitHub is down, or asks to wait.
    #[error("GitHub is in trouble, says token-broker")]
    Github { retry_after: Duration },
    /// token-broker is down, or has no time.
    #[error("token-broker: {cause}")]
    Unavailable {
        cause: String,
        retry_after: Duration,
    },
    /// It does not know the service token.
    #[error(
        "token-broker refuses the service token: token_broker.service_token must be one of token-broker's access.service_tokens"
    )]
    Refused,
    /// It is another program, another version, or broken.
    #[error("token-broker at token_broker.url answered {0}")]
    Unexpected(String),
}

impl BrokerError {
    /// When to try again; `None`: trying again does not help.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Github { retry_after } | Self::Unavailable { retry_after, .. } => {
                Some(*retry_after)
            }
            Self::Refused | Self::Unexpected(_) => None,
        }
    }

    fn unavailable(cause: &dyn std::fmt::Display) -> Self {
        Self::Unavailable {
            cause: cause.to_string(),
            retry_after: Duration::ZERO,
        }
    }
}

/// A client of token-broker.
#[derive(Clone)]
pub(crate) struct TokenBroker {
    http: reqwest::Client,
    url: String,
    service_token: SecretString,
}

impl TokenBroker {
    /// Checks what can be checked. Proxies are those of the environment (`https_proxy`, `no_proxy`).
    pub(crate) fn new(settings: TokenBrokerSettings) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(DEADLINE)
            // The token is for this address alone.
            .redirect(reqwest::redirect::Policy::none());
        Ok(Self {
            http: settings.tls.apply(http, "token_broker.tls")?.build()?,
            url: settings.url.to_string(),
            service_token: settings.service_token,
        })
    }

    /// What the App sees of a repository. Tries again where that helps and is soon.
    pub(crate) async fn repository(
        &self,
        name: &RepositoryFullName,
    ) -> Result<Answer, BrokerError> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_max_times(RETRIES)
            .with_jitter();
        let asked = (|| self.ask(name))
            .retry(pauses)
            .when(|error| error.retry_after().is_some())
            .adjust(|error, pause| {
                let asked_for = error.retry_after()?;
                pause
                    .map(|pause| pause.max(asked_for))
                    .filter(|pause| *pause <= LONGEST_PAUSE)
            });
        tokio::time::timeout(DEADLINE, asked)
            .await
            .unwrap_or_else(|_| Err(BrokerError::unavailable(&"no answer in time")))
    }

    async fn ask(&self, name: &RepositoryFullName) -> Result<Answer, BrokerError> {
        // A full name needs no escapes.
        let mut call = self
            .http
            .get(format!("{}/gha/repositories?url={name}", self.url))
            .bearer_auth(self.service_token.expose_secret());
        if let Some(traceparent) = gha_slurm_telemetry::current_traceparent() {
            call = call.header("traceparent", traceparent);
        }
        let sent = call.send().await;
        let response = sent.map_err(|error| BrokerError::unavailable(&innermost(&error)))?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map_or(RETRY_LATER, Duration::from_secs);
        let body = http::body(response, LONGEST_ANSWER)
            .await
            .map_err(|error| match error {
                BodyError::Transport(error) => BrokerError::unavailable(&innermost(&error)),
                BodyError::TooLong(_) => BrokerError::Unexpected("too much".to_owned()),
            })?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body)
                .map(Answer::Found)
                .map_err(|error| {
                    BrokerError::Unexpected(format!("what is no repository: {error}"))
                });
        }
        let problem: Option<Problem> = serde_json::from_slice(&body).ok();
        let code = problem.as_ref().map(|problem| problem.code.as_str());
        match (status, code) {
            (StatusCode::NOT_FOUND, Some(REPOSITORY_UNREACHABLE)) => Ok(Answer::Unreachable {
                install_url: problem
                    .and_then(|problem| problem.errors.into_iter().find_map(|part| part.link)),
            }),
            (StatusCode::SERVICE_UNAVAILABLE, Some("github_unavailable")) => {
                Err(BrokerError::Github { retry_after })
            }
            (
                StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::GATEWAY_TIMEOUT,
                _,
            ) => Err(BrokerError::Unavailable {
                cause: status.to_string(),
                retry_after,
            }),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Err(BrokerError::Refused),
            (status, code) => Err(BrokerError::Unexpected(format!(
                "{status} ({})",
                code.unwrap_or("no problem document")
            ))),
        }
    }
}

/// reqwest's own text names the URL, not what happened.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
