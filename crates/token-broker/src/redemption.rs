//! A launch token becomes a runner token: decide under the lock, register outside it, store, answer.

use std::sync::Arc;

use actix_web::http::StatusCode;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use gha_slurm_contract::runner::RunnerMode;
use gha_slurm_domain::naming::runner_name;
use gha_slurm_domain::{InstallationId, LaunchId, RepositoryFullName, RepositoryId};
use gha_slurm_github::{Deletion, Github, GithubError, Scope};
use gha_slurm_service_kit::ApiError;
use gha_slurm_storage::repositories::{self, Repository};
use gha_slurm_storage::runners::{self, Ending, Mint, Redeemer, Redemption};
use gha_slurm_storage::{AsyncConnection, Database, Failure, StorageError};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use crate::settings::DeploymentSettings;

/// Names that may be taken at GitHub before we give up: each was an attempt of ours whose answer was lost.
const MAX_NAME_CLASHES: usize = 3;
/// A node that lost a race against its own earlier call asks again after this.
const RETRY_S: u64 = 2;

/// What is needed to answer nodes.
#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) database: Database,
    pub(crate) github: Github,
    pub(crate) deployment: Arc<DeploymentSettings>,
    pub(crate) web_url: Arc<str>,
}

/// A runner token and what belongs to it.
pub(crate) struct Redeemed {
    pub(crate) secret: RunnerToken,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) url: String,
    pub(crate) name: String,
    pub(crate) labels: Vec<String>,
    pub(crate) progress_token: String,
}

/// What GitHub gave.
pub(crate) enum RunnerToken {
    /// A just-in-time configuration.
    Jit(SecretString),
    /// A registration token.
    Registration(SecretString),
}

/// 410: the job script gives the node back at once.
pub(crate) fn gone(reason: impl Into<String>) -> ApiError {
    ApiError::new(
        StatusCode::GONE,
        "not_wanted",
        "Nothing waits for this runner",
    )
    .detail(reason)
}

fn conflict(reason: impl Into<String>) -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        "redeemed",
        "The launch token is used up",
    )
    .detail(reason)
}

/// An error of Postgres as an answer.
pub(crate) fn storage_error(error: &StorageError) -> ApiError {
    match error.failure() {
        Failure::Unavailable => ApiError::database_unavailable(error, RETRY_S),
        Failure::Conflict => ApiError::conflict(error),
        Failure::Rejected => ApiError::internal(error),
    }
}

/// GitHub in trouble as an answer; `None` where GitHub said no.
pub(crate) fn github_trouble(error: &GithubError) -> Option<ApiError> {
    let after = error.retry_after()?;
    let after = after.as_secs().clamp(1, 3600);
    Some(ApiError::github_unavailable(error, after))
}

/// The hash that is stored of a progress token.
pub(crate) fn progress_hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

