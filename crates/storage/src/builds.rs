//! What the web page reads.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::{SlurmUser, WorkflowJobId};

use crate::pool::StorageError;
use crate::schema::{
    launches, repositories, repository_mappings, runners, timeline, workflow_jobs,
};
use crate::workflow_jobs::WorkflowJob;

/// A workflow job with its repository.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildRow {
    /// The workflow job.
    pub workflow_job: WorkflowJob,
    /// Account of the repository.
    pub owner: String,
    /// Name of the repository.
    pub name: String,
    /// Slurm user it is mapped to.
    pub slurm_user: Option<String>,
}

/// Newest builds first, of one Slurm user or of all.
pub async fn list(
    conn: &mut AsyncPgConnection,
    user: Option<&SlurmUser>,
    limit: i64,
) -> Result<Vec<BuildRow>, StorageError> {
    let mut query = workflow_jobs::table
        .inner_join(repositories::table.left_join(repository_mappings::table))
        .order((workflow_jobs::updated_at.desc(), workflow_jobs::id.desc()))
        .limit(limit)
        .select((
            WorkflowJob::as_select(),
            repositories::owner,
            repositories::name,
            repository_mappings::slurm_user.nullable(),
        ))
        .into_boxed();
    if let Some(user) = user {
        query = query.filter(repository_mappings::slurm_user.eq(user.as_str()));
    }
    let rows: Vec<(WorkflowJob, String, String, Option<String>)> = query.load(conn).await?;
    Ok(rows.into_iter().map(row).collect())
}

/// One build.
pub async fn find(
    conn: &mut AsyncPgConnection,
    id: WorkflowJobId,
) -> Result<Option<BuildRow>, StorageError> {
    let found: Option<(WorkflowJob, String, String, Option<String>)> = workflow_jobs::table
        .inner_join(repositories::table.left_join(repository_mappings::table))
        .filter(workflow_jobs::id.eq(id.0))
        .select((
            WorkflowJob::as_select(),
            repositories::owner,
            repositories::name,
            repository_mappings::slurm_user.nullable(),
        ))
        .first(conn)
        .await
        .optional()?;
    Ok(found.map(row))
}

fn row(
    (workflow_job, owner, name, slurm_user): (WorkflowJob, String, String, Option<String>),
) -> BuildRow {
    BuildRow {
        workflow_job,
        owner,
        name,
        slurm_user,
    }
}

/// One timeline entry.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub struct TimelineRow {
    /// Position, for a stable order.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    pub kind: String,
    /// For people.
    pub detail: String,
    /// The launch it happened to.
    pub launch_id: Option<uuid::Uuid>,
    /// End of the job script's log.
    pub log_tail: Option<String>,
    /// Its Slurm job.
    pub slurm_job_id: Option<String>,
    /// Its runner.
    pub runner_name: Option<String>,
}

/// What happened to a workflow job, and to the launches it caused (unless another workflow job took their runner)
/// or whose runner it was given. Oldest first.
pub async fn timeline(
    conn: &mut AsyncPgConnection,
    id: WorkflowJobId,
) -> Result<Vec<TimelineRow>, StorageError> {
    let launches_of: Vec<uuid::Uuid> = launches::table
        .left_join(runners::table)
        .filter(
            runners::workflow_job_id
                .eq(id.0)
                .or(launches::workflow_job_id
                    .eq(id.0)
                    .and(runners::workflow_job_id.is_null())),
        )
        .select(launches::id)
        .load(conn)
        .await?;
    Ok(timeline::table
        .left_join(launches::table.on(launches::id.nullable().eq(timeline::launch_id)))
        .left_join(runners::table.on(runners::launch_id.nullable().eq(timeline::launch_id)))
        .filter(
            timeline::workflow_job_id
                .eq(id.0)
                .or(timeline::launch_id.eq_any(launches_of)),
        )
        .order((timeline::at, timeline::id))
        .limit(1000)
        .select((
            timeline::id,
            timeline::at,
            timeline::kind,
            timeline::detail,
            timeline::launch_id,
            timeline::log_tail,
            launches::slurm_job_id.nullable(),
            runners::name.nullable(),
        ))
        .load(conn)
        .await?)
}
