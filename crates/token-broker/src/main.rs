//! token-broker's process.

use std::process::ExitCode;

use gha_slurm_service_kit::ServiceInfo;
use gha_slurm_token_broker::{Application, Settings};

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "token-broker",
        about: "Exchanges the launch tokens of compute nodes for runner tokens and follows the runners.",
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
