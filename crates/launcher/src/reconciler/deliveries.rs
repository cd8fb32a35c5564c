//! Webhook deliveries that failed. GitHub never repeats one by itself (GitHub docs, "Handling failed webhook deliveries"),
//! so they are asked for again until they succeed.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_github::{Delivery, GithubError, Urgency};
use tokio::time::Instant;

use super::shared::Reconciler;
use crate::inquiry::InquiryError;

/// GitHub keeps deliveries so long (GitHub docs, "Redelivering webhooks").
const KEPT: TimeDelta = TimeDelta::days(3);
/// An attempt is listed some time after it began.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);
/// Between two attempts of one delivery: doubled each time, up to the second.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LAST_PAUSE: Duration = Duration::from_secs(600);
/// GitHub does not have a delivery any more, or will not repeat it.
const FORGOTTEN: [u16; 3] = [404, 410, 422];
/// What webhook-ingest makes events of.
const EVENTS: [&str; 4] = [
    "workflow_job",
    "installation",
    "installation_repositories",
    "github_app_authorization",
];

/// The deliveries that this launcher knows of, in memory: its successor lists them again, from the oldest that has not succeeded.
pub(super) struct Deliveries {
    since: DateTime<Utc>,
    failed: HashMap<String, Failed>,
}

/// A delivery none of whose attempts succeeded.
struct Failed {
    /// Its newest attempt.
    attempt: i64,
    /// When it was first attempted, as far as is known.
    first: DateTime<Utc>,
    asked: u32,
    next: Instant,
}

impl Deliveries {
    /// `settled`: what a launcher before this one said.
    pub(super) fn new(settled: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        Self {
            since: settled.unwrap_or_default().max(now - KEPT),
            failed: HashMap::new(),
        }
    }

    /// Everything that was delivered before this has arrived, or was given up.
    pub(super) fn settled(&self) -> DateTime<Utc> {
        let failed = self.failed.values().map(|failed| failed.first);
        failed.fold(self.since, DateTime::min)
    }

    /// Lists what is new. Returns how many deliveries are known to have failed.
    pub(super) async fn list(&mut self, reconciler: &Reconciler) -> Result<usize, InquiryError> {
        let begin = reconciler.inquiry.clock.now();
        let github = reconciler.inquiry.github.for_calls(Urgency::Comparison);
        let listed = github.deliveries(self.since).await?;
        self.take_in(listed, Instant::now());
        self.since = begin - OVERLAP;
        Ok(self.failed.len())
    }

