//! Workflow jobs and their runner classes.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::{
    LabelSet, RepositoryId, ResourceRequest, SlurmUser, WorkflowJobId, WorkflowJobState,
};

use crate::pool::StorageError;
use crate::schema::{runner_classes, workflow_jobs};
use crate::timeline::{self, Entry};

/// Database id of a runner class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub i64);

/// A workflow job as stored.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = workflow_jobs, treat_none_as_null = true)]
pub struct WorkflowJob {
    /// GitHub's id.
    pub id: i64,
    /// Repository.
    pub repository_id: i64,
    /// Installation that told us.
    pub installation_id: Option<i64>,
    /// Workflow run.
    pub run_id: i64,
    /// Attempt of the run.
    pub run_attempt: i64,
    /// Name.
    pub name: String,
    /// The workflow's name.
    pub workflow_name: Option<String>,
    /// Its page at GitHub.
    pub html_url: Option<String>,
    /// Branch.
    pub head_branch: Option<String>,
    /// The strings of `runs-on`.
    pub labels: Vec<String>,
    /// [`WorkflowJobState`] as text.
    pub state: String,
    /// GitHub's conclusion.
    pub conclusion: Option<String>,
    /// `undecided`, `ours`, `not_ours`, `waiting_for_mapping`, `refused`.
    pub verdict: String,
    /// Why, for people.
    pub reason: Option<String>,
    /// Runner class, when ours.
    pub class_id: Option<i64>,
    /// Runner that has it.
    pub runner_name: Option<String>,
    /// When GitHub created it.
    pub queued_at: Option<DateTime<Utc>>,
    /// When it started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub completed_at: Option<DateTime<Utc>>,
    /// Trace of the webhook that queued it.
    pub traceparent: Option<String>,
    /// When we last learned something.
    pub updated_at: DateTime<Utc>,
}

impl WorkflowJob {
    /// The state.
    pub fn state(&self) -> Result<WorkflowJobState, StorageError> {
        WorkflowJobState::parse(&self.state).ok_or(StorageError::Unknown("workflow_jobs.state"))
    }
}

/// One workflow job.
pub async fn find(
    conn: &mut AsyncPgConnection,
    id: WorkflowJobId,
) -> Result<Option<WorkflowJob>, StorageError> {
    Ok(workflow_jobs::table
        .find(id.0)
        .select(WorkflowJob::as_select())
        .first(conn)
        .await
        .optional()?)
}

/// Writes a workflow job, new or changed.
pub async fn save(conn: &mut AsyncPgConnection, job: &WorkflowJob) -> Result<(), StorageError> {
    diesel::insert_into(workflow_jobs::table)
        .values(job)
        .on_conflict(workflow_jobs::id)
        .do_update()
        .set(job)
        .execute(conn)
        .await?;
    Ok(())
}

/// Workflow jobs of a scope that wait or are queued, oldest first.
pub async fn open_in_scope(
    conn: &mut AsyncPgConnection,
    repository: RepositoryId,
) -> Result<Vec<WorkflowJob>, StorageError> {
    Ok(workflow_jobs::table
        .filter(workflow_jobs::repository_id.eq(repository.0))
        .filter(workflow_jobs::state.eq_any(["waiting", "queued"]))
        .order((workflow_jobs::created_at, workflow_jobs::id))
        .select(WorkflowJob::as_select())
        .load(conn)
        .await?)
}

/// Workflow jobs of a scope that GitHub has not called completed, as far as we know.
pub async fn unfinished_in_scope(
    conn: &mut AsyncPgConnection,
    repository: RepositoryId,
) -> Result<Vec<WorkflowJobId>, StorageError> {
    Ok(workflow_jobs::table
        .filter(workflow_jobs::repository_id.eq(repository.0))
        .filter(workflow_jobs::state.ne("completed"))
        .select(workflow_jobs::id)
        .load::<i64>(conn)
        .await?
        .into_iter()
        .map(WorkflowJobId)
        .collect())
}

/// GitHub shall be asked about these workflow jobs, not before `at`.
pub async fn ask(
    conn: &mut AsyncPgConnection,
    ids: &[WorkflowJobId],
    at: DateTime<Utc>,
) -> Result<(), StorageError> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    diesel::update(workflow_jobs::table.filter(workflow_jobs::id.eq_any(ids)))
        .set(workflow_jobs::ask_at.eq(at))
        .execute(conn)
        .await?;
    Ok(())
}

