//! The launcher's loops. Each look begins a task whose steps are a call to the outside or a transaction: two launchers are two tasks.

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_domain::launch::{Attribution, Happening, Launch, SlurmReport};
use gha_slurm_domain::workflow_job::WorkflowJobFacts;
use gha_slurm_domain::{
    LaunchId, LaunchState, SlurmJobId, SlurmState, WorkflowJobId, WorkflowJobState,
};

use crate::broker::name_of;
use crate::github::Deletion;
use crate::planning::is_expiring;
use crate::slurm::Answer;
use crate::world::{Luck, Task, World};

/// A process submits a launch so long, then another may.
const LEASE: TimeDelta = TimeDelta::seconds(60);
const LIMIT_RETRY: TimeDelta = TimeDelta::seconds(30);
const TROUBLE_RETRY: TimeDelta = TimeDelta::seconds(10);
const DEREGISTER_RETRY: TimeDelta = TimeDelta::seconds(30);
/// A launch token is valid so long.
pub const TOKEN_LIFETIME: TimeDelta = TimeDelta::hours(25);
/// The reconciler's settings (their defaults).
const UNATTRIBUTED: TimeDelta = TimeDelta::seconds(60);
const UNATTRIBUTED_LIMIT: TimeDelta = TimeDelta::seconds(600);
const SET_UP_LIMIT: TimeDelta = TimeDelta::seconds(1800);
const LISTENING_LIMIT: TimeDelta = TimeDelta::seconds(900);

/// A question about a workflow job, and what was known of it then.
#[derive(Debug, Clone)]
pub struct Ask {
    job: WorkflowJobId,
    asked_at: Option<DateTime<Utc>>,
    answer: Option<Option<(i64, WorkflowJobFacts)>>,
}

impl Ask {
    pub fn new(w: &World, job: WorkflowJobId) -> Self {
        let known = w.db.jobs.get(&job);
        Self {
            job,
            asked_at: known.map(|job| job.updated_at),
            answer: None,
        }
    }

    pub fn step(mut self, w: &mut World, luck: Luck) -> Option<Task> {
        match self.answer.take() {
            None if luck == Luck::Trouble => None,
            None => {
                self.answer = Some(w.github.facts(self.job.0));
                Some(Task::Ask(self))
            }
            Some(answer) => {
                self.record(w, answer);
                None
            }
        }
    }

    /// The answer is stored and planned with. Returns the state afterwards.
    fn record(
        &self,
        w: &mut World,
        answer: Option<(i64, WorkflowJobFacts)>,
    ) -> Option<WorkflowJobState> {
        w.db.questions.remove(&self.job);
        let current = w.db.jobs.get(&self.job)?;
        let class = current.class;
        match answer {
            None => {
                let (job, _) = current.forgotten(w.now);
                w.db.save_job(job);
                w.decide_and_plan(self.job, class);
            }
            Some((repository, facts)) => {
                let heard = WorkflowJobState::from_github(&facts.status)?;
                let is_newest = Some(current.updated_at) == self.asked_at;
                let is_back =
                    heard == WorkflowJobState::Waiting && current.state == WorkflowJobState::Queued;
                if is_newest && is_back {
                    let (job, _) = current.waits_after_all(w.now);
                    w.db.save_job(job);
                    w.decide_and_plan(self.job, class);
                } else {
                    w.learn(repository, facts, heard);
                }
            }
        }
        w.db.jobs.get(&self.job).map(|job| job.state)
    }
}

/// The submission of one launch.
#[derive(Debug, Clone)]
pub struct Submit {
    launch: LaunchId,
    lease_until: DateTime<Utc>,
    step: Submission,
}

#[derive(Debug, Clone)]
enum Submission {
    Verify(Ask),
    Call,
    Store(Answer, DateTime<Utc>),
}

impl Submit {
    /// Leases a launch that is due.
    pub fn begin(w: &mut World, launch: LaunchId) -> Option<Task> {
        let until = w.now + LEASE;
        let applied = w.happen(launch, Happening::Leased { until }).ok()?;
        let step = if applied.launch.submission.verify_demand {
            Submission::Verify(Ask::new(w, applied.launch.cause))
        } else {
            Submission::Call
        };
        Some(Task::Submit(Self {
            launch,
            lease_until: until,
            step,
        }))
    }

