//! People who sign in, their sessions, and the Slurm users that they are.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::SlurmUser;

use crate::pool::{Database, StorageError};
use crate::schema::{people, sessions};

/// Most sessions of one person. A further one ends the least recently used.
pub const MOST_SESSIONS: i64 = 20;
/// When a session was last used is stored at most this often.
const SEEN_EVERY: TimeDelta = TimeDelta::minutes(1);

/// How long sessions last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Since they began.
    pub most: TimeDelta,
    /// Since they were last used.
    pub idle: TimeDelta,
}

/// A session that begins.
#[derive(Debug, Clone, Copy)]
pub struct NewSession<'a> {
    /// The SHA-256 of its token.
    pub token_hash: &'a [u8; 32],
    /// The same of the session that it replaces.
    pub replaces: Option<[u8; 32]>,
}

/// A person who signed in with GitHub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// GitHub's id of their account.
    pub github_id: i64,
    /// Their login, as it was when they last signed in.
    pub login: String,
    /// When that was.
    pub signed_in_at: DateTime<Utc>,
    /// The Slurm user that they are, if an administrator has said so.
    pub link: Option<Link>,
}

/// Which Slurm user a person is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The Slurm user.
    pub slurm_user: SlurmUser,
    /// Of this cluster.
    pub cluster: String,
    /// The administrator who linked them.
    pub linked_by: String,
    /// When.
    pub linked_at: DateTime<Utc>,
}

#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = people)]
struct PersonRow {
    github_id: i64,
    login: String,
    signed_in_at: DateTime<Utc>,
    slurm_user: Option<String>,
    cluster: Option<String>,
    linked_by: Option<String>,
    linked_at: Option<DateTime<Utc>>,
}

impl PersonRow {
    fn read(self) -> Result<Person, StorageError> {
        let link = match (
            self.slurm_user,
            self.cluster,
            self.linked_by,
            self.linked_at,
        ) {
            (Some(slurm_user), Some(cluster), Some(linked_by), Some(linked_at)) => Some(Link {
                slurm_user: slurm_user
                    .parse()
                    .map_err(|_| StorageError::Unknown("people.slurm_user"))?,
                cluster,
                linked_by,
                linked_at,
            }),
            _ => None,
        };
        Ok(Person {
            github_id: self.github_id,
            login: self.login,
            signed_in_at: self.signed_in_at,
            link,
        })
    }
}

impl Database {
    /// Begins a session. Sessions that are over are deleted, and people who are not linked and
    /// have not signed in for as long as a session can last.
    pub async fn sign_in(
        &self,
        (github_id, login): (i64, &str),
        NewSession {
            token_hash,
            replaces,
        }: NewSession<'_>,
        lifetime: Lifetime,
        now: DateTime<Utc>,
    ) -> Result<(), StorageError> {
        self.transaction("sign in", async |conn: &mut AsyncPgConnection| {
            prune(conn, lifetime, now).await?;
            let login = people::login.eq(login);
            let signed_in_at = people::signed_in_at.eq(now);
            // Locks the person: their sessions are counted one sign-in after the other.
            diesel::insert_into(people::table)
                .values((people::github_id.eq(github_id), login, signed_in_at))
                .on_conflict(people::github_id)
                .do_update()
                .set((login, signed_in_at))
                .execute(conn)
                .await?;
            let oldest: Vec<Vec<u8>> = sessions::table
                .filter(sessions::github_id.eq(github_id))
                .order(sessions::last_seen_at.desc())
                .offset(MOST_SESSIONS - 1)
                .select(sessions::token_hash)
                .load(conn)
                .await?;
            diesel::delete(sessions::table.filter(sessions::token_hash.eq_any(oldest)))
                .execute(conn)
                .await?;
            diesel::insert_into(sessions::table)
                .values((
                    sessions::token_hash.eq(token_hash.as_slice()),
                    sessions::github_id.eq(github_id),
                    sessions::created_at.eq(now),
                    sessions::last_seen_at.eq(now),
                ))
                .execute(conn)
                .await?;
            match replaces {
                Some(old) => sign_out(conn, &old).await,
                None => Ok(()),
            }
        })
        .await
    }
}

async fn prune(
    conn: &mut AsyncPgConnection,
    lifetime: Lifetime,
    now: DateTime<Utc>,
) -> Result<(), StorageError> {
    let is_old = sessions::created_at.le(now - lifetime.most);
    let is_unused = sessions::last_seen_at.le(now - lifetime.idle);
    diesel::delete(sessions::table.filter(is_old.or(is_unused)))
        .execute(conn)
        .await?;
    // All of their sessions are older.
    diesel::delete(
        people::table
            .filter(people::slurm_user.is_null())
            .filter(people::signed_in_at.le(now - lifetime.most)),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The person whose session this is, unless it is over. Counts as a use of it.
pub async fn of_session(
    conn: &mut AsyncPgConnection,
    token_hash: &[u8],
    lifetime: Lifetime,
    now: DateTime<Utc>,
) -> Result<Option<Person>, StorageError> {
    let found: Option<(PersonRow, DateTime<Utc>)> = sessions::table
        .inner_join(people::table)
        .filter(sessions::token_hash.eq(token_hash))
        .filter(sessions::created_at.gt(now - lifetime.most))
        .filter(sessions::last_seen_at.gt(now - lifetime.idle))
        .select((PersonRow::as_select(), sessions::last_seen_at))
        .first(conn)
        .await
        .optional()?;
    let Some((row, last_seen_at)) = found else {
        return Ok(None);
    };
    if last_seen_at <= now - SEEN_EVERY {
        diesel::update(sessions::table.find(token_hash))
            .set(sessions::last_seen_at.eq(now))
            .execute(conn)
            .await?;
    }
    row.read().map(Some)
}

/// Ends a session.
pub async fn sign_out(conn: &mut AsyncPgConnection, token_hash: &[u8]) -> Result<(), StorageError> {
    diesel::delete(sessions::table.find(token_hash))
        .execute(conn)
        .await?;
    Ok(())
}

/// Ends all sessions of a person.
pub async fn sign_out_everywhere(
    conn: &mut AsyncPgConnection,
    github_id: i64,
) -> Result<(), StorageError> {
    diesel::delete(sessions::table.filter(sessions::github_id.eq(github_id)))
        .execute(conn)
        .await?;
    Ok(())
}

/// All people, by login.
pub async fn all(conn: &mut AsyncPgConnection) -> Result<Vec<Person>, StorageError> {
    let rows: Vec<PersonRow> = people::table
        .order((people::login, people::github_id))
        .select(PersonRow::as_select())
        .load(conn)
        .await?;
    rows.into_iter().map(PersonRow::read).collect()
}

/// Links a person to a Slurm user, or ends the link. `None`: no person with this id has signed in.
pub async fn link(
    conn: &mut AsyncPgConnection,
    github_id: i64,
    link: Option<&Link>,
) -> Result<Option<Person>, StorageError> {
    let row: Option<PersonRow> = diesel::update(people::table.find(github_id))
        .set((
            people::slurm_user.eq(link.map(|link| link.slurm_user.as_str())),
            people::cluster.eq(link.map(|link| link.cluster.as_str())),
            people::linked_by.eq(link.map(|link| link.linked_by.as_str())),
            people::linked_at.eq(link.map(|link| link.linked_at)),
        ))
        .returning(PersonRow::as_returning())
        .get_result(conn)
        .await
        .optional()?;
    row.map(PersonRow::read).transpose()
}
