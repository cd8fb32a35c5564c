//! Runner classes: what makes workflow jobs and runners interchangeable, how much is wanted and on its way, how often it failed.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Timestamptz};
use diesel_async::RunQueryDsl;
use gha_slurm_domain::planner::ClassView;
use gha_slurm_domain::runner_class::Failures;
use gha_slurm_domain::{
    ClassId, LabelSet, Launch, LaunchId, LaunchState, ResourceRequest, SlurmUser, Stop,
};

use crate::pool::StorageError;
use crate::prepared::Kept;
use crate::schema::runner_classes;
use crate::scope::ScopeLock;
use crate::stored::{launch_states, sql_types::LaunchStateSql};

/// A runner class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its id.
    pub id: ClassId,
    /// Whose account is spent.
    pub slurm_user: SlurmUser,
    /// Its labels.
    pub labels: LabelSet,
    /// What to ask Slurm for.
    pub resources: ResourceRequest,
    /// Queued workflow jobs that want a runner.
    pub demand: usize,
    /// Launches of its supply that were given a runner token.
    pub redeemed: usize,
    /// How often it failed in a row.
    pub failures: Failures,
}

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = runner_classes)]
pub(crate) struct ClassRow {
    id: i64,
    slurm_user: String,
    labels: String,
    resources: serde_json::Value,
    demand: i32,
    redeemed: i32,
    #[diesel(embed)]
    failures: FailuresRow,
}

/// What a class remembers of its failures.
#[derive(Debug, Clone, Queryable, QueryableByName, Selectable, AsChangeset)]
#[diesel(table_name = runner_classes, treat_none_as_null = true)]
pub(crate) struct FailuresRow {
    failures: i32,
    last_failure_at: Option<DateTime<Utc>>,
    last_failure_reason: Option<String>,
    refused: bool,
}

impl FailuresRow {
    fn of(failures: &Failures) -> Self {
        Self {
            failures: i32::try_from(failures.count).unwrap_or(i32::MAX),
            last_failure_at: failures.last_at,
            last_failure_reason: failures.last_reason.clone(),
            refused: failures.is_refused,
        }
    }

    fn read(self) -> Failures {
        Failures {
            count: self.failures.try_into().unwrap_or_default(),
            last_at: self.last_failure_at,
            last_reason: self.last_failure_reason,
            is_refused: self.refused,
        }
    }
}

impl ClassRow {
    pub(crate) fn read(self) -> Result<Class, StorageError> {
        Ok(Class {
            id: ClassId(self.id),
            slurm_user: self
                .slurm_user
                .parse()
                .map_err(|_| StorageError::Unknown("runner_classes.slurm_user"))?,
            labels: self.labels.split(',').collect(),
            resources: serde_json::from_value(self.resources)
                .map_err(|_| StorageError::Unknown("runner_classes.resources"))?,
            demand: count(self.demand),
            redeemed: count(self.redeemed),
            failures: self.failures.read(),
        })
    }
}

fn count(stored: i32) -> usize {
    stored.try_into().unwrap_or_default()
}

/// The class of the scope with these properties, made if it is new.
pub async fn ensure(
    lock: &mut ScopeLock<'_>,
    user: &SlurmUser,
    labels: &LabelSet,
    resources: &ResourceRequest,
) -> Result<ClassId, StorageError> {
    let resources = serde_json::to_value(resources)
        .map_err(|_| StorageError::Unknown("runner_classes.resources"))?;
    let labels = labels.to_string();
    let repository = lock.repository().0;
    let existing = runner_classes::table
        .filter(runner_classes::repository_id.eq(repository))
        .filter(runner_classes::slurm_user.eq(user.as_str()))
        .filter(runner_classes::labels.eq(&labels))
        .filter(runner_classes::resources.eq(&resources))
        .select(runner_classes::id)
        .first::<i64>(lock.conn())
        .await
        .optional()?;
    if let Some(id) = existing {
        return Ok(ClassId(id));
    }
    Ok(ClassId(
        diesel::insert_into(runner_classes::table)
            .values((
                runner_classes::repository_id.eq(repository),
                runner_classes::slurm_user.eq(user.as_str()),
                runner_classes::labels.eq(&labels),
                runner_classes::resources.eq(&resources),
            ))
            .returning(runner_classes::id)
            .get_result::<i64>(lock.conn())
            .await?,
    ))
}

/// Which classes of a scope.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// Those that have demand or supply, or are stopped.
    Active,
    /// These.
    These(&'a [ClassId]),
}

/// A class as the planner sees it.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Which class.
    pub id: ClassId,
    /// What the planner decides upon.
    pub view: ClassView,
    /// Launches whose idle runner GitHub is asked to deregister.
    pub releasing: Vec<LaunchId>,
    /// Why nothing is launched for it, as people see it now.
    pub stopped: Option<String>,
}

#[derive(QueryableByName)]
struct StandingRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Integer)]
    demand: i32,
    #[diesel(sql_type = Integer)]
    supply: i32,
    #[diesel(embed)]
    failures: FailuresRow,
    #[diesel(sql_type = Nullable<Text>)]
    stopped: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    stop_since: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Text>)]
    stop_reason: Option<String>,
    #[diesel(sql_type = Array<diesel::sql_types::Uuid>)]
    expiring: Vec<uuid::Uuid>,
    #[diesel(sql_type = Array<diesel::sql_types::Uuid>)]
    releasing: Vec<uuid::Uuid>,
}

