//! Supply: launches on the way, plans carried out, and the submission loop's leases.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::planner::{ClassView, Supply, SupplyStage};
use gha_slurm_domain::{
    LabelSet, LaunchId, RepositoryId, ResourceRequest, SlurmJobId, SlurmUser, WorkflowJobId,
};

use crate::pool::StorageError;
use crate::schema::{launches, repositories, runner_classes, runners, workflow_jobs};
use crate::timeline::{self, Entry};
use crate::workflow_jobs::ClassId;

/// A runner class of a scope and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeClass {
    /// Which class.
    pub id: ClassId,
    /// For the planner.
    pub view: ClassView,
    /// Its queued workflow jobs, oldest first, each with the trace of its webhook.
    pub queued: Vec<(WorkflowJobId, Option<String>)>,
    /// Workflow jobs that caused a launch that still counts.
    pub causes: Vec<WorkflowJobId>,
    /// Why the last runner ended without a workflow job.
    pub last_failure_reason: Option<String>,
}

type SupplyRow = (
    uuid::Uuid,
    i64,
    i64,
    String,
    DateTime<Utc>,
    Option<DateTime<Utc>>,
    Option<String>,
);

type FailureRow = (i64, i32, Option<DateTime<Utc>>, Option<String>);

/// Every class of a scope that has demand or supply.
pub async fn scope_classes(
    conn: &mut AsyncPgConnection,
    repository: RepositoryId,
) -> Result<Vec<ScopeClass>, StorageError> {
    let demand: Vec<(i64, Option<i64>, Option<String>)> = workflow_jobs::table
        .filter(workflow_jobs::repository_id.eq(repository.0))
        .filter(workflow_jobs::state.eq("queued"))
        .filter(workflow_jobs::verdict.eq("ours"))
        .order((workflow_jobs::created_at, workflow_jobs::id))
        .select((
            workflow_jobs::id,
            workflow_jobs::class_id,
            workflow_jobs::traceparent,
        ))
        .load(conn)
        .await?;
    let supply: Vec<SupplyRow> = launches::table
        .left_join(runners::table)
        .filter(launches::repository_id.eq(repository.0))
        .filter(launches::in_supply.eq(true))
        .select((
            launches::id,
            launches::class_id,
            launches::workflow_job_id,
            launches::state,
            launches::planned_at,
            launches::token_expires_at,
            runners::state.nullable(),
        ))
        .load(conn)
        .await?;
    let mut classes: BTreeMap<i64, ScopeClass> = BTreeMap::new();
    let entry = |id: i64| ScopeClass {
        id: ClassId(id),
        view: ClassView::default(),
        queued: Vec::new(),
        causes: Vec::new(),
        last_failure_reason: None,
    };
    for (job, class, traceparent) in demand {
        let Some(class) = class else { continue };
        let class = classes.entry(class).or_insert_with(|| entry(class));
        class.view.demand += 1;
        class.queued.push((WorkflowJobId(job), traceparent));
    }
    for (id, class, cause, state, planned_at, token_expires_at, runner) in supply {
        let stage = match (state.as_str(), runner.as_deref()) {
            ("planned", _) => SupplyStage::Planned,
            ("submitted", _) => SupplyStage::Submitted,
            (_, Some("redeeming")) => SupplyStage::Redeeming,
            (_, Some("registered" | "listening")) => SupplyStage::Idle,
            _ => SupplyStage::Busy,
        };
        let class = classes.entry(class).or_insert_with(|| entry(class));
        class.view.supply.push(Supply {
            launch: LaunchId(id),
            stage,
            planned_at,
            token_expires_at,
        });
        class.causes.push(WorkflowJobId(cause));
    }
    let ids: Vec<i64> = classes.keys().copied().collect();
    let failures: Vec<FailureRow> = runner_classes::table
        .filter(runner_classes::id.eq_any(ids))
        .select((
            runner_classes::id,
            runner_classes::failures,
            runner_classes::last_failure_at,
            runner_classes::last_failure_reason,
        ))
        .load(conn)
        .await?;
    for (id, count, at, reason) in failures {
        if let Some(class) = classes.get_mut(&id) {
            class.view.failures = count.max(0) as u32;
            class.view.last_failure_at = at;
            class.last_failure_reason = reason;
        }
    }
    Ok(classes.into_values().collect())
}

/// One launch to plan.
#[derive(Debug, Clone)]
pub struct NewLaunch {
    /// Our id: also the idempotency key of the submission.
    pub id: LaunchId,
    /// Its class.
    pub class: ClassId,
    /// Its scope.
    pub repository: RepositoryId,
    /// The workflow job that caused it.
    pub cause: WorkflowJobId,
    /// Not to be submitted before.
    pub not_before: DateTime<Utc>,
    /// Look the demand up at GitHub first.
    pub verify_demand: bool,
    /// Trace to continue.
    pub traceparent: Option<String>,
}

