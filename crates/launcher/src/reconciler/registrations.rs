//! Leaked registrations of runners: two attempts to register a runner failed in a row, or the launcher was down for longer than rows are
//! kept. GitHub removes such a runner by itself after a day; until then, it looks like a usable runner.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use gha_slurm_domain::naming::first_name_of_own;
use gha_slurm_github::{Deletion, Github, Scope};
use gha_slurm_storage::launches;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::shared::Reconciler;
use crate::inquiry::InquiryError;

/// The runners of a repository are listed so often. A token of its own is minted for each list.
const EVERY: Duration = Duration::from_secs(3600);

/// When each repository's runners are listed next.
#[derive(Default)]
pub(super) struct Registrations {
    next: Mutex<HashMap<i64, Instant>>,
}

impl Registrations {
    /// Deletes the offline runners of this deployment in a repository that belong to no live launch, if it is its turn. Returns how
    /// many.
    pub(super) async fn look(
        &self,
        reconciler: &Reconciler,
        github: &Github,
        scope: &Scope,
    ) -> Result<usize, InquiryError> {
        let now = Instant::now();
        {
            let mut next = self.next.lock().await;
            next.retain(|_, next| *next > now);
            if next.contains_key(&scope.repository.0) {
                return Ok(0);
            }
        }
        let deleted = delete_leaked(reconciler, github, scope).await?;
        let mut next = self.next.lock().await;
        next.insert(scope.repository.0, now + EVERY);
        Ok(deleted)
    }
}

async fn delete_leaked(
    reconciler: &Reconciler,
    github: &Github,
    scope: &Scope,
) -> Result<usize, InquiryError> {
    let inquiry = &reconciler.inquiry;
    let deployment = &reconciler.deployment;
    let of_ours = |name| first_name_of_own(&deployment.prefix, &deployment.name, name);
    // The list comes first: what is registered after a launch became live is in the rows that are read next.
    let listed = github.runners(scope).await?;
    let live = {
        let mut conn = inquiry.database.connection().await?;
        launches::live_runners(&mut conn, scope.repository).await?
    };
    let live: HashSet<&str> = live.iter().filter_map(|name| of_ours(name)).collect();
    let mut deleted = 0;
    for runner in &listed {
        let is_leaked = runner.status == "offline"
            && runner.busy == Some(false)
            && of_ours(&runner.name).is_some_and(|first| !live.contains(first));
        if is_leaked && github.delete_runner(scope, runner.id).await? == Deletion::Deleted {
            tracing::warn!(
                runner = runner.name,
                "a registration that belongs to no live launch was deleted"
            );
            deleted += 1;
        }
    }
    Ok(deleted)
}
