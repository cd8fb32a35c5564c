//! Which repositories may spend which Slurm user's account, and which mappings users ask for.

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel::upsert::excluded;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::admission::Charge;
use gha_slurm_domain::{RepositoryId, SlurmUser};

use crate::pool::StorageError;
use crate::repositories::Repository;
use crate::schema::{mapping_lists, mapping_requests, repositories, repository_mappings};

/// The clusters whose mappings a caller sees and changes. Users of the same name on two clusters are two people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clusters<'a> {
    /// All, as for an administrator.
    All,
    /// One, by the word of its agent.
    One {
        /// Its name.
        name: &'a str,
        /// Whether mappings for which an administrator named no cluster are this one's: no other agent is known.
        unnamed: bool,
    },
}

impl Clusters<'_> {
    /// Whether a mapping of this cluster is among them; `None`: an administrator named none.
    pub fn include(&self, cluster: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::One { name, unnamed } => cluster.map_or(*unnamed, |cluster| cluster == *name),
        }
    }
}

/// A repository of a Slurm user's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// Which.
    pub repository: Repository,
    /// The cluster that the Slurm user is a user of. `None`: an administrator named none.
    pub cluster: Option<String>,
    /// What its launches are charged to.
    pub charge: Charge,
}

/// An entry of a new list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub repository: RepositoryId,
    /// The cluster that the Slurm user is a user of. `None`: as before, or none named.
    pub cluster: Option<String>,
    /// What its launches are charged to. `None`: as before, or the site's default.
    pub charge: Option<Charge>,
}

impl From<RepositoryId> for Entry {
    fn from(repository: RepositoryId) -> Self {
        Self {
            repository,
            cluster: None,
            charge: None,
        }
    }
}

