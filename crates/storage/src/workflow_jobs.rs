//! Workflow jobs as they are known.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::timeline::Entry;
use gha_slurm_domain::{
    ClassId, InstallationId, RepositoryId, WorkflowJob, WorkflowJobFacts, WorkflowJobId,
    WorkflowJobState,
};

use crate::classes::{self, Counts};
use crate::pool::StorageError;
use crate::schema::workflow_jobs;
use crate::scope::ScopeLock;
use crate::stored::{StoredVerdict, StoredWorkflowJobState};
use crate::timeline::{self, About};

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = workflow_jobs, treat_none_as_null = true)]
pub(crate) struct WorkflowJobRow {
    id: i64,
    repository_id: i64,
    installation_id: Option<i64>,
    state: StoredWorkflowJobState,
    verdict: StoredVerdict,
    reason: Option<String>,
    class_id: Option<i64>,
    traceparent: Option<String>,
    updated_at: DateTime<Utc>,
    facts: serde_json::Value,
    demand: bool,
}

impl WorkflowJobRow {
    fn of(job: &WorkflowJob) -> Result<Self, StorageError> {
        let WorkflowJob {
            facts,
            repository,
            installation,
            state,
            verdict,
            reason,
            class,
            traceparent,
            updated_at,
        } = job;
        Ok(Self {
            id: facts.id,
            repository_id: repository.0,
            installation_id: installation.map(|id| id.0),
            state: StoredWorkflowJobState(*state),
            verdict: StoredVerdict(*verdict),
            reason: reason.clone(),
            class_id: class.map(|id| id.0),
            traceparent: traceparent.clone(),
            updated_at: *updated_at,
            facts: serde_json::to_value(facts)
                .map_err(|_| StorageError::Unknown("workflow_jobs.facts"))?,
            demand: job.is_demand(),
        })
    }

    pub(crate) fn read(self) -> Result<WorkflowJob, StorageError> {
        let facts: WorkflowJobFacts = serde_json::from_value(self.facts)
            .map_err(|_| StorageError::Unknown("workflow_jobs.facts"))?;
        Ok(WorkflowJob {
            facts,
            repository: RepositoryId(self.repository_id),
            installation: self.installation_id.map(InstallationId),
            state: self.state.0,
            verdict: self.verdict.0,
            reason: self.reason,
            class: self.class_id.map(ClassId),
            traceparent: self.traceparent,
            updated_at: self.updated_at,
        })
    }
}

/// One workflow job.
pub async fn find(
    conn: &mut AsyncPgConnection,
    id: WorkflowJobId,
) -> Result<Option<WorkflowJob>, StorageError> {
    let row: Option<WorkflowJobRow> = workflow_jobs::table
        .find(id.0)
        .select(WorkflowJobRow::as_select())
        .first(conn)
        .await
        .optional()?;
    row.map(WorkflowJobRow::read).transpose()
}

/// Those of `ids` that are known.
pub async fn known(
    conn: &mut AsyncPgConnection,
    ids: impl IntoIterator<Item = WorkflowJobId>,
) -> Result<HashSet<WorkflowJobId>, StorageError> {
    let ids: Vec<i64> = ids.into_iter().map(|id| id.0).collect();
    let known = workflow_jobs::table
        .filter(workflow_jobs::id.eq_any(ids))
        .select(workflow_jobs::id)
        .load::<i64>(conn)
        .await?;
    Ok(known.into_iter().map(WorkflowJobId).collect())
}

/// Writes a workflow job that was `before`, with what people see of the change, and counts the demand of its class.
pub async fn save(
    lock: &mut ScopeLock<'_>,
    before: Option<&WorkflowJob>,
    after: &WorkflowJob,
    entries: &[Entry],
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let row = WorkflowJobRow::of(after)?;
    diesel::insert_into(workflow_jobs::table)
        .values(&row)
        .on_conflict(workflow_jobs::id)
        .do_update()
        .set(&row)
        .execute(lock.conn())
        .await?;
    if after.has_timeline() {
        timeline::append(lock.conn(), About::WorkflowJob(after.id()), entries, now).await?;
    }
    let demand_of = |job: &WorkflowJob| job.class.filter(|_| job.is_demand());
    let (was, is) = (before.and_then(demand_of), demand_of(after));
    if was != is {
        if let Some(class) = was {
            classes::changed(lock, class, Counts::demand(-1)).await?;
        }
        if let Some(class) = is {
            classes::changed(lock, class, Counts::demand(1)).await?;
        }
    }
    Ok(())
}

/// GitHub has not called it completed: the condition of the index `workflow_jobs_unfinished`.
macro_rules! is_unfinished {
    () => {
        workflow_jobs::state.ne(StoredWorkflowJobState(WorkflowJobState::Completed))
    };
}

