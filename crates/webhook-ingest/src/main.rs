//! webhook-ingest's process.

use std::process::ExitCode;

use gha_slurm_service_kit::ServiceInfo;
use gha_slurm_webhook_ingest::{Application, Settings};

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "webhook-ingest",
        about: "Receives GitHub's webhooks and publishes them to RabbitMQ as events.",
        version: env!("CARGO_PKG_VERSION"),
    };
    gha_slurm_service_kit::run(
        info,
        |settings: &Settings| &settings.log,
        |settings| &settings.operations,
        |settings, stop| async move { Application::build(&settings)?.run_until_stopped(stop).await },
    )
}