/// A Slurm user's list of repositories, those of every cluster, and its version (0: never written).
pub async fn list(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
) -> Result<(i64, Vec<Mapped>), StorageError> {
    type Row = (Repository, Option<String>, Option<String>, Option<String>);
    let version = mapping_lists::table
        .find(user.as_str())
        .select(mapping_lists::version)
        .first::<i64>(conn)
        .await
        .optional()?
        .unwrap_or(0);
    let rows: Vec<Row> = repository_mappings::table
        .inner_join(repositories::table)
        .filter(repository_mappings::slurm_user.eq(user.as_str()))
        .order(repository_mappings::position)
        .select((
            Repository::as_select(),
            repository_mappings::cluster,
            repository_mappings::account,
            repository_mappings::qos,
        ))
        .load(conn)
        .await?;
    let list = rows
        .into_iter()
        .map(|(repository, cluster, account, qos)| Mapped {
            repository,
            cluster,
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
    /// These repositories are mapped to another user, or to the user of another cluster; nothing was changed.
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
    let mut taken: Vec<i64> = repository_mappings::table
        .filter(repository_mappings::repository_id.eq_any(&ids))
        .filter(repository_mappings::slurm_user.ne(user.as_str()))
        .select(repository_mappings::repository_id)
        .load(conn)
        .await?;
    let (_, before) = self::list(conn, user).await?;
    let known = |id: RepositoryId| before.iter().find(|known| known.repository.id == id.0);
    let elsewhere = list.iter().filter(|entry| {
        let cluster = known(entry.repository).and_then(|known| known.cluster.as_ref());
        cluster.is_some() && entry.cluster.is_some() && cluster != entry.cluster.as_ref()
    });
    taken.extend(elsewhere.map(|entry| entry.repository.0));
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
    let mut changed: Vec<RepositoryId> = removed.into_iter().map(RepositoryId).collect();
    let mut rows = Vec::with_capacity(list.len());
    for (position, entry) in list.iter().enumerate() {
        let known = known(entry.repository);
        let cluster = entry.cluster.clone().or_else(|| known?.cluster.clone());
        let charge = entry
            .charge
            .clone()
            .or_else(|| Some(known?.charge.clone()))
            .unwrap_or_default();
        if known.is_none_or(|known| (&known.charge, &known.cluster) != (&charge, &cluster)) {
            changed.push(entry.repository);
        }
        rows.push((
            repository_mappings::repository_id.eq(entry.repository.0),
            repository_mappings::slurm_user.eq(user.as_str()),
            repository_mappings::position.eq(position as i32),
            repository_mappings::created_at.eq(now),
            repository_mappings::account.eq(charge.account),
            repository_mappings::qos.eq(charge.qos),
            repository_mappings::cluster.eq(cluster),
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
            repository_mappings::cluster.eq(excluded(repository_mappings::cluster)),
        ))
        .execute(conn)
        .await?;
    let (_, after) = self::list(conn, user).await?;
    let is_true_now = |request: &Request| {
        let mut of_repository = after
            .iter()
            .filter(|mapped| mapped.repository.id == request.repository.id);
        of_repository.any(|mapped| match &mapped.cluster {
            Some(cluster) => *cluster == request.cluster,
            None => true,
        })
    };
    let mut granted = requests(conn, Some(user)).await?;
    granted.retain(is_true_now);
    withdraw(conn, &granted).await?;
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

/// Removes one repository, by its name, from a Slurm user's list and from what they ask for, as far as it is of these clusters. Run it in
/// a transaction. Returns its id and whether it was mapped; `None`: neither.
pub async fn remove(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
    clusters: Clusters<'_>,
    owner: &str,
    name: &str,
) -> Result<Option<(RepositoryId, bool)>, StorageError> {
    let current = lock_list(conn, user).await?;
    let mut asked = requests(conn, Some(user)).await?;
    asked.retain(|request| {
        clusters.include(Some(&request.cluster)) && request.repository.is_named(owner, name)
    });
    withdraw(conn, &asked).await?;
    let (_, mapped) = list(conn, user).await?;
    let ids: Vec<i64> = mapped
        .iter()
        .filter(|mapped| {
            clusters.include(mapped.cluster.as_deref()) && mapped.repository.is_named(owner, name)
        })
        .map(|mapped| mapped.repository.id)
        .collect();
    diesel::delete(
        repository_mappings::table
            .filter(repository_mappings::slurm_user.eq(user.as_str()))
            .filter(repository_mappings::repository_id.eq_any(&ids)),
    )
    .execute(conn)
    .await?;
    if !ids.is_empty() {
        set_version(conn, user, current + 1).await?;
    }
    let asked = asked
        .as_slice()
        .first()
        .map(|request| request.repository.id);
    let removed = ids.as_slice().first().map(|id| (*id, true));
    let removed = removed.or(asked.map(|id| (id, false)));
    Ok(removed.map(|(id, was_mapped)| (RepositoryId(id), was_mapped)))
}

/// Removes these requests. Run it in a transaction that has locked the lists of their users.
pub async fn withdraw(
    conn: &mut AsyncPgConnection,
    requests: &[Request],
) -> Result<(), StorageError> {
    let versions: Vec<i64> = requests.iter().map(|request| request.version).collect();
    diesel::delete(mapping_requests::table.filter(mapping_requests::version.eq_any(versions)))
        .execute(conn)
        .await?;
    Ok(())
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
    /// Another one whenever it asks for something else.
    pub version: i64,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// An administrator has to decide.
    Waits,
    /// It is mapped to this user already.
    Mapped,
    /// It is mapped to another user, or to the user of another cluster.
    TakenByOther,
}

/// Keeps that a user of `cluster` asks for a mapping. `unnamed`: mappings without a cluster are this cluster's. Run it in a transaction.
pub async fn request(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
    repository: RepositoryId,
    charge: &Charge,
    cluster: &str,
    unnamed: bool,
    now: DateTime<Utc>,
) -> Result<Requested, StorageError> {
    lock_list(conn, user).await?;
    let mapped_to: Option<(String, Option<String>)> = repository_mappings::table
        .find(repository.0)
        .select((
            repository_mappings::slurm_user,
            repository_mappings::cluster,
        ))
        .first(conn)
        .await
        .optional()?;
    let own = Clusters::One {
        name: cluster,
        unnamed,
    };
    match mapped_to {
        Some((of, on)) if of == user.as_str() && own.include(on.as_deref()) => {
            return Ok(Requested::Mapped);
        }
        Some(_) => return Ok(Requested::TakenByOther),
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
            mapping_requests::cluster,
            mapping_requests::slurm_user,
            mapping_requests::repository_id,
        ))
        .do_update()
        .set((
            mapping_requests::version.eq(sql::<BigInt>(
                "CASE WHEN (mapping_requests.account, mapping_requests.qos) \
                 IS DISTINCT FROM (excluded.account, excluded.qos) \
                 THEN excluded.version ELSE mapping_requests.version END",
            )),
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
        i64,
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
            mapping_requests::version,
        ))
        .into_boxed();
    if let Some(user) = user {
        query = query.filter(mapping_requests::slurm_user.eq(user.as_str()));
    }
    let rows: Vec<Row> = query.load(conn).await?;
    rows.into_iter()
        .map(
            |(user, repository, account, qos, cluster, requested_at, version)| {
                let user = user
                    .parse()
                    .map_err(|_| StorageError::Unknown("mapping_requests.slurm_user"))?;
                Ok(Request {
                    user,
                    repository,
                    charge: Charge { account, qos },
                    cluster,
                    requested_at,
                    version,
                })
            },
        )
        .collect()
}
