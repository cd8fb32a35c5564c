//! Calls to the Slurm agent: `POST /runner/start`, the original wire contract; `POST /runner/cancel` and
//! `POST /runner/states`, which an original agent does not have.

use std::time::Duration;

use gha_slurm_contract::Problem;
use gha_slurm_contract::launch::{StartAnswer, StartRequest};
use gha_slurm_domain::SlurmJobId;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The agent may wait for Slurm: slurmrestd itself takes 9 s to notice that slurmctld is down.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// What came of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submission {
    /// The Slurm side has it. An original agent does not say which Slurm job it is.
    Accepted(Option<SlurmJobId>),
    /// Not now; the reason is for people. `retry_after` is the agent's own wish.
    Delayed {
        /// Why.
        reason: String,
        /// When to try again.
        retry_after: Option<Duration>,
    },
    /// Never, as long as policy stays.
    Refused(String),
}

/// A client of one agent.
#[derive(Debug, Clone)]
pub struct Agent {
    http: reqwest::Client,
    url: String,
}

impl Agent {
    /// The agent at `url`.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(CALL_DEADLINE)
            .connect_timeout(CONNECT_DEADLINE)
            .build()?;
        Ok(Self {
            http,
            url: url.trim_end_matches('/').to_owned(),
        })
    }

    /// Submits. The same allocation twice gives the first answer.
    pub async fn start(&self, request: &StartRequest, traceparent: Option<&str>) -> Submission {
        let mut call = self
            .http
            .post(format!("{}/runner/start", self.url))
            .json(request);
        if let Some(traceparent) = traceparent {
            call = call.header("traceparent", traceparent);
        }
        let response = match call.send().await {
            Ok(response) => response,
            Err(error) => {
                let reason = if error.is_timeout() {
                    "the Slurm agent does not answer in time"
                } else {
                    "the Slurm agent cannot be reached"
                };
                tracing::debug!(%error, "{reason}");
                return Submission::Delayed {
                    reason: reason.into(),
                    retry_after: None,
                };
            }
        };
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse().ok())
            .map(Duration::from_secs);
        let body = response.bytes().await.unwrap_or_default();
        if status.is_success() {
            let answer = std::str::from_utf8(&body)
                .ok()
                .and_then(|t| serde_json::from_str::<StartAnswer>(t).ok());
            return match answer {
                Some(answer) => {
                    Submission::Accepted(answer.slurm_job_id.and_then(|id| id.parse().ok()))
                }
                None => Submission::Delayed {
                    reason: "the Slurm agent's answer is not what its contract says".into(),
                    retry_after,
                },
            };
        }
        let detail =
            problem_detail(&body).unwrap_or_else(|| format!("the Slurm agent answered {status}"));
        if status.as_u16() == 422 {
            Submission::Refused(detail)
        } else {
            Submission::Delayed {
                reason: detail,
                retry_after,
            }
        }
    }
}

impl Agent {
    /// A call with an assertion. `None`: an original agent, which has no such call.
    pub async fn call<A: DeserializeOwned>(
        &self,
        path: &str,
        assertion: &SecretString,
        body: &impl Serialize,
    ) -> Result<Option<A>, String> {
        let call = self
            .http
            .post(format!("{}{path}", self.url))
            .bearer_auth(assertion.expose_secret())
            .json(body);
        let response = call
            .send()
            .await
            .map_err(|_| "the Slurm agent cannot be reached".to_owned())?;
        let status = response.status();
        if status == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = response.bytes().await.unwrap_or_default();
        if !status.is_success() {
            return Err(problem_detail(&body)
                .unwrap_or_else(|| format!("the Slurm agent answered {status}")));
        }
        serde_json::from_slice(&body)
            .map(Some)
            .map_err(|_| "the Slurm agent's answer is not what its contract says".into())
    }
}

fn problem_detail(body: &[u8]) -> Option<String> {
    let problem: Problem = serde_json::from_slice(body).ok()?;
    problem.detail.or(Some(problem.title))
}
