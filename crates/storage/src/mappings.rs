//! Which repositories may spend which Slurm user's account, and which mappings users ask for.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::upsert::excluded;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::admission::Charge;
use gha_slurm_domain::{RepositoryId, SlurmUser};

use crate::pool::StorageError;
use crate::repositories::Repository;
use crate::schema::{mapping_lists, mapping_requests, repositories, repository_mappings};

#[diesel::declare_sql_function]
extern "SQL" {
    /// In lower case.
    fn lower(text: diesel::sql_types::Text) -> diesel::sql_types::Text;
}

/// A repository of a Slurm user's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// Which.
    pub repository: Repository,
    /// What its launches are charged to, where labels do not say.
    pub charge: Charge,
}

/// An entry of a new list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub repository: RepositoryId,
    /// What its launches are charged to. `None`: as before, or as the user asks for.
    pub charge: Option<Charge>,
}

impl From<RepositoryId> for Entry {
    fn from(repository: RepositoryId) -> Self {
        Self {
            repository,
            charge: None,
        }
    }
}

/// A Slurm user's list of repositories and its version (0: never written).
pub async fn list(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
) -> Result<(i64, Vec<Mapped>), StorageError> {
    let version = mapping_lists::table
        .find(user.as_str())
        .select(mapping_lists::version)
        .first::<i64>(conn)
        .await
        .optional()?
        .unwrap_or(0);
    let rows: Vec<(Repository, Option<String>, Option<String>)> = repository_mappings::table
        .inner_join(repositories::table)
        .filter(repository_mappings::slurm_user.eq(user.as_str()))
        .order(repository_mappings::position)
        .select((
            Repository::as_select(),
            repository_mappings::account,
            repository_mappings::qos,
        ))
        .load(conn)
        .await?;
    let list = rows
        .into_iter()
        .map(|(repository, account, qos)| Mapped {
            repository,
            charge: Charge { account, qos },
        })
        .collect();
    Ok((version, list))
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// The list is the new one; its version, and the scopes that changed.
    Done {
        /// New version.
        version: i64,
        /// Repositories that were added or removed, or are charged to something else.
        changed: Vec<RepositoryId>,
    },
    /// The list is not at the expected version any more (If-Match).
    VersionMismatch {
        /// Where it is.
        current: i64,
    },
    /// These repositories are mapped to another user; nothing was changed.
    TakenByOthers(Vec<RepositoryId>),
}

/// Locks a Slurm user's list, and what they ask for, until the transaction ends. Returns the list's version.
pub async fn lock_list(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
) -> Result<i64, StorageError> {
    diesel::insert_into(mapping_lists::table)
        .values((
            mapping_lists::slurm_user.eq(user.as_str()),
            mapping_lists::version.eq(0),
        ))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    Ok(mapping_lists::table
        .find(user.as_str())
        .select(mapping_lists::version)
        .for_update()
        .first(conn)
        .await?)
}

async fn set_version(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
    version: i64,
) -> Result<(), StorageError> {
    diesel::update(mapping_lists::table.find(user.as_str()))
        .set(mapping_lists::version.eq(version))
        .execute(conn)
        .await?;
    Ok(())
}

