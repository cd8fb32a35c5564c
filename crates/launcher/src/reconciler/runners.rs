//! Runners of which too little is heard: those with a workflow job that no webhook names, and those whose node is silent.

use std::collections::HashMap;
use std::time::Duration;

use gha_slurm_domain::launch::{Happening, Runner};
use gha_slurm_domain::{LaunchId, WorkflowJobState};
use gha_slurm_github::Deletion;
use gha_slurm_storage::launches::{self, Loaded};
use gha_slurm_storage::{ScopeLock, StorageError, workflow_jobs};
use tokio::time::Instant;

use super::shared::{Reconciler, has_to_wait, is_for_all};
use crate::inquiry::InquiryError;
use crate::settings::{delta, span};

/// Runners looked at at once.
const AT_ONCE: i64 = 50;

/// When each launch is looked at again.
#[derive(Default)]
pub(super) struct Runners {
    next: HashMap<LaunchId, Instant>,
}

impl Runners {
    /// Returns how many runners were cleared up.
    pub(super) async fn look(&mut self, reconciler: &Reconciler) -> Result<usize, InquiryError> {
        let settings = &reconciler.settings;
        let now = reconciler.inquiry.clock.now();
        let (unattributed, silent) = {
            let mut conn = reconciler.inquiry.database.connection().await?;
            let since = now - delta(settings.unattributed_s);
            let unattributed = launches::unattributed(&mut conn, since, AT_ONCE).await?;
            let created = now - delta(settings.set_up_limit_s);
            let listening = now - delta(settings.listening_limit_s);
            let silent = launches::overdue(&mut conn, created, listening, AT_ONCE).await?;
            (unattributed, silent)
        };
        let instant = Instant::now();
        let pause = span(settings.unattributed_s);
        self.next.retain(|_, next| *next > instant);
        let mut cleared = 0;
        for loaded in unattributed {
            if let Some(runner) = self.due(&loaded, instant, pause) {
                cleared += noted(attribute(reconciler, &loaded, runner).await, runner)?;
            }
        }
        for loaded in silent {
            if let Some(runner) = self.due(&loaded, instant, pause) {
                cleared += noted(give_up(reconciler, &loaded, runner).await, runner)?;
            }
        }
        Ok(cleared)
    }

    /// The runner of a launch, if it is its turn.
    fn due<'a>(&mut self, loaded: &'a Loaded, now: Instant, pause: Duration) -> Option<&'a Runner> {
        let id = loaded.launch.id;
        if self.next.contains_key(&id) {
            return None;
        }
        self.next.insert(id, now + pause);
        loaded.launch.runner()
    }
}

/// What one runner's turn brought; an error that concerns all of them ends the look.
fn noted(result: Result<bool, InquiryError>, runner: &Runner) -> Result<usize, InquiryError> {
    match result {
        Ok(cleared) => Ok(cleared.into()),
        Err(error) if is_for_all(&error) => Err(error),
        Err(error) if has_to_wait(&error) => Ok(0),
        Err(error) => {
            tracing::warn!(%error, runner = runner.name, "a runner could not be looked up");
            Ok(0)
        }
    }
}

/// Which workflow job has it? The run that its node named says so; otherwise every open workflow job of the scope may be the
/// one, and GitHub is asked about each. Any process of the same user can report a workflow job that does not exist, so GitHub is asked
/// to deregister the runner, too: it refuses while there is one.
async fn attribute(
    reconciler: &Reconciler,
    loaded: &Loaded,
    runner: &Runner,
) -> Result<bool, InquiryError> {
    let inquiry = &reconciler.inquiry;
    let launch = &loaded.launch;
    let work = launch.work().cloned().unwrap_or_default();
    let scope = inquiry.scope(&loaded.repository).await?;
    let found = match (&scope, work.run) {
        (Some(scope), Some(run)) => inquiry
            .github
            .workflow_jobs_of_run(scope, run.id)
            .await?
            .into_iter()
            .find(|job| job.runner_name.as_deref() == Some(runner.name.as_str())),
        _ => None,
    };
    let now = inquiry.clock.now();
    if let Some(found) = found
        && let Some(state) = WorkflowJobState::from_github(&found.status)
    {
        let installation = scope.map(|scope| scope.installation);
        inquiry
            .database
            .in_scope(
                "attribute a runner",
                launch.repository,
                async |mut lock: ScopeLock<'_>| {
                    let answers = [(found.clone(), state)];
                    inquiry
                        .learn_all(&mut lock, answers, installation, now)
                        .await
                },
            )
            .await?;
        return Ok(true);
    }
    let limit = delta(reconciler.settings.unattributed_limit_s);
    if work.started_at.is_some_and(|at| at + limit <= now) {
        tracing::warn!(
            runner = runner.name,
            "GitHub knows no workflow job of a busy runner"
        );
        happen(reconciler, loaded, Happening::AttributionGivenUp).await?;
        return Ok(true);
    }
    if inquiry.deregister(runner, &loaded.repository).await? == Deletion::Deleted {
        tracing::warn!(
            runner = runner.name,
            "a node reported a workflow job, but GitHub let its runner go"
        );
        let attempt = runner.mint_attempt;
        happen(reconciler, loaded, Happening::Deregistered { attempt }).await?;
        return Ok(true);
    }
    let mut conn = inquiry.database.connection().await?;
    workflow_jobs::ask_about_open(&mut conn, launch.repository, now).await?;
    Ok(false)
}

/// Its node is silent. What GitHub says of its registration decides: one that cannot be deleted has work.
async fn give_up(
    reconciler: &Reconciler,
    loaded: &Loaded,
    runner: &Runner,
) -> Result<bool, InquiryError> {
    let deletion = reconciler
        .inquiry
        .deregister(runner, &loaded.repository)
        .await?;
    let happening = match deletion {
        Deletion::Busy => Happening::DeregistrationRefused,
        // Where GitHub does not know it, it may still have had a workflow job: that is looked up before another runner is
        // submitted for it.
        Deletion::Deleted | Deletion::NotFound => Happening::Silent {
            attempt: runner.mint_attempt,
        },
    };
    happen(reconciler, loaded, happening).await?;
    Ok(true)
}

async fn happen(
    reconciler: &Reconciler,
    loaded: &Loaded,
    happening: Happening,
) -> Result<(), StorageError> {
    let inquiry = &reconciler.inquiry;
    let (repository, id) = (loaded.launch.repository, loaded.launch.id);
    // Unless it changed meanwhile: then the next look decides.
    let _ = inquiry
        .database
        .happen(
            "clear up a runner",
            repository,
            id,
            &happening,
            inquiry.clock.now(),
        )
        .await?;
    Ok(())
}
