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
use secrecy::SecretString;
use serde::Deserialize;

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
    agents: Vec<(String, KeySet)>,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// An administrator, or a service.
    Administrator,
    /// The Slurm user, by the word of the agent of their cluster.
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
    pub(crate) fn new(tokens: Vec<SecretString>, agents: &[AgentSettings]) -> anyhow::Result<Self> {
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
        Ok(Self { tokens, agents })
    }

    /// Requires an administrator.
    pub(crate) fn administrator(&self, request: &HttpRequest) -> Result<(), ApiError> {
        require_bearer(request, &self.tokens)
    }

    /// Requires an administrator, or the word of an agent about this user.
    pub(crate) fn of_user(
        &self,
        request: &HttpRequest,
        user: &SlurmUser,
    ) -> Result<Caller, ApiError> {
        let refusal = match self.administrator(request) {
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
            Some((cluster, asserted)) if asserted == *user => Ok(Caller::User {
                cluster: cluster.clone(),
                is_only: self.agents.len() == 1,
            }),
            Some(_) => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "not_this_user",
                "The assertion is about another user",
            )),
            None => Err(refusal),
        }
    }
}
