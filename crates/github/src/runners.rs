//! Runner tokens and runners of a repository.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use gha_slurm_domain::{Clock, LabelSet, RepositoryId, bounded};
use http::{Method, StatusCode};
use moka::Expiry;
use moka::future::Cache;
use secrecy::SecretString;
use serde::Deserialize;

use crate::client::{Answer, Call, Github, PER_PAGE, Purpose, Scope};
use crate::error::GithubError;

/// The group "Default", the only one a repository has.
const DEFAULT_GROUP: u32 = 1;
/// A cached registration token is given out only while this much of its hour is left.
const MARGIN: Duration = Duration::from_secs(15 * 60);

/// Pages that one list of runners asks for.
const MAX_PAGES: usize = 20;

/// A runner that is registered but not started.
#[derive(Debug, Clone)]
pub struct JitRunner {
    /// GitHub's id of the registration.
    pub id: i64,
    /// What `Runner.Listener run --jitconfig` takes, base64. A credential.
    pub encoded_jit_config: SecretString,
}

/// A registration token.
#[derive(Debug, Clone)]
pub struct RegistrationToken {
    /// The token.
    pub token: SecretString,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// A runner as GitHub sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Runner {
    /// GitHub's id.
    pub id: i64,
    /// Its name.
    #[serde(deserialize_with = "bounded::name")]
    pub name: String,
    /// `online` or `offline`.
    #[serde(deserialize_with = "bounded::text")]
    pub status: String,
    /// Whether it has a workflow job, where GitHub says.
    pub busy: Option<bool>,
}

#[derive(Deserialize)]
struct Page {
    runners: Vec<Runner>,
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone and will get no workflow job.
    Deleted,
    /// GitHub knows no such runner. It may have finished a workflow job, so this does not mean that it was idle.
    NotFound,
    /// It runs a workflow job (422).
    Busy,
}

/// Each token lives in the cache until shortly before its own end.
struct UntilShortlyBeforeItsEnd(Clock);

impl Expiry<RepositoryId, RegistrationToken> for UntilShortlyBeforeItsEnd {
    fn expire_after_create(
        &self,
        _: &RepositoryId,
        token: &RegistrationToken,
        _: Instant,
    ) -> Option<Duration> {
        let left = (token.expires_at - self.0.now())
            .to_std()
            .unwrap_or_default();
        Some(left.saturating_sub(MARGIN))
    }
}

pub(crate) fn token_cache(clock: Clock) -> Cache<RepositoryId, RegistrationToken> {
    Cache::builder()
        .max_capacity(10_000)
        .expire_after(UntilShortlyBeforeItsEnd(clock))
        .build()
}

impl Github {
    /// Registers a runner that only has to be started: it gets exactly these labels. `Err` with status 409: the name
    /// is taken. `POST /repos/{owner}/{repo}/actions/runners/generate-jitconfig`.
    pub async fn create_jit_runner(
        &self,
        scope: &Scope,
        name: &str,
        labels: &LabelSet,
    ) -> Result<JitRunner, GithubError> {
        #[derive(Deserialize)]
        struct Id {
            id: i64,
        }
        #[derive(Deserialize)]
        struct Created {
            runner: Id,
            encoded_jit_config: SecretString,
        }
        let labels: Vec<&str> = labels.iter().collect();
        let body = serde_json::json!({
            "name": name,
            "runner_group_id": DEFAULT_GROUP,
            "labels": labels,
            "work_folder": "_work",
        });
        let call = Call {
            name: "register a just-in-time runner",
            method: Method::POST,
            path: format!("/repos/{}/actions/runners/generate-jitconfig", scope.name),
            body: Some(&body),
            also: &[],
        };
        let created: Created = self
            .as_scope(scope, Purpose::Runners, &call)
            .await?
            .json()?;
        Ok(JitRunner {
            id: created.runner.id,
            encoded_jit_config: created.encoded_jit_config,
        })
    }

    /// A registration token, from the cache while it has 15 minutes left; asked for once, however many want it.
    /// `POST /repos/{owner}/{repo}/actions/runners/registration-token`.
    pub async fn registration_token(
        &self,
        scope: &Scope,
    ) -> Result<RegistrationToken, GithubError> {
        let mint = async {
            #[derive(Deserialize)]
            struct Created {
                token: SecretString,
                expires_at: DateTime<Utc>,
            }
            let call = Call {
                name: "create a registration token",
                method: Method::POST,
                path: format!("/repos/{}/actions/runners/registration-token", scope.name),
                body: None,
                also: &[],
            };
            let created: Created = self
                .as_scope(scope, Purpose::Runners, &call)
                .await?
                .json()?;
            Ok::<_, GithubError>(RegistrationToken {
                token: created.token,
                expires_at: created.expires_at,
            })
        };
        self.registration_tokens()
            .try_get_with(scope.repository, mint)
            .await
            .map_err(|error| (*error).clone())
    }

    /// Deletes a runner, unless it has work. `DELETE /repos/{owner}/{repo}/actions/runners/{id}`.
    pub async fn delete_runner(&self, scope: &Scope, id: i64) -> Result<Deletion, GithubError> {
        let call = Call {
            name: "delete a runner",
            method: Method::DELETE,
            path: format!("/repos/{}/actions/runners/{id}", scope.name),
            body: None,
            also: &[404, 422],
        };
        let answer: Answer = self.as_scope(scope, Purpose::Runners, &call).await?;
        Ok(match answer.status {
            StatusCode::NOT_FOUND => Deletion::NotFound,
            StatusCode::UNPROCESSABLE_ENTITY => Deletion::Busy,
            _ => Deletion::Deleted,
        })
    }

    /// Deletes a runner, known by its id or, where it was registered with a registration token, by its name alone; unless it
    /// has work.
    pub async fn deregister(
        &self,
        scope: &Scope,
        id: Option<i64>,
        name: &str,
    ) -> Result<Deletion, GithubError> {
        let id = match id {
            Some(id) => Some(id),
            None => self.find_runner(scope, name).await?.map(|found| found.id),
        };
        match id {
            Some(id) => self.delete_runner(scope, id).await,
            None => Ok(Deletion::NotFound),
        }
    }

    /// The runner of this name, if GitHub knows one. `GET /repos/{owner}/{repo}/actions/runners?name=`.
    pub async fn find_runner(
        &self,
        scope: &Scope,
        name: &str,
    ) -> Result<Option<Runner>, GithubError> {
        let name_only: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let call = Call::get(
            "find a runner",
            format!("/repos/{}/actions/runners?name={name_only}", scope.name),
            &[],
        );
        let page: Page = self
            .as_scope(scope, Purpose::Runners, &call)
            .await?
            .json()?;
        Ok(page.runners.into_iter().find(|runner| runner.name == name))
    }

    /// The runners of a repository, at most the first 2,000. `GET /repos/{owner}/{repo}/actions/runners`.
    pub async fn runners(&self, scope: &Scope) -> Result<Vec<Runner>, GithubError> {
        let mut all = Vec::new();
        for page in 1..=MAX_PAGES {
            let call = Call::get(
                "list the runners of a repository",
                format!(
                    "/repos/{}/actions/runners?per_page={PER_PAGE}&page={page}",
                    scope.name
                ),
                &[],
            );
            let found: Page = self
                .as_scope(scope, Purpose::Runners, &call)
                .await?
                .json()?;
            let is_last = found.runners.len() < PER_PAGE;
            all.extend(found.runners);
            if is_last {
                break;
            }
        }
        Ok(all)
    }
}
