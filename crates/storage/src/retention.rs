//! What is over and old goes: launches with their runners, timelines and usage, whose sums stay; workflow jobs; runner classes that
//! nothing refers to. In batches, so that no lock is held for long.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Uuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::workflow_job::Verdict;
use gha_slurm_domain::{LaunchId, LaunchState, RepositoryId, WorkflowJobId, WorkflowJobState};

use crate::pool::StorageError;
use crate::schema::{launches, runner_classes, runners, timeline, usages, workflow_jobs};
use crate::scope::ScopeLock;
use crate::stored::sql_types::LaunchStateSql;
use crate::stored::{StoredVerdict, StoredWorkflowJobState, launch_states};

/// Rows of some scopes that may go.
pub type PerScope<T> = BTreeMap<RepositoryId, Vec<T>>;

/// Launches that ended before `before` and of which nothing is to be done any more, the oldest first.
pub async fn ended_launches(
    conn: &mut AsyncPgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<PerScope<LaunchId>, StorageError> {
    let rows: Vec<(uuid::Uuid, i64)> = launches::table
        .filter(launches::ended_at.lt(before))
        .filter(diesel::dsl::not(launches::in_supply))
        .filter(launches::cancel_at.is_null())
        .order(launches::ended_at)
        .limit(limit)
        .select((launches::id, launches::repository_id))
        .load(conn)
        .await?;
    let mut scopes: PerScope<LaunchId> = BTreeMap::new();
    for (id, repository) in rows {
        let scope = scopes.entry(RepositoryId(repository)).or_default();
        scope.push(LaunchId(id));
    }
    Ok(scopes)
}

const SUM: &str = "\
INSERT INTO usage_sums
SELECT date_trunc('month', usages.ended_at AT TIME ZONE 'UTC')::date, launches.repository_id,
    runner_classes.slurm_user, count(*), count(runners.workflow_job_id), sum(elapsed_s), sum(cpu_allocated_s),
    sum(cpu_used_s), sum(gpu_allocated_s), max(max_rss_bytes)
FROM usages
JOIN launches ON launches.id = usages.launch_id
JOIN runner_classes ON runner_classes.id = launches.class_id
LEFT JOIN runners ON runners.launch_id = launches.id
WHERE usages.launch_id = ANY($1)
GROUP BY 1, 2, 3
ON CONFLICT (month, repository_id, slurm_user) DO UPDATE SET
    launches = usage_sums.launches + excluded.launches,
    builds = usage_sums.builds + excluded.builds,
    elapsed_s = usage_sums.elapsed_s + excluded.elapsed_s,
    cpu_allocated_s = usage_sums.cpu_allocated_s + excluded.cpu_allocated_s,
    cpu_used_s = usage_sums.cpu_used_s + excluded.cpu_used_s,
    gpu_allocated_s = usage_sums.gpu_allocated_s + excluded.gpu_allocated_s,
    max_rss_bytes = greatest(usage_sums.max_rss_bytes, excluded.max_rss_bytes)";

/// Removes launches of the scope, of which nothing is to be done any more. What they used stays in the sums of its month.
pub async fn remove_launches(
    lock: &mut ScopeLock<'_>,
    ids: &[LaunchId],
) -> Result<usize, StorageError> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
    diesel::sql_query(SUM)
        .bind::<Array<Uuid>, _>(&ids)
        .execute(lock.conn())
        .await?;
    diesel::delete(usages::table.filter(usages::launch_id.eq_any(&ids)))
        .execute(lock.conn())
        .await?;
    diesel::delete(runners::table.filter(runners::launch_id.eq_any(&ids)))
        .execute(lock.conn())
        .await?;
    diesel::delete(timeline::table.filter(timeline::launch_id.eq_any(&ids)))
        .execute(lock.conn())
        .await?;
    Ok(
        diesel::delete(launches::table.filter(launches::id.eq_any(&ids)))
            .execute(lock.conn())
            .await?,
    )
}

/// Workflow jobs that were changed last before `before` (`foreign_before` for those that are not for this cluster), that are no demand
/// and that no launch refers to, the oldest first.
pub async fn old_workflow_jobs(
    conn: &mut AsyncPgConnection,
    before: DateTime<Utc>,
    foreign_before: DateTime<Utc>,
    limit: i64,
) -> Result<PerScope<WorkflowJobId>, StorageError> {
    let caused = launches::table.filter(launches::workflow_job_id.eq(workflow_jobs::id));
    let given = runners::table.filter(runners::workflow_job_id.eq(workflow_jobs::id.nullable()));
    let not_ours = StoredVerdict(Verdict::NotOurs);
    let is_ours = StoredVerdict(Verdict::Ours);
    let completed = StoredWorkflowJobState(WorkflowJobState::Completed);
    let mut scopes: PerScope<WorkflowJobId> = BTreeMap::new();
    let foreign: Vec<(i64, i64)> = workflow_jobs::table
        .filter(workflow_jobs::verdict.eq(not_ours))
        .filter(workflow_jobs::updated_at.lt(foreign_before))
        .filter(diesel::dsl::not(diesel::dsl::exists(caused)))
        .filter(diesel::dsl::not(diesel::dsl::exists(given)))
        .order(workflow_jobs::updated_at)
        .limit(limit)
        .select((workflow_jobs::id, workflow_jobs::repository_id))
        .load(conn)
        .await?;
    let old: Vec<(i64, i64)> = workflow_jobs::table
        .filter(workflow_jobs::verdict.ne(not_ours))
        .filter(workflow_jobs::updated_at.lt(before))
        // What gets a runner and is not completed is looked after by the reconciler.
        .filter(
            workflow_jobs::verdict
                .ne(is_ours)
                .or(workflow_jobs::state.eq(completed)),
        )
        .filter(diesel::dsl::not(diesel::dsl::exists(caused)))
        .filter(diesel::dsl::not(diesel::dsl::exists(given)))
        .order(workflow_jobs::updated_at)
        .limit(limit)
        .select((workflow_jobs::id, workflow_jobs::repository_id))
        .load(conn)
        .await?;
    for (id, repository) in foreign.into_iter().chain(old) {
        let scope = scopes.entry(RepositoryId(repository)).or_default();
        scope.push(WorkflowJobId(id));
    }
    Ok(scopes)
}

