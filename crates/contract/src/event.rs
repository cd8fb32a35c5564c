//! What webhook-ingest says to launcher: GitHub's webhook, reduced to what is needed.

use chrono::{DateTime, Utc};
use gha_slurm_domain::{WorkflowJobFacts, bounded};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the event schema written by this code. Readers accept every version up to theirs.
pub const EVENT_VERSION: u16 = 1;

/// One webhook delivery. Published to the topic exchange with routing key [`Event::routing_key`]; the AMQP message id
/// is the delivery GUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Schema version, [`EVENT_VERSION`].
    pub version: u16,
    /// GitHub's delivery GUID (`X-GitHub-Delivery`); a redelivery keeps it.
    #[serde(deserialize_with = "bounded::name")]
    pub delivery: String,
    /// When webhook-ingest had verified it.
    pub received_at: DateTime<Utc>,
    /// What GitHub said.
    #[serde(flatten)]
    pub payload: EventPayload,
}

/// What GitHub said, by event.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every event is the large one"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", content = "payload", rename_all = "snake_case")]
pub enum EventPayload {
    /// `workflow_job`, any action.
    WorkflowJob(WorkflowJobEvent),
    /// `installation`: the App was installed, removed, suspended, …
    Installation(InstallationEvent),
    /// `installation_repositories`: repositories were added to or removed from an installation. GitHub's lists may be
    /// empty: they are hints, the truth is `GET /installation/repositories`.
    InstallationRepositories(InstallationRepositoriesEvent),
    /// `github_app_authorization` (revoked): a person withdrew the App's authorisation.
    GithubAppAuthorization(AuthorizationEvent),
}

/// A repository as webhooks name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryFacts {
    /// Numeric id.
    pub id: i64,
    /// Account it belongs to.
    #[serde(deserialize_with = "bounded::name")]
    pub owner: String,
    /// Name within its owner.
    #[serde(deserialize_with = "bounded::name")]
    pub name: String,
    /// Whether it is private or internal. Absent: unknown.
    pub private: Option<bool>,
}

/// A `workflow_job` webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowJobEvent {
    /// `queued`, `in_progress`, `completed`, `waiting`, or one GitHub adds later.
    #[serde(deserialize_with = "bounded::text")]
    pub action: String,
    /// Installation of the App; absent for repository webhooks.
    pub installation_id: Option<i64>,
    /// The base repository.
    pub repository: RepositoryFacts,
    /// Login of who triggered it.
    #[serde(default, deserialize_with = "bounded::optional_name")]
    pub sender: Option<String>,
    /// The workflow job.
    pub workflow_job: WorkflowJobFacts,
}

/// An `installation` webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstallationEvent {
    /// `created`, `deleted`, `suspend`, `unsuspend`, `new_permissions_accepted`, …
    #[serde(deserialize_with = "bounded::text")]
    pub action: String,
    /// Numeric id.
    pub installation_id: i64,
    /// Account it belongs to.
    #[serde(default, deserialize_with = "bounded::optional_name")]
    pub account: Option<String>,
    /// Repositories named by the webhook.
    pub repositories: Vec<RepositoryFacts>,
}

/// An `installation_repositories` webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstallationRepositoriesEvent {
    /// `added` or `removed`.
    #[serde(deserialize_with = "bounded::text")]
    pub action: String,
    /// Numeric id.
    pub installation_id: i64,
    /// Repositories added.
    pub added: Vec<RepositoryFacts>,
    /// Repositories removed.
    pub removed: Vec<RepositoryFacts>,
}

/// A `github_app_authorization` webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationEvent {
    /// `revoked`.
    #[serde(deserialize_with = "bounded::text")]
    pub action: String,
    /// Numeric id of the person.
    pub user_id: i64,
    /// Login of the person.
    #[serde(deserialize_with = "bounded::name")]
    pub user: String,
}

impl Event {
    /// GitHub's name of the event.
    pub fn name(&self) -> &'static str {
        match self.payload {
            EventPayload::WorkflowJob(_) => "workflow_job",
            EventPayload::Installation(_) => "installation",
            EventPayload::InstallationRepositories(_) => "installation_repositories",
            EventPayload::GithubAppAuthorization(_) => "github_app_authorization",
        }
    }

    /// GitHub's name of the action.
    pub fn action(&self) -> &str {
        match &self.payload {
            EventPayload::WorkflowJob(e) => &e.action,
            EventPayload::Installation(e) => &e.action,
            EventPayload::InstallationRepositories(e) => &e.action,
            EventPayload::GithubAppAuthorization(e) => &e.action,
        }
    }

    /// AMQP routing key, `<event>.<action>`.
    pub fn routing_key(&self) -> String {
        // AMQP short strings end at 255 bytes; an action is GitHub's own word, but it is still input.
        let action: String = self
            .action()
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
            .take(60)
            .collect();
        format!("{}.{action}", self.name())
    }
}
