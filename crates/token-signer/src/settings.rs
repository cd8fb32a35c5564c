//! The token signer's settings; `deploy/config/gha-slurm-token-signer.toml` is a commented sample.

use std::num::NonZeroU32;
use std::path::PathBuf;

use gha_slurm_domain::SlurmUser;
use serde::Deserialize;

use crate::logs::LogSettings;
use crate::service::read_key;

/// The token signer's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Logs.
    #[serde(default)]
    pub log: LogSettings,
    /// The unix socket. Its group is that of its folder, its mode 0660.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// Slurm's `jwt_hs256.key` (slurm.conf, `AuthAltParameters=jwt_key=`). Read for each token.
    pub key_file: PathBuf,
    /// slurm.conf's `SlurmUser`, who never gets a token: it would be root on the cluster.
    pub slurm_user: SlurmUser,
    /// The Unix user who may ask: the agent's.
    pub agent_user: SlurmUser,
    /// The agent's `slurmrestd.service_user`, who gets tokens whatever uid and group they have.
    #[serde(default)]
    pub service_user: Option<SlurmUser>,
    /// Only members of this Unix group get tokens.
    pub group: String,
    /// Users with a lower uid get none; root never does.
    #[serde(default = "default_min_uid")]
    pub min_uid: u32,
    /// Longest life of a token, in seconds.
    #[serde(default = "default_lifespan")]
    pub max_lifespan_s: NonZeroU32,
}

impl gha_slurm_settings::Settings for Settings {
    const PREFIX: &'static str = "GHA_SLURM_TOKEN_SIGNER";
    const SECRETS: &'static [&'static str] = &[];

    fn check(&self, problems: &mut gha_slurm_settings::Problems) {
        problems.note("key_file", read_key(&self.key_file));
    }
}

fn default_socket() -> PathBuf {
    "/run/gha-slurm-token-signer/socket".into()
}

fn default_min_uid() -> u32 {
    1000
}

fn default_lifespan() -> NonZeroU32 {
    NonZeroU32::new(600).unwrap_or(NonZeroU32::MIN)
}
