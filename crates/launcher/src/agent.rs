//! Calls to the Slurm agent: `POST /runner/start`, the original wire contract; `POST /runner/cancel`, `/runner/states` and
//! `/runner/list`, which an original agent does not have. They go to its port, or wait in a mailbox until it asks.

use std::sync::Arc;
use std::time::Duration;

use gha_slurm_contract::Problem;
use gha_slurm_contract::launch_token::{StartAnswer, StartRequest};
use gha_slurm_contract::outbound::Call;
use gha_slurm_domain::SlurmJobId;
use gha_slurm_service_kit::tls::ClientTlsSettings;
use reqwest::header::{HeaderValue, InvalidHeaderValue};
use reqwest::redirect;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::mailbox::Mailbox;

/// The agent may wait for Slurm: slurmrestd itself takes 9 s to notice that slurmctld is down.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The header of an original agent's shared secret.
const ORIGINAL_HEADER: &str = "auth-token";
const NOT_FOUND: u16 = 404;
const REFUSED: u16 = 422;
const LIMITED: u16 = 429;

/// What came of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submission {
    /// The agent has it. An original agent does not say which Slurm job it is.
    Accepted(Option<SlurmJobId>),
    /// Not now; the reason is for people. `retry_after` is the agent's own wish.
    Delayed {
        /// Why.
        reason: String,
        /// When to try again; at the latest, if it is a limit.
        retry_after: Option<Duration>,
        /// A limit is reached: not before something else has ended.
        is_limit: bool,
    },
    /// Never, as long as policy stays.
    Refused(String),
}

/// Why a call to the agent came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// There is no connection to it.
    #[error("the Slurm agent cannot be reached")]
    Unreachable,
    /// It took the call, and the deadline passed.
    #[error("the Slurm agent does not answer in time")]
    Silent,
    /// Outbound mode: it does not poll.
    #[error("the Slurm agent does not ask for calls")]
    NotAsking,
    /// Outbound mode: this launcher stops, and what was asked last has no answer yet.
    #[error("the launcher stops")]
    Stopping,
    /// It answered with an error, which says so.
    #[error("{0}")]
    Answered(String),
    /// Its answer cannot be read.
    #[error("the Slurm agent's answer is not what its contract says")]
    Unreadable,
    /// The call cannot be written.
    #[error("the call does not serialise: {0}")]
    Unwritable(String),
}

/// A client of one agent.
#[derive(Clone)]
pub struct Agent(Way);

/// How calls get to the agent.
#[derive(Clone)]
enum Way {
    Direct {
        http: reqwest::Client,
        url: String,
        /// The shared secret of an original agent.
        original_secret: Option<HeaderValue>,
    },
    Mailbox(Arc<Mailbox>),
}

/// What the agent answered.
struct Reply {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Agent {
    /// The agent at `url`. Proxies are those of the environment (`https_proxy`, `no_proxy`).
    pub fn new(url: &str, tls: &ClientTlsSettings) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(CALL_DEADLINE)
            .connect_timeout(CONNECT_DEADLINE)
            // Launch tokens and the secret are for this address alone.
            .redirect(redirect::Policy::none());
        Ok(Self(Way::Direct {
            http: tls.apply(http, "cluster.tls")?.build()?,
            url: url.trim_end_matches('/').to_owned(),
            original_secret: None,
        }))
    }

    /// The same agent, as an original one: it accepts submissions only with this secret.
    pub fn with_original_secret(
        mut self,
        secret: &SecretString,
    ) -> Result<Self, InvalidHeaderValue> {
        if let Way::Direct {
            original_secret, ..
        } = &mut self.0
        {
            let mut value = HeaderValue::from_str(secret.expose_secret())?;
            value.set_sensitive(true);
            *original_secret = Some(value);
        }
        Ok(self)
    }

    /// An agent that asks for its calls.
    pub fn asking(mailbox: Arc<Mailbox>) -> Self {
        Self(Way::Mailbox(mailbox))
    }

