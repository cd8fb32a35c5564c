//! A launch token becomes a runner token: decide under the lock, register outside it, store, answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::runner::RunnerMode;
use gha_slurm_domain::admission::for_class;
use gha_slurm_domain::launch::{Admission, Applied, Caller, Happening, Rejected, Why};
use gha_slurm_domain::naming::{names_of_attempts, runner_name};
use gha_slurm_domain::{
    Clock, InstallationId, LabelSet, LaunchId, RepositoryFullName, RepositoryId, RunnerId,
};
use gha_slurm_github::{Deletion, Github, GithubError, Scope};
use gha_slurm_service_kit::ApiError;
use gha_slurm_storage::launches::{self, Callback, Loaded};
use gha_slurm_storage::notice::{self, Notice};
use gha_slurm_storage::repositories::{self, Repository};
use gha_slurm_storage::{Database, Failure, ScopeLock, StorageError, stops};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tracing::Instrument;

use crate::settings::DeploymentSettings;

/// Characters of a progress token: 32 bytes in base64url.
pub(crate) const PROGRESS_TOKEN_LENGTH: usize = 43;
/// A node that lost a race against its own earlier call asks again after this.
const RETRY_S: u64 = 2;

/// A node's call waits so long for news from Slurm before it is answered "not yet": the first look usually has it.
const STARTED_PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];

/// What is needed to answer nodes.
#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) database: Database,
    pub(crate) github: Github,
    pub(crate) deployment: Arc<DeploymentSettings>,
    pub(crate) web_url: Arc<str>,
    pub(crate) clock: Clock,
    /// Where the connections to Postgres and GitHub are driven.
    pub(crate) runtime: Handle,
}

/// What to register at GitHub.
struct Mint {
    launch: LaunchId,
    /// Which attempt this is; only the newest may complete.
    attempt: u32,
    /// Name to register.
    name: String,
    /// Registration of an earlier attempt, to be deleted.
    superseded: Option<i64>,
    /// Where.
    repository: Repository,
    /// Exactly the class's labels.
    labels: LabelSet,
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

/// Whether a launch token says of its launch what the database does. Each guards against the theft of the other: a key of launch tokens
/// alone gives a launch no other user or repository, and neither does a database role.
fn is_of(claims: &LaunchClaims, loaded: &Loaded) -> bool {
    let Loaded { launch, class, .. } = loaded;
    let cluster = launch.slurm.cluster.as_ref();
    claims.slurm_user == class.slurm_user
        && claims.repository_id == launch.repository.0
        && cluster.is_none_or(|cluster| *cluster == claims.cluster)
        && claims.resources.account == class.resources.account
        && claims.resources.qos == class.resources.qos
}

fn another_launch() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "launch_differs",
        "The launch token is not of this launch",
    )
    .detail(
        "Its Slurm user, repository, cluster, account or QOS are not those of the launch that it names.",
    )
}

fn unknown_launch() -> ApiError {
    gone("this deployment knows no such launch")
}

fn conflict(reason: impl Into<String>) -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        "redeemed",
        "The launch token is used up",
    )
    .detail(reason)
}

/// The domain's refusal as an answer.
fn rejection(rejected: &Rejected) -> ApiError {
    match rejected {
        Rejected::Gone(reason) => gone(reason),
        Rejected::Conflict(reason) => conflict(reason),
        Rejected::TooSoon { wait, .. } => ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "redeemed_too_soon",
            "The launch token was redeemed a moment ago",
        )
        .detail(rejected.to_string())
        .retry_after(wait.num_seconds().try_into().unwrap_or(RETRY_S)),
        Rejected::NotStarted(_) => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_started",
            "Its Slurm job is not known to run yet",
        )
        .detail(rejected.to_string())
        .retry_after(RETRY_S),
        Rejected::Late => gone(rejected.to_string()),
    }
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

