//! Launches and their runners: loaded, changed by the one function of the domain that decides, and saved with what follows.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::launch::{
    Applied, Attribution, Caller, Context, Effect, GITHUB_FORGETS, Happening, Over, Rejected, Run,
    Runner, RunnerMode, SlurmJob, SlurmReport, State, Submission, Work,
};
use gha_slurm_domain::timeline::Entry;
use gha_slurm_domain::{
    ClassId, Launch, LaunchId, LaunchState, RepositoryId, RunnerId, SlurmJobId, SlurmState, Stop,
    WorkflowJobId,
};

use crate::callback::OfLaunch;
use crate::classes::{self, Class, ClassRow, Counts};
use crate::pool::{Database, StorageError};
use crate::prepared::Kept;
use crate::replan;
use crate::repositories::{self, Repository, StandingRow};
use crate::schema::{
    installations, launches, repositories as repositories_table, repository_mappings,
    runner_classes, runners, stops,
};
use crate::scope::ScopeLock;
use crate::stored::{StoredLaunchState, launch_states};
use crate::timeline::{About, Row as TimelineRow, append_rows};
use crate::transaction::first_cause;

/// A launch token lives a day and an hour, a workflow job five days: Slurm is not asked about what is older.
const OLDEST_WATCHED: TimeDelta = TimeDelta::days(8);
/// Rows of one INSERT: Postgres takes 65,535 parameters.
const INSERTED_AT_ONCE: usize = 1000;

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = launches, treat_none_as_null = true, treat_none_as_default_value = false)]
struct LaunchRow {
    id: uuid::Uuid,
    #[diesel(skip_update)]
    class_id: i64,
    #[diesel(skip_update)]
    repository_id: i64,
    workflow_job_id: i64,
    state: StoredLaunchState,
    in_supply: bool,
    delay: Option<String>,
    #[diesel(skip_update)]
    planned_at: DateTime<Utc>,
    not_before: DateTime<Utc>,
    verify_demand: bool,
    submit_attempts: i32,
    lease_until: Option<DateTime<Utc>>,
    cluster: Option<String>,
    slurm_job_id: Option<String>,
    token_expires_at: Option<DateTime<Utc>>,
    #[diesel(skip_update)]
    traceparent: Option<String>,
    submitted_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    slurm_state: Option<String>,
    slurm_reason: Option<String>,
    slurm_starts_at: Option<DateTime<Utc>>,
    slurm_nodes: Option<String>,
    cancelled_at: Option<DateTime<Utc>>,
    deregister_at: Option<DateTime<Utc>>,
    usage_to_come: bool,
    limited: bool,
    outcome: Option<serde_json::Value>,
    cancel_at: Option<DateTime<Utc>>,
    watched: bool,
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = runners, treat_none_as_null = true, treat_none_as_default_value = false)]
struct RunnerRow {
    id: uuid::Uuid,
    launch_id: uuid::Uuid,
    name: String,
    mode: String,
    slurm_job_id: String,
    restart_count: i32,
    node: Option<String>,
    mint_attempt: i32,
    github_runner_id: Option<i64>,
    progress_token_hash: Option<Vec<u8>>,
    workflow_job_id: Option<i64>,
    run_id: Option<i64>,
    run_attempt: Option<i64>,
    created_at: DateTime<Utc>,
    listening_at: Option<DateTime<Utc>>,
    busy_at: Option<DateTime<Utc>>,
    attribution_given_up: bool,
    not_wanted: Option<serde_json::Value>,
    set_up_at: Option<DateTime<Utc>>,
}