    /// Submits. The same launch twice gives the first answer.
    pub async fn start(&self, request: &StartRequest, traceparent: Option<&str>) -> Submission {
        let reply = match self.send("/runner/start", None, traceparent, request).await {
            Ok(reply) => reply,
            Err(error) => {
                return Submission::Delayed {
                    reason: error.to_string(),
                    retry_after: None,
                    is_limit: false,
                };
            }
        };
        let retry_after = reply.retry_after;
        if reply.is_success() {
            return match reply.json::<StartAnswer>() {
                Ok(answer) => {
                    Submission::Accepted(answer.slurm_job_id.and_then(|id| id.parse().ok()))
                }
                Err(error) => Submission::Delayed {
                    reason: error.to_string(),
                    retry_after,
                    is_limit: false,
                },
            };
        }
        let reason = reply.problem();
        if reply.status == REFUSED {
            Submission::Refused(reason)
        } else {
            Submission::Delayed {
                reason,
                retry_after,
                is_limit: reply.status == LIMITED,
            }
        }
    }

    /// A call with an assertion. `None`: an original agent, which has no such call.
    pub async fn call<A: DeserializeOwned>(
        &self,
        path: &str,
        assertion: &SecretString,
        body: &impl Serialize,
    ) -> Result<Option<A>, AgentError> {
        let reply = self.send(path, Some(assertion), None, body).await?;
        if reply.status == NOT_FOUND {
            return Ok(None);
        }
        if !reply.is_success() {
            return Err(AgentError::Answered(reply.problem()));
        }
        reply.json().map(Some)
    }

    async fn send(
        &self,
        path: &str,
        assertion: Option<&SecretString>,
        traceparent: Option<&str>,
        body: &impl Serialize,
    ) -> Result<Reply, AgentError> {
        match &self.0 {
            Way::Direct {
                http,
                url,
                original_secret,
            } => {
                let mut call = http.post(format!("{url}{path}")).json(body);
                if let Some(secret) = original_secret {
                    call = call.header(ORIGINAL_HEADER, secret);
                }
                if let Some(assertion) = assertion {
                    call = call.bearer_auth(assertion.expose_secret());
                }
                if let Some(traceparent) = traceparent {
                    call = call.header("traceparent", traceparent);
                }
                let response = call.send().await.map_err(|error| {
                    let reason = if error.is_timeout() && !error.is_connect() {
                        AgentError::Silent
                    } else {
                        AgentError::Unreachable
                    };
                    tracing::debug!(%error, "{reason}");
                    reason
                })?;
                let retry_after = response.headers().get("retry-after");
                Ok(Reply {
                    status: response.status().as_u16(),
                    retry_after: retry_after
                        .and_then(|v| v.to_str().ok())
                        .and_then(|v| v.parse().ok())
                        .map(Duration::from_secs),
                    body: response.bytes().await.unwrap_or_default().into(),
                })
            }
            Way::Mailbox(mailbox) => {
                let call = Call {
                    id: Uuid::new_v4(),
                    path: path.to_owned(),
                    assertion: assertion.map(|a| a.expose_secret().to_owned()),
                    traceparent: traceparent.map(str::to_owned),
                    body: serde_json::to_value(body)
                        .map_err(|e| AgentError::Unwritable(e.to_string()))?,
                };
                let answer = mailbox.call(call).await?;
                Ok(Reply {
                    status: answer.status,
                    retry_after: answer.retry_after_s.map(Duration::from_secs),
                    body: answer.body.to_string().into_bytes(),
                })
            }
        }
    }
}

impl Reply {
    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    fn json<A: DeserializeOwned>(&self) -> Result<A, AgentError> {
        serde_json::from_slice(&self.body).map_err(|_| AgentError::Unreadable)
    }