/// Writes planned launches.
pub async fn plan(
    conn: &mut AsyncPgConnection,
    new: &[NewLaunch],
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    if new.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = new
        .iter()
        .map(|a| {
            (
                launches::id.eq(a.id.0),
                launches::class_id.eq(a.class.0),
                launches::repository_id.eq(a.repository.0),
                launches::workflow_job_id.eq(a.cause.0),
                launches::state.eq("planned"),
                launches::planned_at.eq(now),
                launches::not_before.eq(a.not_before),
                launches::verify_demand.eq(a.verify_demand),
                launches::traceparent.eq(&a.traceparent),
            )
        })
        .collect();
    diesel::insert_into(launches::table)
        .values(rows)
        .execute(conn)
        .await?;
    let entries: Vec<Entry> = new
        .iter()
        .map(|a| {
            let wait = (a.not_before - now).num_seconds();
            let detail = if wait > 0 {
                format!("a launch is planned, to be submitted in {wait} s")
            } else {
                "a launch is planned".to_owned()
            };
            Entry::launch(now, a.id, "planned", detail)
        })
        .collect();
    timeline::append(conn, &entries).await
}

/// Withdraws launches that have no runner yet. Their launch tokens answer 410 from now on: the row decides, never
/// Slurm's state. Returns those that really were withdrawn.
pub async fn withdraw(
    conn: &mut AsyncPgConnection,
    ids: &[LaunchId],
    reason: &str,
    now: DateTime<Utc>,
) -> Result<Vec<LaunchId>, StorageError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<uuid::Uuid> = ids.iter().map(|a| a.0).collect();
    let redeeming: Vec<uuid::Uuid> = runners::table
        .filter(runners::launch_id.eq_any(&ids))
        .filter(runners::state.eq("redeeming"))
        .select(runners::launch_id)
        .load(conn)
        .await?;
    let gone: Vec<uuid::Uuid> = diesel::update(
        launches::table.filter(
            launches::id.eq_any(&ids).and(
                launches::state
                    .eq_any(["planned", "submitted"])
                    .or(launches::id.eq_any(&redeeming)),
            ),
        ),
    )
    .set((
        launches::state.eq("withdrawn"),
        launches::in_supply.eq(false),
        launches::reason.eq(reason),
        launches::ended_at.eq(now),
        // The lease stays: while it is held, a submission is under way, and there is no telling yet what to cancel.
    ))
    .returning(launches::id)
    .get_results(conn)
    .await?;
    diesel::update(runners::table.filter(runners::launch_id.eq_any(&gone)))
        .set((
            runners::state.eq("ended"),
            runners::ended_at.eq(now),
            runners::end_reason.eq(reason),
        ))
        .execute(conn)
        .await?;
    let entries: Vec<Entry> = gone
        .iter()
        .map(|id| Entry::launch(now, LaunchId(*id), "withdrawn", reason))
        .collect();
    timeline::append(conn, &entries).await?;
    Ok(gone.into_iter().map(LaunchId).collect())
}

