//! repo-mapping's process.

use std::process::ExitCode;

use gha_slurm_repo_mapping::{Application, Settings};
use gha_slurm_service_kit::ServiceInfo;

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "repo-mapping",
        about: "Says which repositories may spend which Slurm user's account, and shows builds.",
        version: env!("CARGO_PKG_VERSION"),
    };
    gha_slurm_service_kit::run(
        info,
        |settings: &Settings| &settings.log,
        |settings| &settings.operations,
        |settings, stop| async move {
            Application::build(settings)
                .await?
                .run_until_stopped(stop)
                .await
        },
    )
}