fn rows(launch: &Launch) -> Result<(LaunchRow, Option<RunnerRow>), StorageError> {
    let Launch {
        id,
        class,
        repository,
        cause,
        traceparent,
        planned_at,
        submission,
        slurm,
        state,
    } = launch;
    let Submission {
        not_before,
        verify_demand,
        attempts,
        lease_until,
        is_limited,
        delay,
    } = submission;
    let SlurmJob {
        cluster,
        id: slurm_job_id,
        submitted_at,
        token_expires_at,
        report,
        cancel_at,
        cancelled_at,
    } = slurm;
    let report = report.as_ref();
    let outcome = launch
        .over()
        .map(|over| serde_json::to_value(&over.outcome))
        .transpose()
        .map_err(|_| StorageError::Unknown("launches.outcome"))?;
    let row = LaunchRow {
        id: id.0,
        class_id: class.0,
        repository_id: repository.0,
        workflow_job_id: cause.0,
        state: StoredLaunchState(state.stage()),
        in_supply: launch.is_supply(),
        delay: delay.clone(),
        planned_at: *planned_at,
        not_before: *not_before,
        verify_demand: *verify_demand,
        submit_attempts: i32::try_from(*attempts).unwrap_or(i32::MAX),
        lease_until: *lease_until,
        cluster: cluster.clone(),
        slurm_job_id: slurm_job_id.as_ref().map(SlurmJobId::to_string),
        token_expires_at: *token_expires_at,
        traceparent: traceparent.clone(),
        submitted_at: *submitted_at,
        ended_at: launch.over().map(|over| over.at),
        slurm_state: report.map(|r| r.state.as_str().to_owned()),
        slurm_reason: report.and_then(|r| r.reason.clone()),
        slurm_starts_at: report.and_then(|r| r.starts_at),
        slurm_nodes: report.and_then(|r| r.nodes.clone()),
        cancelled_at: *cancelled_at,
        deregister_at: launch.runner().and_then(|r| r.deregister_at),
        usage_to_come: report.is_some_and(|r| r.usage_to_come),
        limited: *is_limited,
        outcome,
        cancel_at: *cancel_at,
        watched: launch.is_watched(),
    };
    let not_wanted = launch
        .runner()
        .and_then(|runner| runner.not_wanted.as_ref())
        .map(serde_json::to_value)
        .transpose()
        .map_err(|_| StorageError::Unknown("runners.not_wanted"))?;
    let runner = launch.runner().map(|runner| {
        let Runner {
            id: runner_id,
            name,
            mode,
            bound_to,
            mint_attempt,
            github_id,
            progress_token_hash,
            created_at,
            set_up_at,
            listening_at,
            deregister_at: _,
            not_wanted: _,
        } = runner;
        let work = launch.work();
        RunnerRow {
            id: runner_id.0,
            launch_id: id.0,
            name: name.clone(),
            mode: mode.as_str().to_owned(),
            // The original contract does not say.
            slurm_job_id: bound_to
                .slurm_job
                .as_ref()
                .map(SlurmJobId::to_string)
                .unwrap_or_default(),
            restart_count: bound_to.restart_count,
            node: bound_to.node.clone(),
            mint_attempt: i32::try_from(*mint_attempt).unwrap_or(i32::MAX),
            github_runner_id: *github_id,
            progress_token_hash: progress_token_hash.clone(),
            workflow_job_id: work.and_then(|w| match w.attribution {
                Attribution::Job(id) => Some(id.0),
                Attribution::Unknown | Attribution::GivenUp => None,
            }),
            run_id: work.and_then(|w| w.run).map(|run| run.id),
            run_attempt: work.and_then(|w| w.run).map(|run| run.attempt),
            created_at: *created_at,
            listening_at: *listening_at,
            busy_at: work.and_then(|w| w.started_at),
            attribution_given_up: work.is_some_and(|w| w.attribution == Attribution::GivenUp),
            not_wanted,
            set_up_at: *set_up_at,
        }
    });
    Ok((row, runner))
}

