//! Looks at Slurm: its queue in one call per interval, whatever the number of launches; what Slurm jobs used; and hourly, what
//! can be forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use chrono::TimeDelta;
use gha_slurm_domain::{Clock, SlurmJobId};
use gha_slurm_service_kit::{Periodic, Readiness};
use gha_slurm_slurm::Slurm;
use tokio_util::sync::CancellationToken;

use crate::book::{Book, MAX_USAGES_AT_ONCE};
use crate::launches::Launches;
use crate::ledger::{Entry, Ledger};

/// Launches that are over are forgotten this long after their launch token expired.
pub(crate) const REMEMBER: TimeDelta = TimeDelta::days(7);
/// Between two lists of Slurm's queue, however many nodes wait for one.
const REST: Duration = Duration::from_secs(1);
/// What an administrator has to do where lists never have what was submitted.
pub(crate) const HIDDEN: &str = "Slurm lists no Slurm job of this user, although gha-slurm submitted some: if slurm.conf has PrivateData=jobs, make \
    who lists the queue (the agent's user, or slurmrestd.service_user) an operator: sacctmgr modify user NAME set adminlevel=operator";
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);

/// What the loops share.
pub(crate) struct Polling {
    pub(crate) slurm: Arc<dyn Slurm>,
    pub(crate) launches: Arc<Launches>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) readiness: Readiness,
    pub(crate) clock: Clock,
    /// How many Slurm jobs were hidden at the last look.
    pub(crate) hidden: AtomicUsize,
}

