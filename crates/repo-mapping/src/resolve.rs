//! Resolves what people write to repository ids, by asking GitHub through token-broker.

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt};
use gha_slurm_contract::mapping::{DEFAULT_CHARGE, RepositoryEntry};
use gha_slurm_contract::problem::ProblemPart;
use gha_slurm_contract::repository::{REPOSITORY_UNREACHABLE, Repository};
use gha_slurm_domain::admission::Charge;
use gha_slurm_domain::naming::{InvalidSlurmName, slurm_name};
use gha_slurm_domain::{RepositoryFullName, RepositoryId};
use gha_slurm_storage::{AsyncPgConnection, StorageError, mappings, repositories};

use crate::token_broker::{Answer, BrokerError, TokenBroker};

/// Most repositories that one list asks for at a time.
const CONCURRENCY: usize = 8;
/// Most characters of a wrong entry that an answer repeats.
const MAX_SHOWN: usize = 200;

/// An entry as a caller wrote it.
pub(crate) struct Wanted {
    /// `owner/name` or the repository's URL; not yet checked.
    pub(crate) repository: String,
    /// What its launches must be charged to; `None`: as before.
    pub(crate) charge: Option<Charge>,
}

impl Wanted {
    /// Fails with the key of an account or QOS that is not a name of Slurm's.
    pub(crate) fn new(entry: RepositoryEntry) -> Result<Self, InvalidCharge> {
        let checked = |key: &'static str, value: Option<String>| {
            let value = value.filter(|value| !value.is_empty() && value != DEFAULT_CHARGE);
            value
                .map(|value| slurm_name(&value).map_err(|source| InvalidCharge { key, source }))
                .transpose()
        };
        let charge = Charge {
            account: checked("account", entry.account)?,
            qos: checked("qos", entry.qos)?,
        };
        Ok(Self {
            repository: entry.repository,
            charge: Some(charge),
        })
    }
}

/// The account or QOS of an entry is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {source}")]
pub(crate) struct InvalidCharge {
    key: &'static str,
    source: InvalidSlurmName,
}

/// A repository that the App can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) repository: Repository,
    /// What its launches must be charged to; `None`: as before.
    pub(crate) charge: Option<Charge>,
}

impl Resolved {
    pub(crate) fn entry(&self) -> mappings::Entry {
        mappings::Entry {
            repository: self.repository.id,
            cluster: None,
            charge: self.charge.clone(),
        }
    }

    /// Records what GitHub says about the repository.
    pub(crate) async fn store(
        &self,
        conn: &mut AsyncPgConnection,
        now: DateTime<Utc>,
    ) -> Result<(), StorageError> {
        repositories::upsert(
            conn,
            self.repository.id,
            Some(self.repository.installation_id),
            self.repository.full_name.owner(),
            self.repository.full_name.name(),
            Some(self.repository.private),
            now,
        )
        .await
    }
}

/// Why a list was not resolved.
pub(crate) enum Unresolved {
    /// These entries are wrong.
    Wrong(Vec<ProblemPart>),
    /// token-broker, or GitHub behind it, failed to answer.
    Failed(BrokerError),
}

enum Entry {
    Found(Resolved),
    Wrong(ProblemPart),
}

/// The error of one entry.
pub(crate) fn part(index: usize, value: &str, code: &str, detail: String) -> ProblemPart {
    ProblemPart {
        index: Some(index),
        value: Some(value.chars().take(MAX_SHOWN).collect()),
        code: code.to_owned(),
        detail,
        link: None,
    }
}

/// Resolves every entry, in order, each repository once. One wrong entry refuses the whole list; every wrong one is named.
/// Names are asked for each time: a name that was given up and taken again is another repository.
pub(crate) async fn resolve_list(
    broker: &TokenBroker,
    web_url: &str,
    entries: Vec<Wanted>,
) -> Result<Vec<Resolved>, Unresolved> {
    let (mut questions, mut wrong) = (Vec::new(), Vec::new());
    for (index, wanted) in entries.into_iter().enumerate() {
        match RepositoryFullName::parse(&wanted.repository, web_url) {
            Err(error) => wrong.push(part(
                index,
                &wanted.repository,
                "repository_invalid",
                error.to_string(),
            )),
            Ok(name) if questions.iter().any(|(_, asked, _)| *asked == name) => {}
            Ok(name) => questions.push((index, name, wanted.charge)),
        }
    }
    let asked: Vec<Entry> = futures_util::stream::iter(questions.into_iter().map(
        |(index, name, charge)| async move {
            Ok(match broker.repository(&name).await? {
                Answer::Found(repository) => Entry::Found(Resolved { repository, charge }),
                Answer::Unreachable { install_url } => {
                    Entry::Wrong(unreachable(index, &name, install_url))
                }
            })
        },
    ))
    .buffered(CONCURRENCY)
    // The first failure ends it: the others would wait as long.
    .try_collect()
    .await
    .map_err(Unresolved::Failed)?;
    let mut found: Vec<Resolved> = Vec::new();
    for entry in asked {
        match entry {
            Entry::Wrong(part) => wrong.push(part),
            Entry::Found(new) => {
                let known: &dyn Fn(RepositoryId) -> bool =
                    &|id| found.iter().any(|old| old.repository.id == id);
                if !known(new.repository.id) {
                    found.push(new);
                }
            }
        }
    }
    if wrong.is_empty() {
        Ok(found)
    } else {
        wrong.sort_by_key(|part| part.index);
        Err(Unresolved::Wrong(wrong))
    }
}

/// The error of an entry that the App cannot see, with a link to install the App.
pub(crate) fn unreachable(
    index: usize,
    name: &RepositoryFullName,
    install_url: Option<String>,
) -> ProblemPart {
    let detail = format!(
        "{name} does not exist, or the GitHub App is not installed on it: install it there, then save again"
    );
    ProblemPart {
        link: install_url,
        ..part(index, &name.to_string(), REPOSITORY_UNREACHABLE, detail)
    }
}
