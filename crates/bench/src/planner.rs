//! The launcher's cost of an event while more and more workflow jobs and launches of one repository wait.

use std::time::Duration;

use anyhow::{Context, Result};
use gha_slurm_test_support::{BackingServices, Deployment, Service, try_wait_until};
use tokio_postgres::{Client, NoTls};

use crate::ingest::Deliveries;
use crate::load::{Target, closed_loop};
use crate::report::Table;
use crate::site::Site;
use crate::surroundings::{DEPLOYMENT, Surroundings};

/// Webhooks of the burst, all of one repository: as many workflow jobs wait at its end, and as many launches.
const BURST: usize = 10_000;
/// Events of a window whose rate is shown, each up to this many waiting.
const WINDOW: i64 = 100;
const WAITING: [i64; 3] = [100, 1_000, 10_000];
const CONNECTIONS: usize = 16;
const DEADLINE: Duration = Duration::from_secs(600);

pub(crate) async fn measure(around: &Surroundings) -> Result<Table> {
    let database_url = around.new_database("planner").await?;
    let folder = around.folder().join("planner");
    std::fs::create_dir(&folder)?;
    let backing = BackingServices {
        database_url: &database_url,
        ..around.backing()
    };
    // A class that failed waits before the next attempt: nothing is submitted meanwhile.
    let mut deployment = Deployment::builder(DEPLOYMENT)
        .setting(Service::Launcher, "PLANNER__BACKOFF_BASE_S", "86400")
        .setting(Service::Launcher, "PLANNER__BACKOFF_CAP_S", "86400")
        .build(&folder, &around.credentials, &backing)?;
    let site = Site::new(around, &database_url)?;
    let repositories = site.repositories("alice").await?;
    let repository = repositories.first().context("a repository")?;
    let (client, connection) = tokio_postgres::connect(&database_url, NoTls).await?;
    tokio::spawn(connection);
    for service in [Service::Launcher, Service::WebhookIngest] {
        deployment.service_mut(service).start().await?;
    }
    let target = Target {
        address: deployment.address(Service::WebhookIngest).parse()?,
        expected: http::StatusCode::ACCEPTED,
    };
    let secret = around.credentials.webhook_secret()?.into();
    let first = Deliveries::queued(repository, 1, &secret)?;
    closed_loop(&target, 1, first.first(1)).await?;
    until_known(&client, 1).await?;
    client
        .execute(
            "UPDATE runner_classes SET failures = 1, last_failure_at = now()",
            &[],
        )
        .await?;
    let deliveries = (2..=BURST as i64)
        .map(|id| Deliveries::queued(repository, id, &secret))
        .collect::<Result<Vec<_>>>()?;
    let calls = move |number: u64| {
        let delivery = deliveries.get(usize::try_from(number).ok()?)?;
        delivery.first(u64::MAX)(number)
    };
    closed_loop(&target, CONNECTIONS, calls).await?;
    until_known(&client, BURST as i64).await?;
    let mut rates = Vec::new();
    for waiting in WAITING {
        rates.push((waiting, rate(&client, waiting).await?));
    }
    deployment.stop()?;
    let start = rates.first().map_or(f64::NAN, |(_, rate)| *rate);
    let rows = rates.into_iter().map(|(waiting, rate)| {
        vec![
            waiting.to_string(),
            format!("{rate:.0}"),
            format!("{:.1}", 1000.0 / rate),
            format!("{:.2}", start / rate),
        ]
    });
    Ok(Table {
        title: "launcher: a burst of 10,000 webhooks of one repository",
        columns: vec![
            "waiting workflow jobs and launches",
            "events/s",
            "ms per event",
            "of the start (aim: at most 1.5)",
        ],
        rows: rows.collect(),
        notes: Vec::new(),
    })
}

async fn until_known(client: &Client, count: i64) -> Result<()> {
    try_wait_until("the events are applied", DEADLINE, || async {
        let row = client
            .query_one("SELECT count(*) FROM workflow_jobs", &[])
            .await
            .map_err(|e| e.to_string())?;
        let seen: i64 = row.get(0);
        if seen == count {
            Ok(())
        } else {
            Err(format!("{seen} of {count}"))
        }
    })
    .await
}

/// Events per second of the last ones before so many waited.
async fn rate(client: &Client, waiting: i64) -> Result<f64> {
    let sql = "SELECT extract(epoch FROM max(created_at) - min(created_at))::FLOAT8 FROM (
                   SELECT created_at FROM workflow_jobs ORDER BY created_at OFFSET $1 LIMIT $2) AS part";
    let row = client
        .query_one(sql, &[&(waiting - WINDOW), &WINDOW])
        .await?;
    Ok((WINDOW - 1) as f64 / row.get::<_, f64>(0))
}
