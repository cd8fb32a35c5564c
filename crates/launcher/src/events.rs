//! One event → what is known, then the planner, in one transaction.

use chrono::{DateTime, Utc};
use gha_slurm_contract::Event;
use gha_slurm_contract::event::{
    EVENT_VERSION, EventPayload, InstallationEvent, InstallationRepositoriesEvent, RepositoryFacts,
    WorkflowJobEvent, WorkflowJobFacts,
};
use gha_slurm_domain::{InstallationId, RepositoryId, WorkflowJobId, WorkflowJobState};
use gha_slurm_storage::timeline::{self, Entry};
use gha_slurm_storage::workflow_jobs::{self, WorkflowJob};
use gha_slurm_storage::{
    AsyncConnection, AsyncPgConnection, Database, StorageError, launches, lock_scope, replan,
    repositories,
};

use crate::planning::{self, Policy};

/// Why an event has no effect.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The event is of a version after ours.
    #[error("event version {0} is newer than this launcher; update it")]
    Newer(u16),
}

/// Applies an event. Applying it again, or in any order with others, changes nothing more.
pub async fn apply(
    database: &Database,
    policy: &Policy,
    event: &Event,
    now: DateTime<Utc>,
) -> Result<(), EventError> {
    if event.version > EVENT_VERSION {
        return Err(EventError::Newer(event.version));
    }
    let mut conn = database.connection().await?;
    match &event.payload {
        EventPayload::WorkflowJob(e) => {
            conn.transaction::<_, StorageError, _>(async |conn| {
                workflow_job(conn, policy, e, now).await
            })
            .await?;
        }
        EventPayload::Installation(e) => {
            conn.transaction::<_, StorageError, _>(async |conn| installation(conn, e, now).await)
                .await?;
        }
        EventPayload::InstallationRepositories(e) => {
            conn.transaction::<_, StorageError, _>(async |conn| {
                installation_repositories(conn, e, now).await
            })
            .await?;
        }
        // Concerns people's tokens; the launcher holds none.
        EventPayload::GithubAppAuthorization(_) => {}
    }
    Ok(())
}

/// What a webhook says the state is. Action and status can disagree: one published `queued` example has the status
/// `waiting` (environment protection) and is no demand yet.
fn heard(action: &str, status: &str) -> WorkflowJobState {
    match (action, WorkflowJobState::parse(status)) {
        ("completed", _) => WorkflowJobState::Completed,
        ("in_progress", _) => WorkflowJobState::InProgress,
        ("waiting", _) | (_, None) => WorkflowJobState::Waiting,
        (_, Some(state)) => state,
    }
}

async fn workflow_job(
    conn: &mut AsyncPgConnection,
    policy: &Policy,
    event: &WorkflowJobEvent,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let scope = RepositoryId(event.repository.id);
    lock_scope(conn, scope).await?;
    upsert_repository(conn, &event.repository, event.installation_id, now).await?;
    let state = heard(&event.action, &event.workflow_job.status);
    learn(
        conn,
        scope,
        event.installation_id,
        &event.workflow_job,
        state,
        now,
    )
    .await?;
    planning::replan(conn, scope, policy, now).await
}

async fn upsert_repository(
    conn: &mut AsyncPgConnection,
    repository: &RepositoryFacts,
    installation: Option<i64>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let RepositoryFacts {
        id,
        owner,
        name,
        private,
    } = repository;
    repositories::upsert(
        conn,
        RepositoryId(*id),
        installation.map(InstallationId),
        owner,
        name,
        *private,
        now,
    )
    .await
}

