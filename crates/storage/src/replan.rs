//! Requests to look at a scope again. token-broker and repo-mapping see no AMQP: they write what changed and a request;
//! the launcher acts, at once through `NOTIFY` and at the latest at its next sweep.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::{LaunchState, RepositoryId, WorkflowJobId};

use crate::notice::{Notice, notify};
use crate::pool::StorageError;
use crate::schema::replan_requests;
use crate::scope::ScopeLock;
use crate::stored::launch_states;

/// Asks the launcher to look at a scope. `forgive`: policy or mapping changed, so what was refused or given up gets a
/// fresh chance. The notification is sent when the surrounding transaction commits.
pub async fn request(
    conn: &mut AsyncPgConnection,
    repository: RepositoryId,
    forgive: bool,
    reason: &str,
) -> Result<(), StorageError> {
    use diesel::upsert::excluded;
    diesel::insert_into(replan_requests::table)
        .values((
            replan_requests::repository_id.eq(repository.0),
            replan_requests::forgive.eq(forgive),
            replan_requests::reason.eq(reason),
        ))
        .on_conflict(replan_requests::repository_id)
        .do_update()
        .set((
            replan_requests::forgive
                .eq(replan_requests::forgive.or(excluded(replan_requests::forgive))),
            // A fresh chance is one for all: it begins anew.
            replan_requests::decided_through.eq(diesel::dsl::case_when(
                excluded(replan_requests::forgive),
                0_i64.into_sql::<BigInt>(),
            )
            .otherwise(replan_requests::decided_through)),
            replan_requests::reason.eq(excluded(replan_requests::reason)),
            replan_requests::requested_at.eq(diesel::dsl::now),
        ))
        .execute(conn)
        .await?;
    notify(conn, Notice::Replan, &repository.0.to_string()).await
}

/// [`request`], for every scope that has something to plan, or in which a workflow job runs.
pub(crate) async fn request_all(
    conn: &mut AsyncPgConnection,
    reason: &str,
) -> Result<(), StorageError> {
    // A request that is there already is not taken before this commits, or it is taken now and this waits for it.
    diesel::sql_query(
        "INSERT INTO replan_requests (repository_id, forgive, reason) \
        SELECT repository_id, FALSE, $1 FROM ( \
            SELECT repository_id FROM runner_classes WHERE demand > 0 OR supply > 0 OR stopped IS NOT NULL \
            UNION SELECT repository_id FROM launches WHERE state = 'busy' \
        ) AS active ORDER BY repository_id ON CONFLICT DO NOTHING",
    )
    .bind::<diesel::sql_types::Text, _>(reason)
    .execute(conn)
    .await?;
    diesel::sql_query("SELECT pg_notify('replan', 'all')")
        .execute(conn)
        .await?;
    Ok(())
}

/// [`request`], for every scope with a running workflow job whose Slurm job nobody cancels yet: some are found to run only after launches
/// were stopped.
pub async fn request_running(conn: &mut AsyncPgConnection) -> Result<(), StorageError> {
    diesel::sql_query(
        "INSERT INTO replan_requests (repository_id, forgive, reason) \
        SELECT DISTINCT repository_id, FALSE, 'what runs is to be cancelled' FROM launches \
        WHERE state = 'busy' AND cancel_at IS NULL AND cancelled_at IS NULL ON CONFLICT DO NOTHING",
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A request taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whether refusals get a fresh chance, and all open workflow jobs are decided again.
    pub forgive: bool,
    /// Up to this one they are.
    pub decided_through: WorkflowJobId,
}

/// Scopes with a request, oldest first. They stay until [`take`] is committed.
pub async fn pending(
    conn: &mut AsyncPgConnection,
    limit: i64,
) -> Result<Vec<RepositoryId>, StorageError> {
    Ok(replan_requests::table
        .order(replan_requests::requested_at)
        .limit(limit)
        .select(replan_requests::repository_id)
        .load::<i64>(conn)
        .await?
        .into_iter()
        .map(RepositoryId)
        .collect())
}

/// Takes the request of the scope, in the transaction that acts on it.
pub async fn take(lock: &mut ScopeLock<'_>) -> Result<Option<Request>, StorageError> {
    let repository = lock.repository();
    let taken = diesel::delete(replan_requests::table.find(repository.0))
        .returning((replan_requests::forgive, replan_requests::decided_through))
        .get_result::<(bool, i64)>(lock.conn())
        .await
        .optional()?;
    Ok(taken.map(|(forgive, decided_through)| Request {
        forgive,
        decided_through: WorkflowJobId(decided_through),
    }))
}

/// Puts a request back that was taken: workflow jobs up to `decided_through` are decided again, the others are to come.
pub async fn put_back(
    lock: &mut ScopeLock<'_>,
    decided_through: WorkflowJobId,
) -> Result<(), StorageError> {
    let repository = lock.repository();
    request(
        lock.conn(),
        repository,
        true,
        "more workflow jobs to decide again",
    )
    .await?;
    diesel::update(replan_requests::table.find(repository.0))
        .set(replan_requests::decided_through.eq(decided_through.0))
        .execute(lock.conn())
        .await?;
    Ok(())
}

/// Writes a request for every scope with open workflow jobs whose launch tokens expire before `deadline`, or whose
/// backoff ended: things that change by the passing of time alone.
pub async fn request_due(
    conn: &mut AsyncPgConnection,
    deadline: DateTime<Utc>,
) -> Result<usize, StorageError> {
    use crate::schema::launches as a;
    let scopes: Vec<i64> = a::table
        .filter(a::in_supply)
        .filter(a::state.eq_any(launch_states(&LaunchState::PENDING)))
        .filter(a::token_expires_at.le(deadline))
        .select(a::repository_id)
        .distinct()
        .load(conn)
        .await?;
    for scope in &scopes {
        request(
            conn,
            RepositoryId(*scope),
            false,
            "a launch token is about to expire",
        )
        .await?;
    }
    Ok(scopes.len())
}