impl Polling {
    /// Looks each `interval`, until `stop`.
    pub(crate) async fn run(
        self,
        periodic: &Periodic,
        interval: Duration,
        stop: CancellationToken,
    ) {
        let states = periodic
            .every("queue", interval)
            .wake(self.launches.wake())
            .rest(REST)
            .run(stop.clone(), || self.look());
        // Beside it: a slow database must not keep states back that are known. Not periodic: a round in which nothing is due says
        // nothing of whether accounting answers.
        let usages = async {
            let mut failing = false;
            while !stop.is_cancelled() && self.has_accounting() {
                failing = self.ask_usage(failing).await;
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(interval) => {}
                }
            }
        };
        let pruning = periodic
            .every("pruning", PRUNE_INTERVAL)
            .run(stop.clone(), || self.prune());
        tokio::join!(states, usages, pruning);
    }

    fn has_accounting(&self) -> bool {
        self.launches.book(|book| book.has_accounting())
    }

    /// Lists Slurm's queue.
    async fn look(&self) -> anyhow::Result<()> {
        let (begun, known) = self.launches.book(|book| (book.begin(), book.numbers()));
        let queue = self.slurm.list(&known).await.inspect_err(|error| {
            self.readiness.not_ready("slurm", error.to_string());
        });
        let queue = queue.context("Slurm does not answer")?;
        self.readiness.ready("slurm");
        let (ended, missing) = self.launches.book(|book| book.take_in(queue, begun));
        self.launches.looked();
        self.write(ended).await;
        self.look_for(missing, begun).await?;
        self.tell_hidden();
        Ok(())
    }

    /// Logs when Slurm begins to hide Slurm jobs.
    fn tell_hidden(&self) {
        let hidden = self.launches.book(|book| book.hidden());
        if self.hidden.swap(hidden, Ordering::Relaxed) == 0 && hidden > 0 {
            tracing::error!(
                slurm_jobs = hidden,
                "{HIDDEN}; they count as pending until their launch tokens expire"
            );
        }
    }

    /// Asks accounting for the Slurm jobs that a list was without. Only where both have answered, it was complete.
    async fn look_for(&self, missing: Vec<SlurmJobId>, begun: u64) -> anyhow::Result<()> {
        for ids in missing.chunks(MAX_USAGES_AT_ONCE) {
            let answer = if self.has_accounting() {
                self.slurm.usage(ids).await
            } else {
                Ok(None)
            };
            let jobs = answer.with_context(|| {
                let missing = missing.len();
                format!("{missing} Slurm jobs are in no list; how they ended is not known yet")
            })?;
            let jobs = jobs.unwrap_or_default();
            let ended = self
                .launches
                .book(|book| book.take_in_missing(ids, &jobs, begun));
            if !ended.is_empty() {
                self.launches.looked();
            }
            self.write(ended).await;
        }
        Ok(())
    }

    /// Asks accounting what ended Slurm jobs used. `failing`: it failed before, which is logged once. Returns whether it fails.
    async fn ask_usage(&self, failing: bool) -> bool {
        let due = self.launches.book(Book::usage_due);
        if due.is_empty() {
            return failing;
        }
        match self.slurm.usage(&due).await {
            Ok(Some(usages)) => {
                let changed = self.launches.book(|book| book.take_in_usage(&usages));
                self.write(changed).await;
                false
            }
            Ok(None) => {
                tracing::info!(
                    "Slurm has no accounting here: what Slurm jobs use is not known; carrying on without"
                );
                self.launches.book(Book::has_no_accounting);
                false
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "what Slurm jobs used is not known yet");
                }
                true
            }
        }
    }

    /// Forgets launches that are over and that no launcher can ask for again, on disk first: a launch that is not in the book would be
    /// written anew.
    async fn prune(&self) -> anyhow::Result<()> {
        let before = self.clock.now() - REMEMBER;
        let past = self.launches.book(|book| book.past(before));
        if past.is_empty() {
            return Ok(());
        }
        let (ledger, launches) = (Arc::clone(&self.ledger), past.clone());
        let removed = tokio::task::spawn_blocking(move || ledger.remove(&launches)).await;
        removed
            .map_err(std::io::Error::other)
            .flatten()
            .context("the ledger cannot be pruned")?;
        self.launches.book(|book| book.forget(&past, before));
        tracing::debug!(
            pruned = past.len(),
            "launches of expired launch tokens are forgotten"
        );
        Ok(())
    }

    async fn write(&self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let ledger = Arc::clone(&self.ledger);
        let write = move || entries.iter().try_for_each(|entry| ledger.write(entry));
        let written = tokio::task::spawn_blocking(write).await;
        if let Err(error) = written.map_err(std::io::Error::other).flatten() {
            tracing::error!(%error, "the end of a Slurm job cannot be written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;
    use std::sync::atomic::AtomicI64;
    use std::sync::{Mutex, PoisonError};

    use async_trait::async_trait;
    use chrono::{DateTime, Utc};
    use gha_slurm_domain::{LaunchId, SlurmState, SlurmUser, Usage};
    use gha_slurm_slurm::{
        Cancellation, CannotAct, JobUsage, Numbers, Queue, SlurmJob, SlurmUnavailable, Submission,
        SubmitError, Survey,
    };

    use super::*;

    const LAUNCHES: u32 = 100_000;
    const A_DAY: u32 = 1_000;
    /// Days that launches are remembered: that of the launch token's expiry, seven, and the one that is going on.
    const DAYS: usize = 9;

    /// A Slurm whose queue is what the test puts there, and whose accounting knows every Slurm job.
    #[derive(Default)]
    struct Played(Mutex<Vec<SlurmJob>>);

    impl Played {
        fn holds(&self, jobs: Vec<SlurmJob>) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = jobs;
        }
    }

    #[async_trait]
    impl Slurm for Played {
        async fn submit(&self, _: &Submission) -> Result<SlurmJobId, SubmitError> {
            unimplemented!("the test writes what was submitted")
        }

        async fn list(&self, _: &Numbers) -> Result<Queue, SlurmUnavailable> {
            Ok(Queue {
                ours: self.0.lock().unwrap().clone(),
                others: HashMap::new(),
                shows_everybody: true,
            })
        }

        async fn cancel(
            &self,
            _: &[Cancellation],
            _: &Numbers,
        ) -> Result<Vec<LaunchId>, SlurmUnavailable> {
            Ok(Vec::new())
        }

        async fn usage(
            &self,
            ids: &[SlurmJobId],
        ) -> Result<Option<Vec<JobUsage>>, SlurmUnavailable> {
            let usage = |id: &SlurmJobId| JobUsage {
                id: id.clone(),
                submitted_at: None,
                state: SlurmState::Completed,
                usage: Usage::default(),
            };
            Ok(Some(ids.iter().map(usage).collect()))
        }

        async fn survey(&self) -> Result<Survey, SlurmUnavailable> {
            Err(SlurmUnavailable("played".into()))
        }

        async fn may_act_as(&self, _: &SlurmUser) -> Result<String, CannotAct> {
            Ok("played".into())
        }

        async fn preview(&self, _: &Submission) -> Result<String, SlurmUnavailable> {
            Ok(String::new())
        }

        async fn stop(&self) {}
    }

    fn submitted(number: u32, now: DateTime<Utc>) -> Entry {
        Entry {
            launch: LaunchId(uuid::Uuid::from_u128(number.into())),
            slurm_user: "alice".parse().unwrap(),
            repository_id: 1,
            repository_url: "https://github.com/acme/widgets".into(),
            intended_at: now,
            launcher: None,
            expires_at: Some(now + TimeDelta::hours(24)),
            slurm_job_id: Some(number.to_string().parse().unwrap()),
            answered_at: None,
            ended: None,
        }
    }

    fn job(entry: &Entry, state: SlurmState) -> SlurmJob {
        SlurmJob {
            launch: entry.launch,
            id: entry.slurm_job_id.clone().unwrap(),
            user: entry.slurm_user.to_string(),
            state,
            reason: None,
            starts_at: None,
            ended_at: None,
            nodes: None,
            exit_code: None,
        }
    }

    fn files(state: &Path) -> usize {
        std::fs::read_dir(state.join("launches")).unwrap().count()
    }

    /// A hundred days of a busy cluster: a thousand short launches each.
    #[tokio::test]
    async fn memory_and_files_are_bounded_over_100_000_launches() {
        // Memory is enough of a disk: nothing is lost in it that matters here.
        let memory = Path::new("/dev/shm");
        let state = if memory.is_dir() {
            tempfile::tempdir_in(memory).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        let time = Arc::new(AtomicI64::new(1_800_000_000));
        let seconds = Arc::clone(&time);
        let clock = Clock::new(move || {
            DateTime::from_timestamp(seconds.load(Ordering::SeqCst), 0).unwrap()
        });
        let slurm = Arc::new(Played::default());
        let polling = Polling {
            slurm: Arc::clone(&slurm) as Arc<dyn Slurm>,
            launches: Arc::new(Launches::new(Vec::new(), clock.clone())),
            ledger: Arc::new(Ledger::open(state.path()).unwrap()),
            readiness: Readiness::default(),
            clock: clock.clone(),
            hidden: AtomicUsize::new(0),
        };
        let launches = &polling.launches;
        let (mut told, mut last) = (0, 0);
        for day in 0..LAUNCHES / A_DAY {
            let numbers = day * A_DAY + 1..=(day + 1) * A_DAY;
            let entries: Vec<Entry> = numbers.map(|n| submitted(n, clock.now())).collect();
            for entry in &entries {
                let place = launches.reserve(entry.launch, |_, live| {
                    // What ended counts no more.
                    if live.total < A_DAY {
                        Ok(())
                    } else {
                        Err(live)
                    }
                });
                let place = place.unwrap();
                polling.ledger.write(entry).unwrap();
                launches.book(|book| book.remember(entry.clone()));
                drop(place);
            }
            for state in [SlurmState::Running, SlurmState::Completed] {
                slurm.holds(entries.iter().map(|entry| job(entry, state)).collect());
                polling.look().await.unwrap();
            }
            while launches.book(|book| book.sizes().unaccounted) > 0 {
                polling.ask_usage(false).await;
            }
            // Outbound mode reports each change, and nothing else.
            loop {
                let (news, number) = launches.book(|book| book.changed_since(last, 300));
                if news.is_empty() {
                    break;
                }
                told += news.len();
                last = number;
            }
            time.fetch_add(24 * 3600, Ordering::SeqCst);
            polling.prune().await.unwrap();
            let sizes = launches.book(|book| book.sizes());
            let most = DAYS * A_DAY as usize;
            assert!(sizes.known <= most, "day {day}: {sizes:?}");
            assert_eq!(sizes.changes, sizes.known);
            assert_eq!((sizes.live, sizes.strays, sizes.asked), (0, 0, 0));
            assert_eq!(files(state.path()), sizes.known);
        }
        assert_eq!(told, LAUNCHES as usize);
        // A restart finds what is left.
        let left = polling.ledger.all().unwrap().len();
        assert_eq!(left, launches.book(|book| book.sizes().known));
        // Once nothing is launched any more, nothing is left.
        time.fetch_add(10 * 24 * 3600, Ordering::SeqCst);
        polling.prune().await.unwrap();
        assert_eq!(
            (files(state.path()), launches.book(|b| b.sizes().known)),
            (0, 0)
        );
    }
}
