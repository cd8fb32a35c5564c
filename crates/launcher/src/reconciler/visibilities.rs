//! Mapped repositories of which an event said that they are private now: GitHub is asked, since much depends on it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use gha_slurm_storage::repositories::{self, Repository};
use gha_slurm_storage::{ScopeLock, StorageError, replan};

use super::shared::{Reconciler, is_for_all};
use super::{ASK_AGAIN, QUESTIONS};
use crate::inquiry::InquiryError;

/// What has been asked.
#[derive(Default)]
pub(super) struct Visibilities {
    /// Repositories that are still in doubt, and when GitHub was asked last.
    asked: HashMap<i64, DateTime<Utc>>,
}

impl Visibilities {
    /// Asks about those in doubt. Returns how many are not any more.
    pub(super) async fn look(&mut self, reconciler: &Reconciler) -> Result<usize, InquiryError> {
        let doubtful = {
            let mut conn = reconciler.inquiry.database.connection().await?;
            repositories::of_unknown_visibility(&mut conn, QUESTIONS).await?
        };
        self.asked
            .retain(|id, _| doubtful.iter().any(|repository| repository.id == *id));
        let mut answered = 0;
        for repository in doubtful {
            let now = reconciler.inquiry.clock.now();
            let asked = self.asked.get(&repository.id);
            if asked.is_some_and(|at| now < *at + ASK_AGAIN) {
                continue;
            }
            self.asked.insert(repository.id, now);
            match ask(reconciler, &repository, now).await {
                Ok(found) => answered += usize::from(found),
                Err(error) if is_for_all(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, repository = repository.id, "GitHub does not say whether a repository is private");
                }
            }
        }
        Ok(answered)
    }
}

async fn ask(
    reconciler: &Reconciler,
    repository: &Repository,
    now: DateTime<Utc>,
) -> Result<bool, InquiryError> {
    let inquiry = &reconciler.inquiry;
    let Some(scope) = inquiry.scope(repository).await? else {
        return Ok(false);
    };
    let answer = inquiry.github.repository(scope.installation, &scope.name);
    // The name may be an event's, too: another repository than this one says nothing about it.
    let Some(found) = answer.await?.filter(|found| found.id == scope.repository) else {
        return Ok(false);
    };
    inquiry
        .database
        .in_scope(
            "record a repository's visibility",
            scope.repository,
            async |mut lock: ScopeLock<'_>| {
                let (id, at) = (scope.repository, Some(scope.installation));
                let (owner, name) = (found.name.owner(), found.name.name());
                let private = Some(found.private);
                repositories::upsert(lock.conn(), id, at, owner, name, private, now).await?;
                replan::request(lock.conn(), id, true, "the repository changed").await?;
                Ok::<_, StorageError>(())
            },
        )
        .await?;
    Ok(true)
}
