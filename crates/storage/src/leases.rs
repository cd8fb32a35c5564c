//! Work that one process does at a time, however many run.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::pool::StorageError;
use crate::schema::leases;

/// Takes or renews the lease `name` for `holder` until `now + lifetime`. `false`: somebody else holds it.
pub async fn hold(
    conn: &mut AsyncPgConnection,
    name: &str,
    holder: Uuid,
    lifetime: TimeDelta,
    now: DateTime<Utc>,
) -> Result<bool, StorageError> {
    let until = now + lifetime;
    let taken = diesel::update(
        leases::table
            .find(name)
            .filter(leases::holder.eq(holder).or(leases::until.le(now))),
    )
    .set((leases::holder.eq(holder), leases::until.eq(until)))
    .execute(conn)
    .await?;
    if taken == 1 {
        return Ok(true);
    }
    let made = diesel::insert_into(leases::table)
        .values((
            leases::name.eq(name),
            leases::holder.eq(holder),
            leases::until.eq(until),
        ))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    Ok(made == 1)
}

/// Until when the holders of the lease `name` have done what there was to do, as far as one has said.
pub async fn reached(
    conn: &mut AsyncPgConnection,
    name: &str,
) -> Result<Option<DateTime<Utc>>, StorageError> {
    let reached = leases::table
        .find(name)
        .select(leases::reached)
        .first(conn)
        .await
        .optional()?;
    Ok(reached.flatten())
}

/// Notes for the next holder that everything until `at` is done. Nothing, if somebody else holds the lease.
pub async fn reach(
    conn: &mut AsyncPgConnection,
    name: &str,
    holder: Uuid,
    at: DateTime<Utc>,
) -> Result<(), StorageError> {
    diesel::update(leases::table.find(name).filter(leases::holder.eq(holder)))
        .set(leases::reached.eq(at))
        .execute(conn)
        .await?;
    Ok(())
}

/// Ends the lease, so that the next holder need not wait for its end.
pub async fn release(
    conn: &mut AsyncPgConnection,
    name: &str,
    holder: Uuid,
) -> Result<(), StorageError> {
    diesel::update(leases::table.find(name).filter(leases::holder.eq(holder)))
        .set(leases::until.eq(DateTime::UNIX_EPOCH))
        .execute(conn)
        .await?;
    Ok(())
}
