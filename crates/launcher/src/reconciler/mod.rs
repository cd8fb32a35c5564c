//! Compares what is known with GitHub, on a timer: what was missed is found again.

mod deliveries;
mod doubts;
mod registrations;
mod repositories;
mod runners;
mod shared;

use chrono::TimeDelta;
use gha_slurm_service_kit::Periodic;
use gha_slurm_storage::{StorageError, leases, workflow_jobs};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::inquiry::InquiryError;
use crate::settings::{delta, span};

use deliveries::Deliveries;
use repositories::Repositories;
use runners::Runners;
use shared::is_for_all;

pub use shared::Reconciler;

/// However many launchers run, one reconciles.
const LEASE: &str = "reconciler";
/// A launcher that was killed is followed by another after this.
const LEASE_LIFETIME: TimeDelta = TimeDelta::seconds(30);
/// Workflow jobs that GitHub is asked about at one look.
const QUESTIONS: i64 = 50;
/// A question that failed is put again after this.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(60);

/// What the reconciler looks at, and when it is due.
struct Looks {
    deliveries: Deliveries,
    repositories: Repositories,
    runners: Runners,
    next_deliveries: Instant,
    next_repositories: Instant,
}

impl Reconciler {
    /// Reconciles until `stop`, while no other launcher does.
    pub async fn run(self, periodic: Periodic, stop: CancellationToken) {
        let holder = Uuid::new_v4();
        let looks = Mutex::new(Looks {
            deliveries: Deliveries::new(self.inquiry.clock.now()),
            repositories: Repositories::default(),
            runners: Runners::default(),
            next_deliveries: Instant::now(),
            next_repositories: Instant::now(),
        });
        let round = || async {
            let mut looks = looks.lock().await;
            let work = Box::pin(self.round(holder, &mut looks));
            stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
        };
        periodic
            .every("reconciler", span(self.settings.interval_s))
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
        if looks.next_deliveries <= Instant::now() {
            looks.next_deliveries = Instant::now() + span(self.settings.deliveries_s);
            self.noted("deliveries", looks.deliveries.look(self).await);
        }
        if looks.next_repositories <= Instant::now() && looks.repositories.is_done() {
            looks.next_repositories = Instant::now() + span(self.settings.repositories_s);
            self.noted("repositories", looks.repositories.begin(self).await);
        }
        self.noted("repositories", looks.repositories.next(self).await);
        Ok(())
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
                    tracing::warn!(%error, workflow_job.id = %id, "GitHub does not answer about a workflow job");
                }
            }
        }
        Ok(answered)
    }
}