    /// What the agent says is wrong.
    fn problem(&self) -> String {
        /// The errors of an original agent.
        #[derive(Deserialize)]
        struct Message {
            message: String,
        }
        if let Ok(problem) = serde_json::from_slice::<Problem>(&self.body) {
            return problem.detail.unwrap_or(problem.title);
        }
        let status = self.status;
        match serde_json::from_slice::<Message>(&self.body) {
            Ok(Message { message }) => format!("the Slurm agent answered {status}: {message}"),
            Err(_) => format!("the Slurm agent answered {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wiremock::matchers::{body_partial_json, header, method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;

    const SECRET: &str = "7f3a9c5e1d8b2064-e1d8b20647f3a9c5";

    /// The original agent, as seen: an Express program that has one call for launchers.
    async fn original() -> MockServer {
        let server = MockServer::start().await;
        let missing = json!({ "message": "auth-token missing" });
        Mock::given(method("POST"))
            .and(path("/runner/start"))
            .respond_with(ResponseTemplate::new(401).set_body_json(missing))
            .with_priority(9)
            .mount(&server)
            .await;
        Mock::given(method("POST"))
            .and(path("/runner/start"))
            .and(header("auth-token", SECRET))
            .and(header("content-type", "application/json"))
            .and(body_partial_json(json!({
                "gitHubURL": "https://github.com/acme/widgets",
                "launcherToken": "a.b.c",
                "runnerLabels": "self-hosted,slurm",
                "tokenURL": "https://gha-slurm.example.org",
            })))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!({ "status": "OK!" })))
            .with_priority(1)
            .mount(&server)
            .await;
        server
    }

    #[tokio::test]
    async fn an_original_agent_accepts_launches_with_its_secret_and_only_so() {
        let server = original().await;
        let request = StartRequest {
            github_url: "https://github.com/acme/widgets".into(),
            launcher_token: "a.b.c".into(),
            runner_labels: "self-hosted,slurm".into(),
            token_url: "https://gha-slurm.example.org".into(),
            runner_name: Some("gha-slurm-test-1".into()),
        };
        let agent = Agent::new(&server.uri(), &ClientTlsSettings::default()).unwrap();
        let delayed = |reason: &str| Submission::Delayed {
            reason: reason.to_owned(),
            retry_after: None,
            is_limit: false,
        };
        let refused = "the Slurm agent answered 401: auth-token missing";
        assert_eq!(agent.start(&request, None).await, delayed(refused));
        let with = |secret: &str| {
            let secret = SecretString::from(secret);
            agent.clone().with_original_secret(&secret)
        };
        let wrong = with("another secret").unwrap();
        assert_eq!(wrong.start(&request, None).await, delayed(refused));
        let original = with(SECRET).unwrap();
        let accepted = original.start(&request, None).await;
        assert_eq!(accepted, Submission::Accepted(None));
        // It has no other call.
        let assertion = SecretString::from("x");
        let told = original
            .call::<serde_json::Value>("/runner/states", &assertion, &json!({}))
            .await;
        assert_eq!(told, Ok(None));
        assert!(with("two\nlines").is_err());
    }

    #[tokio::test]
    async fn the_secret_goes_to_no_other_address() {
        let elsewhere = MockServer::start().await;
        let server = MockServer::start().await;
        let redirect = ResponseTemplate::new(307)
            .insert_header("Location", format!("{}/runner/start", elsewhere.uri()));
        Mock::given(path("/runner/start"))
            .respond_with(redirect)
            .mount(&server)
            .await;
        let agent = Agent::new(&server.uri(), &ClientTlsSettings::default()).unwrap();
        let agent = agent.with_original_secret(&SECRET.into()).unwrap();
        let told = agent
            .call::<serde_json::Value>("/runner/start", &"x".into(), &json!({}))
            .await;
        assert_eq!(
            told,
            Err(AgentError::Answered("the Slurm agent answered 307".into()))
        );
        assert_eq!(elsewhere.received_requests().await.unwrap().len(), 0);
    }
}
