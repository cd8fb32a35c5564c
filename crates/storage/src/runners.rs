//! Redemption, progress and release: what the node says, and what the broker may answer.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::dsl::case_when;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::admission::admit;
use gha_slurm_domain::planner::may_issue;
use gha_slurm_domain::{LabelSet, LaunchId, RepositoryId, RunnerState};

use crate::pool::{StorageError, lock_scope};
use crate::replan;
use crate::repositories::{self, Repository};
use crate::schema::{launches, runner_classes, runners, workflow_jobs};
use crate::timeline::{self, Entry};
use crate::workflow_jobs::{ClassId, count_failure, count_loss};

/// GitHub removes an ephemeral runner that has not connected for so long by itself
/// (<https://docs.github.com/en/actions/reference/runners/self-hosted-runners>).
const GITHUB_FORGETS: TimeDelta = TimeDelta::days(1);

/// A runner as stored.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = runners)]
pub struct Runner {
    /// Our id.
    pub id: uuid::Uuid,
    /// Its launch.
    pub launch_id: uuid::Uuid,
    /// Its name at GitHub.
    pub name: String,
    /// [`RunnerState`] as text.
    pub state: String,
    /// `jit` or `registration`.
    pub mode: String,
    /// Slurm job that redeemed.
    pub slurm_job_id: String,
    /// `SLURM_RESTART_COUNT` then.
    pub restart_count: i32,
    /// Counts registrations made for it.
    pub mint_attempt: i32,
    /// GitHub's id, known at mint with JIT.
    pub github_runner_id: Option<i64>,
    /// Workflow job GitHub gave it.
    pub workflow_job_id: Option<i64>,
    /// Workflow run the node named.
    pub run_id: Option<i64>,
    /// Attempt of that run.
    pub run_attempt: Option<i64>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// "Listening for Jobs".
    pub listening_at: Option<DateTime<Utc>>,
    /// When a workflow job started in it, by its node or by GitHub.
    pub busy_at: Option<DateTime<Utc>>,
}

impl Runner {
    /// The state.
    pub fn state(&self) -> Result<RunnerState, StorageError> {
        RunnerState::parse(&self.state).ok_or(StorageError::Unknown("runners.state"))
    }
}

/// Who asks to redeem.
#[derive(Debug, Clone)]
pub struct Redeemer {
    /// The launch token's subject.
    pub launch: LaunchId,
    /// `SLURM_JOB_ID`; empty in the original contract, which does not say.
    pub slurm_job_id: String,
    /// `SLURM_RESTART_COUNT`.
    pub restart_count: i32,
    /// The node.
    pub node: Option<String>,
    /// `jit` or `registration`.
    pub mode: &'static str,
}

/// What the broker shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redemption {
    /// Mint a runner token at GitHub, outside the lock, then call [`complete`].
    Mint(Mint),
    /// Nothing waits for it: 410.
    Gone(String),
    /// Somebody else has it, or it is closed: 409.
    Conflict(String),
}

/// What to mint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mint {
    /// For whom.
    pub launch: LaunchId,
    /// Which attempt this is; only the newest may complete.
    pub attempt: i32,
    /// Name to register.
    pub name: String,
    /// Registration of an earlier attempt, to be deleted.
    pub superseded: Option<i64>,
    /// Where.
    pub repository: Repository,
    /// Exactly the class's labels.
    pub labels: LabelSet,
}

