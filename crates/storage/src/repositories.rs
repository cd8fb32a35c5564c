//! Installations and repositories.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::upsert::excluded;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::admission::{Charge, Mapping, Standing};
use gha_slurm_domain::{InstallationId, RepositoryId};

use crate::pool::StorageError;
use crate::schema::{installations, repositories, repository_mappings};

/// A repository as we know it.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = repositories)]
pub struct Repository {
    /// GitHub's numeric id.
    pub id: i64,
    /// The installation that reaches it.
    pub installation_id: Option<i64>,
    /// Account it belongs to.
    pub owner: String,
    /// Name within its owner.
    pub name: String,
    /// Whether it is private or internal, where GitHub said.
    pub private: Option<bool>,
}

impl Repository {
    /// Whether this is its name, whatever the case.
    pub fn is_named(&self, owner: &str, name: &str) -> bool {
        self.owner.eq_ignore_ascii_case(owner) && self.name.eq_ignore_ascii_case(name)
    }
}

/// Records what a webhook or REST says about a repository; `None` leaves what is known.
pub async fn upsert(
    conn: &mut AsyncPgConnection,
    id: RepositoryId,
    installation: Option<InstallationId>,
    owner: &str,
    name: &str,
    private: Option<bool>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    use diesel::dsl::sql;
    use diesel::sql_types::{BigInt, Bool, Nullable};
    if let Some(installation) = installation {
        diesel::insert_into(installations::table)
            .values((
                installations::id.eq(installation.0),
                installations::account.eq(owner),
            ))
            .on_conflict_do_nothing()
            .execute(conn)
            .await?;
    }
    diesel::insert_into(repositories::table)
        .values((
            repositories::id.eq(id.0),
            repositories::installation_id.eq(installation.map(|i| i.0)),
            repositories::owner.eq(owner),
            repositories::name.eq(name),
            repositories::private.eq(private),
            repositories::updated_at.eq(now),
        ))
        .on_conflict(repositories::id)
        .do_update()
        .set((
            repositories::installation_id.eq(sql::<Nullable<BigInt>>(
                "COALESCE(excluded.installation_id, repositories.installation_id)",
            )),
            repositories::owner.eq(excluded(repositories::owner)),
            repositories::name.eq(excluded(repositories::name)),
            repositories::private.eq(sql::<Nullable<Bool>>(
                "COALESCE(excluded.private, repositories.private)",
            )),
            repositories::reachable.eq(true),
            repositories::updated_at.eq(excluded(repositories::updated_at)),
        ))
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets whether a repository is private, until GitHub is asked.
pub async fn doubt_visibility(
    conn: &mut AsyncPgConnection,
    id: RepositoryId,
) -> Result<(), StorageError> {
    diesel::update(repositories::table.find(id.0))
        .set(repositories::private.eq(None::<bool>))
        .execute(conn)
        .await?;
    Ok(())
}

/// At most `limit` mapped repositories within reach of which it is not known whether they are private.
pub async fn of_unknown_visibility(
    conn: &mut AsyncPgConnection,
    limit: i64,
) -> Result<Vec<Repository>, StorageError> {
    Ok(repositories::table
        .inner_join(repository_mappings::table)
        .filter(repositories::private.is_null())
        .filter(repositories::reachable.eq(true))
        .order(repositories::updated_at)
        .limit(limit)
        .select(Repository::as_select())
        .load(conn)
        .await?)
}

/// One repository.
pub async fn find(
    conn: &mut AsyncPgConnection,
    id: RepositoryId,
) -> Result<Option<Repository>, StorageError> {
    Ok(repositories::table
        .find(id.0)
        .select(Repository::as_select())
        .first(conn)
        .await
        .optional()?)
}

pub(crate) type StandingRow = (
    Option<bool>,
    bool,
    Option<String>,
    Option<bool>,
    Option<bool>,
    Option<(String, Option<String>, Option<String>, Option<String>)>,
);

/// The columns of a [`StandingRow`], where `repositories` is joined with `installations` and `repository_mappings`.
macro_rules! standing_columns {
    () => {
        (
            crate::schema::repositories::private,
            crate::schema::repositories::reachable,
            crate::schema::repositories::public_allowed_reason,
            crate::schema::installations::suspended.nullable(),
            crate::schema::installations::deleted.nullable(),
            (
                crate::schema::repository_mappings::slurm_user,
                crate::schema::repository_mappings::cluster,
                crate::schema::repository_mappings::account,
                crate::schema::repository_mappings::qos,
            )
                .nullable(),
        )
    };
}
pub(crate) use standing_columns;

pub(crate) fn read_standing(row: StandingRow) -> Result<Standing, StorageError> {
    let (private, reachable, allowed, suspended, deleted, mapping) = row;
    let mapped_to = mapping
        .map(|(user, cluster, account, qos)| {
            user.parse().map(|user| Mapping {
                user,
                cluster,
                charge: Charge { account, qos },
            })
        })
        .transpose()
        .map_err(|_| StorageError::Unknown("repository_mappings.slurm_user"))?;
    Ok(Standing {
        mapped_to,
        public: private != Some(true),
        public_allowed: allowed.is_some(),
        suspended: suspended.unwrap_or(false),
        installed: reachable && !deleted.unwrap_or(false),
    })
}

/// A repository and what the admission rules need to know of it. `None`: never reported.
pub async fn standing(
    conn: &mut AsyncPgConnection,
    id: RepositoryId,
) -> Result<Option<(Repository, Standing)>, StorageError> {
    let row: Option<(Repository, StandingRow)> = repositories::table
        .left_join(installations::table)
        .left_join(repository_mappings::table)
        .filter(repositories::id.eq(id.0))
        .select((Repository::as_select(), standing_columns!()))
        .first(conn)
        .await
        .optional()?;
    row.map(|(repository, row)| Ok((repository, read_standing(row)?)))
        .transpose()
}

/// Records an installation's state.
pub async fn set_installation(
    conn: &mut AsyncPgConnection,
    id: InstallationId,
    account: Option<&str>,
    suspended: Option<bool>,
    deleted: Option<bool>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    diesel::insert_into(installations::table)
        .values((
            installations::id.eq(id.0),
            installations::account.eq(account),
            installations::suspended.eq(suspended.unwrap_or(false)),
            installations::deleted.eq(deleted.unwrap_or(false)),
            installations::updated_at.eq(now),
        ))
        .on_conflict(installations::id)
        .do_update()
        .set((
            installations::account.eq(diesel::dsl::sql::<
                diesel::sql_types::Nullable<diesel::sql_types::Text>,
            >(
                "COALESCE(excluded.account, installations.account)"
            )),
            installations::updated_at.eq(excluded(installations::updated_at)),
        ))
        .execute(conn)
        .await?;
    if let Some(suspended) = suspended {
        diesel::update(installations::table.find(id.0))
            .set(installations::suspended.eq(suspended))
            .execute(conn)
            .await?;
    }
    if let Some(deleted) = deleted {
        diesel::update(installations::table.find(id.0))
            .set(installations::deleted.eq(deleted))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Marks repositories as no longer (or again) reachable by the App.
pub async fn set_reachable(
    conn: &mut AsyncPgConnection,
    ids: &[RepositoryId],
    reachable: bool,
) -> Result<(), StorageError> {
    let ids: Vec<i64> = ids.iter().map(|r| r.0).collect();
    diesel::update(repositories::table.filter(repositories::id.eq_any(ids)))
        .set(repositories::reachable.eq(reachable))
        .execute(conn)
        .await?;
    Ok(())
}

/// Repositories of an installation.
pub async fn of_installation(
    conn: &mut AsyncPgConnection,
    id: InstallationId,
) -> Result<Vec<RepositoryId>, StorageError> {
    Ok(repositories::table
        .filter(repositories::installation_id.eq(id.0))
        .select(repositories::id)
        .load::<i64>(conn)
        .await?
        .into_iter()
        .map(RepositoryId)
        .collect())
}

/// Repositories that somebody mapped and that the App reaches.
pub async fn mapped(conn: &mut AsyncPgConnection) -> Result<Vec<Repository>, StorageError> {
    let gone = installations::suspended.or(installations::deleted);
    Ok(repositories::table
        .inner_join(repository_mappings::table)
        .left_join(installations::table)
        .filter(repositories::reachable.eq(true))
        .filter(gone.nullable().is_distinct_from(Some(true)))
        .order(repositories::id)
        .select(Repository::as_select())
        .load(conn)
        .await?)
}

/// Allows (with a reason) or refuses a public repository.
pub async fn allow_public(
    conn: &mut AsyncPgConnection,
    id: RepositoryId,
    reason: Option<&str>,
) -> Result<bool, StorageError> {
    let changed = diesel::update(repositories::table.find(id.0))
        .set(repositories::public_allowed_reason.eq(reason))
        .execute(conn)
        .await?;
    Ok(changed > 0)
}
