//! What calls to a cluster's agent need, and the assertions that they carry.

use std::sync::atomic::AtomicU64;

use gha_slurm_auth::{Signer, TokenError};
use gha_slurm_contract::agent::{ASSERTION_LIFETIME_S, CallClaims, CallPurpose};
use gha_slurm_contract::launch_token::AUDIENCE_AGENT;
use gha_slurm_domain::LaunchId;
use gha_slurm_domain::launch::RunnerMode;
use gha_slurm_storage::launches::Weights;
use gha_slurm_storage::{Database, StorageError};
use secrecy::SecretString;
use uuid::Uuid;

use crate::agent::{Agent, AgentError};
use crate::inquiry::Inquiry;
use crate::settings::{ClusterSettings, DeploymentSettings};

/// Calls to the agent at once.
pub(crate) const CONCURRENCY: usize = 16;

/// What calls to a cluster's agent need.
pub struct Submitter {
    /// Where planned rows are.
    pub database: Database,
    /// Asks GitHub whether a workflow job still waits.
    pub inquiry: Inquiry,
    /// GitHub's web pages, `https://github.com`.
    pub web_url: String,
    /// Where they go.
    pub agent: Agent,
    /// Signs launch tokens.
    pub signer: Signer,
    /// Names.
    pub deployment: DeploymentSettings,
    /// The cluster.
    pub cluster: ClusterSettings,
    /// Seconds a launch token is valid.
    pub lifetime_s: i64,
    /// Which runner token launch tokens are redeemed for.
    pub runner_mode: RunnerMode,
    /// The id of the database, in launch tokens and assertions.
    pub launcher: Uuid,
    /// Whose launches go first while many wait.
    pub weights: Weights,
    /// How often something has ended at the cluster, as its agent reported last.
    pub freed: AtomicU64,
}

/// Why a call to the agent came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The agent cannot be reached, or answered with an error.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The assertion cannot be signed.
    #[error("the assertion cannot be signed: {0}")]
    Signing(#[from] TokenError),
}

impl Submitter {
    /// An assertion for a call, about `launches` where the purpose needs them.
    pub(crate) async fn assertion(
        &self,
        purpose: CallPurpose,
        launches: Vec<LaunchId>,
        only_pending: bool,
    ) -> Result<SecretString, ClusterError> {
        let iat = self.inquiry.clock.now().timestamp();
        let claims = CallClaims {
            iss: self.deployment.name.clone(),
            aud: vec![AUDIENCE_AGENT.into()],
            sub: purpose,
            jti: Uuid::new_v4(),
            iat,
            nbf: iat - ASSERTION_LIFETIME_S,
            exp: iat + ASSERTION_LIFETIME_S,
            cluster: self.cluster.name.clone(),
            launcher: Some(self.launcher),
            launches,
            only_pending,
        };
        Ok(self.signer.sign(&claims).await?)
    }
}