/// Replaces a Slurm user's whole list, atomically. Run it in a transaction. `expected` is the version the caller saw.
pub async fn replace(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
    list: &[Entry],
    expected: Option<i64>,
    now: DateTime<Utc>,
) -> Result<Replaced, StorageError> {
    let current = lock_list(conn, user).await?;
    if expected.is_some_and(|e| e != current) {
        return Ok(Replaced::VersionMismatch { current });
    }
    let ids: Vec<i64> = list.iter().map(|entry| entry.repository.0).collect();
    let taken: Vec<i64> = repository_mappings::table
        .filter(repository_mappings::repository_id.eq_any(&ids))
        .filter(repository_mappings::slurm_user.ne(user.as_str()))
        .select(repository_mappings::repository_id)
        .load(conn)
        .await?;
    if !taken.is_empty() {
        return Ok(Replaced::TakenByOthers(
            taken.into_iter().map(RepositoryId).collect(),
        ));
    }
    let removed: Vec<i64> = diesel::delete(
        repository_mappings::table
            .filter(repository_mappings::slurm_user.eq(user.as_str()))
            .filter(repository_mappings::repository_id.ne_all(&ids)),
    )
    .returning(repository_mappings::repository_id)
    .get_results(conn)
    .await?;
    let (_, before) = self::list(conn, user).await?;
    let asked = requests(conn, Some(user)).await?;
    let asked_for = |id: RepositoryId| {
        let asked = asked.iter().find(|asked| asked.repository.id == id.0)?;
        Some(asked.charge.clone())
    };
    let mut changed: Vec<RepositoryId> = removed.into_iter().map(RepositoryId).collect();
    let mut rows = Vec::with_capacity(list.len());
    for (position, entry) in list.iter().enumerate() {
        let known = before
            .iter()
            .find(|known| known.repository.id == entry.repository.0)
            .map(|known| known.charge.clone());
        let charge = entry
            .charge
            .clone()
            .or_else(|| known.clone())
            .or_else(|| asked_for(entry.repository))
            .unwrap_or_default();
        if known.as_ref() != Some(&charge) {
            changed.push(entry.repository);
        }
        rows.push((
            repository_mappings::repository_id.eq(entry.repository.0),
            repository_mappings::slurm_user.eq(user.as_str()),
            repository_mappings::position.eq(position as i32),
            repository_mappings::created_at.eq(now),
            repository_mappings::account.eq(charge.account),
            repository_mappings::qos.eq(charge.qos),
        ));
    }
    diesel::insert_into(repository_mappings::table)
        .values(rows)
        .on_conflict(repository_mappings::repository_id)
        .do_update()
        .set((
            repository_mappings::position.eq(excluded(repository_mappings::position)),
            repository_mappings::account.eq(excluded(repository_mappings::account)),
            repository_mappings::qos.eq(excluded(repository_mappings::qos)),
        ))
        .execute(conn)
        .await?;
    // What was asked for is true now.
    diesel::delete(
        mapping_requests::table
            .filter(mapping_requests::slurm_user.eq(user.as_str()))
            .filter(mapping_requests::repository_id.eq_any(&ids)),
    )
    .execute(conn)
    .await?;
    let version = current + 1;
    set_version(conn, user, version).await?;
    Ok(Replaced::Done { version, changed })
}

/// Adds one repository to a Slurm user's list, or charges it to something else. Run it in a transaction.
pub async fn add(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
    entry: Entry,
    now: DateTime<Utc>,
) -> Result<Replaced, StorageError> {
    lock_list(conn, user).await?;
    let (version, before) = list(conn, user).await?;
    let mut entries: Vec<Entry> = before
        .iter()
        .map(|known| RepositoryId(known.repository.id).into())
        .collect();
    match entries
        .iter_mut()
        .find(|known| known.repository == entry.repository)
    {
        Some(known) => *known = entry,
        None => entries.push(entry),
    }
    replace(conn, user, &entries, Some(version), now).await
}

/// Removes one repository, by its name, from a Slurm user's list and from what they ask for. Run it in a transaction. Returns
/// its id and whether it was mapped; `None`: neither.
pub async fn remove(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
    owner: &str,
    name: &str,
) -> Result<Option<(RepositoryId, bool)>, StorageError> {
    let current = lock_list(conn, user).await?;
    let asked = delete_request(conn, user, owner, name).await?;
    let mapped: Option<i64> = diesel::delete(
        repository_mappings::table
            .filter(repository_mappings::slurm_user.eq(user.as_str()))
            .filter(repository_mappings::repository_id.eq_any(named(owner, name))),
    )
    .returning(repository_mappings::repository_id)
    .get_result(conn)
    .await
    .optional()?;
    if mapped.is_some() {
        set_version(conn, user, current + 1).await?;
    }
    Ok(mapped
        .map(|id| (RepositoryId(id), true))
        .or(asked.map(|id| (id, false))))
}

/// Removes one repository, by its name, from what a Slurm user asks for, and leaves their list alone. Run it in a transaction.
/// `None`: it does not wait.
pub async fn remove_request(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
    owner: &str,
    name: &str,
) -> Result<Option<RepositoryId>, StorageError> {
    lock_list(conn, user).await?;
    delete_request(conn, user, owner, name).await
}