/// Removes workflow jobs of the scope, with their timelines, unless one has become demand, or the cause of a launch, meanwhile.
pub async fn remove_workflow_jobs(
    lock: &mut ScopeLock<'_>,
    ids: &[WorkflowJobId],
) -> Result<usize, StorageError> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let caused = launches::table.filter(launches::workflow_job_id.eq(workflow_jobs::id));
    let given = runners::table.filter(runners::workflow_job_id.eq(workflow_jobs::id.nullable()));
    let gone: Vec<i64> = diesel::delete(
        workflow_jobs::table
            .filter(workflow_jobs::id.eq_any(ids))
            .filter(diesel::dsl::not(workflow_jobs::demand))
            .filter(diesel::dsl::not(diesel::dsl::exists(caused)))
            .filter(diesel::dsl::not(diesel::dsl::exists(given))),
    )
    .returning(workflow_jobs::id)
    .get_results(lock.conn())
    .await?;
    diesel::delete(timeline::table.filter(timeline::workflow_job_id.eq_any(&gone)))
        .execute(lock.conn())
        .await?;
    Ok(gone.len())
}

#[derive(QueryableByName)]
struct ScopeRow {
    #[diesel(sql_type = BigInt)]
    repository_id: i64,
}

const IDLE: &str = "\
    FROM runner_classes
    WHERE NOT EXISTS (SELECT FROM launches WHERE class_id = runner_classes.id)
        AND NOT EXISTS (SELECT FROM workflow_jobs WHERE class_id = runner_classes.id)";

/// Repositories with runner classes that nothing refers to.
pub async fn with_unused_classes(
    conn: &mut AsyncPgConnection,
) -> Result<Vec<RepositoryId>, StorageError> {
    let sql = format!("SELECT DISTINCT repository_id {IDLE} ORDER BY repository_id");
    let rows: Vec<ScopeRow> = diesel::sql_query(sql).load(conn).await?;
    Ok(rows
        .into_iter()
        .map(|row| RepositoryId(row.repository_id))
        .collect())
}

/// Removes runner classes of the scope that nothing refers to.
pub async fn remove_unused_classes(lock: &mut ScopeLock<'_>) -> Result<usize, StorageError> {
    let launched = launches::table.filter(launches::class_id.eq(runner_classes::id));
    let asked =
        workflow_jobs::table.filter(workflow_jobs::class_id.eq(runner_classes::id.nullable()));
    let repository = lock.repository().0;
    Ok(diesel::delete(
        runner_classes::table
            .filter(runner_classes::repository_id.eq(repository))
            .filter(diesel::dsl::not(diesel::dsl::exists(launched)))
            .filter(diesel::dsl::not(diesel::dsl::exists(asked))),
    )
    .execute(lock.conn())
    .await?)
}

/// What the counts of each class should be; `$1` are the states before a runner token.
const COUNTED: &str = "\
SELECT id, repository_id,
    (SELECT count(*) FROM workflow_jobs WHERE class_id = runner_classes.id AND demand)::int AS demand,
    (SELECT count(*) FROM launches WHERE class_id = runner_classes.id AND in_supply)::int AS supply,
    (SELECT count(*) FROM launches
        WHERE class_id = runner_classes.id AND in_supply AND state <> ALL($1))::int AS redeemed
FROM runner_classes";

/// Where `counted` differs from what is stored.
const WRONG: &str = "\
(counted.demand, counted.supply, counted.redeemed)
    <> (runner_classes.demand, runner_classes.supply, runner_classes.redeemed)";

/// Repositories with classes whose counts may be wrong, because an administrator edited rows.
pub async fn miscounted(conn: &mut AsyncPgConnection) -> Result<Vec<RepositoryId>, StorageError> {
    let sql = format!(
        "WITH counted AS ({COUNTED}) SELECT DISTINCT counted.repository_id \
         FROM counted JOIN runner_classes USING (id) WHERE {WRONG}"
    );
    let rows: Vec<ScopeRow> = diesel::sql_query(sql)
        .bind::<Array<LaunchStateSql>, _>(launch_states(&LaunchState::PENDING))
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| RepositoryId(row.repository_id))
        .collect())
}

/// Counts demand, supply and what was redeemed of the scope's classes anew. Returns how many were wrong.
pub async fn recount(lock: &mut ScopeLock<'_>) -> Result<usize, StorageError> {
    let repository = lock.repository().0;
    let sql = format!(
        "WITH counted AS ({COUNTED} WHERE repository_id = $2) \
         UPDATE runner_classes SET demand = counted.demand, supply = counted.supply, redeemed = counted.redeemed \
         FROM counted WHERE counted.id = runner_classes.id AND {WRONG}"
    );
    Ok(diesel::sql_query(sql)
        .bind::<Array<LaunchStateSql>, _>(launch_states(&LaunchState::PENDING))
        .bind::<BigInt, _>(repository)
        .execute(lock.conn())
        .await?)
}
