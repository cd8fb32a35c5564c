//! What launches used, as Slurm's accounting says, and sums of it.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::{LaunchId, RepositoryFullName, SlurmUser, Usage, WorkflowJobId};

use crate::pool::StorageError;
use crate::schema::{runners, usages};

/// Records what the Slurm job of a launch used; what is known stays.
pub async fn record(
    conn: &mut AsyncPgConnection,
    launch: LaunchId,
    ended_at: DateTime<Utc>,
    usage: &Usage,
) -> Result<(), StorageError> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let tres: serde_json::Map<String, serde_json::Value> = usage
        .tres
        .iter()
        .map(|(name, count)| (name.clone(), (*count).into()))
        .collect();
    diesel::insert_into(usages::table)
        .values((
            usages::launch_id.eq(launch.0),
            usages::ended_at.eq(ended_at),
            usages::elapsed_s.eq(number(usage.elapsed_s)),
            usages::cpu_allocated_s.eq(number(usage.cpu_allocated_s)),
            usages::cpu_used_s.eq(number(usage.cpu_used_s)),
            usages::gpu_allocated_s.eq(number(usage.gpu_allocated_s())),
            usages::max_rss_bytes.eq(usage.max_rss_bytes.map(number)),
            usages::tres.eq(serde_json::Value::Object(tres)),
        ))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    Ok(())
}

/// What the launch used that a workflow job ran in.
pub async fn of_build(
    conn: &mut AsyncPgConnection,
    id: WorkflowJobId,
) -> Result<Option<Usage>, StorageError> {
    type Row = (i64, i64, i64, Option<i64>, serde_json::Value);
    let row: Option<Row> = usages::table
        .inner_join(runners::table.on(runners::launch_id.eq(usages::launch_id)))
        .filter(runners::workflow_job_id.eq(id.0))
        .select((
            usages::elapsed_s,
            usages::cpu_allocated_s,
            usages::cpu_used_s,
            usages::max_rss_bytes,
            usages::tres,
        ))
        .first(conn)
        .await
        .optional()?;
    let Some((elapsed, cpu_allocated, cpu_used, max_rss, tres)) = row else {
        return Ok(None);
    };
    let number = |n: i64| u64::try_from(n).unwrap_or_default();
    Ok(Some(Usage {
        elapsed_s: number(elapsed),
        cpu_allocated_s: number(cpu_allocated),
        cpu_used_s: number(cpu_used),
        max_rss_bytes: max_rss.map(number),
        tres: serde_json::from_value(tres).map_err(|_| StorageError::Unknown("usages.tres"))?,
    }))
}

/// What the launches of a repository used that were one Slurm user's.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct UsageSum {
    /// Account of the repository.
    #[diesel(sql_type = Text)]
    pub owner: String,
    /// Name of the repository.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// Whose account was spent.
    #[diesel(sql_type = Text)]
    pub slurm_user: String,
    /// Slurm jobs.
    #[diesel(sql_type = BigInt)]
    pub launches: i64,
    /// Those of them that had a workflow job.
    #[diesel(sql_type = BigInt)]
    pub builds: i64,
    /// Sum.
    #[diesel(sql_type = BigInt)]
    pub elapsed_s: i64,
    /// Sum.
    #[diesel(sql_type = BigInt)]
    pub cpu_allocated_s: i64,
    /// Sum.
    #[diesel(sql_type = BigInt)]
    pub cpu_used_s: i64,
    /// Sum.
    #[diesel(sql_type = BigInt)]
    pub gpu_allocated_s: i64,
    /// The largest.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub max_rss_bytes: Option<i64>,
}

const SUMS: &str = "\
SELECT repositories.owner, repositories.name, used.slurm_user,
    sum(used.launches)::BIGINT AS launches,
    sum(used.builds)::BIGINT AS builds,
    sum(used.elapsed_s)::BIGINT AS elapsed_s,
    sum(used.cpu_allocated_s)::BIGINT AS cpu_allocated_s,
    sum(used.cpu_used_s)::BIGINT AS cpu_used_s,
    sum(used.gpu_allocated_s)::BIGINT AS gpu_allocated_s,
    max(used.max_rss_bytes) AS max_rss_bytes
FROM (
    SELECT launches.repository_id, runner_classes.slurm_user, 1 AS launches,
        CASE WHEN EXISTS (
            SELECT FROM runners
            WHERE runners.launch_id = usages.launch_id AND runners.workflow_job_id IS NOT NULL
        ) THEN 1 ELSE 0 END AS builds,
        elapsed_s, cpu_allocated_s, cpu_used_s, gpu_allocated_s, max_rss_bytes
    FROM usages
    JOIN launches ON launches.id = usages.launch_id
    JOIN runner_classes ON runner_classes.id = launches.class_id
    WHERE usages.ended_at >= $1 AND usages.ended_at < $2
    UNION ALL
    SELECT repository_id, slurm_user, launches, builds,
        elapsed_s, cpu_allocated_s, cpu_used_s, gpu_allocated_s, max_rss_bytes
    FROM usage_sums
    WHERE month >= ($1 AT TIME ZONE 'UTC')::date AND month < ($2 AT TIME ZONE 'UTC')::date
) AS used
JOIN repositories ON repositories.id = used.repository_id
WHERE ($3 IS NULL OR used.slurm_user = $3)
    AND ($4 IS NULL OR (lower(repositories.owner) = lower($4) AND lower(repositories.name) = lower($5)))
GROUP BY repositories.id, used.slurm_user
ORDER BY cpu_allocated_s DESC, repositories.owner, repositories.name, used.slurm_user";

/// Sums of what ended from `from` and before `until`, for each repository and Slurm user, the largest first.
pub async fn sums(
    conn: &mut AsyncPgConnection,
    (from, until): (DateTime<Utc>, DateTime<Utc>),
    user: Option<&SlurmUser>,
    repository: Option<&RepositoryFullName>,
) -> Result<Vec<UsageSum>, StorageError> {
    Ok(diesel::sql_query(SUMS)
        .bind::<Timestamptz, _>(from)
        .bind::<Timestamptz, _>(until)
        .bind::<Nullable<Text>, _>(user.map(SlurmUser::as_str))
        .bind::<Nullable<Text>, _>(repository.map(RepositoryFullName::owner))
        .bind::<Nullable<Text>, _>(repository.map(RepositoryFullName::name))
        .load(conn)
        .await?)
}
