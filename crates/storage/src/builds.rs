//! What the web page reads.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::launch::Outcome;
use gha_slurm_domain::status::{ClassStatus, OnTheWay, Surroundings};
use gha_slurm_domain::timeline::Kind;
use gha_slurm_domain::{
    ClassId, SlurmState, SlurmUser, WorkflowJob, WorkflowJobId, WorkflowJobState,
};

use crate::pool::StorageError;
use crate::schema::{
    launches, repositories, repository_mappings, runner_classes, runners, timeline, workflow_jobs,
};
use crate::stored::{StoredLaunchState, sql_types::LaunchStateSql};
use crate::workflow_jobs::WorkflowJobRow;

/// A workflow job with its repository, and what its status is derived from.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildRow {
    /// The workflow job.
    pub workflow_job: WorkflowJob,
    /// Account of the repository.
    pub owner: String,
    /// Name of the repository.
    pub name: String,
    /// Slurm user whose account it spends or spent; that of its repository's mapping while that is not decided.
    pub slurm_user: Option<String>,
    class: Option<ClassStatus>,
    launch: Option<OnTheWay>,
    outcome: Option<Outcome>,
}

impl BuildRow {
    /// What its status is derived from, beside a stop of all launches.
    pub fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            stop: None,
            class: self.class.as_ref(),
            launch: self.launch.as_ref(),
            outcome: self.outcome.as_ref(),
        }
    }
}

type Row = (
    WorkflowJobRow,
    String,
    String,
    Option<String>,
    Option<(String, Option<String>, bool)>,
);

#[diesel::dsl::auto_type(no_type_alias)]
fn rows() -> _ {
    let columns: diesel::dsl::AsSelect<WorkflowJobRow, diesel::pg::Pg> =
        WorkflowJobRow::as_select();
    workflow_jobs::table
        .inner_join(repositories::table.left_join(repository_mappings::table))
        .left_join(runner_classes::table)
        .select((
            columns,
            repositories::owner,
            repositories::name,
            repository_mappings::slurm_user.nullable(),
            (
                runner_classes::slurm_user,
                runner_classes::stopped,
                runner_classes::refused,
            )
                .nullable(),
        ))
}

/// Newest builds first, of one Slurm user or of all.
pub async fn list(
    conn: &mut AsyncPgConnection,
    user: Option<&SlurmUser>,
    limit: i64,
) -> Result<Vec<BuildRow>, StorageError> {
    let mut query = rows()
        .order((workflow_jobs::updated_at.desc(), workflow_jobs::id.desc()))
        .limit(limit)
        .into_boxed();
    if let Some(user) = user {
        let user = user.as_str();
        let is_mapped = repository_mappings::slurm_user.nullable().eq(user);
        let is_of_class = runner_classes::slurm_user.nullable().eq(user);
        query = query.filter(is_of_class.or(workflow_jobs::class_id.is_null().and(is_mapped)));
    }
    let rows: Vec<Row> = query.load(conn).await?;
    complete(conn, rows).await
}

/// One build.
pub async fn find(
    conn: &mut AsyncPgConnection,
    id: WorkflowJobId,
) -> Result<Option<BuildRow>, StorageError> {
    let found: Option<Row> = rows()
        .filter(workflow_jobs::id.eq(id.0))
        .first(conn)
        .await
        .optional()?;
    Ok(complete(conn, found.into_iter().collect()).await?.pop())
}

/// Adds the launches: by two queries, however many builds there are.
async fn complete(
    conn: &mut AsyncPgConnection,
    rows: Vec<Row>,
) -> Result<Vec<BuildRow>, StorageError> {
    let mut builds = Vec::with_capacity(rows.len());
    for (workflow_job, owner, name, mapped_to, class) in rows {
        let class_user = class.as_ref().map(|(user, ..)| user.clone());
        builds.push(BuildRow {
            workflow_job: workflow_job.read()?,
            owner,
            name,
            slurm_user: class_user.or(mapped_to),
            class: class.map(|(_, stopped, is_refused)| ClassStatus {
                stopped,
                is_refused,
            }),
            launch: None,
            outcome: None,
        });
    }
    let waiting: Vec<(WorkflowJobId, ClassId)> = builds
        .iter()
        .filter(|build| build.workflow_job.is_demand())
        .filter_map(|build| Some((build.workflow_job.id(), build.workflow_job.class?)))
        .collect();
    let on_the_way = on_the_way(conn, &waiting).await?;
    let over: Vec<i64> = builds
        .iter()
        .filter(|build| build.workflow_job.state == WorkflowJobState::Completed)
        .map(|build| build.workflow_job.facts.id)
        .collect();
    let outcomes = outcomes(conn, &over).await?;
    for build in &mut builds {
        let id = build.workflow_job.id();
        build.launch = on_the_way.get(&id).cloned();
        build.outcome = outcomes.get(&id).cloned();
    }
    Ok(builds)
}

