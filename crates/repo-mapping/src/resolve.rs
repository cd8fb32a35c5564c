//! What people write becomes repository ids, at GitHub.

use futures_util::StreamExt;
use gha_slurm_contract::problem::ProblemPart;
use gha_slurm_domain::admission::Charge;
use gha_slurm_domain::{InstallationId, RepositoryFullName, RepositoryId};
use gha_slurm_github::{Github, GithubError, Repository};
use gha_slurm_storage::mappings;

use crate::mapping::Wanted;

/// GitHub is asked about this many entries at once.
const CONCURRENCY: usize = 8;
/// Most characters of a wrong entry that are repeated in the answer.
const MAX_SHOWN: usize = 200;

/// A repository that the App can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) repository: Repository,
    pub(crate) installation: InstallationId,
    /// What its launches shall be charged to; `None`: as before.
    pub(crate) charge: Option<Charge>,
}

impl Resolved {
    pub(crate) fn entry(&self) -> mappings::Entry {
        mappings::Entry {
            repository: self.repository.id,
            charge: self.charge.clone(),
        }
    }
}

/// Why a list was not resolved.
pub(crate) enum Unresolved {
    /// These entries are wrong.
    Wrong(Vec<ProblemPart>),
    /// GitHub did not say.
    Github(GithubError),
}

enum Entry {
    Found(Resolved),
    Wrong(ProblemPart),
}

/// One entry as an error shows it.
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

/// The entry with the link that mends it.
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