/// Decides under the scope's lock whether this launch still has demand, and binds it to the Slurm job that asks.
/// Run it in a transaction. `name` gives the runner's name for a mint attempt.
pub async fn begin(
    conn: &mut AsyncPgConnection,
    who: &Redeemer,
    name: &(dyn Fn(u32) -> String + Sync),
    now: DateTime<Utc>,
) -> Result<Redemption, StorageError> {
    let scope: Option<i64> = launches::table
        .find(who.launch.0)
        .select(launches::repository_id)
        .first(conn)
        .await
        .optional()?;
    let Some(scope) = scope else {
        return Ok(Redemption::Gone(
            "this deployment knows no such launch".into(),
        ));
    };
    let scope = RepositoryId(scope);
    lock_scope(conn, scope).await?;
    let (state, reason, class, bound_job): (String, Option<String>, i64, Option<String>) =
        launches::table
            .find(who.launch.0)
            .select((
                launches::state,
                launches::reason,
                launches::class_id,
                launches::slurm_job_id,
            ))
            .first(conn)
            .await?;
    let because = || reason.clone().unwrap_or_else(|| "it is over".to_owned());
    match state.as_str() {
        "withdrawn" | "refused" => return Ok(Redemption::Gone(because())),
        "ended" => {
            return Ok(Redemption::Gone(format!(
                "the launch is over: {}",
                because()
            )));
        }
        _ => {}
    }
    let existing: Option<Runner> = runners::table
        .filter(runners::launch_id.eq(who.launch.0))
        .select(Runner::as_select())
        .first(conn)
        .await
        .optional()?;
    if let Some(runner) = &existing {
        if runner.slurm_job_id != who.slurm_job_id {
            return Ok(Redemption::Conflict(format!(
                "the launch token was redeemed by Slurm job {} already",
                runner.slurm_job_id
            )));
        }
        if who.restart_count > runner.restart_count {
            let reason = "Slurm restarted the launch after its runner token was given out";
            let ending = Ending {
                release_at: Some(now),
                ..Ending::because(reason)
            };
            end(conn, scope, runner, &ending, now).await?;
            return Ok(Redemption::Gone(reason.into()));
        }
        let repeatable = who.restart_count == runner.restart_count
            && !who.slurm_job_id.is_empty()
            && matches!(
                runner.state()?,
                RunnerState::Redeeming | RunnerState::Registered
            );
        if !repeatable {
            return Ok(Redemption::Conflict(
                "the runner of this launch is registered already".into(),
            ));
        }
    } else if let Some(bound) =
        bound_job.filter(|b| !who.slurm_job_id.is_empty() && *b != who.slurm_job_id)
    {
        return Ok(Redemption::Conflict(format!(
            "the launch is Slurm job {bound}, not {}",
            who.slurm_job_id
        )));
    }

    let (labels, user): (String, String) = runner_classes::table
        .find(class)
        .select((runner_classes::labels, runner_classes::slurm_user))
        .first(conn)
        .await?;
    let standing = repositories::standing(conn, scope)
        .await?
        .ok_or(StorageError::Unknown("launches.repository_id"))?;
    let refusal = match admit(&standing) {
        Err(e) => Some(e.to_string()),
        Ok(mapped) if mapped.user.as_str() != user => {
            Some("the repository is mapped to another Slurm user now".to_owned())
        }
        Ok(_) => None,
    };
    let refusal = match refusal {
        Some(refusal) => Some(refusal),
        None if existing.is_none() => {
            let demand = queued_in_class(conn, class).await?;
            let given = launches::table
                .filter(launches::class_id.eq(class))
                .filter(launches::in_supply.eq(true))
                .filter(launches::state.eq_any(["redeemed", "ended"]))
                .count()
                .get_result::<i64>(conn)
                .await?;
            (!may_issue(demand as usize, given as usize))
                .then(|| "no queued workflow job waits for it any more".to_owned())
        }
        None => None,
    };
    if let Some(refusal) = refusal {
        crate::launches::withdraw(conn, &[who.launch], &refusal, now).await?;
        if let Some(runner) = &existing {
            // One that is being registered was withdrawn with the launch: who registers it deletes it.
            let ending = Ending {
                release_at: Some(now),
                ..Ending::because(&refusal)
            };
            end(conn, scope, runner, &ending, now).await?;
        }
        replan::request(conn, scope, false, "a launch token was turned away").await?;
        return Ok(Redemption::Gone(refusal));
    }

    let repository = repositories::find(conn, scope)
        .await?
        .ok_or(StorageError::Unknown("launches.repository_id"))?;
    let attempt = existing.as_ref().map_or(1, |r| r.mint_attempt + 1);
    let runner_name = name(attempt as u32);
    if let Some(runner) = &existing {
        diesel::update(runners::table.find(runner.id))
            .set((
                runners::state.eq("redeeming"),
                runners::mint_attempt.eq(attempt),
                runners::name.eq(&runner_name),
                runners::mode.eq(who.mode),
                runners::github_runner_id.eq(None::<i64>),
                runners::progress_token_hash.eq(None::<Vec<u8>>),
            ))
            .execute(conn)
            .await?;
    } else {
        diesel::insert_into(runners::table)
            .values((
                runners::id.eq(uuid::Uuid::now_v7()),
                runners::launch_id.eq(who.launch.0),
                runners::name.eq(&runner_name),
                runners::state.eq("redeeming"),
                runners::mode.eq(who.mode),
                runners::slurm_job_id.eq(&who.slurm_job_id),
                runners::restart_count.eq(who.restart_count),
                runners::node.eq(&who.node),
                runners::mint_attempt.eq(attempt),
                runners::created_at.eq(now),
            ))
            .execute(conn)
            .await?;
        // It was submitted, even if the launcher ended before it had stored the answer.
        let submitted_at = case_when(launches::submitted_at.is_null(), Some(now).into_sql())
            .otherwise(launches::submitted_at);
        diesel::update(launches::table.find(who.launch.0))
            .set((
                launches::state.eq("redeemed"),
                launches::redeemed_at.eq(now),
                launches::submitted_at.eq(submitted_at),
                launches::lease_until.eq(None::<DateTime<Utc>>),
            ))
            .execute(conn)
            .await?;
        if !who.slurm_job_id.is_empty() {
            diesel::update(launches::table.find(who.launch.0))
                .set(launches::slurm_job_id.eq(&who.slurm_job_id))
                .execute(conn)
                .await?;
        }
        let node = who.node.as_deref().unwrap_or("an unnamed node");
        let detail = format!(
            "Slurm job {} runs on {node} and has called back",
            who.slurm_job_id
        );
        timeline::append(conn, &[Entry::launch(now, who.launch, "allocated", detail)]).await?;
    }
    Ok(Redemption::Mint(Mint {
        launch: who.launch,
        attempt,
        name: runner_name,
        superseded: existing.and_then(|r| r.github_runner_id),
        repository,
        labels: labels.split(',').collect(),
    }))
}

