//! The launcher's process.

use std::process::ExitCode;

use gha_slurm_launcher::{Application, Settings};
use gha_slurm_service_kit::ServiceInfo;

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "launcher",
        about: "Consumes GitHub events, plans launches and submits them to the agent.",
        version: env!("CARGO_PKG_VERSION"),
    };
    gha_slurm_service_kit::run(
        info,
        |settings: &Settings| &settings.log,
        |settings| &settings.operations,
        |settings, stop| async move {
            let application = Box::pin(Application::build(settings)).await?;
            Box::pin(application.run_until_stopped(stop)).await
        },
    )
}
