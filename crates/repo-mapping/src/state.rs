//! What handlers share: clients, access, answers to failed calls.

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use gha_slurm_domain::{Clock, SlurmUser};
use gha_slurm_service_kit::authentication::bearer;
use gha_slurm_service_kit::{ApiError, Window};
use gha_slurm_storage::{AsyncPgConnection, Database, Failure, StorageError};

use crate::access::{Access, Caller, Identity};
use crate::session;
use crate::sign_in_settings::SignIn;
use crate::token_broker::{BrokerError, TokenBroker};

/// Seconds after which a client may try again when the database cannot be reached.
const RETRY_S: u64 = 2;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) database: Database,
    pub(crate) token_broker: TokenBroker,
    pub(crate) clock: Clock,
    pub(crate) web_url: Arc<str>,
    pub(crate) access: Arc<Access>,
    /// Repository lookups by people who are not administrators: GitHub's rate limit is shared by all users of an installation.
    pub(crate) lookups: Window<String>,
    /// `None`: people cannot sign in.
    pub(crate) sign_in: Option<Arc<SignIn>>,
}

impl State {
    /// Whose credential a call carries. A bearer token takes precedence over a session.
    pub(crate) async fn identity(&self, request: &HttpRequest) -> Result<Identity, ApiError> {
        if bearer(request).is_some() {
            return self.access.token(request).map(|()| Identity::Token);
        }
        match session::person(request, self).await? {
            Some(person) => Ok(Identity::Person(person)),
            // It says what is missing.
            None => self.access.token(request).map(|()| Identity::Token),
        }
    }

    /// Requires an administrator.
    pub(crate) async fn authorize(&self, request: &HttpRequest) -> Result<Identity, ApiError> {
        match self.identity(request).await? {
            Identity::Person(person) if !self.access.is_administrator(&person) => {
                Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    "administrators_only",
                    "Only administrators may do this",
                ))
            }
            administrator => Ok(administrator),
        }
    }

    /// Requires an administrator, this Slurm user, or an agent's assertion about them.
    pub(crate) async fn authorize_for(
        &self,
        request: &HttpRequest,
        user: &SlurmUser,
    ) -> Result<Caller, ApiError> {
        if bearer(request).is_some() {
            return self.access.bearer_for(request, user);
        }
        self.authorize_without_agents(request, user).await
    }

    /// Requires an administrator, or this Slurm user, signed in.
    pub(crate) async fn authorize_without_agents(
        &self,
        request: &HttpRequest,
        user: &SlurmUser,
    ) -> Result<Caller, ApiError> {
        match self.identity(request).await? {
            Identity::Token => Ok(Caller::Administrator),
            Identity::Person(person) => self.access.person_for(&person, user),
        }
    }

    /// Requires that a person has lookups of repositories left. Agents count those of their users themselves.
    pub(crate) fn may_look_up(
        &self,
        request: &HttpRequest,
        caller: &Caller,
        user: &SlurmUser,
    ) -> Result<(), ApiError> {
        match caller {
            Caller::User { .. } if bearer(request).is_none() => self
                .lookups
                .take(user.to_string(), "You have looked up many repositories."),
            _ => Ok(()),
        }
    }

    /// Whose builds the caller may see; `None`: everybody's.
    pub(crate) async fn visible(
        &self,
        request: &HttpRequest,
    ) -> Result<Option<SlurmUser>, ApiError> {
        match self.identity(request).await? {
            Identity::Token => Ok(None),
            Identity::Person(person) => self.access.builds_of(&person),
        }
    }

    pub(crate) async fn connection(
        &self,
    ) -> Result<impl std::ops::DerefMut<Target = AsyncPgConnection> + use<>, ApiError> {
        self.database
            .connection()
            .await
            .map_err(|e| storage_error(&e))
    }

    /// `https://github.com/owner/name`.
    pub(crate) fn repository_url(&self, owner: &str, name: &str) -> String {
        format!("{}/{owner}/{name}", self.web_url.trim_end_matches('/'))
    }
}

/// The answer to a request that failed at Postgres.
pub(crate) fn storage_error(error: &StorageError) -> ApiError {
    match error.failure() {
        Failure::Unavailable => ApiError::database_unavailable(error, RETRY_S),
        Failure::Conflict => ApiError::conflict(error),
        Failure::Rejected => ApiError::internal(error),
    }
}

/// The answer to a request that failed at token-broker, or at GitHub behind it.
pub(crate) fn broker_error(error: &BrokerError) -> ApiError {
    let failed = |detail: &str| {
        tracing::error!(%error, "token-broker is of no use");
        ApiError::new(
            StatusCode::BAD_GATEWAY,
            "token_broker_failed",
            "Repositories cannot be looked up",
        )
        .detail(detail)
    };
    match error {
        BrokerError::Github { retry_after } => {
            ApiError::github_unavailable(error, retry_after.as_secs().clamp(1, 3600))
        }
        BrokerError::Unavailable { retry_after, .. } => ApiError::unavailable(
            "token-broker, which asks GitHub,",
            error,
            retry_after.as_secs().clamp(RETRY_S, 3600),
        ),
        BrokerError::Refused => failed(
            "token-broker, which asks GitHub, does not accept the service token of repo-mapping. An administrator must set \
             token_broker.service_token of repo-mapping to one of access.service_tokens of token-broker.",
        ),
        BrokerError::Unexpected(_) => failed(
            "token-broker, which asks GitHub, failed, or is older than repo-mapping. The logs of both say more.",
        ),
    }
}