fn read(row: LaunchRow, runner: Option<RunnerRow>) -> Result<Launch, StorageError> {
    let work = runner.as_ref().and_then(|runner| {
        let has_worked = runner.busy_at.is_some() || runner.workflow_job_id.is_some();
        (has_worked || row.state.0 == LaunchState::Busy).then(|| Work {
            started_at: runner.busy_at,
            run: runner.run_id.map(|id| Run {
                id,
                attempt: runner.run_attempt.unwrap_or(1),
            }),
            attribution: match runner.workflow_job_id {
                Some(id) => Attribution::Job(WorkflowJobId(id)),
                None if runner.attribution_given_up => Attribution::GivenUp,
                None => Attribution::Unknown,
            },
        })
    });
    let runner = runner
        .map(|runner| read_runner(runner, row.deregister_at))
        .transpose()?;
    let missing = || StorageError::Unknown("launches.state: a runner is missing");
    let state = match row.state.0 {
        LaunchState::Planned => State::Planned,
        LaunchState::Submitted => State::Submitted,
        LaunchState::Redeeming => State::Redeeming(runner.ok_or_else(missing)?),
        LaunchState::Registered => State::Registered(runner.ok_or_else(missing)?),
        LaunchState::Listening => State::Listening(runner.ok_or_else(missing)?),
        LaunchState::Busy => State::Busy(runner.ok_or_else(missing)?, work.unwrap_or_default()),
        LaunchState::Over => State::Over(Over {
            outcome: row
                .outcome
                .map(serde_json::from_value)
                .transpose()
                .ok()
                .flatten()
                .ok_or(StorageError::Unknown("launches.outcome"))?,
            at: row.ended_at.unwrap_or(row.planned_at),
            runner,
            work,
        }),
    };
    let report = row.slurm_state.map(|state| SlurmReport {
        state: SlurmState::parse(&state),
        reason: row.slurm_reason,
        starts_at: row.slurm_starts_at,
        nodes: row.slurm_nodes,
        usage_to_come: row.usage_to_come,
    });
    Ok(Launch {
        id: LaunchId(row.id),
        class: ClassId(row.class_id),
        repository: RepositoryId(row.repository_id),
        cause: WorkflowJobId(row.workflow_job_id),
        traceparent: row.traceparent,
        planned_at: row.planned_at,
        submission: Submission {
            not_before: row.not_before,
            verify_demand: row.verify_demand,
            attempts: row.submit_attempts.try_into().unwrap_or_default(),
            lease_until: row.lease_until,
            is_limited: row.limited,
            delay: row.delay,
        },
        slurm: SlurmJob {
            cluster: row.cluster,
            id: slurm_job(row.slurm_job_id.as_deref()),
            submitted_at: row.submitted_at,
            token_expires_at: row.token_expires_at,
            report,
            cancel_at: row.cancel_at,
            cancelled_at: row.cancelled_at,
        },
        state,
    })
}

fn read_runner(
    row: RunnerRow,
    deregister_at: Option<DateTime<Utc>>,
) -> Result<Runner, StorageError> {
    Ok(Runner {
        id: RunnerId(row.id),
        name: row.name,
        mode: RunnerMode::parse(&row.mode).ok_or(StorageError::Unknown("runners.mode"))?,
        bound_to: Caller {
            slurm_job: slurm_job(Some(&row.slurm_job_id)),
            restart_count: row.restart_count,
            node: row.node,
        },
        mint_attempt: row.mint_attempt.try_into().unwrap_or_default(),
        github_id: row.github_runner_id,
        progress_token_hash: row.progress_token_hash,
        created_at: row.created_at,
        set_up_at: row.set_up_at,
        listening_at: row.listening_at,
        deregister_at,
        // A newer program's reason is no reason to fail.
        not_wanted: row
            .not_wanted
            .and_then(|why| serde_json::from_value(why).ok()),
    })
}

fn slurm_job(text: Option<&str>) -> Option<SlurmJobId> {
    text.and_then(|text| text.parse().ok())
}

/// A launch with what decisions about it need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The launch.
    pub launch: Launch,
    /// Its class.
    pub class: Class,
    /// Its repository.
    pub repository: Repository,
}

impl Loaded {
    /// What the domain must know beside the launch itself.
    fn context(&self) -> Context {
        Context {
            demand: self.class.demand,
        }
    }

    /// What becomes of it, without saving: see [`happen`].
    pub fn apply(&self, happening: Happening, now: DateTime<Utc>) -> Result<Applied, Rejected> {
        self.launch.apply(happening, self.context(), now)
    }
}

type LoadedRow = (LaunchRow, Option<RunnerRow>, ClassRow, Repository);

fn loaded((launch, runner, class, repository): LoadedRow) -> Result<Loaded, StorageError> {
    Ok(Loaded {
        launch: read(launch, runner)?,
        class: class.read()?,
        repository,
    })
}

