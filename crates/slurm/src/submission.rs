//! What is submitted.

use std::collections::BTreeMap;
use std::fmt::Write;

use gha_slurm_domain::{LaunchId, ResourceRequest, SlurmUser};

/// One Slurm job to be. Not `Debug`: its environment holds the launch token.
#[derive(Clone)]
pub struct Submission {
    /// The launch it is; Slurm is searched for it.
    pub launch: LaunchId,
    /// Name of the Slurm job: the runner's.
    pub name: String,
    /// `owner/name`, for people.
    pub repository: String,
    /// Who it runs as.
    pub slurm_user: SlurmUser,
    /// What it asks for.
    pub resources: ResourceRequest,
    /// The job script's text.
    pub script: String,
    /// Slurm starts it only when no other of this name and user is left (sbatch(1), `--dependency=singleton`).
    pub waits_for_namesakes: bool,
    /// Environment of the job script, the launch token among it.
    pub environment: BTreeMap<&'static str, String>,
}

impl Submission {
    /// The same, without the launch token, and without the texts of hooks.
    pub(crate) fn clone_to_show(&self) -> Self {
        let mut shown = self.clone();
        if let Some(token) = shown.environment.get_mut("GHA_SLURM_LAUNCH_TOKEN") {
            "***".clone_into(token);
        }
        for (name, text) in &mut shown.environment {
            if name.ends_with("_HOOK") {
                "…".clone_into(text);
            }
        }
        shown
    }

    /// The environment, for people.
    pub(crate) fn shown_environment(&self) -> String {
        let mut text = "environment:\n".to_owned();
        for (name, value) in self.clone_to_show().environment {
            let _ = writeln!(text, "  {name}={value}");
        }
        text
    }
}