    /// A launcher that is killed does not call the agent after its lease: it would have to hang first, and then to be killed.
    pub fn can_crash(&self, now: DateTime<Utc>) -> bool {
        now <= self.lease_until || !matches!(self.step, Submission::Store(..))
    }

    pub fn step(mut self, w: &mut World, luck: Luck) -> Option<Task> {
        self.step = match self.step.clone() {
            Submission::Verify(mut ask) => match ask.answer.take() {
                None if luck == Luck::Trouble => {
                    self.delayed(w, "GitHub does not answer", false, TROUBLE_RETRY);
                    return None;
                }
                None => {
                    ask.answer = Some(w.github.facts(ask.job.0));
                    Submission::Verify(ask)
                }
                Some(answer) => {
                    if ask.record(w, answer) == Some(WorkflowJobState::Queued) {
                        w.happen(self.launch, Happening::DemandConfirmed).ok()?;
                        Submission::Call
                    } else {
                        self.find_other_cause(w);
                        return None;
                    }
                }
            },
            Submission::Call => {
                let token_expires_at = w.now + TOKEN_LIFETIME;
                let answer = match luck {
                    Luck::Trouble => Answer::Unavailable,
                    _ => w.slurm.submit(self.launch, token_expires_at),
                };
                // The call timed out after the agent had accepted it.
                let answer = if luck == Luck::Unanswered {
                    Answer::Unavailable
                } else {
                    answer
                };
                Submission::Store(answer, token_expires_at)
            }
            Submission::Store(answer, token_expires_at) => {
                match answer {
                    Answer::Accepted(number) => {
                        let _ = w.happen(
                            self.launch,
                            Happening::Accepted {
                                cluster: "main".to_owned(),
                                slurm_job: SlurmJobId::try_from(number.to_string()).ok(),
                                token_expires_at,
                            },
                        );
                    }
                    Answer::Limit => self.delayed(w, "a limit is reached", true, LIMIT_RETRY),
                    Answer::Unavailable => {
                        self.delayed(w, "the agent does not answer", false, TROUBLE_RETRY);
                    }
                    Answer::Refused => {
                        let words = "the cluster's policy refuses it".to_owned();
                        let _ = w.happen(self.launch, Happening::Refused { words });
                    }
                }
                return None;
            }
        };
        Some(Task::Submit(self))
    }

    fn delayed(&self, w: &mut World, reason: &str, is_limit: bool, after: TimeDelta) {
        let next = w.now + after;
        let reason = reason.to_owned();
        let _ = w.happen(
            self.launch,
            Happening::Delayed {
                reason,
                is_limit,
                next,
            },
        );
    }

    fn find_other_cause(&self, w: &mut World) {
        let class = w.db.launches.get(&self.launch).map(|launch| launch.class);
        let queued = class.map(|class| w.db.queued(class)).unwrap_or_default();
        if let Some(cause) = queued.first() {
            let _ = w.happen(self.launch, Happening::CausedBy(*cause));
        }
    }
}

/// Why a runner is deregistered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    Marked,
    Silent,
    Unattributed,
}

/// GitHub is asked to delete a runner; then that is stored.
#[derive(Debug, Clone)]
pub struct Deregister {
    launch: LaunchId,
    id: Option<i64>,
    attempt: u32,
    because: Because,
    answer: Option<Option<Deletion>>,
}

impl Deregister {
    pub fn begin(launch: &Launch, because: Because) -> Option<Task> {
        let runner = launch.runner()?;
        Some(Task::Deregister(Self {
            launch: launch.id,
            id: runner.github_id,
            attempt: runner.mint_attempt,
            because,
            answer: None,
        }))
    }

    pub fn step(mut self, w: &mut World, luck: Luck) -> Option<Task> {
        let Some(answer) = self.answer else {
            let is_asked = luck != Luck::Trouble;
            self.answer = Some(is_asked.then(|| self.delete(w)));
            return Some(Task::Deregister(self));
        };
        let happening = match (answer, self.because) {
            (Some(Deletion::Busy), Because::Marked | Because::Silent) => {
                Happening::DeregistrationRefused
            }
            (Some(_), Because::Silent) => Happening::Silent {
                attempt: self.attempt,
            },
            (Some(Deletion::Deleted), Because::Marked | Because::Unattributed) => {
                Happening::Deregistered {
                    attempt: self.attempt,
                }
            }
            (Some(Deletion::NotFound), Because::Marked) => Happening::DeregistrationUnknown,
            (Some(Deletion::Busy | Deletion::NotFound), Because::Unattributed)
            | (None, Because::Silent | Because::Unattributed) => return None,
            (None, Because::Marked) => Happening::DeregistrationDelayed {
                until: w.now + DEREGISTER_RETRY,
            },
        };
        let _ = w.happen(self.launch, happening);
        None
    }