/// `launches` with everything that [`Loaded`] holds.
macro_rules! with_all {
    ($source:expr) => {
        $source
            .inner_join(runner_classes::table)
            .inner_join(repositories_table::table)
            .left_join(runners::table)
            .select((
                LaunchRow::as_select(),
                Option::<RunnerRow>::as_select(),
                ClassRow::as_select(),
                Repository::as_select(),
            ))
    };
}

impl OfLaunch for Loaded {
    async fn read(
        mut conn: &AsyncPgConnection,
        launch: LaunchId,
    ) -> Result<Option<Self>, StorageError> {
        let row: Option<LoadedRow> = with_all!(launches::table)
            .filter(launches::id.eq(launch.0))
            .first(&mut conn)
            .await
            .optional()?;
        row.map(loaded).transpose()
    }

    fn scope(&self) -> RepositoryId {
        self.launch.repository
    }
}

/// One launch of the scope.
pub async fn load(lock: &mut ScopeLock<'_>, id: LaunchId) -> Result<Option<Loaded>, StorageError> {
    let found = Loaded::read(lock.shared(), id).await?;
    Ok(found.filter(|loaded| loaded.scope() == lock.repository()))
}

/// Launches as they are now: without the locks of their scopes for a look, upon which nothing may be decided.
pub async fn peek_all(
    conn: &mut AsyncPgConnection,
    ids: &[LaunchId],
) -> Result<Vec<Loaded>, StorageError> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
    let rows: Vec<LoadedRow> = with_all!(launches::table)
        .filter(launches::id.eq_any(ids))
        .order(launches::planned_at)
        .load(conn)
        .await?;
    rows.into_iter().map(loaded).collect()
}

/// The launch of the scope whose runner has this name at GitHub.
pub async fn of_runner(
    lock: &mut ScopeLock<'_>,
    name: &str,
) -> Result<Option<Loaded>, StorageError> {
    let repository = lock.repository().0;
    let row: Option<LoadedRow> = with_all!(launches::table)
        .filter(runners::name.eq(name))
        .filter(launches::repository_id.eq(repository))
        .first(lock.conn())
        .await
        .optional()?;
    row.map(loaded).transpose()
}

/// Names of the runners of a repository's launches that are not over.
pub async fn live_runners(
    conn: &mut AsyncPgConnection,
    repository: RepositoryId,
) -> Result<Vec<String>, StorageError> {
    Ok(runners::table
        .inner_join(launches::table)
        .filter(launches::repository_id.eq(repository.0))
        .filter(launches::ended_at.is_null())
        .select(runners::name)
        .load(conn)
        .await?)
}

/// A launch whose node calls back, with what decides whether it may have a runner token.
#[derive(Debug, Clone)]
pub struct Callback {
    /// The launch.
    pub loaded: Loaded,
    /// What is known of its repository.
    pub standing: gha_slurm_domain::admission::Standing,
    /// All launches are stopped.
    pub stop: Option<Stop>,
    /// Launch tokens that were issued up to then are revoked.
    pub revoked_until: Option<DateTime<Utc>>,
}

type CallbackRow = (
    LaunchRow,
    Option<RunnerRow>,
    ClassRow,
    Repository,
    StandingRow,
    (Option<DateTime<Utc>>, Option<String>),
);

impl OfLaunch for Callback {
    async fn read(
        mut conn: &AsyncPgConnection,
        launch: LaunchId,
    ) -> Result<Option<Self>, StorageError> {
        let row: Option<CallbackRow> = launches::table
            .inner_join(runner_classes::table)
            .inner_join(
                repositories_table::table
                    .left_join(installations::table)
                    .left_join(repository_mappings::table),
            )
            .left_join(runners::table)
            .filter(launches::id.eq(launch.0))
            .select((
                LaunchRow::as_select(),
                Option::<RunnerRow>::as_select(),
                ClassRow::as_select(),
                Repository::as_select(),
                repositories::standing_columns!(),
                (
                    stops::table
                        .select(diesel::dsl::max(stops::since))
                        .single_value(),
                    stops::table
                        .filter(stops::until.is_null())
                        .select(stops::reason)
                        .single_value(),
                ),
            ))
            .first(&mut conn)
            .await
            .optional()?;
        let Some((launch, runner, class, repository, standing, (since, reason))) = row else {
            return Ok(None);
        };
        Ok(Some(Self {
            loaded: loaded((launch, runner, class, repository))?,
            standing: repositories::read_standing(standing)?,
            // The one that is not over began last.
            stop: since
                .zip(reason)
                .map(|(since, reason)| Stop { since, reason }),
            revoked_until: since,
        }))
    }

