//! May a repository spend a Slurm user's account now? Asked when a workflow job is planned, when one of its launches is surplus, and
//! when its node calls back, because hours lie between.

use serde::{Deserialize, Serialize};

use crate::ids::{InstallationId, SlurmUser};
use crate::labels::Asked;
use crate::launch::Why;
use crate::resources::ResourceRequest;

/// What the launches of a repository are charged to. What is named is fixed: labels cannot name another. What is not named is the site's
/// default, and labels may name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Charge {
    /// Slurm account.
    pub account: Option<String>,
    /// Slurm QOS.
    pub qos: Option<String>,
}

/// How far to trust what an event reports of a repository. Events arrive late, twice and in any order, and anyone who has stolen the webhook
/// secret can forge them: facts that decide about rights are never accepted merely because they arrived last.
/// <https://docs.github.com/en/webhooks/testing-and-troubleshooting-webhooks/troubleshooting-webhooks>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearsay {
    /// It is known already.
    Kept,
    /// It is recorded: no rights depend on it.
    Believed,
    /// What is known stays until GitHub has been asked.
    Doubted,
}

impl Hearsay {
    /// Whether a repository is private. `known`: the outer `None` is a repository that is not in the database, so it is not mapped
    /// either: mapping it asks GitHub. One in doubt counts as public until GitHub has been asked, since anyone could run code in it.
    pub fn visibility(known: Option<Option<bool>>, private: Option<bool>) -> Self {
        match (known, private) {
            (_, None) => Self::Kept,
            (None, Some(_)) => Self::Believed,
            (Some(known), private) if known == private => Self::Kept,
            (Some(_), Some(_)) => Self::Doubted,
        }
    }

    /// The owner, name and installation of a repository. Calls about a mapped repository use them, so GitHub is asked; for an unmapped one
    /// they are only displayed.
    pub fn place(known: Option<&Place>, is_mapped: bool, said: &Place) -> Self {
        let Some(known) = known else {
            return Self::Believed;
        };
        let is_same = known.owner == said.owner
            && known.name == said.name
            && known.is_reachable == said.is_reachable
            && (said.installation.is_none() || known.installation == said.installation);
        match (is_same, is_mapped) {
            (true, _) => Self::Kept,
            (false, true) => Self::Doubted,
            (false, false) => Self::Believed,
        }
    }
}

/// Where a repository is at GitHub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Account it belongs to.
    pub owner: String,
    /// Name within its owner.
    pub name: String,
    /// The installation that reaches it; `None`: unknown.
    pub installation: Option<InstallationId>,
    /// Whether the App is installed on it.
    pub is_reachable: bool,
}

/// Labels ask for another account or QOS than the repository's mapping fixes. The text is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "its labels ask for the {what} {asked}, but the mapping of its repository fixes the {what} {fixed}; change the labels, or ask an \
     administrator to change the mapping"
)]
pub struct ChargeIsFixed {
    what: &'static str,
    asked: String,
    fixed: String,
}

impl Charge {
    /// What labels ask for, charged to this. Fails if labels ask for another account or QOS than this names.
    pub fn complete(&self, asked: Asked) -> Result<ResourceRequest, ChargeIsFixed> {
        let fixed = ResourceRequest {
            account: fixed(
                "account",
                self.account.as_ref(),
                asked.by_labels.account.as_ref(),
            )?,
            qos: fixed("QOS", self.qos.as_ref(), asked.by_labels.qos.as_ref())?,
            ..ResourceRequest::default()
        };
        Ok(asked.with_defaults().overlaid_with(fixed))
    }
}

/// Labels come without capital letters.
fn fixed(
    what: &'static str,
    fixed: Option<&String>,
    asked: Option<&String>,
) -> Result<Option<String>, ChargeIsFixed> {
    match (fixed, asked) {
        (Some(fixed), Some(asked)) if !fixed.eq_ignore_ascii_case(asked) => Err(ChargeIsFixed {
            what,
            asked: asked.clone(),
            fixed: fixed.clone(),
        }),
        (fixed, _) => Ok(fixed.cloned()),
    }
}

/// Whose account a repository may spend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The Slurm user.
    pub user: SlurmUser,
    /// The cluster that they are a user of. `None`: an administrator named none, and it is whichever the launcher serves.
    pub cluster: Option<String>,
    /// What is charged.
    pub charge: Charge,
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
    /// The users of another cluster are other people, whatever their names.
    #[error("this repository is mapped to a Slurm user of another cluster")]
    OtherCluster,
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

