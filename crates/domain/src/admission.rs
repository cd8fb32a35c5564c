//! May a repository spend a Slurm user's account now? Asked when a workflow job is planned, when one of its launches is surplus, and
//! when its node calls back, because hours lie between.

use serde::{Deserialize, Serialize};

use crate::ids::SlurmUser;
use crate::launch::Why;
use crate::resources::ResourceRequest;

/// What the launches of a repository are charged to, where the labels of a workflow job do not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Charge {
    /// Slurm account.
    pub account: Option<String>,
    /// Slurm QOS.
    pub qos: Option<String>,
}

/// Whose account a repository may spend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The Slurm user.
    pub user: SlurmUser,
    /// What is charged.
    pub charge: Charge,
}

impl Mapping {
    /// What labels ask for, completed.
    #[must_use]
    pub fn complete(&self, asked: ResourceRequest) -> ResourceRequest {
        let Charge { account, qos } = self.charge.clone();
        ResourceRequest {
            account: asked.account.or(account),
            qos: asked.qos.or(qos),
            ..asked
        }
    }
}

/// What is known about a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Who it is mapped to.
    pub mapped_to: Option<Mapping>,
    /// GitHub says it is public, or has not said that it is not.
    pub public: bool,
    /// An administrator allowed this public repository.
    pub public_allowed: bool,
    /// The App's installation is suspended.
    pub suspended: bool,
    /// The App is installed on it.
    pub installed: bool,
}

/// Why a repository may not use anything now. The text is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum NotAdmitted {
    /// No Slurm user mapped it: its workflow jobs wait, and start as soon as somebody does.
    #[error("no Slurm user has mapped this repository yet")]
    Unmapped,
    /// Rule 9: foreign code runs nowhere by default.
    #[error(
        "public repositories are refused until an administrator allows this one: anyone could run code on the cluster through a pull request"
    )]
    Public,
    /// The account's owner suspended the App.
    #[error("the App's installation is suspended at GitHub")]
    Suspended,
    /// The App was removed from it.
    #[error("the App is no longer installed on this repository")]
    NotInstalled,
}

/// Whose account the repository may spend, or why none.
pub fn admit(standing: &Standing) -> Result<Mapping, NotAdmitted> {
    if !standing.installed {
        return Err(NotAdmitted::NotInstalled);
    }
    if standing.suspended {
        return Err(NotAdmitted::Suspended);
    }
    if standing.public && !standing.public_allowed {
        return Err(NotAdmitted::Public);
    }
    standing.mapped_to.clone().ok_or(NotAdmitted::Unmapped)
}

/// Why a launch of a class of `user` may not have a runner now; `None`: it may.
pub fn for_class(standing: &Standing, user: &SlurmUser) -> Option<Why> {
    match admit(standing) {
        Err(reason) => Some(Why::NotAdmitted { reason }),
        Ok(mapping) if mapping.user != *user => Some(Why::MappedToAnother),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> Standing {
        Standing {
            mapped_to: Some(Mapping {
                user: "alice".parse().unwrap(),
                charge: Charge {
                    account: Some("chemistry".into()),
                    qos: Some("normal".into()),
                },
            }),
            public: false,
            public_allowed: false,
            suspended: false,
            installed: true,
        }
    }

    #[test]
    fn each_obstacle_is_named() {
        assert_eq!(admit(&fine()).unwrap().user.as_str(), "alice");
        assert_eq!(
            admit(&Standing {
                public: true,
                ..fine()
            }),
            Err(NotAdmitted::Public)
        );
        assert!(
            admit(&Standing {
                public: true,
                public_allowed: true,
                ..fine()
            })
            .is_ok()
        );
        assert_eq!(
            admit(&Standing {
                suspended: true,
                ..fine()
            }),
            Err(NotAdmitted::Suspended)
        );
        assert_eq!(
            admit(&Standing {
                installed: false,
                ..fine()
            }),
            Err(NotAdmitted::NotInstalled)
        );
        assert_eq!(
            admit(&Standing {
                mapped_to: None,
                ..fine()
            }),
            Err(NotAdmitted::Unmapped)
        );
    }
    #[test]
    fn labels_say_more_than_the_mapping() {
        let asked = ResourceRequest {
            qos: Some("high".into()),
            cpus: Some(2),
            ..Default::default()
        };
        let expected = ResourceRequest {
            account: Some("chemistry".into()),
            ..asked.clone()
        };
        assert_eq!(admit(&fine()).unwrap().complete(asked), expected);
    }
}