    fn scope(&self) -> RepositoryId {
        self.loaded.scope()
    }
}

/// What saving leaves to the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Saved {
    /// The class must be planned again: at once by the caller, or by [`replan::request`].
    pub replan: bool,
}

/// Saves what became of a launch that was `before`, with everything that follows and is a row.
pub async fn save(
    lock: &mut ScopeLock<'_>,
    before: &Loaded,
    applied: &Applied,
    now: DateTime<Utc>,
) -> Result<Saved, StorageError> {
    let Applied { launch, effects } = applied;
    let mut saved = Saved::default();
    let mut entries = Vec::new();
    let mut failures = before.class.failures.clone();
    let mut tries_next = false;
    for effect in effects {
        match effect {
            Effect::Timeline(entry) => entries.push(entry),
            Effect::Replan => saved.replan = true,
            Effect::ClassFailed(words) => failures.failed(words, now),
            Effect::ClassLost(words) => failures.lost(launch.planned_at, words, now),
            Effect::ClassRefused(words) => failures.refused(words, now),
            Effect::ClassWorks => failures.forgive(),
            Effect::TryNextOfClass => tries_next = true,
        }
    }
    write(lock, &before.launch, launch, &entries, now).await?;
    if failures != before.class.failures {
        classes::set_failures(lock, launch.class, &failures).await?;
    }
    if tries_next {
        try_next_of_class(lock, launch.class, now).await?;
    }
    Ok(saved)
}

/// The rows of a launch, its timeline and the counts of its class, in one round trip.
async fn write(
    lock: &mut ScopeLock<'_>,
    before: &Launch,
    after: &Launch,
    entries: &[&Entry],
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let (old, old_runner) = rows(before)?;
    let (row, runner) = rows(after)?;
    let timeline: Vec<TimelineRow> = entries
        .iter()
        .map(|entry| TimelineRow::new(About::Launch(after.id), entry, now))
        .collect();
    let lock = &*lock;
    let conn = lock.shared();
    let launch = async {
        if row != old {
            let mut conn = conn;
            Kept(diesel::update(launches::table.find(row.id)).set(&row))
                .execute(&mut conn)
                .await?;
        }
        Ok::<_, StorageError>(())
    };
    let runner = async {
        let mut conn = conn;
        match (&old_runner, &runner) {
            (None, Some(runner)) => {
                let insert = diesel::insert_into(runners::table).values(runner);
                Kept(insert).execute(&mut conn).await?;
            }
            (Some(old), Some(runner)) if runner != old => {
                let update = diesel::update(runners::table.find(old.id)).set(runner);
                Kept(update).execute(&mut conn).await?;
            }
            _ => {}
        }
        Ok::<_, StorageError>(())
    };
    let timeline = async {
        let mut conn = conn;
        append_rows(&mut conn, &timeline).await
    };
    let counts = classes::changed(lock, after.class, Counts::change(before, after));
    let (launch, runner, timeline, counts) = futures_util::join!(launch, runner, timeline, counts);
    first_cause([launch, runner, timeline, counts])
}

/// Something happens to a launch of the scope: it is loaded, the domain decides, and what follows is saved. What must be planned again
/// is requested. A launch that has no row is refused as [`Rejected::Late`].
pub async fn happen(
    lock: &mut ScopeLock<'_>,
    id: LaunchId,
    happening: Happening,
    now: DateTime<Utc>,
) -> Result<Result<Applied, Rejected>, StorageError> {
    match load(lock, id).await? {
        Some(before) => happen_to(lock, &before, happening, now).await,
        None => Ok(Err(Rejected::Late)),
    }
}

