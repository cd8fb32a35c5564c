//! Webhook payloads, reduced to the fields we use. Our own types, not octocrab's: those leave `workflow_job` untyped and
//! refuse actions they do not know.
//!
//! What identifies something is required. What GitHub or an old Enterprise Server leaves out, or may reshape, is
//! optional: a payload refused is a build lost. Texts are [`bounded`].

use std::fmt;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use gha_slurm_domain::WorkflowJobFacts;
use gha_slurm_domain::bounded::{self, MAX_NAME};
use gha_slurm_domain::nul::replace_nul;

/// A payload of an event that we act upon.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// `workflow_job`.
    WorkflowJob(Box<WorkflowJobPayload>),
    /// `installation`.
    Installation(InstallationPayload),
    /// `installation_repositories`.
    InstallationRepositories(InstallationRepositoriesPayload),
    /// `github_app_authorization`.
    GithubAppAuthorization(AuthorizationPayload),
    /// `ping`: the hook was made. It asks for nothing.
    Ping,
}

/// Why a payload cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct PayloadError {
    /// The field, such as `workflow_job.id`, or `payload` for the whole.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Payload {
    /// The events that are acted upon.
    pub const EVENTS: [&'static str; 5] = [
        "workflow_job",
        "installation",
        "installation_repositories",
        "github_app_authorization",
        "ping",
    ];

    /// Reads the payload of `event` (GitHub's word, `X-GitHub-Event`). `None`: not an event that we act upon.
    pub fn parse(event: &str, json: &[u8]) -> Result<Option<Self>, PayloadError> {
        let payload = match event {
            "workflow_job" => Self::WorkflowJob(read(json)?),
            "installation" => Self::Installation(read(json)?),
            "installation_repositories" => Self::InstallationRepositories(read(json)?),
            "github_app_authorization" => Self::GithubAppAuthorization(read(json)?),
            "ping" => {
                read::<AnyObject>(json)?;
                Self::Ping
            }
            _ => return Ok(None),
        };
        Ok(Some(payload))
    }
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, PayloadError> {
    // A name with it could not be stored, and the event would be lost.
    let replaced = replace_nul(json);
    let json = replaced.as_deref().unwrap_or(json);
    serde_json::from_slice(json).map_err(|error| {
        // Keeping track of the path costs time, so it is done only once something is wrong.
        let mut again = serde_json::Deserializer::from_slice(json);
        match serde_path_to_error::deserialize::<_, T>(&mut again) {
            Err(error) if error.path().iter().next().is_some() => PayloadError {
                path: error.path().to_string(),
                reason: error.into_inner().to_string(),
            },
            // The whole is wrong, or it is fine and what follows it is not.
            _ => PayloadError {
                path: "payload".to_owned(),
                reason: error.to_string(),
            },
        }
    })
}

/// A `workflow_job` webhook.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct WorkflowJobPayload {
    /// `queued`, `in_progress`, `completed`, `waiting`, or one GitHub adds later.
    #[serde(deserialize_with = "bounded::text")]
    pub action: String,
    /// Present when sent to an App.
    pub installation: Option<InstallationId>,
    /// The base repository.
    pub repository: Repository,
    /// Who triggered it.
    pub sender: Option<Account>,
    /// The workflow job.
    pub workflow_job: WorkflowJobFacts,
}

/// A full `repository` object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Repository {
    /// Numeric id.
    pub id: i64,
    /// Name within its owner.
    #[serde(deserialize_with = "bounded::name")]
    pub name: String,
    /// Account it belongs to.
    pub owner: Account,
    /// Whether it is private or internal.
    pub private: Option<bool>,
}

/// A user or an organization.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Account {
    /// Numeric id.
    pub id: i64,
    /// Login.
    #[serde(deserialize_with = "bounded::name")]
    pub login: String,
}

/// The `installation` object of events other than `installation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct InstallationId {
    /// Numeric id.
    pub id: i64,
}