/// Whether a launch token that was issued then, in seconds since the epoch, is revoked.
fn is_revoked(issued_at: i64, revoked_until: Option<DateTime<Utc>>) -> bool {
    revoked_until.is_some_and(|until| issued_at <= until.timestamp())
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
            repositories::upsert(&mut conn, id, found, owner, name, None, self.clock.now())
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

    /// Runs `work` to its end even if the node hangs up meanwhile; otherwise a registration could stay at GitHub that no row knows of.
    /// It runs on the runtime that also drives the connections: on an HTTP worker's thread, every response from Postgres would wake
    /// another thread.
    pub(crate) async fn to_the_end<T, W>(&self, work: impl FnOnce(Self) -> W) -> Result<T, ApiError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        self.runtime
            .spawn(work(self.clone()).in_current_span())
            .await
            .map_err(|e| ApiError::internal(&e))?
    }

    /// `POST /gha/runner`: redeems a launch token.
    pub(crate) async fn redeem(
        &self,
        claims: &LaunchClaims,
        caller: &Caller,
    ) -> Result<Redeemed, ApiError> {
        // The domain bounds the attempts.
        loop {
            let mint = self.begin_when_started(claims, caller).await?;
            let scope = self.scope(&mint.repository).await?;
            self.clear_earlier_attempts(&scope, &mint).await?;
            let (secret, id, expires_at) =
                match self.register(&scope, &mint, claims.runner_mode).await {
                    Ok(registered) => registered,
                    // The name exists already: an earlier attempt, whose answer was lost. The next one has another name
                    // and deletes this.
                    Err(error) if error.status() == Some(409) => continue,
                    Err(error) => {
                        if let Some(answer) = github_trouble(&error) {
                            return Err(answer);
                        }
                        return Err(self.give_up(&mint, &error).await);
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
                    "it was withdrawn while its runner was being registered, or its Slurm job has called again",
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
    }

    /// Begins; where Slurm's job is not known to run, has that looked up and tries again, for some seconds.
    async fn begin_when_started(
        &self,
        claims: &LaunchClaims,
        caller: &Caller,
    ) -> Result<Mint, ApiError> {
        for pause in STARTED_PAUSES {
            match self.begin(claims, caller).await? {
                Ok(mint) => return Ok(mint),
                Err(Rejected::NotStarted(_)) => {}
                Err(rejected) => return Err(rejection(&rejected)),
            }
            let mut conn = self.connection().await?;
            notice::notify(&mut conn, Notice::NodeWaits, &claims.sub.to_string())
                .await
                .map_err(|e| storage_error(&e))?;
            drop(conn);
            tokio::time::sleep(pause).await;
        }
        let begun = self.begin(claims, caller).await?;
        begun.map_err(|rejected| rejection(&rejected))
    }

    /// Decides under the scope's lock whether the launch still has demand, and binds it to the Slurm job that asks.
    async fn begin(
        &self,
        claims: &LaunchClaims,
        caller: &Caller,
    ) -> Result<Result<Mint, Rejected>, ApiError> {
        let launch = claims.sub;
        let now = self.clock.now();
        let decided = self
            .database
            .for_callback(
                launch,
                async |(mut lock, callback): (ScopeLock<'_>, Callback)| {
                    let before = &callback.loaded;
                    if !is_of(claims, before) {
                        return Ok(None);
                    }
                    let happening = self.called_back(&callback, claims, caller);
                    let applied = launches::happen_to(&mut lock, before, happening, now).await?;
                    let superseded = before.launch.runner().and_then(|runner| runner.github_id);
                    Ok::<_, StorageError>(Some((applied, superseded, callback.loaded)))
                },
            )
            .await
            .map_err(|e| storage_error(&e))?;
        let Some((applied, superseded, before)) = decided.ok_or_else(unknown_launch)? else {
            return Err(another_launch());
        };
        let applied = match applied {
            Ok(applied) => applied,
            Err(rejected) => return Ok(Err(rejected)),
        };
        if let Some(reason) = applied.turned_away() {
            return Err(gone(reason));
        }
        let runner = applied
            .launch
            .runner()
            .ok_or_else(|| ApiError::internal(&"a redeemed launch has no runner"))?;
        Ok(Ok(Mint {
            launch,
            attempt: runner.mint_attempt,
            name: runner.name.clone(),
            superseded,
            repository: before.repository,
            labels: before.class.labels,
        }))
    }

    fn called_back(
        &self,
        callback: &Callback,
        claims: &LaunchClaims,
        caller: &Caller,
    ) -> Happening {
        let Callback {
            loaded,
            standing,
            stop,
            revoked_until,
        } = callback;
        let stopped = stop.clone().map(|stop| Why::Stopped { stop });
        let refusal = stopped
            .or_else(|| is_revoked(claims.iat, *revoked_until).then_some(Why::TokenRevoked))
            .or_else(|| {
                let cluster = loaded.launch.slurm.cluster.as_deref();
                for_class(standing, &loaded.class.slurm_user, cluster)
            });
        let attempt = loaded.launch.runner().map_or(0, |r| r.mint_attempt);
        let DeploymentSettings { name, prefix } = self.deployment.as_ref();
        Happening::CalledBack {
            caller: caller.clone(),
            mode: claims.runner_mode,
            admission: Admission {
                refusal,
                demand: loaded.class.demand,
                redeemed: loaded.class.redeemed,
            },
            runner: RunnerId(uuid::Uuid::now_v7()),
            name: runner_name(prefix, name, loaded.launch.id, attempt.saturating_add(1)),
        }
    }

    /// Stores what was registered. `false`: the launch was withdrawn, a newer attempt runs, or launches are stopped.
    async fn complete(
        &self,
        mint: &Mint,
        id: Option<i64>,
        progress_token: &str,
    ) -> Result<bool, ApiError> {
        let happening = Happening::Minted {
            attempt: mint.attempt,
            github_id: id,
            progress_token_hash: progress_hash(progress_token),
        };
        let now = self.clock.now();
        let done = self
            .database
            .for_callback(
                mint.launch,
                async |(mut lock, callback): (ScopeLock<'_>, Callback)| {
                    // Launches may have been stopped since it began.
                    let (happening, is_stopped) = match &callback.stop {
                        None => (happening.clone(), false),
                        Some(stop) => {
                            let why = Why::Stopped { stop: stop.clone() };
                            (Happening::NotWanted(why), true)
                        }
                    };
                    let before = &callback.loaded;
                    let applied = launches::happen_to(&mut lock, before, happening, now).await?;
                    Ok::<_, StorageError>(applied.is_ok() && !is_stopped)
                },
            )
            .await
            .map_err(|e| storage_error(&e))?;
        Ok(done.unwrap_or(false))
    }

    /// Fails for a launch token that was issued before launches were stopped.
    pub(crate) async fn refuse_revoked(&self, claims: &LaunchClaims) -> Result<(), ApiError> {
        let mut conn = self.connection().await?;
        let revoked_until = stops::revoked_until(&mut conn)
            .await
            .map_err(|e| storage_error(&e))?;
        if is_revoked(claims.iat, revoked_until) {
            return Err(gone(Why::TokenRevoked.explained()));
        }
        Ok(())
    }

    /// As [`Self::refuse_revoked`], also for one whose launch is over.
    pub(crate) async fn refuse_spent(&self, claims: &LaunchClaims) -> Result<(), ApiError> {
        self.refuse_revoked(claims).await?;
        let mut conn = self.connection().await?;
        let found = launches::peek_all(&mut conn, &[claims.sub])
            .await
            .map_err(|e| storage_error(&e))?;
        let loaded = found.first().ok_or_else(unknown_launch)?;
        if !is_of(claims, loaded) {
            return Err(another_launch());
        }
        match loaded.launch.over() {
            Some(over) => Err(gone(over.outcome.explained())),
            None => Ok(()),
        }
    }

    /// Something happens to a launch: the scope's lock, the domain's decision, what follows.
    pub(crate) async fn happen(
        &self,
        launch: LaunchId,
        happening: &Happening,
    ) -> Result<Result<Applied, Rejected>, ApiError> {
        let now = self.clock.now();
        let done = self
            .database
            .for_callback(
                launch,
                async |(mut lock, before): (ScopeLock<'_>, Loaded)| {
                    launches::happen_to(&mut lock, &before, happening.clone(), now).await
                },
            )
            .await
            .map_err(|e| storage_error(&e))?;
        Ok(done.unwrap_or(Err(Rejected::Late)))
    }

    /// Deletes what earlier attempts registered. One whose id is known had cleared those before it. Otherwise the last ones may have
    /// registered a runner without storing that: their names are looked up, at most as many as a launch has attempts.
    async fn clear_earlier_attempts(&self, scope: &Scope, mint: &Mint) -> Result<(), ApiError> {
        let cleared = async {
            if let Some(id) = mint.superseded {
                return self.github.delete_runner(scope, id).await;
            }
            // The newest is the one that is to be registered now.
            for name in names_of_attempts(&mint.name, mint.attempt).iter().skip(1) {
                if self.github.deregister(scope, None, name).await? == Deletion::Busy {
                    return Ok(Deletion::Busy);
                }
            }
            Ok(Deletion::NotFound)
        };
        match cleared.await {
            Ok(Deletion::Busy) => Err(conflict("its runner has a workflow job already")),
            Ok(_) => Ok(()),
            Err(error) => match github_trouble(&error) {
                Some(answer) => Err(answer),
                None => Err(self.give_up(mint, &error).await),
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

    /// GitHub says no: the launch ends with GitHub's words, and the planner tries another one later, or stops.
    async fn give_up(&self, mint: &Mint, error: &GithubError) -> ApiError {
        let words = error.to_string();
        tracing::error!(%error, launch = %mint.launch, "GitHub refuses a runner");
        let happening = Happening::MintFailed {
            words: words.clone(),
        };
        match self.happen(mint.launch, &happening).await {
            Ok(_) => gone(words),
            Err(error) => error,
        }
    }
}
