//! Resident memory of services that wait.

use std::time::Duration;

use anyhow::{Context, Result};
use gha_slurm_test_support::Service;

use crate::report::Table;
use crate::surroundings::{Surroundings, resident_kib};

/// Long enough for everything that starts late.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) async fn measure(around: &Surroundings) -> Result<Table> {
    let mut deployment = around.deployment()?;
    deployment.start().await?;
    tokio::time::sleep(SETTLE).await;
    let mut rows = Vec::new();
    let mut sum = 0;
    for service in deployment.services() {
        let kib = resident_kib(service.id().with_context(|| service.name().to_owned())?)?;
        if service.name() == Service::Agent.program() {
            rows.push(row("the four together (aim: under 80 MB)", sum));
        } else {
            sum += kib;
        }
        rows.push(row(service.name(), kib));
    }
    deployment.stop()?;
    Ok(Table {
        title: "Resident memory, idle",
        columns: vec!["service", "MB"],
        rows,
        notes: Vec::new(),
    })
}

fn row(name: &str, kib: u64) -> Vec<String> {
    let megabytes = (kib * 1024) as f64 / 1e6;
    vec![name.to_owned(), format!("{megabytes:.1}")]
}
