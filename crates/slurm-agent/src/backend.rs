//! The backend that the settings name.

use std::sync::Arc;

use anyhow::Context;
use gha_slurm_slurm::settings::Backend;
use gha_slurm_slurm::{LocalSlurm, RestSlurm, SbatchSlurm, Slurm};

use crate::settings::Settings;

/// Makes it. Asks Slurm nothing yet; the local backend goes on with what is pending.
pub(crate) fn connect(settings: &Settings) -> anyhow::Result<Arc<dyn Slurm>> {
    Ok(match settings.slurm.backend {
        Backend::Sbatch => Arc::new(SbatchSlurm::new(settings.sbatch.clone())?),
        Backend::Slurmrestd => {
            let settings = settings
                .slurmrestd
                .clone()
                .context("slurmrestd: must be given for slurm.backend = \"slurmrestd\"")?;
            Arc::new(RestSlurm::new(settings)?)
        }
        Backend::Local => Arc::new(
            LocalSlurm::open(
                &settings.state.folder.join("local"),
                &settings.cluster.name,
                &settings.local,
            )
            .context("state.folder")?,
        ),
    })
}