#[derive(QueryableByName)]
struct OnTheWayRow {
    #[diesel(sql_type = BigInt)]
    workflow_job: i64,
    #[diesel(sql_type = LaunchStateSql)]
    state: StoredLaunchState,
    #[diesel(sql_type = Nullable<Text>)]
    delay: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    not_before: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Text>)]
    slurm_state: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    slurm_reason: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    slurm_starts_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Text>)]
    slurm_nodes: Option<String>,
}

/// That which it caused; where another workflow job has it, the furthest of its class.
const ON_THE_WAY: &str = "
SELECT job.id AS workflow_job, found.state, found.delay, found.not_before, found.slurm_state, found.slurm_reason, found.slurm_starts_at,
    found.slurm_nodes
FROM unnest($1::bigint[], $2::bigint[]) AS job (id, class_id), LATERAL (
    (SELECT 1 AS rank, launches.state, launches.delay, launches.not_before, launches.slurm_state, launches.slurm_reason, launches.slurm_starts_at,
            launches.slurm_nodes
        FROM launches
        WHERE launches.workflow_job_id = job.id AND launches.class_id = job.class_id AND launches.in_supply
        ORDER BY launches.planned_at DESC LIMIT 1)
    UNION ALL
    (SELECT 2 AS rank, launches.state, launches.delay, launches.not_before, launches.slurm_state, launches.slurm_reason, launches.slurm_starts_at,
            launches.slurm_nodes
        FROM launches
        WHERE launches.class_id = job.class_id AND launches.in_supply
        ORDER BY launches.state DESC, launches.planned_at LIMIT 1)
    ORDER BY rank LIMIT 1
) AS found";

async fn on_the_way(
    conn: &mut AsyncPgConnection,
    waiting: &[(WorkflowJobId, ClassId)],
) -> Result<HashMap<WorkflowJobId, OnTheWay>, StorageError> {
    if waiting.is_empty() {
        return Ok(HashMap::new());
    }
    let (jobs, classes): (Vec<i64>, Vec<i64>) =
        waiting.iter().map(|(job, class)| (job.0, class.0)).unzip();
    let rows: Vec<OnTheWayRow> = diesel::sql_query(ON_THE_WAY)
        .bind::<Array<BigInt>, _>(jobs)
        .bind::<Array<BigInt>, _>(classes)
        .load(conn)
        .await?;
    let read = rows.into_iter().map(|row| {
        let launch = OnTheWay {
            state: row.state.0,
            delay: row.delay,
            not_before: row.not_before,
            slurm_state: row.slurm_state.as_deref().map(SlurmState::parse),
            slurm_reason: row.slurm_reason,
            starts_at: row.slurm_starts_at,
            nodes: row.slurm_nodes,
        };
        (WorkflowJobId(row.workflow_job), launch)
    });
    Ok(read.collect())
}

/// How the launches ended whose runners had these workflow jobs.
async fn outcomes(
    conn: &mut AsyncPgConnection,
    workflow_jobs: &[i64],
) -> Result<HashMap<WorkflowJobId, Outcome>, StorageError> {
    if workflow_jobs.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(Option<i64>, Option<serde_json::Value>)> = runners::table
        .inner_join(launches::table)
        .filter(runners::workflow_job_id.eq_any(workflow_jobs))
        .select((runners::workflow_job_id, launches::outcome))
        .load(conn)
        .await?;
    let read = rows.into_iter().filter_map(|(job, outcome)| {
        // A newer program may have written an outcome that this one does not know.
        let outcome = serde_json::from_value(outcome?).ok()?;
        Some((WorkflowJobId(job?), outcome))
    });
    Ok(read.collect())
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