/// An `installation` webhook.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstallationPayload {
    /// `created`, `deleted`, `suspend`, `unsuspend`, `new_permissions_accepted`, or one GitHub adds later.
    #[serde(deserialize_with = "bounded::text")]
    pub action: String,
    /// The installation.
    pub installation: Installation,
    /// Repositories it may use; absent for some actions, and for "all repositories" possibly incomplete.
    #[serde(default)]
    pub repositories: RepositoryNames,
}

/// The `installation` object of an `installation` or `installation_repositories` event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Installation {
    /// Numeric id.
    pub id: i64,
    /// Account it belongs to; an enterprise has no login.
    pub account: Option<InstallationAccount>,
}

/// Where an App is installed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstallationAccount {
    /// Login of a user or organization.
    #[serde(default, deserialize_with = "bounded::optional_name")]
    pub login: Option<String>,
}

/// An `installation_repositories` webhook.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstallationRepositoriesPayload {
    /// `added`, `removed`, or one GitHub adds later.
    #[serde(deserialize_with = "bounded::text")]
    pub action: String,
    /// The installation.
    pub installation: Installation,
    /// Repositories added. A published `removed` example has both lists empty: they are hints.
    #[serde(default)]
    pub repositories_added: RepositoryNames,
    /// Repositories removed.
    #[serde(default)]
    pub repositories_removed: RepositoryNames,
}

/// A repository as installation events name it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawRepositoryName")]
pub struct RepositoryName {
    /// Numeric id.
    pub id: i64,
    /// Account it belongs to.
    pub owner: String,
    /// Name within its owner.
    pub name: String,
    /// Whether it is private or internal.
    pub private: Option<bool>,
}

#[derive(Deserialize)]
struct RawRepositoryName {
    id: i64,
    full_name: String,
    private: Option<bool>,
}

/// The `full_name` of a repository in a payload is not of the form `owner/name`, or a part of it is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("full_name is not owner/name, of at most {MAX_NAME} bytes each")]
struct InvalidFullName;

impl TryFrom<RawRepositoryName> for RepositoryName {
    type Error = InvalidFullName;

    fn try_from(raw: RawRepositoryName) -> Result<Self, Self::Error> {
        let (owner, name) = raw.full_name.split_once('/').ok_or(InvalidFullName)?;
        if owner.len().max(name.len()) > MAX_NAME {
            return Err(InvalidFullName);
        }
        Ok(Self {
            id: raw.id,
            owner: owner.to_owned(),
            name: name.to_owned(),
            private: raw.private,
        })
    }
}

/// A `github_app_authorization` webhook.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AuthorizationPayload {
    /// `revoked`.
    #[serde(deserialize_with = "bounded::text")]
    pub action: String,
    /// Who withdrew the App's authorisation.
    pub sender: Account,
}

/// Most repositories that are read of a list. More is legal, since an organization can have a hundred thousand of them; what an event
/// leaves out is found by the next workflow job, or by asking GitHub.
pub const MAX_REPOSITORIES: usize = 10_000;

/// Repositories of an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepositoryNames {
    /// The first [`MAX_REPOSITORIES`].
    pub first: Vec<RepositoryName>,
    /// How many more there are.
    pub left_out: usize,
}

impl<'de> Deserialize<'de> for RepositoryNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = RepositoryNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of repositories, or null")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(RepositoryNames::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut names = RepositoryNames::default();
                while names.first.len() < MAX_REPOSITORIES {
                    let Some(name) = list.next_element()? else {
                        return Ok(names);
                    };
                    names.first.push(name);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    names.left_out += 1;
                }
                Ok(names)
            }
        }

        deserializer.deserialize_any(List)
    }
}

/// An object of which nothing is kept.
struct AnyObject;

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = AnyObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(AnyObject)
            }
        }

        deserializer.deserialize_map(Object)
    }
}