    /// Where GitHub's id is not known, an earlier attempt may have left a registration, too.
    fn delete(&self, w: &mut World) -> Deletion {
        let first = if self.id.is_some() { self.attempt } else { 1 };
        let deletions = (first..=self.attempt).map(|attempt| {
            let name = name_of(self.launch, attempt);
            w.github.delete(self.id, &name)
        });
        let all: Vec<Deletion> = deletions.collect();
        let has = |deletion| all.contains(&deletion).then_some(deletion);
        has(Deletion::Busy)
            .or(has(Deletion::Deleted))
            .unwrap_or(Deletion::NotFound)
    }
}

/// The agent is asked to cancel; then that is stored.
#[derive(Debug, Clone)]
pub struct Cancel {
    launch: LaunchId,
    is_cancelled: Option<bool>,
}

impl Cancel {
    pub fn new(launch: LaunchId) -> Self {
        Self {
            launch,
            is_cancelled: None,
        }
    }

    pub fn step(mut self, w: &mut World, luck: Luck) -> Option<Task> {
        if let Some(is_cancelled) = self.is_cancelled {
            let _ = w.happen(self.launch, Happening::CancelAsked { is_cancelled });
            return None;
        }
        if luck == Luck::Trouble {
            return None;
        }
        let problem = w.github.is_busy(self.launch).then(|| {
            format!(
                "launch {} is cancelled although its runner has work",
                self.launch.0.as_u128()
            )
        });
        let running = w
            .slurm
            .report(self.launch)
            .filter(|(_, state)| !state.is_over());
        if let Some((number, _)) = running {
            w.wrong(problem);
            w.killed(number, SlurmState::Cancelled, luck == Luck::Refused);
        }
        self.is_cancelled = Some(running.is_some());
        (luck != Luck::Unanswered).then_some(Task::Cancel(self))
    }
}

/// Slurm's states are read; then they are stored.
#[derive(Debug, Clone)]
pub struct Watch(Vec<(LaunchId, i64, SlurmState)>);

impl Watch {
    pub fn begin(w: &World) -> Self {
        let watched = w.db.launches.values().filter(|launch| launch.is_watched());
        let reports = watched.filter_map(|launch| {
            let (number, state) = w.slurm.report(launch.id)?;
            Some((launch.id, number, state))
        });
        Self(reports.collect())
    }

    pub fn step(mut self, w: &mut World) -> Option<Task> {
        let (launch, number, state) = self.0.pop()?;
        let report = SlurmReport::new(state);
        let slurm_job = SlurmJobId::try_from(number.to_string()).ok();
        let _ = w.happen(
            launch,
            Happening::SlurmReported {
                report,
                slurm_job,
                exit_code: None,
                ended_at: None,
            },
        );
        (!self.0.is_empty()).then_some(Task::Watch(self))
    }
}

/// A repository is compared with GitHub's list of live workflow jobs.
#[derive(Debug, Clone)]
pub struct Compare {
    repository: i64,
    unfinished: Vec<WorkflowJobId>,
    listed: Option<Vec<(i64, WorkflowJobFacts)>>,
}

impl Compare {
    pub fn begin(w: &World, repository: i64) -> Self {
        let jobs =
            w.db.jobs
                .values()
                .filter(|job| job.repository.0 == repository);
        let unfinished = jobs.filter(|job| job.state != WorkflowJobState::Completed);
        Self {
            repository,
            unfinished: unfinished.map(gha_slurm_domain::WorkflowJob::id).collect(),
            listed: None,
        }
    }

    pub fn step(mut self, w: &mut World, luck: Luck) -> Option<Task> {
        let Some(listed) = self.listed.take() else {
            if luck == Luck::Trouble {
                return None;
            }
            let live = w.github.jobs.iter().filter(|(_, job)| {
                job.repository == self.repository && job.state != WorkflowJobState::Completed
            });
            self.listed = Some(live.filter_map(|(id, _)| w.github.facts(*id)).collect());
            return Some(Task::Compare(self));
        };
        for job in self.unfinished {
            if !listed.iter().any(|(_, facts)| facts.id == job.0) {
                w.db.questions.insert(job, w.now);
            }
        }
        for (repository, facts) in listed {
            if let Some(heard) = WorkflowJobState::from_github(&facts.status) {
                w.learn(repository, facts, heard);
            }
        }
        None
    }
}

