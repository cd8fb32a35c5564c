//! Repositories and the installations that reach them.

use gha_slurm_domain::{InstallationId, RepositoryFullName, RepositoryId, bounded};
use serde::Deserialize;

use crate::client::{Call, Github, PER_PAGE, Purpose, Scope, at_number};
use crate::error::GithubError;

/// An installation of the App as GitHub describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installation {
    /// Its id.
    pub id: InstallationId,
    /// Whether its account's owner, or GitHub, has suspended it.
    pub is_suspended: bool,
}

/// A repository as GitHub describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its id, which survives renames.
    pub id: RepositoryId,
    /// Its name now.
    pub name: RepositoryFullName,
    /// Whether it is private or internal.
    pub private: bool,
}

#[derive(Deserialize)]
struct Facts {
    id: i64,
    full_name: RepositoryFullName,
    private: bool,
}

impl From<Facts> for Repository {
    fn from(facts: Facts) -> Self {
        Self {
            id: RepositoryId(facts.id),
            name: facts.full_name,
            private: facts.private,
        }
    }
}

impl Github {
    /// An installation; `None`: the App is not installed there any more. `GET /app/installations/{installation_id}`.
    pub async fn installation(
        &self,
        id: InstallationId,
    ) -> Result<Option<Installation>, GithubError> {
        #[derive(Deserialize)]
        struct Facts {
            suspended_at: Option<serde::de::IgnoredAny>,
        }
        let call = Call::get(
            "read an installation",
            format!("/app/installations/{id}"),
            &[404],
        );
        let answer = self.as_app(&call).await?;
        if answer.status == http::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(Installation {
            id,
            is_suspended: answer.json::<Facts>()?.suspended_at.is_some(),
        }))
    }

    /// The installation that reaches a repository; `None`: none does, or there is no such repository.
    /// `GET /repos/{owner}/{repo}/installation`.
    pub async fn installation_of(
        &self,
        name: &RepositoryFullName,
    ) -> Result<Option<InstallationId>, GithubError> {
        self.installation_at(&format!("/repos/{name}")).await
    }

    /// The installation that reaches a repository now, whatever its name and wherever it was transferred; `None`: none does.
    pub async fn installation_of_id(
        &self,
        repository: RepositoryId,
    ) -> Result<Option<InstallationId>, GithubError> {
        self.installation_at(&at_number(repository)).await
    }

    async fn installation_at(&self, path: &str) -> Result<Option<InstallationId>, GithubError> {
        #[derive(Deserialize)]
        struct Found {
            id: i64,
        }
        let call = Call::get(
            "find the installation of a repository",
            format!("{path}/installation"),
            &[404],
        );
        let answer = self.as_app(&call).await?;
        if answer.status == http::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(InstallationId(answer.json::<Found>()?.id)))
    }

    /// A repository as the scope of runners; looks its installation up where it is not known. `None`: the App is not
    /// installed on it.
    pub async fn scope(
        &self,
        repository: RepositoryId,
        name: RepositoryFullName,
        known: Option<InstallationId>,
    ) -> Result<Option<Scope>, GithubError> {
        let installation = match known {
            Some(known) => Some(known),
            None => self.installation_of_id(repository).await?,
        };
        Ok(installation.map(|installation| Scope {
            installation,
            repository,
            name,
        }))
    }

    /// A repository by its name; `None`: the installation cannot see it. `GET /repos/{owner}/{repo}`.
    pub async fn repository(
        &self,
        installation: InstallationId,
        name: &RepositoryFullName,
    ) -> Result<Option<Repository>, GithubError> {
        self.repository_at(installation, format!("/repos/{name}"))
            .await
    }

    /// A repository by its id; `None`: the installation cannot see it.
    pub async fn repository_of_id(
        &self,
        installation: InstallationId,
        repository: RepositoryId,
    ) -> Result<Option<Repository>, GithubError> {
        self.repository_at(installation, at_number(repository))
            .await
    }

    async fn repository_at(
        &self,
        installation: InstallationId,
        path: String,
    ) -> Result<Option<Repository>, GithubError> {
        let call = Call::get("read a repository", path, &[404]);
        let answer = self
            .as_installation(installation, None, Purpose::Metadata, &call)
            .await?;
        if answer.status == http::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(answer.json::<Facts>()?.into()))
    }

    /// Every repository an installation reaches. `GET /installation/repositories`.
    pub async fn installation_repositories(
        &self,
        installation: InstallationId,
    ) -> Result<Vec<Repository>, GithubError> {
        #[derive(Deserialize)]
        struct Page {
            repositories: Vec<Facts>,
        }
        let mut all = Vec::new();
        for page in 1.. {
            // By number: octocrab leaves the credential out when it follows `next` links of other hosts.
            let call = Call::get(
                "list the repositories of an installation",
                format!("/installation/repositories?per_page={PER_PAGE}&page={page}"),
                &[],
            );
            let answer = self
                .as_installation(installation, None, Purpose::Metadata, &call)
                .await?;
            let found: Page = answer.json()?;
            let last = found.repositories.len() < PER_PAGE;
            all.extend(found.repositories.into_iter().map(Repository::from));
            if last {
                break;
            }
        }
        Ok(all)
    }

    /// Where a person installs the App. `GET /app`.
    pub async fn install_url(&self) -> Result<String, GithubError> {
        #[derive(Deserialize)]
        struct App {
            #[serde(default, deserialize_with = "bounded::web_address")]
            html_url: Option<String>,
        }
        let call = Call::get("read the App", "/app".into(), &[]);
        let app: App = self.as_app(&call).await?.json()?;
        let page = app.html_url.ok_or_else(|| GithubError::Unexpected {
            call: call.name,
            detail: "html_url is not the address of a web page".to_owned(),
        })?;
        Ok(format!("{page}/installations/new"))
    }
}