async fn queued_in_class(conn: &mut AsyncPgConnection, class: i64) -> Result<i64, StorageError> {
    Ok(workflow_jobs::table
        .filter(workflow_jobs::class_id.eq(class))
        .filter(workflow_jobs::state.eq("queued"))
        .filter(workflow_jobs::verdict.eq("ours"))
        .count()
        .get_result(conn)
        .await?)
}

/// Stores what was minted. `false`: the launch was withdrawn, or a newer attempt runs: the caller deletes the
/// registration at GitHub and answers 410. Run it in a transaction.
pub async fn complete(
    conn: &mut AsyncPgConnection,
    mint: &Mint,
    github_runner_id: Option<i64>,
    progress_token_hash: &[u8],
    now: DateTime<Utc>,
) -> Result<bool, StorageError> {
    lock_scope(conn, RepositoryId(mint.repository.id)).await?;
    let changed = diesel::update(
        runners::table
            .filter(runners::launch_id.eq(mint.launch.0))
            .filter(runners::mint_attempt.eq(mint.attempt))
            .filter(runners::state.eq("redeeming")),
    )
    .set((
        runners::state.eq("registered"),
        runners::github_runner_id.eq(github_runner_id),
        runners::progress_token_hash.eq(progress_token_hash),
    ))
    .execute(conn)
    .await?;
    if changed == 1 {
        let detail = if github_runner_id.is_some() {
            format!("runner {} is registered at GitHub", mint.name)
        } else {
            format!(
                "a registration token was given out for runner {}",
                mint.name
            )
        };
        timeline::append(
            conn,
            &[Entry::launch(now, mint.launch, "registered", detail)],
        )
        .await?;
    }
    Ok(changed == 1)
}

/// A runner and its scope, by the hash of its progress token.
pub async fn by_progress_token(
    conn: &mut AsyncPgConnection,
    hash: &[u8],
) -> Result<Option<(Runner, RepositoryId)>, StorageError> {
    let row: Option<(Runner, i64)> = runners::table
        .inner_join(launches::table)
        .filter(runners::progress_token_hash.eq(hash))
        .select((Runner::as_select(), launches::repository_id))
        .first(conn)
        .await
        .optional()?;
    Ok(row.map(|(runner, scope)| (runner, RepositoryId(scope))))
}

