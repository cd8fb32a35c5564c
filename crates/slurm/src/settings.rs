//! Settings of the backends.

use std::num::NonZeroU32;
use std::path::PathBuf;

use gha_slurm_domain::SlurmUser;
use gha_slurm_settings::Address;
use gha_slurm_tls::ClientTlsSettings;
use serde::Deserialize;

use crate::api_version::ApiVersion;

/// The ways of speaking to Slurm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Slurm's own programs: sbatch, squeue, scancel.
    Sbatch,
    /// Slurm's REST service.
    Slurmrestd,
    /// No Slurm at all: the job script runs beside the agent. For demos and tests.
    Local,
}

/// `[sbatch]`: Slurm's own programs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SbatchSettings {
    /// How Slurm jobs become those of their users.
    pub run_as: RunAs,
    /// Folder of sbatch, squeue and scancel.
    pub bin: PathBuf,
    /// `SLURM_CONF`, where it is not Slurm's default. sudo drops it: with `run_as = "sudo"`, `bin` has wrappers that set it.
    pub conf: Option<PathBuf>,
    /// Where job scripts write what they print, one file for each launch, which its user owns (mode 0600), with a name that nobody
    /// can know beforehand. A folder on the nodes that every user may write to, with the sticky bit.
    pub output_folder: PathBuf,
    /// Let Slurm start a Slurm job again after its node failed. Its launch token answers 410 then: leave it off.
    pub requeue: bool,
    /// Seconds before the time limit at which the job script is told to end.
    pub signal_before_end_s: u32,
    /// Name the repository in the Slurm job's comment, for everybody to see.
    pub repository_in_comment: bool,
}

impl Default for SbatchSettings {
    fn default() -> Self {
        Self {
            run_as: RunAs::Sudo,
            bin: "/usr/bin".into(),
            conf: None,
            output_folder: "/tmp".into(),
            requeue: false,
            signal_before_end_s: 120,
            repository_in_comment: false,
        }
    }
}

/// How a Slurm job becomes that of its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunAs {
    /// `sudo -u USER sbatch`: the rule of `deploy/sudoers/gha-slurm-munge`.
    Sudo,
    /// The agent is root: `sbatch --uid=USER`.
    Root,
}

/// `[slurmrestd]`: Slurm's REST service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlurmrestdSettings {
    /// `http://host:port` or `https://…`; or `socket`.
    pub url: Option<Address>,
    /// Path of its unix socket; or `url`.
    pub socket: Option<PathBuf>,
    /// TLS on the way to `url`.
    #[serde(default)]
    pub tls: ClientTlsSettings,
    /// The only version of its API that is asked for. Found by asking when absent, newest first.
    pub api_version: Option<ApiVersion>,
    /// Who asks for the list of Slurm jobs: must see those of others. Submitted and cancelled is as the user themselves.
    pub service_user: SlurmUser,
    /// Where Slurm tokens come from.
    pub tokens: TokenSource,
    /// Seconds that a token is asked for; the signer may give less.
    #[serde(default = "default_lifespan")]
    pub token_lifespan_s: NonZeroU32,
    /// For `tokens = "signer"`: the signer's unix socket.
    #[serde(default = "default_signer_socket")]
    pub signer_socket: PathBuf,
    /// For `tokens = "file"`: the file of a token; `%u` stands for the user. Read for each call.
    pub token_file: Option<String>,
    /// For `tokens = "scontrol"`: the program.
    #[serde(default = "default_scontrol")]
    pub scontrol: PathBuf,
    /// For `tokens = "scontrol"`: `SLURM_CONF`, where it is not Slurm's default.
    pub conf: Option<PathBuf>,
    /// As [`SbatchSettings::output_folder`].
    #[serde(default = "default_output_folder")]
    pub output_folder: PathBuf,
    /// As [`SbatchSettings::requeue`].
    #[serde(default)]
    pub requeue: bool,
    /// As [`SbatchSettings::signal_before_end_s`]; from v0.0.40 on.
    #[serde(default = "default_signal_before_end")]
    pub signal_before_end_s: u16,
    /// As [`SbatchSettings::repository_in_comment`].
    #[serde(default)]
    pub repository_in_comment: bool,
}

/// Where Slurm tokens come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenSource {
    /// `gha-slurm-token-signer`.
    Signer,
    /// `scontrol token`: the agent is root or SlurmUser.
    Scontrol,
    /// A file that somebody else keeps fresh.
    File,
}

fn default_lifespan() -> NonZeroU32 {
    NonZeroU32::new(600).unwrap_or(NonZeroU32::MIN)
}

fn default_signer_socket() -> PathBuf {
    "/run/gha-slurm-token-signer/socket".into()
}

fn default_scontrol() -> PathBuf {
    "/usr/bin/scontrol".into()
}

fn default_output_folder() -> PathBuf {
    SbatchSettings::default().output_folder
}

fn default_signal_before_end() -> u16 {
    120
}

/// `[local]`: the local backend.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalSettings {
    /// Most Slurm jobs that run at once; the others are pending. No limit when absent.
    pub max_running: Option<u32>,
    /// End running Slurm jobs when the agent stops, so that nothing is left. Otherwise they go on, as in Slurm.
    pub end_children_on_stop: bool,
}
