//! Stops of all launches: `gha-slurm panic` begins one and `gha-slurm resume` ends it.
//!
//! Whoever decides about a launch reads the table in the transaction of the decision ([`classes::standings`](crate::classes::standings),
//! [`launches::due`](crate::launches::due), [`Callback`](crate::launches::Callback)), and by that has it locked until its end. A stop
//! begins and ends under a lock that waits for all of those, so that each of them is either seen by the replan requests that follow or
//! sees the stop.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use gha_slurm_domain::Stop;

use crate::pool::{Database, Failure, StorageError};
use crate::replan;
use crate::schema::stops;

/// A stop that is not over.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Current {
    /// Since when.
    #[diesel(sql_type = Timestamptz)]
    pub since: DateTime<Utc>,
    /// Who began it: OS user and host.
    #[diesel(sql_type = Text)]
    pub stopped_by: String,
    /// Why.
    #[diesel(sql_type = Text)]
    pub reason: String,
    /// Whether Slurm jobs with a workflow job are cancelled, too.
    #[diesel(sql_type = Bool)]
    pub cancel_running: bool,
}

impl Current {
    /// As the domain sees it.
    pub fn stop(&self) -> Stop {
        Stop {
            since: self.since,
            reason: self.reason.clone(),
        }
    }
}

/// The stop that is not over.
pub async fn current(conn: &mut AsyncPgConnection) -> Result<Option<Current>, StorageError> {
    let row = stops::table
        .filter(stops::until.is_null())
        .select((
            stops::since,
            stops::stopped_by,
            stops::reason,
            stops::cancel_running,
        ))
        .first::<(DateTime<Utc>, String, String, bool)>(conn)
        .await
        .optional()?;
    Ok(
        row.map(|(since, stopped_by, reason, cancel_running)| Current {
            since,
            stopped_by,
            reason,
            cancel_running,
        }),
    )
}

/// Launch tokens that were issued up to then are revoked. `None`: launches were never stopped.
pub async fn revoked_until(
    conn: &mut AsyncPgConnection,
) -> Result<Option<DateTime<Utc>>, StorageError> {
    Ok(stops::table
        .select(diesel::dsl::max(stops::since))
        .first(conn)
        .await?)
}

/// How many launches a stop concerns, by how far they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, QueryableByName)]
pub struct Counts {
    /// Not submitted yet.
    #[diesel(sql_type = BigInt)]
    pub planned: i64,
    /// Slurm has it, and its node has not called back.
    #[diesel(sql_type = BigInt)]
    pub submitted: i64,
    /// It has a runner, which has no workflow job.
    #[diesel(sql_type = BigInt)]
    pub idle: i64,
    /// A workflow job runs in it.
    #[diesel(sql_type = BigInt)]
    pub running: i64,
    /// Withdrawn, and its Slurm job is still to be cancelled.
    #[diesel(sql_type = BigInt)]
    pub to_cancel: i64,
}

/// How many launches a stop concerns now.
pub async fn counts(conn: &mut AsyncPgConnection) -> Result<Counts, StorageError> {
    Ok(diesel::sql_query(
        "SELECT count(*) FILTER (WHERE state = 'planned') AS planned, \
            count(*) FILTER (WHERE state = 'submitted') AS submitted, \
            count(*) FILTER (WHERE state IN ('redeeming', 'registered', 'listening')) AS idle, \
            count(*) FILTER (WHERE state = 'busy') AS running, \
            count(*) FILTER (WHERE state = 'over' AND cancel_at IS NOT NULL) AS to_cancel \
        FROM launches WHERE state <> 'over' OR cancel_at IS NOT NULL",
    )
    .get_result(conn)
    .await?)
}

/// What a stop was, when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The stop.
    pub stop: Current,
    /// Launches that it withdrew.
    pub withdrawn: i64,
}

#[derive(QueryableByName)]
struct Withdrawn {
    #[diesel(sql_type = BigInt)]
    withdrawn: i64,
}

impl Database {
    /// Begins a stop, or adds to the one that is not over: `cancel_running` stays set, and its beginning, reason and author stay. Returns it,
    /// and whether it began now.
    ///
    /// It waits for the decisions that are being made (10 s at most). If one of them hangs, the stop begins all the same:
    /// what that one decides is withdrawn when its scope is planned next, at the latest when this is called again.
    pub async fn stop_launches(
        &self,
        by: &str,
        reason: &str,
        cancel_running: bool,
    ) -> Result<(Current, bool), StorageError> {
        let begun = match self.begin_stop(by, reason, cancel_running, true).await {
            Err(error) if error.failure() == Failure::Unavailable => {
                self.begin_stop(by, reason, cancel_running, false).await?
            }
            begun => begun?,
        };
        self.replan_everything("all launches are stopped").await?;
        Ok(begun)
    }

    async fn begin_stop(
        &self,
        by: &str,
        reason: &str,
        cancel_running: bool,
        waits: bool,
    ) -> Result<(Current, bool), StorageError> {
        self.transaction("stop launches", async |conn: &mut AsyncPgConnection| {
            if waits {
                lock(conn).await?;
            }
            let existed = current(conn).await?.is_some();
            // The time is that of the lock, not that of the transaction's begin: launch tokens may have been issued in between.
            let stop: Current = diesel::sql_query(
                "INSERT INTO stops (since, stopped_by, reason, cancel_running) \
                VALUES (clock_timestamp(), $1, $2, $3) \
                ON CONFLICT ((TRUE)) WHERE until IS NULL \
                DO UPDATE SET cancel_running = stops.cancel_running OR excluded.cancel_running \
                RETURNING since, stopped_by, reason, cancel_running",
            )
            .bind::<Text, _>(by)
            .bind::<Text, _>(reason)
            .bind::<Bool, _>(cancel_running)
            .get_result(conn)
            .await?;
            Ok((stop, !existed))
        })
        .await
    }

    /// Ends the stop: launches go on. `None`: there was none.
    pub async fn resume_launches(&self, by: &str) -> Result<Option<Ended>, StorageError> {
        let ended = self
            .transaction("resume launches", async |conn: &mut AsyncPgConnection| {
                lock(conn).await?;
                let Some(stop) = current(conn).await? else {
                    return Ok(None);
                };
                diesel::update(stops::table.filter(stops::until.is_null()))
                    .set((stops::until.eq(diesel::dsl::now), stops::resumed_by.eq(by)))
                    .execute(conn)
                    .await?;
                let Withdrawn { withdrawn } = diesel::sql_query(
                    "SELECT count(*) AS withdrawn FROM launches \
                    WHERE ended_at >= $1 AND outcome -> 'why' ->> 'kind' = 'stopped'",
                )
                .bind::<Timestamptz, _>(stop.since)
                .get_result(conn)
                .await?;
                Ok::<_, StorageError>(Some(Ended { stop, withdrawn }))
            })
            .await?;
        // Also where there was none: the requests of the last time may be lost.
        self.replan_everything("launches go on").await?;
        Ok(ended)
    }

    async fn replan_everything(&self, reason: &str) -> Result<(), StorageError> {
        self.transaction("replan everything", async |conn: &mut AsyncPgConnection| {
            replan::request_all(conn, reason).await
        })
        .await
    }
}

/// Waits for every transaction that has read the table, and lets none read it until this one is committed.
async fn lock(conn: &mut AsyncPgConnection) -> Result<(), StorageError> {
    conn.batch_execute("LOCK TABLE stops IN ACCESS EXCLUSIVE MODE")
        .await?;
    Ok(())
}