/// What the loops find due.
impl World {
    fn launches_that(&self, is_due: impl Fn(&Launch) -> bool) -> Vec<LaunchId> {
        let due = self.db.launches.values().filter(|launch| is_due(launch));
        due.map(|launch| launch.id).collect()
    }

    pub fn to_submit(&self) -> Vec<LaunchId> {
        let now = self.now;
        self.launches_that(|launch| {
            launch.state.stage() == LaunchState::Planned
                && launch.submission.not_before <= now
                && launch.submission.lease_until.is_none_or(|until| until <= now)
                // What a limit refuses for one of a class, it refuses for all.
                && self.db.oldest_limited(launch.class).is_none_or(|oldest| {
                    (oldest.planned_at, oldest.id) >= (launch.planned_at, launch.id)
                })
        })
    }

    pub fn to_cancel(&self) -> Vec<LaunchId> {
        self.launches_that(|launch| launch.slurm.cancel_at.is_some_and(|at| at <= self.now))
    }

    pub fn to_deregister(&self) -> Vec<LaunchId> {
        self.launches_that(|launch| {
            launch
                .runner()
                .and_then(|runner| runner.deregister_at)
                .is_some_and(|at| at <= self.now)
        })
    }

    pub fn silent(&self) -> Vec<LaunchId> {
        self.launches_that(|launch| {
            let Some(runner) = launch.runner() else {
                return false;
            };
            match launch.state.stage() {
                LaunchState::Redeeming | LaunchState::Registered => {
                    runner.created_at + SET_UP_LIMIT <= self.now
                }
                LaunchState::Listening => runner
                    .listening_at
                    .is_some_and(|at| at + LISTENING_LIMIT <= self.now),
                _ => false,
            }
        })
    }

    pub fn unattributed(&self) -> Vec<LaunchId> {
        self.launches_that(|launch| {
            launch.work().is_some_and(|work| {
                work.attribution == Attribution::Unknown
                    && work
                        .started_at
                        .is_some_and(|at| at + UNATTRIBUTED <= self.now)
            })
        })
    }

    /// Which workflow job has it? The run that its node named says so; otherwise every open one of the scope may be it.
    pub fn look_for_workflow_job(&mut self, id: LaunchId) {
        let Some(launch) = self.db.launches.get(&id) else {
            return;
        };
        let (Some(work), Some(runner)) = (launch.work(), launch.runner()) else {
            return;
        };
        let named = work
            .run
            .and_then(|run| self.github.facts(run.id))
            .filter(|(_, facts)| facts.runner_name.as_ref() == Some(&runner.name));
        let is_over_limit = work
            .started_at
            .is_some_and(|at| at + UNATTRIBUTED_LIMIT <= self.now);
        let repository = launch.repository;
        if let Some((repository, facts)) = named
            && let Some(heard) = WorkflowJobState::from_github(&facts.status)
        {
            self.learn(repository, facts, heard);
        } else if is_over_limit {
            let _ = self.happen(id, Happening::AttributionGivenUp);
        } else {
            let jobs = self.db.jobs.values();
            for job in jobs.filter(|job| job.repository == repository && job.is_open()) {
                self.db.questions.insert(job.id(), self.now);
            }
            let deregister = Deregister::begin(launch, Because::Unattributed);
            self.tasks.extend(deregister);
        }
    }

    /// Plans what asked for it, and what only time changes: launch tokens that expire.
    pub fn sweep(&mut self) {
        let deadline = self.now + self.limits.token_margin;
        for launch in self.db.launches.values() {
            if launch.is_supply() && is_expiring(launch, deadline) {
                self.db.replan.insert(launch.class);
            }
        }
        while let Some(class) = self.db.replan.pop_first() {
            self.plan_class(class);
        }
    }

    /// The agent says that something has ended: of each class the oldest that a limit delays tries at once.
    pub fn try_limited(&mut self) {
        let classes: Vec<_> = self.db.classes.keys().copied().collect();
        for class in classes {
            let oldest = self.db.oldest_limited(class).map(|launch| launch.id);
            if let Some(oldest) = oldest {
                let _ = self.happen(oldest, Happening::MayTryAgain);
            }
        }
    }
}