/// Wants the runners of `ids` deregistered, and no other one's of the class. Call it under the scope's lock.
pub async fn want_released(
    conn: &mut AsyncPgConnection,
    class: ClassId,
    ids: &[LaunchId],
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|a| a.0).collect();
    let of_class = launches::table.filter(launches::class_id.eq(class.0));
    diesel::update(
        of_class
            .filter(launches::release_at.is_not_null())
            // What is over was not marked by the planner, so it does not unmark it.
            .filter(launches::in_supply)
            .filter(launches::id.ne_all(&ids)),
    )
    .set(launches::release_at.eq(None::<DateTime<Utc>>))
    .execute(conn)
    .await?;
    if !ids.is_empty() {
        diesel::update(
            launches::table
                .filter(launches::id.eq_any(&ids))
                .filter(launches::release_at.is_null()),
        )
        .set(launches::release_at.eq(now))
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// A planned launch the submission loop holds a lease on.
#[derive(Debug, Clone)]
pub struct Due {
    /// Which.
    pub id: LaunchId,
    /// Its scope.
    pub repository: RepositoryId,
    /// Account of the repository.
    pub owner: String,
    /// Name of the repository.
    pub name: String,
    /// The workflow job that caused it.
    pub cause: WorkflowJobId,
    /// Its class.
    pub class: ClassId,
    /// Slurm user.
    pub slurm_user: SlurmUser,
    /// Labels of the class.
    pub labels: LabelSet,
    /// What to ask Slurm for.
    pub resources: ResourceRequest,
    /// Look the demand up first.
    pub verify_demand: bool,
    /// From 1.
    pub attempt: u32,
    /// Trace to continue.
    pub traceparent: Option<String>,
}

/// Takes a lease on planned launches that are due, oldest first; of those of a class that wait behind a limit, on the
/// oldest alone. A lease that runs out (the process was killed) is
/// taken again; the Slurm agent gives the first answer for the same launch.
pub async fn claim_due(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    lease: TimeDelta,
    limit: i64,
) -> Result<Vec<Due>, StorageError> {
    let rows = lease_rows(conn, now, lease, limit).await?;
    rows.into_iter()
        .map(|r| {
            Ok(Due {
                id: LaunchId(r.0),
                repository: RepositoryId(r.1),
                owner: r.2,
                name: r.3,
                cause: WorkflowJobId(r.4),
                class: ClassId(r.5),
                slurm_user: r
                    .6
                    .parse()
                    .map_err(|_| StorageError::Unknown("runner_classes.slurm_user"))?,
                labels: r.7.split(',').collect(),
                resources: serde_json::from_value(r.8)
                    .map_err(|_| StorageError::Unknown("runner_classes.resources"))?,
                verify_demand: r.9,
                attempt: r.10.max(1) as u32,
                traceparent: r.11,
            })
        })
        .collect()
}

type DueRow = (
    uuid::Uuid,
    i64,
    String,
    String,
    i64,
    i64,
    String,
    String,
    serde_json::Value,
    bool,
    i32,
    Option<String>,
);

async fn lease_rows(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    lease: TimeDelta,
    limit: i64,
) -> Result<Vec<DueRow>, StorageError> {
    use diesel_async::AsyncConnection;
    conn.transaction::<_, StorageError, _>(async move |conn| {
        let ids: Vec<uuid::Uuid> = launches::table
            .filter(launches::state.eq("planned"))
            .filter(launches::not_before.le(now))
            // What a limit refuses for one of a class, it refuses for all.
            .filter(diesel::dsl::sql::<Bool>(
                "NOT EXISTS (SELECT FROM launches o WHERE o.state = 'planned' AND o.limited \
                 AND o.class_id = launches.class_id \
                 AND (o.planned_at, o.id) < (launches.planned_at, launches.id))",
            ))
            .filter(
                launches::lease_until
                    .is_null()
                    .or(launches::lease_until.le(now)),
            )
            .order(launches::planned_at)
            .limit(limit)
            .for_update()
            .skip_locked()
            .select(launches::id)
            .load(conn)
            .await?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        diesel::update(launches::table.filter(launches::id.eq_any(&ids)))
            .set((
                launches::lease_until.eq(now + lease),
                launches::submit_attempts.eq(launches::submit_attempts + 1),
            ))
            .execute(conn)
            .await?;
        Ok(launches::table
            .inner_join(runner_classes::table)
            .inner_join(repositories::table)
            .filter(launches::id.eq_any(&ids))
            .order(launches::planned_at)
            .select((
                launches::id,
                launches::repository_id,
                repositories::owner,
                repositories::name,
                launches::workflow_job_id,
                launches::class_id,
                runner_classes::slurm_user,
                runner_classes::labels,
                runner_classes::resources,
                launches::verify_demand,
                launches::submit_attempts,
                launches::traceparent,
            ))
            .load(conn)
            .await?)
    })
    .await
}

/// The demand was confirmed at GitHub: do not ask again for this launch.
pub async fn demand_verified(
    conn: &mut AsyncPgConnection,
    id: LaunchId,
) -> Result<(), StorageError> {
    diesel::update(launches::table.find(id.0))
        .set(launches::verify_demand.eq(false))
        .execute(conn)
        .await?;
    Ok(())
}

/// The workflow job that caused a planned launch does not wait any more. If the planner kept it, another one of its
/// class does: that is its cause now. Gives the lease back.
pub async fn find_other_cause(
    conn: &mut AsyncPgConnection,
    id: LaunchId,
) -> Result<(), StorageError> {
    let class: Option<i64> = launches::table
        .find(id.0)
        .filter(launches::state.eq("planned"))
        .select(launches::class_id)
        .first(conn)
        .await
        .optional()?;
    let Some(class) = class else { return Ok(()) };
    let waiting: Option<i64> = workflow_jobs::table
        .filter(workflow_jobs::class_id.eq(class))
        .filter(workflow_jobs::state.eq("queued"))
        .filter(workflow_jobs::verdict.eq("ours"))
        .order((workflow_jobs::created_at, workflow_jobs::id))
        .select(workflow_jobs::id)
        .first(conn)
        .await
        .optional()?;
    if let Some(waiting) = waiting {
        diesel::update(launches::table.find(id.0))
            .set((
                launches::workflow_job_id.eq(waiting),
                launches::lease_until.eq(None::<DateTime<Utc>>),
            ))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// The Slurm side has a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Which.
    pub id: LaunchId,
    /// Its Slurm job, if the Slurm side says which.
    pub slurm_job_id: Option<SlurmJobId>,
    /// When its launch token expires.
    pub token_expires_at: DateTime<Utc>,
    /// When the answer came.
    pub at: DateTime<Utc>,
}

/// What becomes of rows that another transaction has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// They stay as they are.
    Skip,
    /// They are waited for.
    Wait,
}

const SUBMITTED: &str = "
    WITH answers AS (
        SELECT told.* FROM unnest($1, $2, $3, $4) AS told (id, slurm_job_id, token_expires_at, at)
        JOIN launches USING (id) FOR NO KEY UPDATE OF launches";
const SUBMITTED_SET: &str = "
    )
    UPDATE launches SET
        cluster = $5,
        slurm_job_id = coalesce(launches.slurm_job_id, answers.slurm_job_id),
        token_expires_at = answers.token_expires_at,
        submitted_at = answers.at,
        lease_until = NULL,
        state = CASE WHEN state = 'planned' THEN 'submitted' ELSE state END,
        reason = CASE WHEN state = 'planned' THEN NULL ELSE reason END
    FROM answers WHERE launches.id = answers.id
    RETURNING launches.id, launches.limited, launches.class_id";

#[derive(QueryableByName)]
struct SubmittedRow {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    id: uuid::Uuid,
    #[diesel(sql_type = Bool)]
    limited: bool,
    #[diesel(sql_type = BigInt)]
    class_id: i64,
}

/// The Slurm side of `cluster` has these. A row that was withdrawn or redeemed meanwhile keeps that state and learns its Slurm
/// job. Run it in a transaction; several at once must skip what is locked, or two transactions could wait for each other. Gives
/// those that were skipped, or have no row.
pub async fn submitted(
    conn: &mut AsyncPgConnection,
    cluster: &str,
    answers: &[Submitted],
    locked: Locked,
) -> Result<Vec<LaunchId>, StorageError> {
    let skip = match locked {
        Locked::Skip => " SKIP LOCKED",
        Locked::Wait => "",
    };
    let ids: Vec<uuid::Uuid> = answers.iter().map(|a| a.id.0).collect();
    let jobs: Vec<Option<&str>> = answers
        .iter()
        .map(|a| a.slurm_job_id.as_ref().map(SlurmJobId::as_str))
        .collect();
    let expiries: Vec<DateTime<Utc>> = answers.iter().map(|a| a.token_expires_at).collect();
    let times: Vec<DateTime<Utc>> = answers.iter().map(|a| a.at).collect();
    let stored: Vec<SubmittedRow> = diesel::sql_query(format!("{SUBMITTED}{skip}{SUBMITTED_SET}"))
        .bind::<Array<diesel::sql_types::Uuid>, _>(ids)
        .bind::<Array<Nullable<Text>>, _>(jobs)
        .bind::<Array<Timestamptz>, _>(expiries)
        .bind::<Array<Timestamptz>, _>(&times)
        .bind::<Text, _>(cluster)
        .load(conn)
        .await?;
    let (mut entries, mut left) = (Vec::new(), Vec::new());
    for Submitted {
        id,
        slurm_job_id,
        at,
        ..
    } in answers
    {
        if !stored.iter().any(|row| row.id == id.0) {
            left.push(*id);
            continue;
        }
        let detail = match slurm_job_id {
            Some(job) => format!("submitted to {cluster} as Slurm job {job}"),
            None => format!("submitted to {cluster}; its agent does not say which Slurm job"),
        };
        entries.push(Entry::launch(*at, *id, "submitted", detail));
    }
    timeline::append(conn, &entries).await?;
    let limited = stored.iter().filter(|row| row.limited);
    let classes: BTreeSet<i64> = limited.map(|row| row.class_id).collect();
    let now = times.iter().max().copied().unwrap_or_default();
    for class in classes {
        next_of_class(conn, class, now).await?;
    }
    Ok(left)
}

/// There was room for one of the class: perhaps there is for the next one that waits behind the limit.
async fn next_of_class(
    conn: &mut AsyncPgConnection,
    class: i64,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let next: Option<uuid::Uuid> = launches::table
        .filter(launches::class_id.eq(class))
        .filter(launches::state.eq("planned"))
        .filter(launches::limited)
        .order((launches::planned_at, launches::id))
        .limit(1)
        // Whoever has it is trying it, or withdraws it.
        .for_no_key_update()
        .skip_locked()
        .select(launches::id)
        .get_result(conn)
        .await
        .optional()?;
    if let Some(next) = next {
        diesel::update(launches::table.find(next))
            .set(launches::not_before.eq(now))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Something has ended on the Slurm side: of each class that waits behind a limit the oldest tries at once, of `most` classes,
/// those that wait longest. Gives how many.
pub async fn try_limited(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    most: i64,
) -> Result<usize, StorageError> {
    Ok(diesel::sql_query(
        "UPDATE launches SET not_before = $1 WHERE not_before > $1 AND id IN ( \
           SELECT id FROM ( \
             SELECT DISTINCT ON (class_id) id, planned_at FROM launches \
             WHERE state = 'planned' AND limited ORDER BY class_id, planned_at, id \
           ) AS first ORDER BY planned_at, id LIMIT $2)",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(most)
    .execute(conn)
    .await?)
}

/// Those that this database has a row of.
pub async fn known(
    conn: &mut AsyncPgConnection,
    ids: &[LaunchId],
) -> Result<Vec<LaunchId>, StorageError> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
    let known = launches::table
        .filter(launches::id.eq_any(ids))
        .select(launches::id)
        .load::<uuid::Uuid>(conn)
        .await?;
    Ok(known.into_iter().map(LaunchId).collect())
}

/// The submission failed in a way that may pass; tried again at `next`; if a limit is what failed, by the oldest of its
/// class for all. The reason is kept and shown once per change.
pub async fn submission_delayed(
    conn: &mut AsyncPgConnection,
    id: LaunchId,
    reason: &str,
    limited: bool,
    next: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let before: Option<Option<String>> = launches::table
        .find(id.0)
        .select(launches::reason)
        .first(conn)
        .await
        .optional()?;
    diesel::update(
        launches::table
            .find(id.0)
            .filter(launches::state.eq("planned")),
    )
    .set((
        launches::reason.eq(reason),
        launches::not_before.eq(next),
        launches::limited.eq(limited),
        launches::lease_until.eq(None::<DateTime<Utc>>),
    ))
    .execute(conn)
    .await?;
    if before.flatten().as_deref() != Some(reason) {
        timeline::append(conn, &[Entry::launch(now, id, "delayed", reason)]).await?;
    }
    Ok(())
}

/// The Slurm side refused it for good.
pub async fn refused(
    conn: &mut AsyncPgConnection,
    id: LaunchId,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    diesel::update(
        launches::table
            .find(id.0)
            .filter(launches::state.eq("planned")),
    )
    .set((
        launches::state.eq("refused"),
        launches::in_supply.eq(false),
        launches::reason.eq(reason),
        launches::ended_at.eq(now),
        launches::lease_until.eq(None::<DateTime<Utc>>),
    ))
    .execute(conn)
    .await?;
    timeline::append(conn, &[Entry::launch(now, id, "refused", reason)]).await
}

/// Attributes a workflow job to the runner of ours that GitHub names: the runner leaves supply in the transaction in
/// which the workflow job leaves demand. Returns the class of the runner, whose failures are over.
pub async fn attribute(
    conn: &mut AsyncPgConnection,
    runner_name: &str,
    workflow_job: WorkflowJobId,
    now: DateTime<Utc>,
) -> Result<Option<ClassId>, StorageError> {
    let launch: Option<uuid::Uuid> = diesel::update(
        runners::table
            .filter(runners::name.eq(runner_name))
            .filter(runners::workflow_job_id.is_null()),
    )
    .set(runners::workflow_job_id.eq(workflow_job.0))
    .returning(runners::launch_id)
    .get_result(conn)
    .await
    .optional()?;
    let Some(launch) = launch else {
        return Ok(None);
    };
    let class: i64 = diesel::update(launches::table.find(launch))
        .set(launches::in_supply.eq(false))
        .returning(launches::class_id)
        .get_result(conn)
        .await?;
    diesel::update(runner_classes::table.find(class))
        .set(runner_classes::failures.eq(0))
        .execute(conn)
        .await?;
    timeline::append(
        conn,
        &[Entry::launch(
            now,
            LaunchId(launch),
            "attributed",
            format!("GitHub gave workflow job {workflow_job} to runner {runner_name}"),
        )],
    )
    .await?;
    Ok(Some(ClassId(class)))
}
