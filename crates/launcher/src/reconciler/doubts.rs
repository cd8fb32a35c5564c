//! Asks GitHub about installations and mapped repositories of which an event reported something new: the event may be old or forged.

use gha_slurm_domain::{InstallationId, RepositoryId};
use gha_slurm_storage::repositories::{self, Question, Repository};
use gha_slurm_storage::{AsyncPgConnection, ScopeLock, StorageError, replan};

use super::shared::{Reconciler, has_to_wait, is_for_all};
use super::{ASK_AGAIN, QUESTIONS};
use crate::inquiry::InquiryError;

/// Replan requests of one transaction.
const BATCH: usize = 500;

/// Asks about what is in doubt. Returns how many answers there were.
pub(super) async fn look(reconciler: &Reconciler) -> Result<usize, InquiryError> {
    let now = reconciler.inquiry.clock.now();
    let (installations, repositories) = {
        let mut conn = reconciler.inquiry.database.connection().await?;
        let installations = repositories::installations_in_doubt(&mut conn, now, QUESTIONS).await?;
        let repositories = repositories::in_doubt(&mut conn, now, QUESTIONS).await?;
        (installations, repositories)
    };
    let mut answered = 0;
    for question in installations {
        match ask_about_installation(reconciler, question).await {
            Ok(()) => answered += 1,
            Err(error) => {
                let id = question.about;
                let next = Some(now + ASK_AGAIN);
                let mut conn = reconciler.inquiry.database.connection().await?;
                repositories::ask_installation_next(&mut conn, id, question.due_at, next).await?;
                passes(error, "installation", id.0)?;
            }
        }
    }
    for question in repositories {
        match ask_about_repository(reconciler, &question).await {
            Ok(()) => answered += 1,
            Err(error) => {
                let id = RepositoryId(question.about.id);
                let next = Some(now + ASK_AGAIN);
                let mut conn = reconciler.inquiry.database.connection().await?;
                repositories::ask_next(&mut conn, id, question.due_at, next).await?;
                passes(error, "repository", id.0)?;
            }
        }
    }
    Ok(answered)
}

/// An error that concerns all questions ends the look.
fn passes(error: InquiryError, what: &'static str, id: i64) -> Result<(), InquiryError> {
    if is_for_all(&error) {
        return Err(error);
    }
    if !has_to_wait(&error) {
        tracing::warn!(%error, what, id, "GitHub does not answer about something that is in doubt");
    }
    Ok(())
}

async fn ask_about_installation(
    reconciler: &Reconciler,
    question: Question<InstallationId>,
) -> Result<(), InquiryError> {
    let inquiry = &reconciler.inquiry;
    let id = question.about;
    let found = inquiry.github.installation(id).await?;
    let is_suspended = found.is_some_and(|found| found.is_suspended);
    let is_deleted = found.is_none();
    let now = inquiry.clock.now();
    let scopes = inquiry
        .database
        .transaction(
            "record an installation",
            async |conn: &mut AsyncPgConnection| {
                let is_news =
                    repositories::set_installation(conn, id, is_suspended, is_deleted, now).await?;
                if is_news {
                    repositories::of_installation(conn, id).await
                } else {
                    Ok(Vec::new())
                }
            },
        )
        .await?;
    // In several transactions, since it can have thousands. The question stays open until all of them are to be decided again.
    for batch in scopes.chunks(BATCH) {
        decide_again(reconciler, batch).await?;
    }
    let mut conn = inquiry.database.connection().await?;
    repositories::ask_installation_next(&mut conn, id, question.due_at, None).await?;
    Ok(())
}

async fn decide_again(
    reconciler: &Reconciler,
    scopes: &[RepositoryId],
) -> Result<(), StorageError> {
    let database = &reconciler.inquiry.database;
    database
        .transaction(
            "the installation changed",
            async |conn: &mut AsyncPgConnection| {
                for scope in scopes {
                    replan::request(conn, *scope, true, "the installation changed").await?;
                }
                Ok::<_, StorageError>(())
            },
        )
        .await
}

async fn ask_about_repository(
    reconciler: &Reconciler,
    question: &Question<Repository>,
) -> Result<(), InquiryError> {
    let inquiry = &reconciler.inquiry;
    let id = RepositoryId(question.about.id);
    // By its id: its name may be an event's, and it may have been transferred to another account.
    let found = match inquiry.github.installation_of_id(id).await? {
        None => None,
        Some(installation) => {
            let found = inquiry.github.repository_of_id(installation, id).await?;
            found.map(|found| (installation, found))
        }
    };
    let now = inquiry.clock.now();
    inquiry
        .database
        .in_scope(
            "record a repository",
            id,
            async |mut lock: ScopeLock<'_>| {
                let before = repositories::standing(lock.conn(), id).await?;
                match &found {
                    None => repositories::set_reachable(lock.conn(), &[id], false).await?,
                    Some((installation, found)) => {
                        let (owner, name) = (found.name.owner(), found.name.name());
                        let (at, private) = (Some(*installation), Some(found.private));
                        repositories::upsert(lock.conn(), id, at, owner, name, private, now)
                            .await?;
                    }
                }
                repositories::ask_next(lock.conn(), id, question.due_at, None).await?;
                let after = repositories::standing(lock.conn(), id).await?;
                let standing = |row: Option<(Repository, _)>| row.map(|(_, standing)| standing);
                if standing(before) != standing(after) {
                    replan::request(lock.conn(), id, true, "the repository changed").await?;
                }
                Ok::<_, StorageError>(())
            },
        )
        .await?;
    Ok(())
}