async fn delete_request(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
    owner: &str,
    name: &str,
) -> Result<Option<RepositoryId>, StorageError> {
    let asked: Option<i64> = diesel::delete(
        mapping_requests::table
            .filter(mapping_requests::slurm_user.eq(user.as_str()))
            .filter(mapping_requests::repository_id.eq_any(named(owner, name))),
    )
    .returning(mapping_requests::repository_id)
    .get_result(conn)
    .await
    .optional()?;
    Ok(asked.map(RepositoryId))
}

/// The id of the repository of this name, whatever its case.
#[diesel::dsl::auto_type(no_type_alias)]
fn named(owner: &str, name: &str) -> _ {
    let (owner, name): (String, String) = (owner.to_lowercase(), name.to_lowercase());
    repositories::table
        .filter(lower(repositories::owner).eq(owner))
        .filter(lower(repositories::name).eq(name))
        .select(repositories::id)
}

/// A mapping that a Slurm user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub user: SlurmUser,
    /// Which repository.
    pub repository: Repository,
    /// What it is charged to.
    pub charge: Charge,
    /// Whose agent asserted the user.
    pub cluster: String,
    /// When.
    pub requested_at: DateTime<Utc>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// An administrator has to decide.
    Waits,
    /// It is mapped to this user already.
    Mapped,
    /// It is mapped to another user.
    TakenByOther,
}

/// Keeps that a user asks for a mapping.
pub async fn request(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
    repository: RepositoryId,
    charge: &Charge,
    cluster: &str,
    now: DateTime<Utc>,
) -> Result<Requested, StorageError> {
    let mapped_to: Option<String> = repository_mappings::table
        .find(repository.0)
        .select(repository_mappings::slurm_user)
        .first(conn)
        .await
        .optional()?;
    match mapped_to {
        Some(other) if other != user.as_str() => return Ok(Requested::TakenByOther),
        Some(_) => return Ok(Requested::Mapped),
        None => {}
    }
    diesel::insert_into(mapping_requests::table)
        .values((
            mapping_requests::slurm_user.eq(user.as_str()),
            mapping_requests::repository_id.eq(repository.0),
            mapping_requests::cluster.eq(cluster),
            mapping_requests::account.eq(&charge.account),
            mapping_requests::qos.eq(&charge.qos),
            mapping_requests::requested_at.eq(now),
        ))
        .on_conflict((
            mapping_requests::slurm_user,
            mapping_requests::repository_id,
        ))
        .do_update()
        .set((
            mapping_requests::account.eq(excluded(mapping_requests::account)),
            mapping_requests::qos.eq(excluded(mapping_requests::qos)),
        ))
        .execute(conn)
        .await?;
    Ok(Requested::Waits)
}

/// What is asked for: by one user, or by all. The oldest first.
pub async fn requests(
    conn: &mut AsyncPgConnection,
    user: Option<&SlurmUser>,
) -> Result<Vec<Request>, StorageError> {
    type Row = (
        String,
        Repository,
        Option<String>,
        Option<String>,
        String,
        DateTime<Utc>,
    );
    let mut query = mapping_requests::table
        .inner_join(repositories::table)
        .order(mapping_requests::requested_at)
        .select((
            mapping_requests::slurm_user,
            Repository::as_select(),
            mapping_requests::account,
            mapping_requests::qos,
            mapping_requests::cluster,
            mapping_requests::requested_at,
        ))
        .into_boxed();
    if let Some(user) = user {
        query = query.filter(mapping_requests::slurm_user.eq(user.as_str()));
    }
    let rows: Vec<Row> = query.load(conn).await?;
    rows.into_iter()
        .map(|(user, repository, account, qos, cluster, requested_at)| {
            let user = user
                .parse()
                .map_err(|_| StorageError::Unknown("mapping_requests.slurm_user"))?;
            Ok(Request {
                user,
                repository,
                charge: Charge { account, qos },
                cluster,
                requested_at,
            })
        })
        .collect()
}