const STANDINGS: &str = "\
SELECT runner_classes.id, demand, supply, failures, last_failure_at, last_failure_reason, refused, stopped,
    stops.since AS stop_since, stops.reason AS stop_reason,
    ARRAY(
        SELECT launches.id FROM launches
        WHERE class_id = runner_classes.id AND in_supply AND token_expires_at <= $3 AND state = ANY($4)
    ) AS expiring,
    ARRAY(
        SELECT launches.id FROM launches
        WHERE class_id = runner_classes.id AND in_supply AND deregister_at IS NOT NULL
    ) AS releasing
FROM runner_classes LEFT JOIN stops ON stops.until IS NULL
WHERE repository_id = $1 AND (runner_classes.id = ANY($2) OR $2 IS NULL AND (demand > 0 OR supply > 0 OR stopped IS NOT NULL))
ORDER BY runner_classes.id";

/// How classes of the scope stand; launch tokens that expire before `deadline` are about to expire.
pub async fn standings(
    lock: &mut ScopeLock<'_>,
    which: Which<'_>,
    deadline: DateTime<Utc>,
) -> Result<Vec<Standing>, StorageError> {
    let ids: Option<Vec<i64>> = match which {
        Which::Active => None,
        Which::These([]) => return Ok(Vec::new()),
        Which::These(ids) => Some(ids.iter().map(|id| id.0).collect()),
    };
    let standings = diesel::sql_query(STANDINGS)
        .bind::<BigInt, _>(lock.repository().0)
        .bind::<Nullable<Array<BigInt>>, _>(ids)
        .bind::<Timestamptz, _>(deadline)
        .bind::<Array<LaunchStateSql>, _>(launch_states(&LaunchState::PENDING));
    let rows: Vec<StandingRow> = Kept(standings).load(lock.conn()).await?;
    let ids = |ids: Vec<uuid::Uuid>| ids.into_iter().map(LaunchId).collect();
    Ok(rows
        .into_iter()
        .map(|row| Standing {
            id: ClassId(row.id),
            view: ClassView {
                demand: count(row.demand),
                supply: count(row.supply),
                expiring: ids(row.expiring),
                failures: row.failures.read(),
                stop: row
                    .stop_since
                    .zip(row.stop_reason)
                    .map(|(since, reason)| Stop { since, reason }),
            },
            releasing: ids(row.releasing),
            stopped: row.stopped,
        })
        .collect())
}

/// Records what a class remembers of its failures.
pub async fn set_failures(
    lock: &mut ScopeLock<'_>,
    class: ClassId,
    failures: &Failures,
) -> Result<(), StorageError> {
    diesel::update(runner_classes::table.find(class.0))
        .set(FailuresRow::of(failures))
        .execute(lock.conn())
        .await?;
    Ok(())
}

/// Records why nothing is launched for a class, for people.
pub async fn set_stopped(
    lock: &mut ScopeLock<'_>,
    class: ClassId,
    why: Option<&str>,
) -> Result<(), StorageError> {
    diesel::update(runner_classes::table.find(class.0))
        .set(runner_classes::stopped.eq(why))
        .execute(lock.conn())
        .await?;
    Ok(())
}

/// Lets every class of the scope start afresh: [`Failures::forgive`].
pub async fn forgive(lock: &mut ScopeLock<'_>) -> Result<(), StorageError> {
    let repository = lock.repository().0;
    diesel::update(
        runner_classes::table
            .filter(runner_classes::repository_id.eq(repository))
            .filter(runner_classes::failures.gt(0).or(runner_classes::refused)),
    )
    .set((
        runner_classes::failures.eq(0),
        runner_classes::refused.eq(false),
    ))
    .execute(lock.conn())
    .await?;
    Ok(())
}

/// How many of a class there are, or by how many that changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Workflow jobs that want a runner.
    pub(crate) demand: i32,
    /// Launches that count as supply.
    pub(crate) supply: i32,
    /// Launches of the supply that were given a runner token.
    pub(crate) redeemed: i32,
}

impl Counts {
    /// So many more workflow jobs.
    pub(crate) fn demand(change: i32) -> Self {
        Self {
            demand: change,
            ..Self::default()
        }
    }

    /// What changes with one launch.
    pub(crate) fn change(before: &Launch, after: &Launch) -> Self {
        let change = |is: fn(&Launch) -> bool| i32::from(is(after)) - i32::from(is(before));
        Self {
            demand: 0,
            supply: change(Launch::is_supply),
            redeemed: change(Launch::is_redeemed_supply),
        }
    }
}

/// Counts what entered (or, below 0, left) a class of the scope.
pub(crate) async fn changed(
    lock: &ScopeLock<'_>,
    class: ClassId,
    change: Counts,
) -> Result<(), StorageError> {
    if change == Counts::default() {
        return Ok(());
    }
    let update = diesel::update(runner_classes::table.find(class.0)).set((
        runner_classes::demand.eq(runner_classes::demand + change.demand),
        runner_classes::supply.eq(runner_classes::supply + change.supply),
        runner_classes::redeemed.eq(runner_classes::redeemed + change.redeemed),
    ));
    let mut conn = lock.shared();
    Kept(update).execute(&mut conn).await?;
    Ok(())
}
