//! Installations and repositories.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::upsert::excluded;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::admission::{Charge, Mapping, Place, Standing};
use gha_slurm_domain::{InstallationId, RepositoryId};

use crate::pool::StorageError;
use crate::schema::{installations, repositories, repository_mappings, workflow_jobs};

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
    /// Whether the App is installed on it.
    pub reachable: bool,
}

impl Repository {
    /// Whether this is its name, whatever the case.
    pub fn is_named(&self, owner: &str, name: &str) -> bool {
        self.owner.eq_ignore_ascii_case(owner) && self.name.eq_ignore_ascii_case(name)
    }

    /// Where it is at GitHub, as far as is known.
    pub fn place(&self) -> Place {
        Place {
            owner: self.owner.clone(),
            name: self.name.clone(),
            installation: self.installation_id.map(InstallationId),
            is_reachable: self.reachable,
        }
    }
}

/// Something that GitHub is to be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<T> {
    /// What it is about.
    pub about: T,
    /// When it was due, to tell it from one that is put while this one is answered.
    pub due_at: Option<DateTime<Utc>>,
}

/// Records what GitHub says about a repository that the App reaches; `None` leaves what is known.
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

/// GitHub is to be asked about a repository.
pub async fn doubt(
    conn: &mut AsyncPgConnection,
    id: RepositoryId,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    diesel::update(repositories::table.find(id.0))
        .set(repositories::ask_at.eq(now))
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets whether a repository is private, until GitHub has been asked.
pub async fn doubt_visibility(
    conn: &mut AsyncPgConnection,
    id: RepositoryId,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    diesel::update(repositories::table.find(id.0))
        .set((
            repositories::private.eq(None::<bool>),
            repositories::ask_at.eq(now),
        ))
        .execute(conn)
        .await?;
    Ok(())
}

/// GitHub is to be asked about what no event may ever report again: installations of mapped repositories, and mapped repositories that
/// the App does not reach.
pub async fn doubt_all(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let mapped = repository_mappings::table.select(repository_mappings::repository_id);
    let reached_by = repositories::table
        .filter(repositories::id.eq_any(mapped))
        .select(repositories::installation_id);
    diesel::update(installations::table)
        .filter(installations::ask_at.is_null())
        .filter(installations::id.nullable().eq_any(reached_by))
        .set(installations::ask_at.eq(now))
        .execute(conn)
        .await?;
    diesel::update(repositories::table)
        .filter(repositories::ask_at.is_null())
        .filter(repositories::reachable.eq(false))
        .filter(repositories::id.eq_any(mapped))
        .set(repositories::ask_at.eq(now))
        .execute(conn)
        .await?;
    Ok(())
}

/// At most `limit` mapped repositories that GitHub is to be asked about now. Those of a suspended installation wait for its end.
pub async fn in_doubt(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Question<Repository>>, StorageError> {
    let is_unknown = repositories::private
        .is_null()
        .and(repositories::ask_at.is_null())
        .and(repositories::reachable.eq(true));
    let rows: Vec<(Repository, Option<DateTime<Utc>>)> = repositories::table
        .inner_join(repository_mappings::table)
        .left_join(installations::table)
        .filter(
            installations::suspended
                .nullable()
                .is_distinct_from(Some(true)),
        )
        .filter(
            repositories::ask_at
                .le(now)
                .assume_not_null()
                .or(is_unknown),
        )
        .order(repositories::ask_at)
        .limit(limit)
        .select((Repository::as_select(), repositories::ask_at))
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(about, due_at)| Question { about, due_at })
        .collect())
}

/// When GitHub is to be asked about a repository next, unless another question was put since `due_at`. `None`: it has answered.
pub async fn ask_next(
    conn: &mut AsyncPgConnection,
    id: RepositoryId,
    due_at: Option<DateTime<Utc>>,
    next: Option<DateTime<Utc>>,
) -> Result<(), StorageError> {
    diesel::update(repositories::table.find(id.0))
        .filter(repositories::ask_at.is_not_distinct_from(due_at))
        .set(repositories::ask_at.eq(next))
        .execute(conn)
        .await?;
    Ok(())
}