/// Records what GitHub says of a workflow job, by webhook or by REST. The caller holds the scope's lock and replans.
pub async fn learn(
    conn: &mut AsyncPgConnection,
    scope: RepositoryId,
    installation: Option<i64>,
    facts: &WorkflowJobFacts,
    heard: WorkflowJobState,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let id = WorkflowJobId(facts.id);
    let before = workflow_jobs::find(conn, id).await?;
    let state = match &before {
        Some(job) => job.state()?.advance(heard),
        None => heard,
    };
    let is_news = before
        .as_ref()
        .is_none_or(|job| job.state != state.as_str());
    let traceparent = match &before {
        Some(job) => job.traceparent.clone(),
        None => gha_slurm_telemetry::current_traceparent(),
    };
    let known = before.as_ref();
    let job = WorkflowJob {
        id: facts.id,
        repository_id: scope.0,
        installation_id: installation.or(known.and_then(|j| j.installation_id)),
        run_id: facts.run_id,
        run_attempt: facts.run_attempt.unwrap_or(1),
        name: facts.name.clone(),
        workflow_name: facts
            .workflow_name
            .clone()
            .or_else(|| known.and_then(|j| j.workflow_name.clone())),
        html_url: facts
            .html_url
            .clone()
            .or_else(|| known.and_then(|j| j.html_url.clone())),
        head_branch: facts
            .head_branch
            .clone()
            .or_else(|| known.and_then(|j| j.head_branch.clone())),
        labels: facts.labels.clone(),
        state: state.as_str().to_owned(),
        conclusion: facts
            .conclusion
            .clone()
            .or_else(|| known.and_then(|j| j.conclusion.clone())),
        verdict: known.map_or_else(|| "undecided".to_owned(), |j| j.verdict.clone()),
        reason: known.and_then(|j| j.reason.clone()),
        class_id: known.and_then(|j| j.class_id),
        runner_name: facts
            .runner_name
            .clone()
            .or_else(|| known.and_then(|j| j.runner_name.clone())),
        queued_at: facts.created_at.or(known.and_then(|j| j.queued_at)),
        started_at: facts
            .started_at
            .filter(|_| heard >= WorkflowJobState::InProgress)
            .or(known.and_then(|j| j.started_at)),
        completed_at: facts.completed_at.or(known.and_then(|j| j.completed_at)),
        traceparent,
        updated_at: now,
    };
    // An event that is not news may still bring what a late one knows: the runner's name, times.
    if known
        != Some(&WorkflowJob {
            updated_at: known.map_or(now, |j| j.updated_at),
            ..job.clone()
        })
    {
        workflow_jobs::save(conn, &job).await?;
    }
    if heard == WorkflowJobState::Waiting && state == WorkflowJobState::Queued {
        // Which of the two is newer? GitHub knows; meanwhile it is demand.
        workflow_jobs::ask(conn, &[id], now).await?;
    }
    if is_news {
        let detail = match (state, &job.runner_name, &job.conclusion) {
            (WorkflowJobState::InProgress, Some(runner), _) => format!("runner {runner} has it"),
            (WorkflowJobState::Completed, _, Some(conclusion)) => {
                format!("completed: {conclusion}")
            }
            _ => format!("GitHub says: {}", state.as_str()),
        };
        timeline::append(
            conn,
            &[Entry::workflow_job(now, id, state.as_str(), detail)],
        )
        .await?;
    }
    if let Some(runner) = job
        .runner_name
        .as_deref()
        .filter(|_| state >= WorkflowJobState::InProgress)
    {
        launches::attribute(conn, runner, id, now).await?;
    }
    Ok(())
}

async fn installation(
    conn: &mut AsyncPgConnection,
    event: &InstallationEvent,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let id = InstallationId(event.installation_id);
    let (suspended, deleted) = match event.action.as_str() {
        "created" => (Some(false), Some(false)),
        "deleted" => (None, Some(true)),
        "suspend" => (Some(true), None),
        "unsuspend" => (Some(false), None),
        _ => (None, None),
    };
    repositories::set_installation(conn, id, event.account.as_deref(), suspended, deleted, now)
        .await?;
    if event.action == "created" {
        for repository in &event.repositories {
            upsert_repository(conn, repository, Some(id.0), now).await?;
        }
    }
    for scope in repositories::of_installation(conn, id).await? {
        replan::request(conn, scope, true, "the installation changed").await?;
    }
    Ok(())
}

async fn installation_repositories(
    conn: &mut AsyncPgConnection,
    event: &InstallationRepositoriesEvent,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    for repository in &event.added {
        upsert_repository(conn, repository, Some(event.installation_id), now).await?;
        replan::request(
            conn,
            RepositoryId(repository.id),
            true,
            "the App was installed on it",
        )
        .await?;
    }
    let removed: Vec<RepositoryId> = event.removed.iter().map(|r| RepositoryId(r.id)).collect();
    repositories::set_reachable(conn, &removed, false).await?;
    for scope in removed {
        replan::request(conn, scope, true, "the App was removed from it").await?;
    }
    Ok(())
}

/// Takes the request of one scope and acts on it.
pub async fn take_replan_request(
    database: &Database,
    policy: &Policy,
    scope: RepositoryId,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let mut conn = database.connection().await?;
    conn.transaction::<_, StorageError, _>(async |conn| {
        lock_scope(conn, scope).await?;
        let Some(request) = replan::take(conn, scope).await? else {
            return Ok(());
        };
        if request.forgive {
            workflow_jobs::forgive_scope(conn, scope).await?;
        }
        planning::replan(conn, scope, policy, now).await
    })
    .await
}
