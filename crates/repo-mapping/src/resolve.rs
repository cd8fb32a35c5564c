//! Resolves what people write to repository ids, by asking GitHub.

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use gha_slurm_contract::mapping::{DEFAULT_CHARGE, RepositoryEntry};
use gha_slurm_contract::problem::ProblemPart;
use gha_slurm_domain::admission::Charge;
use gha_slurm_domain::naming::{InvalidSlurmName, slurm_name};
use gha_slurm_domain::{InstallationId, RepositoryFullName, RepositoryId};
use gha_slurm_github::{Github, GithubError, Repository};
use gha_slurm_storage::{AsyncPgConnection, StorageError, mappings, repositories};

/// Most calls to GitHub at a time.
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
    pub(crate) installation: InstallationId,
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
            Some(self.installation),
            self.repository.name.owner(),
            self.repository.name.name(),
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
    /// GitHub failed to answer.
    Github(GithubError),
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
    github: &Github,
    web_url: &str,
    entries: Vec<Wanted>,
) -> Result<Vec<Resolved>, Unresolved> {
    let asked = futures_util::stream::iter(entries.into_iter().enumerate().map(
        |(index, wanted)| async move {
            let text = &wanted.repository;
            match RepositoryFullName::parse(text, web_url) {
                Err(error) => Ok(Entry::Wrong(part(
                    index,
                    text,
                    "repository_invalid",
                    error.to_string(),
                ))),
                Ok(name) => match resolve(github, &name).await? {
                    Some(found) => Ok(Entry::Found(Resolved {
                        charge: wanted.charge,
                        ..found
                    })),
                    None => Ok(Entry::Wrong(unreachable(github, index, &name).await)),
                },
            }
        },
    ))
    .buffered(CONCURRENCY)
    .collect::<Vec<Result<Entry, GithubError>>>()
    .await;
    let (mut found, mut wrong): (Vec<Resolved>, Vec<ProblemPart>) = (Vec::new(), Vec::new());
    for entry in asked {
        match entry.map_err(Unresolved::Github)? {
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
        Err(Unresolved::Wrong(wrong))
    }
}

/// One repository; `None`: the App cannot see it.
pub(crate) async fn resolve(
    github: &Github,
    name: &RepositoryFullName,
) -> Result<Option<Resolved>, GithubError> {
    let Some(installation) = github.installation_of(name).await? else {
        return Ok(None);
    };
    let repository = github.repository(installation, name).await?;
    Ok(repository.map(|repository| Resolved {
        repository,
        installation,
        charge: None,
    }))
}

/// The error of an entry that the App cannot see, with a link to install the App.
pub(crate) async fn unreachable(
    github: &Github,
    index: usize,
    name: &RepositoryFullName,
) -> ProblemPart {
    let detail = format!(
        "{name} does not exist, or the GitHub App is not installed on it: install it there, then save again"
    );
    let link = github
        .install_url()
        .await
        .inspect_err(|error| tracing::warn!(%error, "the App's page is unknown"))
        .ok();
    ProblemPart {
        link,
        ..part(index, &name.to_string(), "repository_unreachable", detail)
    }
}