/// [`happen`] to a launch that was loaded under this lock.
pub async fn happen_to(
    lock: &mut ScopeLock<'_>,
    before: &Loaded,
    happening: Happening,
    now: DateTime<Utc>,
) -> Result<Result<Applied, Rejected>, StorageError> {
    let applied = match before.apply(happening, now) {
        Ok(applied) => applied,
        Err(rejected) => return Ok(Err(rejected)),
    };
    if save(lock, before, &applied, now).await?.replan {
        let repository = lock.repository();
        replan::request(lock.conn(), repository, false, "a launch changed").await?;
    }
    Ok(Ok(applied))
}

impl Database {
    /// Something happens to a launch, in a transaction of its own.
    pub async fn happen(
        &self,
        name: &'static str,
        repository: RepositoryId,
        launch: LaunchId,
        happening: &Happening,
        now: DateTime<Utc>,
    ) -> Result<Result<Applied, Rejected>, StorageError> {
        self.in_scope(name, repository, async |mut lock: ScopeLock<'_>| {
            happen(&mut lock, launch, happening.clone(), now).await
        })
        .await
    }
}

/// Writes planned launches of the scope, of one class, each with `entry` in its timeline.
pub async fn plan(
    lock: &mut ScopeLock<'_>,
    new: &[Launch],
    entry: &Entry,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let Some(class) = new.first().map(|launch| launch.class) else {
        return Ok(());
    };
    let mut written = Vec::with_capacity(new.len());
    for launch in new {
        written.push(rows(launch)?.0);
    }
    for chunk in written.chunks(INSERTED_AT_ONCE) {
        diesel::insert_into(launches::table)
            .values(chunk)
            .execute(lock.conn())
            .await?;
    }
    let timeline: Vec<TimelineRow> = new
        .iter()
        .map(|launch| TimelineRow::new(About::Launch(launch.id), entry, now))
        .collect();
    for chunk in timeline.chunks(INSERTED_AT_ONCE) {
        append_rows(lock.conn(), chunk).await?;
    }
    let supply = new.iter().filter(|launch| launch.is_supply()).count();
    let counts = Counts {
        supply: i32::try_from(supply).unwrap_or(i32::MAX),
        ..Counts::default()
    };
    classes::changed(lock, class, counts).await
}

/// The newest launches of a class that are in one of these states and count as supply.
pub async fn newest(
    lock: &mut ScopeLock<'_>,
    class: ClassId,
    states: &[LaunchState],
    limit: usize,
) -> Result<Vec<Loaded>, StorageError> {
    let rows: Vec<LoadedRow> = with_all!(launches::table)
        .filter(launches::class_id.eq(class.0))
        .filter(launches::in_supply)
        .filter(launches::state.eq_any(launch_states(states)))
        .order((launches::planned_at.desc(), launches::id.desc()))
        .limit(limit as i64)
        .load(lock.conn())
        .await?;
    rows.into_iter().map(loaded).collect()
}

/// One of the class fitted under the limit: the next one that it delays may fit too.
async fn try_next_of_class(
    lock: &mut ScopeLock<'_>,
    class: ClassId,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let row: Option<LoadedRow> = with_all!(launches::table)
        .filter(launches::class_id.eq(class.0))
        .filter(launches::limited)
        .order((launches::planned_at, launches::id))
        .first(lock.conn())
        .await
        .optional()?;
    let Some(next) = row.map(loaded).transpose()? else {
        return Ok(());
    };
    match next.apply(Happening::MayTryAgain, now) {
        Ok(applied) => write(lock, &next.launch, &applied.launch, &[], now).await,
        Err(_) => Ok(()),
    }
}

/// A launch and its scope.
pub type Located = (LaunchId, RepositoryId);

fn located(rows: Vec<(uuid::Uuid, i64)>) -> Vec<Located> {
    rows.into_iter()
        .map(|(id, scope)| (LaunchId(id), RepositoryId(scope)))
        .collect()
}

/// How many launches are taken at a turn: of a repository, otherwise of those of a Slurm user; otherwise one.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    /// By `owner/name`, in lower case.
    pub repositories: Vec<(String, u16)>,
    /// By Slurm user.
    pub users: Vec<(String, u16)>,
}