/// GitHub is to be asked about an installation, which may be new.
pub async fn doubt_installation(
    conn: &mut AsyncPgConnection,
    id: InstallationId,
    account: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    diesel::insert_into(installations::table)
        .values((
            installations::id.eq(id.0),
            installations::account.eq(account),
            installations::ask_at.eq(now),
            installations::updated_at.eq(now),
        ))
        .on_conflict(installations::id)
        .do_update()
        .set(installations::ask_at.eq(now))
        .execute(conn)
        .await?;
    Ok(())
}

/// At most `limit` installations of mapped repositories that GitHub is to be asked about now.
pub async fn installations_in_doubt(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Question<InstallationId>>, StorageError> {
    let of_mapped = repositories::table
        .inner_join(repository_mappings::table)
        .select(repositories::installation_id);
    let rows: Vec<(i64, Option<DateTime<Utc>>)> = installations::table
        .filter(installations::ask_at.le(now))
        .filter(installations::id.nullable().eq_any(of_mapped))
        .order(installations::ask_at)
        .limit(limit)
        .select((installations::id, installations::ask_at))
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(id, due_at)| Question {
            about: InstallationId(id),
            due_at,
        })
        .collect())
}

/// As [`ask_next`], about an installation.
pub async fn ask_installation_next(
    conn: &mut AsyncPgConnection,
    id: InstallationId,
    due_at: Option<DateTime<Utc>>,
    next: Option<DateTime<Utc>>,
) -> Result<(), StorageError> {
    diesel::update(installations::table.find(id.0))
        .filter(installations::ask_at.is_not_distinct_from(due_at))
        .set(installations::ask_at.eq(next))
        .execute(conn)
        .await?;
    Ok(())
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

/// Records what GitHub says about an installation. Returns whether that is news for its repositories.
pub async fn set_installation(
    conn: &mut AsyncPgConnection,
    id: InstallationId,
    is_suspended: bool,
    is_deleted: bool,
    now: DateTime<Utc>,
) -> Result<bool, StorageError> {
    let is_other = installations::suspended
        .ne(is_suspended)
        .or(installations::deleted.ne(is_deleted));
    let changed = diesel::update(installations::table.find(id.0))
        .filter(is_other)
        .set((
            installations::suspended.eq(is_suspended),
            installations::deleted.eq(is_deleted),
            installations::updated_at.eq(now),
        ))
        .execute(conn)
        .await?;
    Ok(changed > 0)
}

/// Those of `ids` that somebody mapped.
pub async fn mapped_among(
    conn: &mut AsyncPgConnection,
    ids: &[RepositoryId],
) -> Result<HashSet<RepositoryId>, StorageError> {
    let ids: Vec<i64> = ids.iter().map(|r| r.0).collect();
    let mapped = repository_mappings::table
        .filter(repository_mappings::repository_id.eq_any(ids))
        .select(repository_mappings::repository_id)
        .load::<i64>(conn)
        .await?;
    Ok(mapped.into_iter().map(RepositoryId).collect())
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

/// Repositories with workflow jobs that changed since then, and when one did last.
pub async fn active_since(
    conn: &mut AsyncPgConnection,
    since: DateTime<Utc>,
) -> Result<HashMap<RepositoryId, DateTime<Utc>>, StorageError> {
    let rows: Vec<(i64, Option<DateTime<Utc>>)> = workflow_jobs::table
        .group_by(workflow_jobs::repository_id)
        .filter(workflow_jobs::updated_at.gt(since))
        .select((
            workflow_jobs::repository_id,
            diesel::dsl::max(workflow_jobs::updated_at),
        ))
        .load(conn)
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(id, at)| Some((RepositoryId(id), at?)))
        .collect())
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