/// Workflow jobs that GitHub shall be asked about now, the longest waiting first.
pub async fn to_ask(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<WorkflowJobId>, StorageError> {
    Ok(workflow_jobs::table
        .filter(workflow_jobs::ask_at.le(now))
        .order(workflow_jobs::ask_at)
        .limit(limit)
        .select(workflow_jobs::id)
        .load::<i64>(conn)
        .await?
        .into_iter()
        .map(WorkflowJobId)
        .collect())
}

/// GitHub need not be asked about it any more.
pub async fn answered(conn: &mut AsyncPgConnection, id: WorkflowJobId) -> Result<(), StorageError> {
    diesel::update(workflow_jobs::table.find(id.0))
        .set(workflow_jobs::ask_at.eq(None::<DateTime<Utc>>))
        .execute(conn)
        .await?;
    Ok(())
}

/// Sets a state that GitHub's REST API told when asked: the only way back from `queued` to `waiting`, and the end of a
/// workflow job that GitHub does not know any more.
pub async fn set_state(
    conn: &mut AsyncPgConnection,
    id: WorkflowJobId,
    state: WorkflowJobState,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    diesel::update(workflow_jobs::table.find(id.0))
        .set((
            workflow_jobs::state.eq(state.as_str()),
            workflow_jobs::reason.eq(reason),
            workflow_jobs::updated_at.eq(now),
        ))
        .execute(conn)
        .await?;
    timeline::append(
        conn,
        &[Entry::workflow_job(now, id, state.as_str(), reason)],
    )
    .await
}

/// Records the decision about a workflow job.
pub async fn set_verdict(
    conn: &mut AsyncPgConnection,
    id: WorkflowJobId,
    verdict: &str,
    reason: Option<&str>,
    class: Option<ClassId>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    diesel::update(workflow_jobs::table.find(id.0))
        .set((
            workflow_jobs::verdict.eq(verdict),
            workflow_jobs::reason.eq(reason),
            workflow_jobs::class_id.eq(class.map(|c| c.0)),
            workflow_jobs::updated_at.eq(now),
        ))
        .execute(conn)
        .await?;
    Ok(())
}

/// The runner class with these properties, made if it is new.
pub async fn ensure_class(
    conn: &mut AsyncPgConnection,
    repository: RepositoryId,
    user: &SlurmUser,
    labels: &LabelSet,
    resources: &ResourceRequest,
) -> Result<ClassId, StorageError> {
    let resources = serde_json::to_value(resources)
        .map_err(|_| StorageError::Unknown("runner_classes.resources"))?;
    let labels = labels.to_string();
    let existing = runner_classes::table
        .filter(runner_classes::repository_id.eq(repository.0))
        .filter(runner_classes::slurm_user.eq(user.as_str()))
        .filter(runner_classes::labels.eq(&labels))
        .filter(runner_classes::resources.eq(&resources))
        .select(runner_classes::id)
        .first::<i64>(conn)
        .await
        .optional()?;
    if let Some(id) = existing {
        return Ok(ClassId(id));
    }
    // The scope lock is held: nobody else makes the same one now.
    Ok(ClassId(
        diesel::insert_into(runner_classes::table)
            .values((
                runner_classes::repository_id.eq(repository.0),
                runner_classes::slurm_user.eq(user.as_str()),
                runner_classes::labels.eq(&labels),
                runner_classes::resources.eq(&resources),
            ))
            .returning(runner_classes::id)
            .get_result::<i64>(conn)
            .await?,
    ))
}

/// Counts a runner of the class that ended without a workflow job.
pub async fn count_failure(
    conn: &mut AsyncPgConnection,
    class: ClassId,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    diesel::update(runner_classes::table.find(class.0))
        .set((
            runner_classes::failures.eq(runner_classes::failures + 1),
            runner_classes::last_failure_at.eq(now),
            runner_classes::last_failure_reason.eq(reason),
        ))
        .execute(conn)
        .await?;
    Ok(())
}

/// Counts a runner of the class that Slurm lost, unless another one was counted since its launch was planned: what takes one
/// with it (a node fails, slurmctld comes back without its state) often takes many, and is one failure.
pub async fn count_loss(
    conn: &mut AsyncPgConnection,
    class: ClassId,
    planned_at: DateTime<Utc>,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let (failures, last): (i32, Option<DateTime<Utc>>) = runner_classes::table
        .find(class.0)
        .select((runner_classes::failures, runner_classes::last_failure_at))
        .first(conn)
        .await?;
    if failures > 0 && last.is_some_and(|last| last >= planned_at) {
        return Ok(());
    }
    count_failure(conn, class, reason, now).await
}

/// Sets the count of failures: 0 after a success or when policy changed; one below the limit when something new came
/// for a class that was given up.
pub async fn set_failures(
    conn: &mut AsyncPgConnection,
    class: ClassId,
    failures: i32,
) -> Result<(), StorageError> {
    diesel::update(runner_classes::table.find(class.0))
        .set(runner_classes::failures.eq(failures))
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets the failures of every class of a scope.
pub async fn forgive_scope(
    conn: &mut AsyncPgConnection,
    repository: RepositoryId,
) -> Result<(), StorageError> {
    diesel::update(
        runner_classes::table
            .filter(runner_classes::repository_id.eq(repository.0))
            .filter(runner_classes::failures.gt(0)),
    )
    .set(runner_classes::failures.eq(0))
    .execute(conn)
    .await?;
    Ok(())
}