/// The repositories with planned launches are found one by one, each by a look into the index, so that those that wait in one of them cost
/// nothing.
const DUE: &str = "
    WITH RECURSIVE waiting (repository_id) AS (
        (SELECT repository_id FROM launches WHERE due_at IS NOT NULL ORDER BY repository_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT later.repository_id FROM launches later
            WHERE later.due_at IS NOT NULL AND later.repository_id > waiting.repository_id
            ORDER BY later.repository_id LIMIT 1
        ) FROM waiting WHERE waiting.repository_id IS NOT NULL
    )
    SELECT due.id, due.repository_id
    FROM waiting, LATERAL (
        SELECT launches.id, launches.repository_id, launches.planned_at, launches.class_id,
            row_number() OVER (ORDER BY launches.due_at, launches.id) - 1 AS place
        FROM launches
        WHERE launches.repository_id = waiting.repository_id AND launches.due_at <= $1
            AND (launches.lease_until IS NULL OR launches.lease_until <= $1)
            -- What a limit refuses for one of a class, it refuses for all.
            AND NOT EXISTS (
                SELECT 1 FROM launches older
                WHERE older.limited AND older.class_id = launches.class_id
                    AND (older.planned_at, older.id) < (launches.planned_at, launches.id))
        ORDER BY launches.due_at, launches.id LIMIT $2
    ) AS due
    JOIN runner_classes class ON class.id = due.class_id
    JOIN repositories repository ON repository.id = due.repository_id
    WHERE NOT EXISTS (SELECT 1 FROM stops WHERE until IS NULL)
    ORDER BY due.place / coalesce(
        ($4::int[])[array_position($3::text[], lower(repository.owner || '/' || repository.name))],
        ($6::int[])[array_position($5::text[], class.slurm_user)],
        1), due.planned_at, due.id
    LIMIT $2";

/// Planned launches that are due and that no launcher is submitting: of each repository in turn those that are due for the longest, as
/// many at a turn as it has weight; of those of a class that wait behind a limit, only the oldest. A lease that ran out (the process was
/// killed) is taken again: the agent returns its first response for the same launch.
pub async fn due(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    limit: i64,
    weights: &Weights,
) -> Result<Vec<Located>, StorageError> {
    #[derive(diesel::QueryableByName)]
    struct Due {
        #[diesel(sql_type = sql_types::Uuid)]
        id: uuid::Uuid,
        #[diesel(sql_type = sql_types::BigInt)]
        repository_id: i64,
    }
    type Texts = sql_types::Array<sql_types::Text>;
    type Integers = sql_types::Array<sql_types::Integer>;
    let split = |weights: &[(String, u16)]| -> (Vec<String>, Vec<i32>) {
        let pairs = weights.iter();
        pairs
            .map(|(name, weight)| (name.clone(), i32::from((*weight).max(1))))
            .unzip()
    };
    let (repositories, of_repositories) = split(&weights.repositories);
    let (users, of_users) = split(&weights.users);
    let due = diesel::sql_query(DUE)
        .bind::<sql_types::Timestamptz, _>(now)
        .bind::<sql_types::BigInt, _>(limit)
        .bind::<Texts, _>(repositories)
        .bind::<Integers, _>(of_repositories)
        .bind::<Texts, _>(users)
        .bind::<Integers, _>(of_users);
    let rows: Vec<Due> = Kept(due).load(conn).await?;
    Ok(located(
        rows.into_iter()
            .map(|row| (row.id, row.repository_id))
            .collect(),
    ))
}

/// Class, launch, repository, when it was planned, when it may be tried.
type LimitedRow = (i64, uuid::Uuid, i64, DateTime<Utc>, DateTime<Utc>);

/// Of each class that waits behind a limit the oldest launch, where its next attempt is still to come: of `most` classes, those that
/// wait longest.
pub async fn limited(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    most: usize,
) -> Result<Vec<Located>, StorageError> {
    let mut first: Vec<LimitedRow> = launches::table
        .filter(launches::limited)
        .distinct_on(launches::class_id)
        .order((launches::class_id, launches::planned_at, launches::id))
        .select((
            launches::class_id,
            launches::id,
            launches::repository_id,
            launches::planned_at,
            launches::not_before,
        ))
        .load(conn)
        .await?;
    first.sort_by_key(|(_, id, _, planned_at, _)| (*planned_at, *id));
    Ok(located(
        first
            .into_iter()
            .take(most)
            .filter(|(.., not_before)| *not_before > now)
            .map(|(_, id, repository, ..)| (id, repository))
            .collect(),
    ))
}