/// Whose account the repository may spend on `cluster`, or why none. `None`: it is not known yet on which cluster.
pub fn admit(standing: &Standing, cluster: Option<&str>) -> Result<Mapping, NotAdmitted> {
    if !standing.installed {
        return Err(NotAdmitted::NotInstalled);
    }
    if standing.suspended {
        return Err(NotAdmitted::Suspended);
    }
    if standing.public && !standing.public_allowed {
        return Err(NotAdmitted::Public);
    }
    let mapping = standing.mapped_to.clone().ok_or(NotAdmitted::Unmapped)?;
    match (mapping.cluster.as_deref(), cluster) {
        (Some(of), Some(on)) if of != on => Err(NotAdmitted::OtherCluster),
        _ => Ok(mapping),
    }
}

/// Why a launch of a class of `user` may not have a runner on `cluster` now; `None`: it may.
pub fn for_class(standing: &Standing, user: &SlurmUser, cluster: Option<&str>) -> Option<Why> {
    match admit(standing, cluster) {
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
                cluster: Some("main".into()),
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

    fn admit(standing: &Standing) -> Result<Mapping, NotAdmitted> {
        super::admit(standing, Some("main"))
    }

    #[test]
    fn each_obstacle_is_named() {
        assert_eq!(admit(&fine()).unwrap().user.as_str(), "alice");
        assert_eq!(
            super::admit(&fine(), Some("other")),
            Err(NotAdmitted::OtherCluster)
        );
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
    fn what_rights_depend_on_is_asked_of_github() {
        use Hearsay::{Believed, Doubted, Kept};
        for (known, private, expected) in [
            (None, Some(true), Believed),
            (None, None, Kept),
            (Some(Some(true)), None, Kept),
            (Some(Some(true)), Some(true), Kept),
            (Some(Some(false)), Some(false), Kept),
            (Some(Some(true)), Some(false), Doubted),
            (Some(Some(false)), Some(true), Doubted),
            (Some(None), Some(true), Doubted),
            (Some(None), Some(false), Doubted),
        ] {
            let heard = Hearsay::visibility(known, private);
            assert_eq!(heard, expected, "{known:?} {private:?}");
        }
        let place = |name: &str, installation: Option<i64>, is_reachable| Place {
            owner: "acme".into(),
            name: name.into(),
            installation: installation.map(InstallationId),
            is_reachable,
        };
        let known = place("widgets", Some(1), true);
        for (said, mapped, unmapped) in [
            (place("widgets", Some(1), true), Kept, Kept),
            (place("widgets", None, true), Kept, Kept),
            (place("gadgets", None, true), Doubted, Believed),
            (place("widgets", Some(2), true), Doubted, Believed),
            (place("widgets", Some(1), false), Doubted, Believed),
        ] {
            assert_eq!(Hearsay::place(Some(&known), true, &said), mapped);
            assert_eq!(Hearsay::place(Some(&known), false, &said), unmapped);
            assert_eq!(Hearsay::place(None, false, &said), Believed);
        }
    }

    fn asked(account: Option<&str>, qos: Option<&str>) -> ResourceRequest {
        ResourceRequest {
            account: account.map(str::to_owned),
            qos: qos.map(str::to_owned),
            ..Default::default()
        }
    }

    #[test]
    fn labels_do_not_override_what_is_granted() {
        let charge = Charge {
            account: Some("Chemistry".into()),
            qos: None,
        };
        let complete = |by_labels| {
            charge.complete(Asked {
                by_labels,
                defaults: asked(Some("site"), Some("normal")),
            })
        };
        let fixed = |qos| Ok(asked(Some("Chemistry"), Some(qos)));
        assert_eq!(complete(asked(None, None)), fixed("normal"));
        assert_eq!(
            complete(asked(Some("chemistry"), Some("high"))),
            fixed("high")
        );
        let refused = complete(asked(Some("physics"), None)).unwrap_err();
        let words = refused.to_string();
        assert!(
            words.contains("account physics") && words.contains("account Chemistry"),
            "{words}"
        );
        let both = Charge {
            qos: Some("normal".into()),
            ..charge.clone()
        };
        let refused = both.complete(Asked {
            by_labels: asked(None, Some("high")),
            ..Asked::default()
        });
        assert!(refused.unwrap_err().to_string().contains("QOS high"));
    }
}