fn new_progress_token() -> Result<String, ApiError> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ApiError::internal(&"no random bytes"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

impl Broker {
    /// Where a repository's runners live at GitHub.
    pub(crate) async fn scope(&self, repository: &Repository) -> Result<Scope, ApiError> {
        let name = RepositoryFullName::new(&repository.owner, &repository.name)
            .map_err(|e| ApiError::internal(&e))?;
        let id = RepositoryId(repository.id);
        let known = repository.installation_id.map(InstallationId);
        let scope = match self.github.scope(id, name, known).await {
            Ok(Some(scope)) => scope,
            Ok(None) => return Err(gone("the App is not installed on the repository")),
            Err(error) => {
                return Err(github_trouble(&error).unwrap_or_else(|| gone(error.to_string())));
            }
        };
        if known.is_none() {
            let (owner, name) = (scope.name.owner(), scope.name.name());
            let found = Some(scope.installation);
            let mut conn = self.connection().await?;
            repositories::upsert(&mut conn, id, found, owner, name, None, Utc::now())
                .await
                .map_err(|e| storage_error(&e))?;
        }
        Ok(scope)
    }

    pub(crate) async fn connection(
        &self,
    ) -> Result<
        impl std::ops::DerefMut<Target = gha_slurm_storage::AsyncPgConnection> + use<>,
        ApiError,
    > {
        self.database
            .connection()
            .await
            .map_err(|e| storage_error(&e))
    }

    /// Redeems. Runs to its end once begun, also when the node hangs up: a registration that nobody stores would stay
    /// at GitHub.
    pub(crate) async fn redeem(
        self,
        who: Redeemer,
        mode: RunnerMode,
    ) -> Result<Redeemed, ApiError> {
        use tracing::Instrument;
        let work = async move { self.redeem_to_the_end(&who, mode).await };
        tokio::spawn(work.in_current_span())
            .await
            .map_err(|e| ApiError::internal(&e))?
    }

    async fn redeem_to_the_end(
        &self,
        who: &Redeemer,
        mode: RunnerMode,
    ) -> Result<Redeemed, ApiError> {
        for _ in 0..MAX_NAME_CLASHES {
            let mint = match self.begin(who).await? {
                Redemption::Mint(mint) => mint,
                Redemption::Gone(reason) => return Err(gone(reason)),
                Redemption::Conflict(reason) => return Err(conflict(reason)),
            };
            let scope = self.scope(&mint.repository).await?;
            self.clear_earlier_attempt(&scope, &mint).await?;
            let (secret, id, expires_at) = match self.register(&scope, &mint, mode).await {
                Ok(registered) => registered,
                // The name is taken: an earlier attempt of ours, whose answer was lost. The next one has another name
                // and deletes this.
                Err(error) if error.status() == Some(409) => continue,
                Err(error) => {
                    if let Some(answer) = github_trouble(&error) {
                        return Err(answer);
                    }
                    return Err(self.give_up(who.launch, &error).await);
                }
            };
            let progress_token = new_progress_token()?;
            if !self.complete(&mint, id, &progress_token).await? {
                if let Some(id) = id {
                    self.github
                        .delete_runner(&scope, id)
                        .await
                        .inspect_err(|error| {
                            tracing::warn!(%error, runner = mint.name, "a registration nobody wants could not be deleted");
                        })
                        .ok();
                }
                return Err(gone(
                    "it was withdrawn while its runner was being registered",
                ));
            }
            return Ok(Redeemed {
                secret,
                expires_at,
                url: format!("{}/{}", self.web_url.trim_end_matches('/'), scope.name),
                name: mint.name,
                labels: mint.labels.iter().map(str::to_owned).collect(),
                progress_token,
            });
        }
        Err(ApiError::unavailable(
            "GitHub",
            &"every name of this runner is taken",
            RETRY_S,
        ))
    }

    async fn begin(&self, who: &Redeemer) -> Result<Redemption, ApiError> {
        let DeploymentSettings { name, prefix } = self.deployment.as_ref();
        let (name, prefix, launch) = (name.clone(), prefix.clone(), who.launch);
        let naming = move |attempt| runner_name(&prefix, &name, launch, attempt);
        let who = who.clone();
        let mut conn = self.connection().await?;
        conn.transaction::<_, StorageError, _>(async |conn| {
            runners::begin(conn, &who, &naming, Utc::now()).await
        })
        .await
        .map_err(|e| storage_error(&e))
    }

    async fn complete(
        &self,
        mint: &Mint,
        id: Option<i64>,
        progress_token: &str,
    ) -> Result<bool, ApiError> {
        let hash = progress_hash(progress_token);
        let mut conn = self.connection().await?;
        conn.transaction::<_, StorageError, _>(async |conn| {
            runners::complete(conn, mint, id, &hash, Utc::now()).await
        })
        .await
        .map_err(|e| storage_error(&e))
    }

    /// Deletes what an earlier attempt registered: by its id where we know it, else by the name it would have.
    async fn clear_earlier_attempt(&self, scope: &Scope, mint: &Mint) -> Result<(), ApiError> {
        if mint.attempt <= 1 {
            return Ok(());
        }
        let DeploymentSettings { name, prefix } = self.deployment.as_ref();
        let earlier = runner_name(prefix, name, mint.launch, (mint.attempt - 1) as u32);
        let cleared = async {
            let id = match mint.superseded {
                Some(id) => Some(id),
                None => self
                    .github
                    .find_runner(scope, &earlier)
                    .await?
                    .map(|runner| runner.id),
            };
            match id {
                Some(id) => self.github.delete_runner(scope, id).await.map(Some),
                None => Ok(None),
            }
        };
        match cleared.await {
            Ok(Some(Deletion::Busy)) => Err(conflict("its runner has a workflow job already")),
            Ok(_) => Ok(()),
            Err(error) => match github_trouble(&error) {
                Some(answer) => Err(answer),
                None => Err(self.give_up(mint.launch, &error).await),
            },
        }
    }

    async fn register(
        &self,
        scope: &Scope,
        mint: &Mint,
        mode: RunnerMode,
    ) -> Result<(RunnerToken, Option<i64>, Option<DateTime<Utc>>), GithubError> {
        match mode {
            RunnerMode::Jit => {
                let runner = self
                    .github
                    .create_jit_runner(scope, &mint.name, &mint.labels)
                    .await?;
                let secret = RunnerToken::Jit(runner.encoded_jit_config);
                Ok((secret, Some(runner.id), None))
            }
            RunnerMode::Registration => {
                let token = self.github.registration_token(scope).await?;
                let secret = RunnerToken::Registration(token.token);
                Ok((secret, None, Some(token.expires_at)))
            }
        }
    }

    /// GitHub says no: the runner ends with GitHub's words, and the planner tries another one later, or gives up.
    async fn give_up(&self, launch: LaunchId, error: &GithubError) -> ApiError {
        let reason = error.to_string();
        tracing::error!(%error, %launch, "GitHub refuses a runner");
        let ended = async {
            let mut conn = self.database.connection().await?;
            conn.transaction::<_, StorageError, _>(async |conn| {
                if let Some((runner, scope)) = runners::by_launch(conn, launch).await? {
                    let ending = Ending::because(&reason);
                    runners::end(conn, scope, &runner, &ending, Utc::now()).await?;
                }
                Ok(())
            })
            .await
        };
        match ended.await {
            Ok(()) => gone(reason),
            Err(error) => storage_error(&error),
        }
    }
}