/// Launches that Slurm had when it was asked last, and those whose usage is still to come, with what Slurm reported last.
pub async fn watched(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<LaunchId>, StorageError> {
    Ok(launches::table
        .filter(launches::watched)
        .filter(launches::submitted_at.ge(now - OLDEST_WATCHED))
        .order(launches::submitted_at.desc())
        .limit(limit)
        .select(launches::id)
        .load::<uuid::Uuid>(conn)
        .await?
        .into_iter()
        .map(LaunchId)
        .collect())
}

/// Launches of the scope in which a workflow job runs.
pub async fn busy(lock: &mut ScopeLock<'_>) -> Result<Vec<Loaded>, StorageError> {
    let rows: Vec<LoadedRow> = with_all!(launches::table)
        .filter(launches::repository_id.eq(lock.repository().0))
        .filter(launches::state.eq(StoredLaunchState(LaunchState::Busy)))
        .load(lock.conn())
        .await?;
    rows.into_iter().map(loaded).collect()
}

/// Withdrawn launches whose Slurm jobs the agent must be asked to cancel now.
pub async fn to_cancel(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Located>, StorageError> {
    Ok(located(
        launches::table
            .filter(launches::cancel_at.le(now))
            .order(launches::cancel_at)
            .limit(limit)
            .select((launches::id, launches::repository_id))
            .load(conn)
            .await?,
    ))
}

/// Launches whose runner GitHub must be asked to deregister now: idle ones that no queued workflow job waits for, and those that ended
/// without giving their registration back.
pub async fn to_deregister(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Loaded>, StorageError> {
    let rows: Vec<LoadedRow> = with_all!(launches::table)
        .filter(launches::deregister_at.le(now))
        .filter(
            launches::ended_at
                .is_null()
                .or(launches::ended_at.gt(now - GITHUB_FORGETS)),
        )
        .order(launches::deregister_at)
        .limit(limit)
        .load(conn)
        .await?;
    rows.into_iter().map(loaded).collect()
}

/// Launches in which a workflow job started before `before`, but GitHub has not said which.
pub async fn unattributed(
    conn: &mut AsyncPgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Loaded>, StorageError> {
    let rows: Vec<LoadedRow> = with_all!(launches::table)
        .filter(runners::workflow_job_id.is_null())
        .filter(runners::busy_at.le(before))
        .filter(launches::in_supply)
        .order(runners::busy_at)
        .limit(limit)
        .load(conn)
        .await?;
    rows.into_iter().map(loaded).collect()
}

/// Launches whose runner has been on the same step since before the given times: their node is probably dead.
pub async fn overdue(
    conn: &mut AsyncPgConnection,
    created_before: DateTime<Utc>,
    listening_before: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Loaded>, StorageError> {
    let set_up = launch_states(&[LaunchState::Redeeming, LaunchState::Registered]);
    let rows: Vec<LoadedRow> = with_all!(launches::table)
        .filter(launches::in_supply)
        .filter(
            launches::state
                .eq_any(set_up)
                .and(runners::created_at.le(created_before))
                .or(launches::state
                    .eq(StoredLaunchState(LaunchState::Listening))
                    .and(runners::listening_at.le(listening_before))),
        )
        .limit(limit)
        .load(conn)
        .await?;
    rows.into_iter().map(loaded).collect()
}

/// The launch whose runner has a progress token with this hash.
pub async fn by_progress_token(
    conn: &mut AsyncPgConnection,
    hash: &[u8],
) -> Result<Option<Loaded>, StorageError> {
    let row: Option<LoadedRow> = with_all!(launches::table)
        .filter(runners::progress_token_hash.eq(hash))
        .first(conn)
        .await
        .optional()?;
    row.map(loaded).transpose()
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