/// [`WorkflowJob::is_open`], found by the index of the unfinished ones.
macro_rules! is_open {
    () => {
        is_unfinished!()
            .and(workflow_jobs::state.le(StoredWorkflowJobState(WorkflowJobState::Queued)))
    };
}

/// Workflow jobs of the scope about which a decision still matters, by their ids, after `after`.
pub async fn open(
    lock: &mut ScopeLock<'_>,
    after: WorkflowJobId,
    limit: i64,
) -> Result<Vec<WorkflowJob>, StorageError> {
    let repository = lock.repository().0;
    let rows: Vec<WorkflowJobRow> = workflow_jobs::table
        .filter(workflow_jobs::repository_id.eq(repository))
        .filter(is_open!())
        .filter(workflow_jobs::id.gt(after.0))
        .order(workflow_jobs::id)
        .limit(limit)
        .select(WorkflowJobRow::as_select())
        .load(lock.conn())
        .await?;
    rows.into_iter().map(WorkflowJobRow::read).collect()
}

/// Repositories that have workflow jobs about which a decision still matters.
pub async fn repositories_with_open(
    conn: &mut AsyncPgConnection,
) -> Result<Vec<RepositoryId>, StorageError> {
    Ok(workflow_jobs::table
        .filter(is_open!())
        .select(workflow_jobs::repository_id)
        .distinct()
        .load::<i64>(conn)
        .await?
        .into_iter()
        .map(RepositoryId)
        .collect())
}

/// Queued workflow jobs of a class that want a runner, oldest first: those that caused no launch that still counts before the others.
pub async fn causes(
    lock: &mut ScopeLock<'_>,
    class: ClassId,
    limit: i64,
) -> Result<Vec<(WorkflowJobId, Option<String>)>, StorageError> {
    use crate::schema::launches;
    let mut found: Vec<(i64, Option<String>)> = Vec::new();
    let caused = || {
        launches::table
            .filter(launches::workflow_job_id.eq(workflow_jobs::id))
            .filter(launches::in_supply)
    };
    let wanting = workflow_jobs::table
        .filter(workflow_jobs::class_id.eq(class.0))
        .filter(workflow_jobs::demand)
        .order((workflow_jobs::created_at, workflow_jobs::id))
        .select((workflow_jobs::id, workflow_jobs::traceparent));
    found.extend(
        wanting
            .filter(diesel::dsl::not(diesel::dsl::exists(caused())))
            .limit(limit)
            .load::<(i64, Option<String>)>(lock.conn())
            .await?,
    );
    let missing = limit.saturating_sub(found.len() as i64);
    if missing > 0 {
        found.extend(
            wanting
                .filter(diesel::dsl::exists(caused()))
                .limit(missing)
                .load::<(i64, Option<String>)>(lock.conn())
                .await?,
        );
    }
    Ok(found
        .into_iter()
        .map(|(id, trace)| (WorkflowJobId(id), trace))
        .collect())
}

/// Workflow jobs of a repository that GitHub has not called completed, as far as is known.
pub async fn unfinished(
    conn: &mut AsyncPgConnection,
    repository: RepositoryId,
) -> Result<Vec<WorkflowJobId>, StorageError> {
    Ok(workflow_jobs::table
        .filter(workflow_jobs::repository_id.eq(repository.0))
        .filter(is_unfinished!())
        .select(workflow_jobs::id)
        .load::<i64>(conn)
        .await?
        .into_iter()
        .map(WorkflowJobId)
        .collect())
}

/// GitHub must be asked about these workflow jobs, not before `at`.
pub async fn ask(
    conn: &mut AsyncPgConnection,
    ids: &[WorkflowJobId],
    at: DateTime<Utc>,
) -> Result<(), StorageError> {
    if ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    diesel::update(workflow_jobs::table.filter(workflow_jobs::id.eq_any(ids)))
        .set(workflow_jobs::ask_at.eq(at))
        .execute(conn)
        .await?;
    Ok(())
}

/// GitHub must be asked about every open workflow job of a repository, not before `at`.
pub async fn ask_about_open(
    conn: &mut AsyncPgConnection,
    repository: RepositoryId,
    at: DateTime<Utc>,
) -> Result<(), StorageError> {
    diesel::update(
        workflow_jobs::table
            .filter(workflow_jobs::repository_id.eq(repository.0))
            .filter(is_open!()),
    )
    .set(workflow_jobs::ask_at.eq(at))
    .execute(conn)
    .await?;
    Ok(())
}

/// Workflow jobs that GitHub must be asked about now, the longest waiting first.
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