/// A runner and its scope, by its launch.
pub async fn by_launch(
    conn: &mut AsyncPgConnection,
    launch: LaunchId,
) -> Result<Option<(Runner, RepositoryId)>, StorageError> {
    let row: Option<(Runner, i64)> = runners::table
        .inner_join(launches::table)
        .filter(runners::launch_id.eq(launch.0))
        .select((Runner::as_select(), launches::repository_id))
        .first(conn)
        .await
        .optional()?;
    Ok(row.map(|(runner, scope)| (runner, RepositoryId(scope))))
}

/// "Listening for Jobs": redemption is closed. Forward-only.
pub async fn listening(
    conn: &mut AsyncPgConnection,
    runner: &Runner,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let changed = diesel::update(
        runners::table
            .find(runner.id)
            .filter(runners::state.eq_any(["redeeming", "registered"])),
    )
    .set((
        runners::state.eq("listening"),
        runners::listening_at.eq(now),
    ))
    .execute(conn)
    .await?;
    if changed == 1 {
        let entry = Entry::launch(
            now,
            LaunchId(runner.launch_id),
            "listening",
            format!("runner {} listens for workflow jobs", runner.name),
        );
        timeline::append(conn, &[entry]).await?;
    }
    Ok(())
}

/// A workflow job started in it. It stays supply until GitHub says which one.
pub async fn busy(
    conn: &mut AsyncPgConnection,
    runner: &Runner,
    run: Option<(i64, i64)>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let changed = diesel::update(
        runners::table
            .find(runner.id)
            .filter(runners::busy_at.is_null())
            .filter(runners::state.ne("ended")),
    )
    .set((
        runners::state.eq("busy"),
        runners::busy_at.eq(now),
        runners::run_id.eq(run.map(|r| r.0)),
        runners::run_attempt.eq(run.map(|r| r.1)),
    ))
    .execute(conn)
    .await?;
    if changed == 1 {
        let detail = match run {
            Some((id, _)) => format!(
                "a workflow job of run {id} started in runner {}",
                runner.name
            ),
            None => format!("a workflow job started in runner {}", runner.name),
        };
        let entry = Entry::launch(
            now,
            LaunchId(runner.launch_id),
            "workflow_job_started",
            detail,
        );
        timeline::append(conn, &[entry]).await?;
    } else if let Some((id, attempt)) = run {
        // The log line came first, the hook adds which run it is.
        diesel::update(
            runners::table
                .find(runner.id)
                .filter(runners::run_id.is_null()),
        )
        .set((runners::run_id.eq(id), runners::run_attempt.eq(attempt)))
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// How a runner ended, or a launch that never got one.
#[derive(Debug, Clone)]
pub struct Ending<'a> {
    /// Why, for people.
    pub reason: &'a str,
    /// The last of what its node logged; kept where there was no workflow job.
    pub log_tail: Option<String>,
    /// Slurm lost it, perhaps with others of its class.
    pub is_lost: bool,
    /// When GitHub is asked to deregister it, if it had no workflow job. `None`: its registration was given back.
    pub release_at: Option<DateTime<Utc>>,
}

impl<'a> Ending<'a> {
    /// In an orderly way, for this reason.
    pub fn because(reason: &'a str) -> Self {
        Self {
            reason,
            log_tail: None,
            is_lost: false,
            release_at: None,
        }
    }
}

/// The runner is over. One that had no workflow job leaves supply now and is replaced while there is demand; one in
/// which a workflow job started stays supply until that workflow job leaves demand. Run it in a transaction.
pub async fn end(
    conn: &mut AsyncPgConnection,
    scope: RepositoryId,
    runner: &Runner,
    ending: &Ending<'_>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let reason = ending.reason;
    lock_scope(conn, scope).await?;
    let ended: Option<(Option<DateTime<Utc>>, Option<i64>)> = diesel::update(
        runners::table
            .find(runner.id)
            .filter(runners::state.ne("ended")),
    )
    .set((
        runners::state.eq("ended"),
        runners::ended_at.eq(now),
        runners::end_reason.eq(reason),
    ))
    .returning((runners::busy_at, runners::workflow_job_id))
    .get_result(conn)
    .await
    .optional()?;
    let Some((busy_at, workflow_job)) = ended else {
        return Ok(());
    };
    let worked = busy_at.is_some() || workflow_job.is_some();
    let release_at = ending.release_at.filter(|_| !worked);
    let (class, in_supply, planned_at): (i64, bool, DateTime<Utc>) =
        diesel::update(launches::table.find(runner.launch_id))
            .set((
                launches::state.eq("ended"),
                launches::ended_at.eq(now),
                launches::reason.eq(reason),
                launches::release_at.eq(release_at),
            ))
            .returning((
                launches::class_id,
                launches::in_supply,
                launches::planned_at,
            ))
            .get_result(conn)
            .await?;
    if in_supply && !worked {
        diesel::update(launches::table.find(runner.launch_id))
            .set(launches::in_supply.eq(false))
            .execute(conn)
            .await?;
        if queued_in_class(conn, class).await? > 0 {
            count(conn, class, planned_at, ending, now).await?;
        }
    }
    let kind = if worked {
        "finished"
    } else {
        "ended_without_workflow_job"
    };
    let detail = format!("runner {} is over: {reason}", runner.name);
    let entry = Entry::launch(now, LaunchId(runner.launch_id), kind, detail)
        .log_tail(ending.log_tail.clone().filter(|_| !worked));
    timeline::append(conn, &[entry]).await?;
    replan::request(conn, scope, false, "a runner ended").await
}

async fn count(
    conn: &mut AsyncPgConnection,
    class: i64,
    planned_at: DateTime<Utc>,
    ending: &Ending<'_>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    if ending.is_lost {
        count_loss(conn, ClassId(class), planned_at, ending.reason, now).await
    } else {
        count_failure(conn, ClassId(class), ending.reason, now).await
    }
}

