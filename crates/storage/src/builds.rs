//! What the web page reads.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::timeline::Kind;
use gha_slurm_domain::{SlurmUser, WorkflowJob, WorkflowJobId};

use crate::pool::StorageError;
use crate::schema::{
    launches, repositories, repository_mappings, runner_classes, runners, timeline, workflow_jobs,
};
use crate::workflow_jobs::WorkflowJobRow;

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
    /// Why nothing is launched for its runner class, while that is so.
    pub stopped: Option<String>,
}

type Row = (
    WorkflowJobRow,
    String,
    String,
    Option<String>,
    Option<String>,
);

/// Newest builds first, of one Slurm user or of all.
pub async fn list(
    conn: &mut AsyncPgConnection,
    user: Option<&SlurmUser>,
    limit: i64,
) -> Result<Vec<BuildRow>, StorageError> {
    let mut query = workflow_jobs::table
        .inner_join(repositories::table.left_join(repository_mappings::table))
        .left_join(runner_classes::table)
        .order((workflow_jobs::updated_at.desc(), workflow_jobs::id.desc()))
        .limit(limit)
        .select((
            WorkflowJobRow::as_select(),
            repositories::owner,
            repositories::name,
            repository_mappings::slurm_user.nullable(),
            runner_classes::stopped.nullable(),
        ))
        .into_boxed();
    if let Some(user) = user {
        query = query.filter(repository_mappings::slurm_user.eq(user.as_str()));
    }
    let rows: Vec<Row> = query.load(conn).await?;
    rows.into_iter().map(row).collect()
}

/// One build.
pub async fn find(
    conn: &mut AsyncPgConnection,
    id: WorkflowJobId,
) -> Result<Option<BuildRow>, StorageError> {
    let found: Option<Row> = workflow_jobs::table
        .inner_join(repositories::table.left_join(repository_mappings::table))
        .left_join(runner_classes::table)
        .filter(workflow_jobs::id.eq(id.0))
        .select((
            WorkflowJobRow::as_select(),
            repositories::owner,
            repositories::name,
            repository_mappings::slurm_user.nullable(),
            runner_classes::stopped.nullable(),
        ))
        .first(conn)
        .await
        .optional()?;
    found.map(row).transpose()
}

fn row((workflow_job, owner, name, slurm_user, stopped): Row) -> Result<BuildRow, StorageError> {
    Ok(BuildRow {
        workflow_job: workflow_job.read()?,
        owner,
        name,
        slurm_user,
        stopped,
    })
}

/// One timeline entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineRow {
    /// When it happened.
    pub happened_at: DateTime<Utc>,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
    /// What.
    pub kind: Kind,
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

type EntryRow = (
    DateTime<Utc>,
    DateTime<Utc>,
    String,
    String,
    Option<uuid::Uuid>,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// What happened to a workflow job, and to the launches it caused (unless another workflow job took their runner)
/// or whose runner it was given. In the order in which it happened.
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
    let entries: Vec<EntryRow> = timeline::table
        .left_join(launches::table.on(launches::id.nullable().eq(timeline::launch_id)))
        .left_join(runners::table.on(runners::launch_id.nullable().eq(timeline::launch_id)))
        .filter(
            timeline::workflow_job_id
                .eq(id.0)
                .or(timeline::launch_id.eq_any(launches_of)),
        )
        .order((timeline::happened_at, timeline::id))
        .limit(1000)
        .select((
            timeline::happened_at,
            timeline::recorded_at,
            timeline::kind,
            timeline::detail,
            timeline::launch_id,
            timeline::log_tail,
            launches::slurm_job_id.nullable(),
            runners::name.nullable(),
        ))
        .load(conn)
        .await?;
    let read = entries.into_iter().filter_map(
        |(happened_at, recorded_at, kind, detail, launch_id, log_tail, slurm_job_id, runner)| {
            Some(TimelineRow {
                happened_at,
                recorded_at,
                // A newer program may have written a kind that this one does not know.
                kind: Kind::parse(&kind)?,
                detail,
                launch_id,
                log_tail,
                slurm_job_id,
                runner_name: runner,
            })
        },
    );
    Ok(read.collect())
}
