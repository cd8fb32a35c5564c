//! The launcher against a real PostgreSQL and RabbitMQ, and an agent that answers as told.
#![expect(clippy::unwrap_used, reason = "tests")]

mod agents;
mod events;
mod process;
mod reconciler;
mod stops;
mod submission;

use chrono::{DateTime, Utc};
use gha_slurm_contract::Event;
use gha_slurm_contract::event::{EVENT_VERSION, EventPayload, RepositoryFacts, WorkflowJobEvent};
use gha_slurm_domain::planner::PlannerLimits;
use gha_slurm_domain::{Clock, LabelSettings, RepositoryId, WorkflowJobFacts};
use gha_slurm_launcher::planning::Policy;
use gha_slurm_service_kit::Periodic;
use gha_slurm_storage::{AsyncConnection, Database, StorageError, mappings, replan, repositories};
use gha_slurm_telemetry::Metrics;

const REPOSITORY: RepositoryId = RepositoryId(4711);

fn now() -> DateTime<Utc> {
    // Before the real time, by which the submission loop looks for what is due.
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

fn periodic() -> Periodic {
    Periodic::register(&Metrics::default(), Clock::system()).unwrap()
}

fn policy() -> Policy {
    Policy {
        cluster: "main".into(),
        labels: LabelSettings::default().policy("main"),
        limits: PlannerLimits::default(),
    }
}

fn facts(id: i64, labels: &[&str]) -> WorkflowJobFacts {
    WorkflowJobFacts {
        id,
        run_id: 9,
        run_attempt: Some(1),
        name: "test".into(),
        workflow_name: None,
        head_branch: None,
        head_sha: None,
        html_url: None,
        labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        status: "queued".into(),
        conclusion: None,
        runner_id: None,
        runner_name: None,
        created_at: None,
        started_at: None,
        completed_at: None,
    }
}

fn workflow_job(action: &str, facts: WorkflowJobFacts) -> Event {
    let status = if action == "queued" {
        facts.status.clone()
    } else {
        action.to_owned()
    };
    Event {
        version: EVENT_VERSION,
        delivery: "d".into(),
        received_at: now(),
        payload: EventPayload::WorkflowJob(WorkflowJobEvent {
            action: action.into(),
            installation_id: Some(1),
            repository: RepositoryFacts {
                id: REPOSITORY.0,
                owner: "acme".into(),
                name: "widgets".into(),
                private: Some(true),
            },
            sender: None,
            workflow_job: WorkflowJobFacts { status, ..facts },
        }),
    }
}

fn queued(id: i64) -> Event {
    workflow_job("queued", facts(id, &["self-hosted", "slurm"]))
}

fn given_to(action: &str, id: i64, runner: &str) -> Event {
    workflow_job(
        action,
        WorkflowJobFacts {
            runner_name: Some(runner.into()),
            ..facts(id, &["self-hosted", "slurm"])
        },
    )
}

fn cancelled(id: i64) -> Event {
    workflow_job(
        "completed",
        WorkflowJobFacts {
            conclusion: Some("cancelled".into()),
            ..facts(id, &["self-hosted", "slurm"])
        },
    )
}

async fn apply(database: &Database, event: Event) {
    gha_slurm_launcher::events::apply(database, &policy(), &event, now())
        .await
        .unwrap();
}

/// alice maps the repository, as repo-mapping would.
async fn map(database: &Database) {
    map_as(database, REPOSITORY.into()).await;
}

async fn map_as(database: &Database, entry: mappings::Entry) {
    let mut conn = database.connection().await.unwrap();
    conn.transaction::<_, StorageError, _>(async |conn| {
        repositories::upsert(conn, REPOSITORY, None, "acme", "widgets", Some(true), now()).await?;
        mappings::replace(conn, &"alice".parse().unwrap(), &[entry], None, now()).await?;
        replan::request(conn, REPOSITORY, true, "mapped").await
    })
    .await
    .unwrap();
}

async fn replan_now(database: &Database) {
    gha_slurm_launcher::planning::take_replan_request(database, &policy(), REPOSITORY, now())
        .await
        .unwrap();
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

/// Every launch: its state, or how it ended, and whether it counts as supply.
async fn states(url: &str) -> Vec<(String, bool)> {
    let client = connect(url).await;
    let rows = client
        .query(
            "SELECT coalesce(outcome->>'kind', state::text), in_supply FROM launches ORDER BY planned_at, id",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|r| (r.get(0), r.get(1))).collect()
}

/// Verdict and reason of a workflow job.
async fn verdict(url: &str, id: i64) -> (String, Option<String>) {
    let client = connect(url).await;
    let row = client
        .query_one(
            "SELECT verdict::text, reason FROM workflow_jobs WHERE id = $1",
            &[&id],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1))
}

fn supply(states: &[(String, bool)]) -> usize {
    states.iter().filter(|(_, counts)| *counts).count()
}
