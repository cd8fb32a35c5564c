//! The token signer's process.

use std::process::ExitCode;

use gha_slurm_service_kit::ServiceInfo;
use gha_slurm_slurm_agent::token_signer::{Settings, TokenSigner};

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "gha-slurm-token-signer",
        about: "Gives the Slurm agent short-lived Slurm tokens of users who opted in; the one process that reads Slurm's JWT key.",
        version: env!("CARGO_PKG_VERSION"),
    };
    gha_slurm_service_kit::run(
        info,
        |settings: &Settings| &settings.log,
        |settings| &settings.operations,
        |settings, stop| async move { TokenSigner::build(settings)?.run_until_stopped(stop).await },
    )
}
