//! What the stand-in says to the simulator.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::runner_protocol::configuration::Files;
use crate::runner_protocol::messages::{
    Finished, NewSession, Offer, Refusal, Registration, Removal, RenewedLock, Session, Work,
};
use crate::standin::console::VERSION;

/// One long poll.
const POLL: Duration = Duration::from_secs(50);
/// A sign of life while a workflow job runs.
const RENEW: Duration = Duration::from_secs(30);
/// What an answer may take beyond the poll.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the simulator did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// It said no.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// It could not be reached, or is in trouble.
    #[error("{0}")]
    Unreachable(String),
}

impl ClientError {
    /// The code of a refusal.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.code,
            Self::Unreachable(_) => "",
        }
    }
}

pub(crate) struct Client {
    http: reqwest::Client,
    /// `…/simulator/runner`
    base: String,
}

impl Client {
    pub(crate) fn new(base: &str) -> Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(PATIENCE)
            .user_agent(format!("gha-slurm-standin-runner/{VERSION}"))
            .build()
            .context("cannot make an HTTP client")?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
        })
    }

    async fn post<B: Serialize>(
        &self,
        path: &str,
        authorization: &str,
        body: &B,
    ) -> Result<Response, ClientError> {
        let mut request = self
            .http
            .post(format!("{}{path}", self.base))
            .timeout(POLL + PATIENCE)
            .json(body);
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        accepted(request.send().await).await
    }

    pub(crate) async fn register(
        &self,
        token: &str,
        registration: &Registration,
    ) -> Result<Files, ClientError> {
        let authorization = format!("RemoteAuth {token}");
        read(
            self.post("/registrations", &authorization, registration)
                .await?,
        )
        .await
    }

    pub(crate) async fn remove(&self, token: &str, removal: &Removal) -> Result<(), ClientError> {
        let authorization = format!("RemoteAuth {token}");
        self.post("/removals", &authorization, removal).await?;
        Ok(())
    }

    pub(crate) async fn open_session(&self, secret: &str) -> Result<Session, ClientError> {
        let session = NewSession {
            version: VERSION.to_owned(),
            os: "linux".to_owned(),
        };
        let authorization = format!("Bearer {secret}");
        read(self.post("/sessions", &authorization, &session).await?).await
    }

    pub(crate) async fn close_session(&self, session_id: &str) {
        let request = self
            .http
            .delete(format!("{}/sessions/{session_id}", self.base))
            .timeout(PATIENCE);
        // It ends by itself when this does not arrive.
        let _ = request.send().await;
    }

    /// Waits for an offer; none after the time of one long poll.
    pub(crate) async fn next_offer(&self, session_id: &str) -> Result<Option<i64>, ClientError> {
        let request = self
            .http
            .get(format!(
                "{}/sessions/{session_id}/offer?timeout_seconds={}",
                self.base,
                POLL.as_secs()
            ))
            .timeout(POLL + PATIENCE);
        let answer = accepted(request.send().await).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        Ok(Some(read::<Offer>(answer).await?.workflow_job_id))
    }

    pub(crate) async fn acquire(&self, session_id: &str, id: i64) -> Result<Work, ClientError> {
        let path = format!("/sessions/{session_id}/workflow-jobs/{id}/acquire");
        read(self.post(&path, "", &()).await?).await
    }

    /// A sign of life; gives whether the workflow job was cancelled.
    pub(crate) async fn renew(&self, session_id: &str, id: i64) -> Result<bool, ClientError> {
        let path = format!(
            "/sessions/{session_id}/workflow-jobs/{id}/renew?timeout_seconds={}",
            RENEW.as_secs()
        );
        let renewed: RenewedLock = read(self.post(&path, "", &()).await?).await?;
        Ok(renewed.cancelled)
    }

    pub(crate) async fn finish(
        &self,
        session_id: &str,
        id: i64,
        finished: &Finished,
    ) -> Result<(), ClientError> {
        let path = format!("/sessions/{session_id}/workflow-jobs/{id}/finish");
        self.post(&path, "", finished).await?;
        Ok(())
    }
}

async fn accepted(answer: reqwest::Result<Response>) -> Result<Response, ClientError> {
    let unreachable = |error: reqwest::Error| ClientError::Unreachable(error.to_string());
    let answer = answer.map_err(unreachable)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let text = answer.text().await.map_err(unreachable)?;
    match serde_json::from_str(&text) {
        Ok(refusal) => Err(ClientError::Refused(refusal)),
        Err(_) => Err(ClientError::Unreachable(format!("HTTP {status}"))),
    }
}

async fn read<T: DeserializeOwned>(answer: Response) -> Result<T, ClientError> {
    answer
        .json()
        .await
        .map_err(|error| ClientError::Unreachable(error.to_string()))
}
