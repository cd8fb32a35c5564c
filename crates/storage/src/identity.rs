//! Which database this is.

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::pool::StorageError;
use crate::schema::database_identity;

/// The id of this database, made at the first call.
pub async fn get_or_make(conn: &mut AsyncPgConnection) -> Result<Uuid, StorageError> {
    diesel::insert_into(database_identity::table)
        .values(database_identity::id.eq(Uuid::new_v4()))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    Ok(database_identity::table
        .select(database_identity::id)
        .first(conn)
        .await?)
}
