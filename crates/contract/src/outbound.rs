//! Outbound mode, for clusters that accept no connection: the agent asks the launcher for calls, answers them, and says of its
//! own accord where Slurm jobs stand. A call is one of those that a launcher otherwise makes to an agent, with its own launch
//! token or assertion.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Audience of the launcher.
pub const AUDIENCE_LAUNCHER: &str = "gha-slurm-launcher";
/// Longest seconds an agent's assertion is valid.
pub const AGENT_ASSERTION_LIFETIME_S: i64 = 60;
/// Seconds a poll waits for calls: below what proxies allow an idle connection.
pub const POLL_WAIT_S: u64 = 25;
/// Most calls of one [`PollAnswer`].
pub const MAX_CALLS_AT_ONCE: usize = 32;
/// Most launches of one [`StatesAnswer`](crate::agent::StatesAnswer) that an agent pushes.
pub const MAX_PUSHED_AT_ONCE: usize = 1000;

/// What an assertion of the agent's is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentPurpose {
    /// `POST /agent/poll`.
    Poll,
    /// `POST /agent/answers`.
    Answers,
    /// `POST /agent/states`.
    States,
}

/// Claims of the agent's assertion (`Authorization: Bearer`), signed with a key of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentClaims {
    /// Issuer: [`AUDIENCE_AGENT`](crate::launch_token::AUDIENCE_AGENT), the agent's name wherever it is a party.
    pub iss: String,
    /// [`AUDIENCE_LAUNCHER`].
    pub aud: Vec<String>,
    /// What it is for.
    pub sub: AgentPurpose,
    /// Unique id.
    pub jti: Uuid,
    /// Issued at, seconds since the epoch.
    pub iat: i64,
    /// Not before.
    pub nbf: i64,
    /// Expires.
    pub exp: i64,
    /// The agent's cluster.
    pub cluster: String,
}

/// Body of `POST /agent/poll`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PollRequest {
    /// Calls that the agent has and has not answered yet. What it was given and does not name is given again: it was lost on
    /// the way, or with an earlier life of the agent.
    pub in_hand: Vec<Uuid>,
}

/// Answer of `POST /agent/poll`: at once when there are calls, otherwise when one comes or after [`POLL_WAIT_S`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PollAnswer {
    /// What the agent has to answer.
    pub calls: Vec<Call>,
}

/// One call to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Names the call in its answer.
    pub id: Uuid,
    /// `/runner/start`, `/runner/cancel`, `/runner/states` or `/runner/list`.
    pub path: String,
    /// The assertion, for calls that carry one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion: Option<String>,
    /// Trace context (W3C).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The body.
    #[schema(value_type = Object)]
    pub body: serde_json::Value,
}

/// Body of `POST /agent/answers`, which is answered 204. An answer whose caller no longer waits is dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnswersRequest {
    /// One for each call.
    pub answers: Vec<CallAnswer>,
}

/// What the agent answers to a [`Call`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallAnswer {
    /// The call's.
    pub id: Uuid,
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// The body.
    #[schema(value_type = Object)]
    pub body: serde_json::Value,
}
