//! What a test or an operator may ask of the simulator, over the handle or the control API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Permissions, Role};

/// The App is installed on an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewInstallation {
    /// The account, made when it does not exist.
    pub login: String,
    /// Whether a new account is an organization (default) or a user.
    #[serde(default = "yes")]
    pub organization: bool,
    /// Every repository of the account belongs to it (default), or only those added one by one.
    #[serde(default = "yes")]
    pub all_repositories: bool,
    /// What it may do; the minimum that runners need when empty.
    #[serde(default)]
    pub permissions: Permissions,
}

impl NewInstallation {
    /// On an organization, for all repositories, with the permissions that runners need.
    pub fn on(login: &str) -> Self {
        Self {
            login: login.to_owned(),
            organization: true,
            all_repositories: true,
            permissions: Permissions::new(),
        }
    }
}

/// A repository is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRepository {
    /// `owner/name`; the owner is made when it does not exist.
    pub full_name: String,
    /// Whether only members see it (default).
    #[serde(default = "yes")]
    pub private: bool,
    /// Whether the App can see it (default); makes the installation when there is none.
    #[serde(default = "yes")]
    pub installed: bool,
}

impl NewRepository {
    /// A private repository on which the App is installed.
    pub fn named(full_name: &str) -> Self {
        Self {
            full_name: full_name.to_owned(),
            private: true,
            installed: true,
        }
    }
}

/// What changes about a repository; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryChange {
    /// The new name, without the owner. The old one redirects until somebody takes it.
    #[serde(default)]
    pub name: Option<String>,
    /// The account that it is transferred to. Installations of both accounts gain and lose it; the old name redirects.
    #[serde(default)]
    pub owner: Option<String>,
    /// Whether only members see it.
    #[serde(default)]
    pub private: Option<bool>,
}

/// A person is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPerson {
    /// The name.
    pub login: String,
}

/// A person gets this role in a repository, in place of any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleChange {
    /// The role.
    pub role: Role,
}

/// A person opens the address of the App's "Sign in with GitHub" and presses a button.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The address, of `/login/oauth/authorize`.
    pub url: String,
    /// The person who signs in; "Cancel" when absent.
    #[serde(default)]
    pub login: Option<String>,
}

/// A workflow job is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWorkflowJob {
    /// `owner/name`.
    pub repository: String,
    /// The strings of `runs-on`.
    pub labels: Vec<String>,
    /// Its display name (default `build`).
    #[serde(default)]
    pub name: Option<String>,
    /// The bash script that is its one step (default: sleeps briefly).
    #[serde(default)]
    pub script: Option<String>,
    /// Milliseconds the runner spends setting up before the first hook.
    #[serde(default)]
    pub set_up_ms: u64,
    /// Held back until approved.
    #[serde(default)]
    pub waiting: bool,
    /// Adds it to this workflow run; otherwise a new one is made of the fields below.
    #[serde(default)]
    pub run_id: Option<i64>,
    /// The event that triggered the run (default `push`).
    #[serde(default)]
    pub event: Option<String>,
    /// The fork (`owner/name`) the run's commit comes from.
    #[serde(default)]
    pub fork: Option<String>,
    /// The branch (default `main`).
    #[serde(default)]
    pub head_branch: Option<String>,
    /// Who triggered the run (default: the owner).
    #[serde(default)]
    pub actor: Option<String>,
    /// The image of its `container:`.
    #[serde(default)]
    pub container: Option<String>,
    /// The images of its `services:`.
    #[serde(default)]
    pub services: Vec<String>,
}

impl NewWorkflowJob {
    /// One workflow job in a run of its own.
    pub fn of(repository: &str, labels: &[&str]) -> Self {
        Self {
            repository: repository.to_owned(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            name: None,
            script: None,
            set_up_ms: 0,
            waiting: false,
            run_id: None,
            event: None,
            fork: None,
            head_branch: None,
            actor: None,
            container: None,
            services: Vec::new(),
        }
    }

    /// With this bash script as its step.
    #[must_use]
    pub fn script(self, script: &str) -> Self {
        Self {
            script: Some(script.to_owned()),
            ..self
        }
    }
}

/// Something goes wrong with the next deliveries that match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookFault {
    /// Only this event.
    #[serde(default)]
    pub event: Option<String>,
    /// Only this action.
    #[serde(default)]
    pub action: Option<String>,
    /// Only this workflow job.
    #[serde(default)]
    pub workflow_job_id: Option<i64>,
    /// How many deliveries (default 1).
    #[serde(default = "one")]
    pub times: u32,
    /// What happens to them.
    pub effect: WebhookEffect,
}

/// What happens to a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookEffect {
    /// Never triggered: no delivery is recorded, so nothing can be redelivered.
    Drop,
    /// Recorded as failed without being sent; can be redelivered.
    Fail,
    /// Sent twice with the same GUID.
    Double,
    /// Sent so many milliseconds later; others overtake it.
    DelayMs(u64),
    /// Kept until released, in whatever order is asked for then.
    Hold,
}

impl WebhookFault {
    /// Hits the next delivery of a `workflow_job` action.
    pub fn on(action: &str, effect: WebhookEffect) -> Self {
        Self {
            event: Some("workflow_job".to_owned()),
            action: Some(action.to_owned()),
            workflow_job_id: None,
            times: 1,
            effect,
        }
    }
}

/// In which order held deliveries are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseOrder {
    /// As they came.
    #[default]
    AsHeld,
    /// The last one first.
    Reversed,
    /// The delivery ids in this order; those not named follow as they came.
    Ids(Vec<i64>),
}

/// The next answers of a REST route are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestFault {
    /// The route as counted, for example `POST /repos/{owner}/{repo}/actions/runners/generate-jitconfig`; every
    /// route when absent.
    #[serde(default)]
    pub route: Option<String>,
    /// How many answers (default 1).
    #[serde(default = "one")]
    pub times: u32,
    /// What happens instead.
    pub effect: RestEffect,
}

impl RestFault {
    /// Hits the next `times` calls of a route.
    pub fn on(route: &str, times: u32, effect: RestEffect) -> Self {
        Self {
            route: Some(route.to_owned()),
            times,
            effect,
        }
    }
}

/// What a REST call is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestEffect {
    /// This status, with these headers; nothing is done.
    Answer {
        /// HTTP status.
        status: u16,
        /// Further headers.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// The `message` of the body (default: the status's phrase).
        #[serde(default)]
        message: Option<String>,
    },
    /// 403 with `x-ratelimit-remaining: 0` and a reset so many seconds ahead; nothing is done.
    PrimaryRateLimit {
        /// Seconds until the limit is reset.
        reset_after_seconds: u64,
    },
    /// 429 with `retry-after`; nothing is done.
    SecondaryRateLimit {
        /// Seconds to wait.
        retry_after_seconds: u64,
    },
    /// The call is done, but the answer is 502: the caller cannot know.
    LoseAnswer,
    /// The call is done at once, and answered so many milliseconds later.
    DelayMs(u64),
}

/// Which tokens stop being valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// Installation access tokens.
    Installation,
    /// Registration and remove tokens.
    Registration,
    /// Codes that people brought back from signing in.
    AuthorizationCode,
    /// User access tokens.
    User,
    /// Refresh tokens.
    Refresh,
}

/// Why the simulator could not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(String),
    /// It makes no sense in the present state.
    #[error("{0}")]
    Conflict(String),
    /// It did not happen in time.
    #[error("not in time: {0}")]
    TimedOut(String),
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}
