//! Compares what is known with GitHub, on a timer: what was missed is found again.

mod deliveries;
mod doubts;
mod registrations;
mod repositories;
mod runners;
mod shared;

use std::sync::atomic::Ordering;

use std::time::Duration;

use chrono::TimeDelta;
use gha_slurm_service_kit::Periodic;
use gha_slurm_storage::{StorageError, leases, workflow_jobs};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::inquiry::InquiryError;
use crate::settings::{ReconcilerSettings, delta, span};

use deliveries::Deliveries;
use repositories::{Repositories, Which};
use runners::Runners;
use shared::{has_to_wait, is_for_all};

pub use shared::Reconciler;

/// However many launchers run, one reconciles.
const LEASE: &str = "reconciler";
/// A round makes many calls, and each may wait for its deadline while GitHub hangs.
const ROUND: Duration = Duration::from_secs(3600);
/// A launcher that was killed is followed by another after this.
const LEASE_LIFETIME: TimeDelta = TimeDelta::seconds(30);
/// So many failed deliveries take minutes to be repeated: repositories are compared meanwhile.
const BACKLOG: usize = 100;
/// Workflow jobs that GitHub is asked about at one look.
const QUESTIONS: i64 = 50;
/// A question that failed is put again after this.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(60);

/// What the reconciler looks at, and when it is due.
struct Looks {
    /// `None`: this launcher has not listed any yet.
    deliveries: Option<Deliveries>,
    repositories: Repositories,
    runners: Runners,
    next_deliveries: Instant,
    next_repositories: Instant,
    next_active: Instant,
    /// The last call that every look depends on failed.
    is_github_away: bool,
    /// Many deliveries failed.
    is_backlog: bool,
}

impl Looks {
    /// Everything is due.
    fn begin_all(&mut self) {
        let now = Instant::now();
        self.next_deliveries = now;
        self.next_repositories = now;
    }

    /// Which repositories a round begins with now.
    fn due_repositories(&mut self, settings: &ReconcilerSettings) -> Option<Which> {
        let now = Instant::now();
        let which = if self.next_repositories <= now {
            self.next_repositories = now + span(settings.repositories_s);
            Which::All
        } else if self.next_active <= now {
            Which::Active
        } else {
            return None;
        };
        self.next_active = now + span(settings.active_repositories_s);
        Some(which)
    }
}

impl Reconciler {
    /// Reconciles until `stop`, while no other launcher does.
    pub async fn run(self, periodic: Periodic, stop: CancellationToken) {
        let holder = Uuid::new_v4();
        let looks = Mutex::new(Looks {
            deliveries: None,
            repositories: Repositories::default(),
            runners: Runners::default(),
            next_deliveries: Instant::now(),
            next_repositories: Instant::now(),
            next_active: Instant::now(),
            is_github_away: false,
            is_backlog: false,
        });
        let round = || async {
            let mut looks = looks.lock().await;
            let work = Box::pin(self.round(holder, &mut looks));
            stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
        };
        periodic
            .every("reconciler", span(self.settings.interval_s))
            .may_take(ROUND)
            .run(stop.clone(), round)
            .await;
        if let Ok(mut conn) = self.inquiry.database.connection().await {
            // Otherwise it runs out.
            let _ = leases::release(&mut conn, LEASE, holder).await;
        }
    }

    /// Looks at everything that is due. What fails in itself is noted and looked at again at its next turn.
    async fn round(&self, holder: Uuid, looks: &mut Looks) -> Result<(), StorageError> {
        if !self.holds_lease(holder).await? {
            return Ok(());
        }
        self.noted("questions", self.put_questions().await);
        self.noted("doubts", Box::pin(doubts::look(self)).await);
        self.noted("runners", Box::pin(looks.runners.look(self)).await);
        if self.resumed.swap(false, Ordering::Relaxed) {
            looks.begin_all();
        }
        if looks.next_deliveries <= Instant::now() {
            self.list_deliveries(holder, looks).await;
        }
        if let Some(deliveries) = &mut looks.deliveries {
            self.noted("deliveries", deliveries.redeliver(self).await);
        }
        if looks.repositories.is_done(self).await {
            let which = looks.due_repositories(&self.settings);
            if let Some(which) = which {
                self.noted("repositories", looks.repositories.begin(self, which).await);
            }
        }
        self.noted("repositories", looks.repositories.next(self).await);
        Ok(())
    }

    /// While GitHub cannot be asked, it is asked again in every round. Once it answers, everything is compared: whatever kept us from
    /// asking may have kept webhooks from arriving.
    async fn list_deliveries(&self, holder: Uuid, looks: &mut Looks) {
        let result = self.list(holder, &mut looks.deliveries).await;
        let is_away = result.as_ref().is_err_and(is_for_all);
        if !is_away {
            looks.next_deliveries = Instant::now() + span(self.settings.deliveries_s);
        }
        let is_back = looks.is_github_away && result.is_ok();
        looks.is_github_away = is_away;
        let is_backlog = result.as_ref().is_ok_and(|failed| *failed >= BACKLOG);
        if is_back || (is_backlog && !looks.is_backlog) {
            looks.next_repositories = Instant::now();
        }
        looks.is_backlog = is_backlog;
        self.noted("deliveries", result.map(|_| 0));
    }

    /// Begins where the launcher before this one was, and says where this one is.
    async fn list(
        &self,
        holder: Uuid,
        deliveries: &mut Option<Deliveries>,
    ) -> Result<usize, InquiryError> {
        let database = &self.inquiry.database;
        let deliveries = if let Some(deliveries) = deliveries {
            deliveries
        } else {
            let reached = leases::reached(&mut *database.connection().await?, LEASE).await?;
            deliveries.insert(Deliveries::new(reached, self.inquiry.clock.now()))
        };
        let failed = deliveries.list(self).await?;
        let mut conn = database.connection().await?;
        leases::reach(&mut conn, LEASE, holder, deliveries.settled()).await?;
        Ok(failed)
    }

    async fn holds_lease(&self, holder: Uuid) -> Result<bool, StorageError> {
        let mut conn = self.inquiry.database.connection().await?;
        let lifetime = LEASE_LIFETIME + delta(self.settings.interval_s);
        leases::hold(&mut conn, LEASE, holder, lifetime, self.inquiry.clock.now()).await
    }

    /// One that failed is tried again at its next turn.
    fn noted(&self, what: &'static str, result: Result<usize, InquiryError>) {
        match result {
            Ok(0) => {}
            Ok(found) => {
                self.found.with_label_values(&[what]).inc_by(found as u64);
                self.wake.notify_one();
            }
            Err(error) => tracing::warn!(%error, what, "reconciling failed"),
        }
    }

    /// Asks about the workflow jobs that somebody had a question about.
    async fn put_questions(&self) -> Result<usize, InquiryError> {
        let due = {
            let mut conn = self.inquiry.database.connection().await?;
            workflow_jobs::to_ask(&mut conn, self.inquiry.clock.now(), QUESTIONS).await?
        };
        let mut answered = 0;
        for id in due {
            match self.inquiry.ask(id).await {
                Ok(_) => answered += 1,
                Err(error) => {
                    let mut conn = self.inquiry.database.connection().await?;
                    workflow_jobs::ask(&mut conn, &[id], self.inquiry.clock.now() + ASK_AGAIN)
                        .await?;
                    if is_for_all(&error) {
                        return Err(error);
                    }
                    if !has_to_wait(&error) {
                        tracing::warn!(%error, workflow_job.id = %id, "GitHub does not answer about a workflow job");
                    }
                }
            }
        }
        Ok(answered)
    }
}