    /// Asks for another attempt of what failed: as many as are allowed between two looks, so that other work is not kept waiting. Returns
    /// how many were asked for.
    pub(super) async fn redeliver(
        &mut self,
        reconciler: &Reconciler,
    ) -> Result<usize, InquiryError> {
        if self.failed.is_empty() {
            return Ok(0);
        }
        let github = &reconciler.inquiry.github;
        let settings = &reconciler.settings;
        let per_minute = settings.redeliveries_per_minute.get();
        let most = per_look(per_minute, settings.interval_s.get());
        let mut asked = 0;
        for (guid, attempt) in self.due(Instant::now(), most) {
            match github.redeliver(attempt).await {
                Ok(()) => {
                    tracing::info!(
                        delivery.guid = guid,
                        "a failed webhook delivery is asked for again"
                    );
                    asked += 1;
                    self.asked(&guid, Instant::now());
                }
                Err(error)
                    if FORGOTTEN
                        .iter()
                        .any(|status| error.status() == Some(*status)) =>
                {
                    tracing::warn!(%error, delivery.guid = guid, "a failed webhook delivery is given up");
                    self.failed.remove(&guid);
                }
                // It stays due, before those that failed later.
                Err(GithubError::RateLimited { .. }) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(asked)
    }

    /// `listed`: newest first.
    fn take_in(&mut self, listed: Vec<Delivery>, now: Instant) {
        for delivery in listed.into_iter().rev() {
            if delivery.succeeded() {
                self.failed.remove(&delivery.guid);
            } else if EVENTS.contains(&delivery.event.as_str()) {
                self.failed
                    .entry(delivery.guid)
                    .and_modify(|known| known.attempt = known.attempt.max(delivery.id))
                    .or_insert(Failed {
                        attempt: delivery.id,
                        first: delivery.delivered_at,
                        asked: 0,
                        next: now,
                    });
            }
        }
    }

    /// The oldest first: they are the most overdue.
    fn due(&self, now: Instant, most: usize) -> Vec<(String, i64)> {
        let mut due: Vec<(String, i64)> = self
            .failed
            .iter()
            .filter(|(_, failed)| failed.next <= now)
            .map(|(guid, failed)| (guid.clone(), failed.attempt))
            .collect();
        due.sort_by_key(|(_, attempt)| *attempt);
        due.truncate(most);
        due
    }

    fn asked(&mut self, guid: &str, now: Instant) {
        if let Some(failed) = self.failed.get_mut(guid) {
            failed.next = now + (FIRST_PAUSE * (1 << failed.asked.min(10))).min(LAST_PAUSE);
            failed.asked += 1;
        }
    }
}

/// Attempts that are asked for in one look.
fn per_look(per_minute: u32, interval_s: u32) -> usize {
    let most = per_minute.saturating_mul(interval_s.min(60)) / 60;
    most.max(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(id: i64, guid: &str, status: &str, event: &str) -> Delivery {
        Delivery {
            id,
            guid: guid.into(),
            delivered_at: Utc::now(),
            status: status.into(),
            event: event.into(),
        }
    }

    #[test]
    fn as_many_are_asked_for_as_github_allows() {
        assert_eq!(per_look(180, 5), 15);
        assert_eq!(per_look(750, 5), 62);
        assert_eq!(per_look(1, 1), 1);
    }

    #[test]
    fn whoever_takes_over_begins_with_the_oldest_that_has_not_succeeded() {
        let now = Utc::now();
        let mut deliveries = Deliveries::new(None, now);
        assert_eq!(deliveries.settled(), now - KEPT);
        deliveries.since = now;
        let oldest = attempt(1, "a", "timed out", "workflow_job");
        let first = now - TimeDelta::hours(2);
        let oldest = Delivery {
            delivered_at: first,
            ..oldest
        };
        let again = attempt(2, "a", "timed out", "workflow_job");
        deliveries.take_in(vec![again, oldest], Instant::now());
        assert_eq!(deliveries.settled(), first);
        assert_eq!(Deliveries::new(Some(first), now).since, first);
        deliveries.take_in(vec![attempt(3, "a", "OK", "workflow_job")], Instant::now());
        assert_eq!(deliveries.settled(), now);
        let long_ago = Some(now - KEPT * 2);
        assert_eq!(Deliveries::new(long_ago, now).since, now - KEPT);
    }

    #[test]
    fn what_no_attempt_delivered_is_due_with_growing_pauses() {
        let now = Instant::now();
        let mut deliveries = Deliveries::new(None, Utc::now());
        let listed = vec![
            attempt(5, "b", "OK", "workflow_job"),
            attempt(4, "c", "timed out", "star"),
            attempt(3, "a", "timed out", "workflow_job"),
            attempt(2, "b", "Service Unavailable", "workflow_job"),
            attempt(1, "a", "failed to connect to host", "workflow_job"),
        ];
        deliveries.take_in(listed.clone(), now);
        assert_eq!(deliveries.due(now, 9), [("a".to_owned(), 3)]);
        deliveries.asked("a", now);
        // The same is listed again, because the lists overlap.
        deliveries.take_in(listed, now);
        assert_eq!(deliveries.due(now, 9), []);
        assert_eq!(deliveries.due(now + FIRST_PAUSE, 9).len(), 1);
        deliveries.asked("a", now + FIRST_PAUSE);
        assert_eq!(deliveries.due(now + FIRST_PAUSE * 2, 9), []);
        assert_eq!(deliveries.due(now + FIRST_PAUSE * 3, 9).len(), 1);
        deliveries.take_in(vec![attempt(6, "a", "OK", "workflow_job")], now);
        assert_eq!(deliveries.due(now + LAST_PAUSE, 9), []);
    }
}
