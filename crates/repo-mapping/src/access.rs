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
    /// GitHub ids of their accounts.
    administrators: Vec<i64>,
    agents: Vec<(String, KeySet)>,
}

/// Whose credential a call carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// A bearer token, of an administrator or a service.
    Token,
    /// The session of a person who signed in.
    Person(Person),
}

/// The role in which a call about a Slurm user's repositories is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// An administrator, or a service.
    Administrator,
    /// The Slurm user, as asserted by the agent of their cluster, or as linked by an administrator.
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
        let link = self.link_of(person)?;
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
            is_only: self.cluster(None) == Some(cluster),
        }
    }

    /// Which Slurm user a person is, on a cluster that the settings still have.
    pub(crate) fn link_of<'p>(&self, person: &'p Person) -> Result<&'p Link, ApiError> {
        let link = person.link.as_ref();
        let known = link.filter(|link| self.cluster(Some(&link.cluster)).is_some());
        known.ok_or_else(|| {
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

    /// Whose builds a person may see; `None`: everybody's. It is not known which cluster a build belongs to, and users of the same name on two
    /// clusters are two people.
    pub(crate) fn builds_of(&self, person: &Person) -> Result<Option<SlurmUser>, ApiError> {
        if self.is_administrator(person) {
            return Ok(None);
        }
        let link = self.link_of(person)?;
        if self.cluster(None).is_none() {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "several_clusters",
                "With several clusters, only administrators see builds and usage",
            ));
        }
        Ok(Some(link.slurm_user.clone()))
    }
}

pub(crate) fn not_this_user(title: &'static str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "not_this_user", title)
}

#[cfg(test)]
mod tests {
    use actix_web::ResponseError as _;
    use gha_slurm_auth::KeyFolder;

    use super::*;

    fn access(clusters: &[&str]) -> Access {
        let folder = tempfile::tempdir().unwrap();
        KeyFolder::new(folder.path()).generate(0).unwrap();
        let agents: Vec<AgentSettings> = clusters
            .iter()
            .map(|cluster| AgentSettings {
                cluster: (*cluster).to_owned(),
                public_keys: folder.path().to_owned(),
            })
            .collect();
        let settings = AccessSettings {
            tokens: Vec::new(),
            administrators: vec![1],
        };
        Access::new(settings, &agents).unwrap()
    }

    fn person(github_id: i64, cluster: &str) -> Person {
        let now = chrono::Utc::now();
        Person {
            github_id,
            login: "ada".into(),
            signed_in_at: now,
            link: Some(Link {
                slurm_user: "alice".parse().unwrap(),
                cluster: cluster.to_owned(),
                linked_by: "grace (1)".into(),
                linked_at: now,
            }),
        }
    }

    fn code(error: &ApiError) -> u16 {
        error.status_code().as_u16()
    }

    #[test]
    fn a_link_is_to_a_user_of_a_known_cluster() {
        let alice: SlurmUser = "alice".parse().unwrap();
        let ada = person(2, "west");
        let west = access(&["west"]);
        let as_user = |is_only| Caller::User {
            cluster: "west".into(),
            is_only,
        };
        assert_eq!(west.person_for(&ada, &alice).unwrap(), as_user(true));
        assert_eq!(west.builds_of(&ada).unwrap().as_ref(), Some(&alice));
        // Two people may be alice.
        let both = access(&["west", "east"]);
        assert_eq!(both.person_for(&ada, &alice).unwrap(), as_user(false));
        assert_eq!(code(&both.builds_of(&ada).unwrap_err()), 403);
        // The one who is left is somebody else.
        let east = access(&["east"]);
        assert_eq!(code(&east.person_for(&ada, &alice).unwrap_err()), 403);
        assert_eq!(code(&east.builds_of(&ada).unwrap_err()), 403);
        let grace = person(1, "west");
        assert_eq!(
            east.person_for(&grace, &alice).unwrap(),
            Caller::Administrator
        );
        assert_eq!(east.builds_of(&grace).unwrap(), None);
    }
}
