//! Versions that were seen last: of clusters' policies, and of this deployment's labels. Another one gives a fresh chance to what was
//! refused.

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use gha_slurm_domain::{RepositoryFullName, RepositoryId};

use crate::pool::StorageError;
use crate::replan;
use crate::schema::{known_versions, repositories, runner_classes};
use crate::workflow_jobs;

/// What has versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    /// The policy of this cluster's agent.
    Policy(&'a str),
    /// The labels that this deployment serves.
    Labels,
}

impl What<'_> {
    fn key(self) -> String {
        match self {
            Self::Policy(cluster) => format!("policy of {cluster}"),
            Self::Labels => "labels".to_owned(),
        }
    }
}

/// Records a version. If it is another one than before, repositories that it may concern are planned again, with a fresh chance. Run
/// it in a transaction. Returns how many.
pub async fn seen(
    conn: &mut AsyncPgConnection,
    what: What<'_>,
    version: &str,
) -> Result<usize, StorageError> {
    let key = what.key();
    let before: Option<String> = known_versions::table
        .find(&key)
        .select(known_versions::version)
        .first(conn)
        .await
        .optional()?;
    if before.as_deref() == Some(version) {
        return Ok(0);
    }
    diesel::insert_into(known_versions::table)
        .values((
            known_versions::what.eq(&key),
            known_versions::version.eq(version),
        ))
        .on_conflict(known_versions::what)
        .do_update()
        .set(known_versions::version.eq(version))
        .execute(conn)
        .await?;
    if before.is_none() {
        return Ok(0);
    }
    let (repositories, reason) = match what {
        What::Policy(_) => (with_failures(conn).await?, "the cluster's policy changed"),
        What::Labels => (
            workflow_jobs::repositories_with_open(conn).await?,
            "the labels changed",
        ),
    };
    for repository in &repositories {
        replan::request(conn, *repository, true, reason).await?;
    }
    Ok(repositories.len())
}

/// A person asks: repositories with a class that has demand and failed are planned again, with a fresh chance. `only`: this one. Run it
/// in a transaction. Returns their names.
pub async fn retry(
    conn: &mut AsyncPgConnection,
    only: Option<&RepositoryFullName>,
) -> Result<Vec<RepositoryFullName>, StorageError> {
    let mut tried = Vec::new();
    for id in with_failures(conn).await? {
        let (owner, name) = repositories::table
            .find(id.0)
            .select((repositories::owner, repositories::name))
            .first::<(String, String)>(conn)
            .await?;
        let Ok(name) = RepositoryFullName::new(&owner, &name) else {
            continue;
        };
        if only.is_none_or(|only| *only == name) {
            replan::request(conn, id, true, "an administrator asked").await?;
            tried.push(name);
        }
    }
    Ok(tried)
}

/// Repositories with a class that has demand and failed.
async fn with_failures(conn: &mut AsyncPgConnection) -> Result<Vec<RepositoryId>, StorageError> {
    Ok(runner_classes::table
        .filter(runner_classes::demand.gt(0))
        .filter(runner_classes::failures.gt(0).or(runner_classes::refused))
        .select(runner_classes::repository_id)
        .distinct()
        .load::<i64>(conn)
        .await?
        .into_iter()
        .map(RepositoryId)
        .collect())
}
