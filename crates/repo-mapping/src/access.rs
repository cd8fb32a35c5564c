//! Who calls.

use std::path::PathBuf;

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use anyhow::Context;
use gha_slurm_auth::{KeySet, KeysError, verify};
use gha_slurm_contract::mapping::{AUDIENCE_REPO_MAPPING, UserClaims};
use gha_slurm_domain::SlurmUser;
use gha_slurm_service_kit::ApiError;
use gha_slurm_service_kit::authentication::{bearer, require_bearer};
use gha_slurm_storage::mappings::Clusters;
use gha_slurm_storage::people::{Link, Person};
use secrecy::SecretString;
use serde::Deserialize;

use crate::settings::AccessSettings;

/// `[[agents]]`: a Slurm agent whose word about Slurm users is taken.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSettings {
    /// Its `cluster.name`.
    pub cluster: String,
    /// Its public keys: a `<kid>.pub.pem` file, or a folder of them.
    pub public_keys: PathBuf,
}

impl AgentSettings {
    /// Reads them.
    pub(crate) fn keys(&self) -> Result<KeySet, KeysError> {
        KeySet::read_some(&self.public_keys)
    }
}

/// Who may call.
pub(crate) struct Access {
    tokens: Vec<SecretString>,
    /// GitHub's ids of accounts.
    administrators: Vec<i64>,
    agents: Vec<(String, KeySet)>,
}

/// Whose credential a call carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// A bearer token's: an administrator's, or a service's.
    Token,
    /// Somebody's who signed in.
    Person(Person),
}

/// As what a call about a Slurm user's repositories is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// An administrator, or a service.
    Administrator,
    /// The Slurm user, by the word of the agent of their cluster, or of whoever linked them.
    User {
        /// The agent's cluster.
        cluster: String,
        /// Whether no other agent is known.
        is_only: bool,
    },
}

impl Caller {
    /// The clusters whose mappings they see and change.
    pub(crate) fn clusters(&self) -> Clusters<'_> {
        match self {
            Self::Administrator => Clusters::All,
            Self::User { cluster, is_only } => Clusters::One {
                name: cluster,
                unnamed: *is_only,
            },
        }
    }
}

impl Access {
    /// Reads the public keys.
    pub(crate) fn new(settings: AccessSettings, agents: &[AgentSettings]) -> anyhow::Result<Self> {
        let AccessSettings {
            tokens,
            administrators,
        } = settings;
        let agents = agents
            .iter()
            .enumerate()
            .map(|(index, agent)| {
                let keys = agent
                    .keys()
                    .with_context(|| format!("agents[{index}].public_keys"))?;
                Ok((agent.cluster.clone(), keys))
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            tokens,
            administrators,
            agents,
        })
    }

    /// Requires one of the bearer tokens.
    pub(crate) fn token(&self, request: &HttpRequest) -> Result<(), ApiError> {
        require_bearer(request, &self.tokens)
    }

    /// Whether a person may see and change everything.
    pub(crate) fn is_administrator(&self, person: &Person) -> bool {
        self.administrators.contains(&person.github_id)
    }

    /// The cluster of this name; the only one, if none is named. `None`: it is not known, or none is named and there is not one.
    pub(crate) fn cluster(&self, named: Option<&str>) -> Option<&str> {
        let mut names = self.agents.iter().map(|(cluster, _)| cluster.as_str());
        match (named, self.agents.as_slice()) {
            (Some(named), _) => names.find(|name| *name == named),
            (None, [_]) => names.next(),
            (None, _) => None,
        }
    }

    /// What a bearer token may do about this user's repositories: everything for an administrator's, what the user may for an agent's
    /// assertion.
    pub(crate) fn bearer_for(
        &self,
        request: &HttpRequest,
        user: &SlurmUser,
    ) -> Result<Caller, ApiError> {
        let refusal = match self.token(request) {
            Ok(()) => return Ok(Caller::Administrator),
            Err(refusal) => refusal,
        };
        let asserted = bearer(request).and_then(|token| {
            self.agents.iter().find_map(|(cluster, keys)| {
                let claims: UserClaims =
                    verify(token, keys, AUDIENCE_REPO_MAPPING, cluster).ok()?;
                Some((cluster, claims.sub))
            })
        });
        match asserted {
            Some((cluster, asserted)) if asserted == *user => Ok(self.as_user_of(cluster)),
            Some(_) => Err(not_this_user("The assertion is about another user")),
            None => Err(refusal),
        }
    }

    /// What a person may do about this user's repositories.
    pub(crate) fn person_for(&self, person: &Person, user: &SlurmUser) -> Result<Caller, ApiError> {
        if self.is_administrator(person) {
            return Ok(Caller::Administrator);
        }
        let link = link_of(person)?;
        if link.slurm_user == *user {
            Ok(self.as_user_of(&link.cluster))
        } else {
            Err(not_this_user("You are another Slurm user").detail(format!(
                "You are linked to {}, and see and change what is theirs.",
                link.slurm_user
            )))
        }
    }

    fn as_user_of(&self, cluster: &str) -> Caller {
        Caller::User {
            cluster: cluster.to_owned(),
            is_only: self.agents.len() == 1,
        }
    }
}

/// Which Slurm user a person is.
pub(crate) fn link_of(person: &Person) -> Result<&Link, ApiError> {
    person.link.as_ref().ok_or_else(|| {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "not_linked",
            "Your GitHub account is not linked to a Slurm user",
        )
        .detail(format!(
            "Ask an administrator to link {} (id {}) to your Slurm user.",
            person.login, person.github_id
        ))
    })
}

pub(crate) fn not_this_user(title: &'static str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "not_this_user", title)
}
