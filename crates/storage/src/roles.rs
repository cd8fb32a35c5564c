//! What each service may do in the database: a role of PostgreSQL for each, with rights to tables and columns.

use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Nullable, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use secrecy::{ExposeSecret, SecretString};

use crate::pool::StorageError;
use crate::sqlstate;

/// The rights, for the owner of the tables to run after the migrations.
const GRANTS: &str = include_str!("roles.sql");

/// A role that the login of a service is, or is a member of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Of the launcher.
    Launcher,
    /// Of token-broker.
    TokenBroker,
    /// Of repo-mapping.
    RepoMapping,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Launcher, Self::TokenBroker, Self::RepoMapping];

    /// Its name, the same for all databases of a server.
    pub fn name(self) -> &'static str {
        match self {
            Self::Launcher => "gha_slurm_launcher",
            Self::TokenBroker => "gha_slurm_token_broker",
            Self::RepoMapping => "gha_slurm_repo_mapping",
        }
    }

    /// The statement that makes it.
    pub fn create(self) -> String {
        format!("CREATE ROLE {} NOLOGIN;", self.name())
    }
}

#[derive(QueryableByName)]
struct Missing {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Makes the roles that the server lacks. Fails if this user may not.
pub(crate) async fn ensure(conn: &mut AsyncPgConnection) -> Result<(), StorageError> {
    let names: Vec<&str> = Role::ALL.map(Role::name).to_vec();
    let missing: Vec<Missing> = diesel::sql_query(
        "SELECT name FROM unnest($1) AS wanted (name) WHERE to_regrole(name) IS NULL ORDER BY name",
    )
    .bind::<Array<Text>, _>(names)
    .load(conn)
    .await?;
    let missing: Vec<String> = missing.into_iter().map(|row| row.name).collect();
    for role in Role::ALL {
        if !missing.iter().any(|name| name == role.name()) {
            continue;
        }
        let Err(error) = conn.batch_execute(&role.create()).await else {
            continue;
        };
        match code(&error) {
            // Another database of this server is migrated at the same time.
            Some("42710" | "23505") => {}
            Some("42501") => {
                return Err(StorageError::Setup(format!(
                    "the server lacks the roles {}, and this user may not create roles: have an administrator of the server run the \
                     statements of `gha-slurm migrate --print-roles`, then try again",
                    missing.join(", ")
                )));
            }
            _ => return Err(error.into()),
        }
    }
    Ok(())
}

/// Gives every role its rights to this database, and takes all others away.
pub(crate) async fn grant(conn: &mut AsyncPgConnection) -> Result<(), StorageError> {
    #[derive(QueryableByName)]
    struct Open {
        #[diesel(sql_type = Bool)]
        open: bool,
    }
    conn.transaction::<_, StorageError, _>(async |conn| Ok(conn.batch_execute(GRANTS).await?))
        .await?;
    let Open { open } =
        diesel::sql_query("SELECT has_schema_privilege('public', 'public', 'CREATE') AS open")
            .get_result(conn)
            .await?;
    if open {
        // A database of PostgreSQL 14 or older keeps this right when it is upgraded.
        return Err(StorageError::Setup(
            "every user of the server may create tables in the schema `public`, which belongs to somebody else: have its owner run \
             REVOKE CREATE ON SCHEMA public FROM PUBLIC, then try again"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Settings that a role has at its logins, in one database or in all.
#[derive(QueryableByName)]
struct RoleSettings {
    #[diesel(sql_type = Text)]
    role: String,
    /// Of [`Role::ALL`], and not a login that is a member of one.
    #[diesel(sql_type = Bool)]
    is_own: bool,
    /// The statement that takes them away.
    #[diesel(sql_type = Text)]
    reset: String,
    /// Their names. Their values can be anything.
    #[diesel(sql_type = Text)]
    names: String,
}

async fn settings_of_roles(conn: &mut AsyncPgConnection) -> QueryResult<Vec<RoleSettings>> {
    let names: Vec<&str> = Role::ALL.map(Role::name).to_vec();
    diesel::sql_query(
        "SELECT rolname::text AS role, rolname = ANY ($1) AS is_own, \
             format('ALTER ROLE %I%s RESET ALL', rolname, ' IN DATABASE ' || quote_ident(datname)) AS reset, \
             (SELECT string_agg(split_part(setting, '=', 1), ', ') FROM unnest(setconfig) AS setting) AS names \
         FROM pg_db_role_setting JOIN pg_roles ON pg_roles.oid = setrole LEFT JOIN pg_database ON pg_database.oid = setdatabase \
         WHERE rolname = ANY ($1) OR NOT rolsuper AND rolname <> current_user \
             AND EXISTS (SELECT FROM unnest($1) AS own WHERE pg_has_role(rolname, to_regrole(own)::oid, 'MEMBER')) \
         ORDER BY reset",
    )
    .bind::<Array<Text>, _>(names)
    .load(conn)
    .await
}

/// Resets what the roles have set for their logins. Every role may do that to itself (`ALTER ROLE CURRENT_USER SET …`), and it outlives a new
/// password: what a thief has set would stay. Returns warnings of what this user may not reset, and of settings of logins that are
/// members of the roles, which are the site's.
pub(crate) async fn reset_settings(
    conn: &mut AsyncPgConnection,
) -> Result<Vec<String>, StorageError> {
    let mut warnings = Vec::new();
    for found in settings_of_roles(conn).await? {
        let RoleSettings {
            role,
            is_own,
            reset,
            names,
        } = found;
        if !is_own {
            warnings.push(format!(
                "the login {role} has settings of its own ({names}): if nobody made them on purpose, run {reset}"
            ));
            continue;
        }
        match conn.batch_execute(&reset).await {
            Ok(()) => {}
            Err(error) if code(&error) == Some("42501") => warnings.push(format!(
                "{role} has settings of its own ({names}), which this user may not reset: have an administrator of the server run {reset}"
            )),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(warnings)
}

/// Lets a role log in with this password, of which the server is sent only a hash (SCRAM-SHA-256), as psql's `\password` does.
pub(crate) async fn let_log_in(
    conn: &mut AsyncPgConnection,
    role: Role,
    password: &SecretString,
) -> Result<(), StorageError> {
    // Base64 with `$` and `:`: nothing that a literal must escape.
    let hash = postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes());
    let sql = format!("ALTER ROLE {} LOGIN PASSWORD '{hash}'", role.name());
    conn.batch_execute(&sql).await.map_err(|error| {
        if code(&error) == Some("42501") {
            StorageError::Setup(format!(
                "this user may not set the password of {}: have an administrator of the server do it",
                role.name()
            ))
        } else {
            error.into()
        }
    })
}

/// Fails if this user has not the rights of the role. Warns of one that has more.
pub(crate) async fn check(conn: &mut AsyncPgConnection, role: Role) -> Result<(), StorageError> {
    #[derive(QueryableByName)]
    struct Login {
        #[diesel(sql_type = Text)]
        name: String,
        #[diesel(sql_type = Nullable<Bool>)]
        is_member: Option<bool>,
        #[diesel(sql_type = Nullable<Bool>)]
        is_owner: Option<bool>,
    }
    let login: Login = diesel::sql_query(
        "SELECT current_user::text AS name, pg_has_role(to_regrole($1)::oid, 'USAGE') AS is_member, \
             (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('public.launches')) AS is_owner",
    )
    .bind::<Text, _>(role.name())
    .get_result(conn)
    .await?;
    let (user, role) = (login.name, role.name());
    if login.is_owner == Some(true) {
        tracing::warn!(
            user,
            role,
            "the user of database.url owns the tables and may do more than this service needs: use a login that has only this role"
        );
        return Ok(());
    }
    if login.is_member == Some(true) {
        return Ok(());
    }
    Err(StorageError::Setup(format!(
        "database.url: the user {user} has not the role {role}: run `gha-slurm migrate` as the owner of the database, then \
         GRANT {role} TO {user}"
    )))
}

/// The SQLSTATE of an error.
pub(crate) fn code(error: &diesel::result::Error) -> Option<&str> {
    match error {
        diesel::result::Error::DatabaseError(_, information) => sqlstate::of(information.message()),
        _ => None,
    }
}