/// Runners that GitHub shall be asked to deregister now: idle ones that no queued workflow job waits for, and those that ended
/// without giving their registration back.
pub async fn to_release(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<(Runner, RepositoryId)>, StorageError> {
    let rows: Vec<(Runner, i64)> = runners::table
        .inner_join(launches::table)
        .filter(launches::release_at.le(now))
        .filter(
            launches::in_supply
                .eq(true)
                .and(runners::state.eq_any(["registered", "listening"]))
                .or(runners::state
                    .eq("ended")
                    .and(runners::ended_at.gt(now - GITHUB_FORGETS))),
        )
        .order(launches::release_at)
        .limit(limit)
        .select((Runner::as_select(), launches::repository_id))
        .load(conn)
        .await?;
    Ok(with_scopes(rows))
}

/// Asks again at `at`; never, when that is `None`, unless the planner wants it once more.
pub async fn release_again(
    conn: &mut AsyncPgConnection,
    runner: &Runner,
    at: Option<DateTime<Utc>>,
) -> Result<(), StorageError> {
    diesel::update(launches::table.find(runner.launch_id))
        .set(launches::release_at.eq(at))
        .execute(conn)
        .await?;
    Ok(())
}

/// GitHub has deregistered a runner: no workflow job can reach it. The launch of an idle one is withdrawn, so that its Slurm job
/// is cancelled. Run it in a transaction.
pub async fn released(
    conn: &mut AsyncPgConnection,
    scope: RepositoryId,
    runner: &Runner,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    lock_scope(conn, scope).await?;
    let ended = diesel::update(
        runners::table
            .find(runner.id)
            .filter(runners::state.eq_any(["registered", "listening"])),
    )
    .set((
        runners::state.eq("ended"),
        runners::ended_at.eq(now),
        runners::end_reason.eq(reason),
    ))
    .execute(conn)
    .await?;
    if ended == 0 {
        // It had ended already, or its node said something meanwhile.
        return release_again(conn, runner, None).await;
    }
    diesel::update(launches::table.find(runner.launch_id))
        .set((
            launches::state.eq("withdrawn"),
            launches::in_supply.eq(false),
            launches::release_at.eq(None::<DateTime<Utc>>),
            launches::reason.eq(reason),
            launches::ended_at.eq(now),
        ))
        .execute(conn)
        .await?;
    let detail = format!("runner {} is deregistered: {reason}", runner.name);
    let entry = Entry::launch(now, LaunchId(runner.launch_id), "withdrawn", detail);
    timeline::append(conn, &[entry]).await?;
    replan::request(conn, scope, false, "a runner was deregistered").await
}

/// A launch that never got a runner ended (the callback failed for good, or Slurm ended it). Run it in a transaction.
pub async fn launch_ended(
    conn: &mut AsyncPgConnection,
    launch: LaunchId,
    ending: &Ending<'_>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let reason = ending.reason;
    let scope: Option<i64> = launches::table
        .find(launch.0)
        .select(launches::repository_id)
        .first(conn)
        .await
        .optional()?;
    let Some(scope) = scope.map(RepositoryId) else {
        return Ok(());
    };
    lock_scope(conn, scope).await?;
    let ended: Option<(i64, DateTime<Utc>)> = diesel::update(
        launches::table
            .find(launch.0)
            .filter(launches::state.eq_any(["planned", "submitted"])),
    )
    .set((
        launches::state.eq("ended"),
        launches::in_supply.eq(false),
        launches::reason.eq(reason),
        launches::ended_at.eq(now),
    ))
    .returning((launches::class_id, launches::planned_at))
    .get_result(conn)
    .await
    .optional()?;
    let Some((class, planned_at)) = ended else {
        return Ok(());
    };
    count(conn, class, planned_at, ending, now).await?;
    let detail = format!("the launch is over: {reason}");
    let entry = Entry::launch(now, launch, "ended_without_workflow_job", detail)
        .log_tail(ending.log_tail.clone());
    timeline::append(conn, &[entry]).await?;
    replan::request(conn, scope, false, "a launch ended").await
}

/// Runners in which a workflow job started before `before`, but GitHub has not said which.
pub async fn unattributed(
    conn: &mut AsyncPgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<(Runner, RepositoryId)>, StorageError> {
    let rows: Vec<(Runner, i64)> = runners::table
        .inner_join(launches::table)
        .filter(runners::workflow_job_id.is_null())
        .filter(runners::busy_at.le(before))
        .filter(launches::in_supply.eq(true))
        .order(runners::busy_at)
        .limit(limit)
        .select((Runner::as_select(), launches::repository_id))
        .load(conn)
        .await?;
    Ok(with_scopes(rows))
}

/// GitHub knows no workflow job that this runner took: it stops counting as supply.
pub async fn forget_unattributed(
    conn: &mut AsyncPgConnection,
    scope: RepositoryId,
    runner: &Runner,
) -> Result<(), StorageError> {
    lock_scope(conn, scope).await?;
    diesel::update(launches::table.find(runner.launch_id))
        .set(launches::in_supply.eq(false))
        .execute(conn)
        .await?;
    replan::request(
        conn,
        scope,
        false,
        "a runner's workflow job is unknown to GitHub",
    )
    .await
}

/// Runners that have been on the same step since before the given times: their node is probably dead.
pub async fn overdue(
    conn: &mut AsyncPgConnection,
    created_before: DateTime<Utc>,
    listening_before: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<(Runner, RepositoryId)>, StorageError> {
    let rows: Vec<(Runner, i64)> = runners::table
        .inner_join(launches::table)
        .filter(
            runners::state
                .eq_any(["redeeming", "registered"])
                .and(runners::created_at.le(created_before))
                .or(runners::state
                    .eq("listening")
                    .and(runners::listening_at.le(listening_before))),
        )
        .limit(limit)
        .select((Runner::as_select(), launches::repository_id))
        .load(conn)
        .await?;
    Ok(with_scopes(rows))
}

fn with_scopes(rows: Vec<(Runner, i64)>) -> Vec<(Runner, RepositoryId)> {
    rows.into_iter()
        .map(|(runner, scope)| (runner, RepositoryId(scope)))
        .collect()
}
