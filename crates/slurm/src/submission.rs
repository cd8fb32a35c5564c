//! What is submitted.

use std::collections::BTreeMap;
use std::fmt::Write;

use gha_slurm_domain::{LaunchId, ResourceRequest, SlurmUser};

/// One Slurm job to be. Not `Debug`: its environment holds the launch token.
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
    /// Environment of the job script, the launch token among it.
    pub environment: BTreeMap<&'static str, String>,
}

impl Submission {
    /// The same, without the launch token, and without the texts of hooks.
    pub(crate) fn clone_to_show(&self) -> Self {
        let mut environment = self.environment.clone();
        if let Some(token) = environment.get_mut("GHA_SLURM_LAUNCH_TOKEN") {
            "***".clone_into(token);
        }
        for (name, text) in &mut environment {
            if name.ends_with("_HOOK") {
                "…".clone_into(text);
            }
        }
        Self {
            launch: self.launch,
            name: self.name.clone(),
            repository: self.repository.clone(),
            slurm_user: self.slurm_user.clone(),
            resources: self.resources.clone(),
            script: self.script.clone(),
            environment,
        }
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
