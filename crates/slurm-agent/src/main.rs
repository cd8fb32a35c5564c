//! The Slurm agent's process.

use std::process::ExitCode;

use gha_slurm_service_kit::ServiceInfo;
use gha_slurm_slurm_agent::{Application, Settings, tasks};

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "gha-slurm-munge",
        about: "Verifies launch tokens inside the MUNGE domain and submits Slurm jobs that become runners.",
        version: env!("CARGO_PKG_VERSION"),
    };
    gha_slurm_service_kit::run_or(
        info,
        |settings: &Settings| &settings.log,
        |settings| &settings.operations,
        tasks::find,
        |settings, stop| async move { Application::build(settings)?.run_until_stopped(stop).await },
    )
}
