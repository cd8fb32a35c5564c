//! `/config/repos` and `/config/runners`: what a Slurm user does from a login node. MUNGE says who they are; the agent
//! asserts it to repo-mapping with a key of its own.

pub(crate) mod munge;
pub(crate) mod routes;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gha_slurm_auth::Signer;
use gha_slurm_contract::mapping::{AUDIENCE_REPO_MAPPING, USER_ASSERTION_LIFETIME_S, UserClaims};
use gha_slurm_domain::SlurmUser;
use gha_slurm_service_kit::{Strangers, Window};
use secrecy::SecretString;

use crate::settings::SelfServiceSettings;
use crate::start::Starter;
use munge::Munge;

pub(crate) use routes::configure;

/// How far repo-mapping's clock may be behind.
const CLOCKS_DIFFER_S: i64 = 60;
/// Credentials from one address that munged may refuse in ten seconds: all users of a login node share its address, and each refusal
/// costs a process.
const REFUSED_AT_MOST: u32 = 100;
/// repo-mapping asks GitHub before it answers.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// What the handlers share.
pub(crate) struct SelfService {
    munge: Munge,
    /// Callers whose credential munged does not accept.
    strangers: Strangers,
    signer: Signer,
    http: reqwest::Client,
    repo_mapping_url: String,
    starter: Arc<Starter>,
    lookups: Window<SlurmUser>,
}

/// Most calls of one user in a minute for which GitHub is asked about a repository: two for each that is added. GitHub's limit of calls is
/// for all users of an installation.
const MOST_LOOKUPS: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);

impl SelfService {
    /// Checks what can be checked. `signer` signs what the agent asserts.
    pub(crate) fn new(
        settings: SelfServiceSettings,
        signer: Option<Signer>,
        starter: Arc<Starter>,
    ) -> anyhow::Result<Self> {
        let signer = signer.context(
            "identity.keys: self_service needs a key of the agent's own; make one with `gha-slurm keys generate`",
        )?;
        anyhow::ensure!(
            !settings.login_nodes.is_empty(),
            "self_service.login_nodes: name the login nodes"
        );
        anyhow::ensure!(
            settings.unmunge.is_file(),
            "self_service.unmunge: there is no {}",
            settings.unmunge.display()
        );
        let http = reqwest::Client::builder().timeout(CALL_DEADLINE);
        let http = settings.tls.apply(http, "self_service.tls")?.build()?;
        Ok(Self {
            munge: Munge::new(
                settings.unmunge,
                settings.munge_socket,
                settings.login_nodes,
            ),
            strangers: Strangers::at_most(REFUSED_AT_MOST),
            signer,
            http,
            repo_mapping_url: settings.repo_mapping_url.to_string(),
            starter,
            lookups: Window::at_most_in(MINUTE, MOST_LOOKUPS),
        })
    }

    /// The agent's word that `user` asks.
    async fn assertion(&self, user: &SlurmUser) -> anyhow::Result<SecretString> {
        let iat = self.starter.clock.now().timestamp();
        let claims = UserClaims {
            iss: self.starter.cluster.clone(),
            aud: vec![AUDIENCE_REPO_MAPPING.into()],
            sub: user.clone(),
            jti: uuid::Uuid::new_v4(),
            iat,
            nbf: iat - CLOCKS_DIFFER_S,
            exp: iat + USER_ASSERTION_LIFETIME_S,
        };
        Ok(self.signer.sign(&claims).await?)
    }
}
