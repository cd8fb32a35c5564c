//! Storage against a real PostgreSQL.
#![expect(clippy::unwrap_used, reason = "tests")]

mod mapping;
mod redemption;
mod schema;
mod submission;
mod tls;
mod transaction;

use chrono::{DateTime, Utc};
use gha_slurm_domain::{
    LabelSet, LaunchId, RepositoryId, ResourceRequest, SlurmUser, WorkflowJobId,
};
use gha_slurm_storage::launches::NewLaunch;
use gha_slurm_storage::workflow_jobs::{ClassId, WorkflowJob};
use gha_slurm_storage::{AsyncPgConnection, launches, mappings, repositories, workflow_jobs};

/// A fixed time, so that nothing depends on the clock.
fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

const REPOSITORY: RepositoryId = RepositoryId(4711);

fn user() -> SlurmUser {
    "alice".parse().unwrap()
}

/// A private repository mapped to alice, with one runner class and `queued` workflow jobs in it.
async fn scope_with_queued(conn: &mut AsyncPgConnection, queued: i64) -> ClassId {
    repositories::upsert(conn, REPOSITORY, None, "acme", "widgets", Some(true), now())
        .await
        .unwrap();
    mappings::replace(conn, &user(), &[REPOSITORY.into()], None, now())
        .await
        .unwrap();
    let labels: LabelSet = ["self-hosted", "slurm"].into_iter().collect();
    let class = workflow_jobs::ensure_class(
        conn,
        REPOSITORY,
        &user(),
        &labels,
        &ResourceRequest::default(),
    )
    .await
    .unwrap();
    for id in 1..=queued {
        let job = workflow_job(id, class);
        workflow_jobs::save(conn, &job).await.unwrap();
    }
    class
}

fn workflow_job(id: i64, class: ClassId) -> WorkflowJob {
    WorkflowJob {
        id,
        repository_id: REPOSITORY.0,
        installation_id: None,
        run_id: 100 + id,
        run_attempt: 1,
        name: "test".into(),
        workflow_name: None,
        html_url: None,
        head_branch: None,
        labels: vec!["self-hosted".into(), "slurm".into()],
        state: "queued".into(),
        conclusion: None,
        verdict: "ours".into(),
        reason: None,
        class_id: Some(class.0),
        runner_name: None,
        queued_at: None,
        started_at: None,
        completed_at: None,
        traceparent: None,
        updated_at: now(),
    }
}

/// Plans one launch for each of `causes`.
async fn plan(conn: &mut AsyncPgConnection, class: ClassId, causes: &[i64]) -> Vec<LaunchId> {
    let new: Vec<NewLaunch> = causes
        .iter()
        .map(|cause| NewLaunch {
            id: LaunchId(uuid::Uuid::new_v4()),
            class,
            repository: REPOSITORY,
            cause: WorkflowJobId(*cause),
            not_before: now(),
            verify_demand: false,
            traceparent: None,
        })
        .collect();
    launches::plan(conn, &new, now()).await.unwrap();
    new.into_iter().map(|a| a.id).collect()
}
