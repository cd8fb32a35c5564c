//! Everything that can happen to a launch, and what follows: the one pure function that decides it.

use chrono::{DateTime, TimeDelta, Utc};

use super::outcome::{Blame, MOST_ATTEMPTS};
use super::{
    Attribution, Caller, Launch, Outcome, Over, Run, Runner, RunnerMode, SlurmReport, State, Why,
    Work,
};
use crate::ids::{RunnerId, SlurmJobId, WorkflowJobId};
use crate::planner::may_issue;
use crate::slurm_state::SlurmState;
use crate::timeline::{Entry, Kind, happened};

/// A node that reports the end of its runner gives an unused registration back next; otherwise the launcher does, after this.
const GIVES_BACK_WITHIN: TimeDelta = TimeDelta::minutes(1);

/// The second attempt may begin at once, the third so long after the first, each later one after twice the time: the eighth after
/// 320 s. One more, which ends the launch, comes after 640 s, when a job script has given up by itself (after 600 s).
const THIRD_ATTEMPT_AFTER: TimeDelta = TimeDelta::seconds(10);

/// Something that happens to a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// A process submits it until then.
    Leased {
        /// End of its lease.
        until: DateTime<Utc>,
    },
    /// GitHub says that the workflow job that caused it still waits.
    DemandConfirmed,
    /// The workflow job that caused it does not wait any more, but another one of its class does.
    CausedBy(WorkflowJobId),
    /// The agent has it.
    Accepted {
        /// The agent's cluster.
        cluster: String,
        /// Its Slurm job, if the agent says which.
        slurm_job: Option<SlurmJobId>,
        /// When its launch token expires.
        token_expires_at: DateTime<Utc>,
    },
    /// The submission failed in a way that may pass.
    Delayed {
        /// Why, for people.
        reason: String,
        /// Whether a limit is the reason: then it concerns all of its class.
        is_limit: bool,
        /// When to try again.
        next: DateTime<Utc>,
    },
    /// Something has ended at the cluster: what a limit delays may be tried now.
    MayTryAgain,
    /// The agent or Slurm refused it for good.
    Refused {
        /// Their words.
        words: String,
    },
    /// Slurm reported about its Slurm job.
    SlurmReported {
        /// The report.
        report: SlurmReport,
        /// The Slurm job it is about, where the agent knows.
        slurm_job: Option<SlurmJobId>,
        /// The job script's exit code, after its end.
        exit_code: Option<i32>,
        /// When it ended.
        ended_at: Option<DateTime<Utc>>,
    },
    /// Its node sent the launch token back.
    CalledBack {
        /// Who.
        caller: Caller,
        /// Which runner token is wanted.
        mode: RunnerMode,
        /// May it have one?
        admission: Admission,
        /// Id of the runner, if this is the first call.
        runner: RunnerId,
        /// The runner's name for the attempt that this becomes.
        name: String,
    },
    /// Its runner is registered at GitHub, or a registration token was made.
    Minted {
        /// Which attempt.
        attempt: u32,
        /// GitHub's id of the runner, with JIT.
        github_id: Option<i64>,
        /// SHA-256 of its progress token.
        progress_token_hash: Vec<u8>,
    },
    /// GitHub refused to register its runner.
    MintFailed {
        /// GitHub's words.
        words: String,
    },
    /// Its node reported how far the runner is.
    Progressed {
        /// How far.
        phase: Phase,
        /// When, by the node's clock.
        at: Option<DateTime<Utc>>,
    },
    /// Its node, which has no progress token, reported the end: of a launch that never got a runner token.
    EndedBeforeRunner {
        /// How it ended.
        outcome: Outcome,
        /// End of the job script's log.
        log_tail: Option<String>,
        /// When, by the node's clock.
        at: Option<DateTime<Utc>>,
    },
    /// The planner does not want it any more and it has no runner token yet.
    NotWanted(Why),
    /// The planner does not want its idle runner any more: GitHub must be asked whether it has work.
    ReleaseWanted(Why),
    /// The planner wants its idle runner after all.
    ReleaseNotWanted,
    /// GitHub deregistered its runner: no workflow job can reach it.
    Deregistered {
        /// Which registration GitHub was asked about: its node may have been given a newer one meanwhile.
        attempt: u32,
    },
    /// GitHub refused to deregister its runner: it has work.
    DeregistrationRefused,
    /// GitHub does not know its runner: not registered yet, or over. Its node will report which.
    DeregistrationUnknown,
    /// GitHub could not be asked; again then.
    DeregistrationDelayed {
        /// When.
        until: DateTime<Utc>,
    },
    /// Its node saw no workflow job in time, and GitHub does not have its runner any more.
    GaveUpIdle,
    /// Nothing came from its node for long, and GitHub does not have its runner any more.
    Silent {
        /// Which registration GitHub was asked about: its node may have been given a newer one meanwhile.
        attempt: u32,
    },
    /// GitHub says which workflow job its runner has.
    Attributed(WorkflowJobId),
    /// GitHub knows no workflow job that its runner took.
    AttributionGivenUp,
    /// An administrator wants its workflow job to end: its Slurm job is cancelled, whatever runs in it.
    CancelWanted,
    /// The agent was asked to cancel its Slurm job.
    CancelAsked {
        /// Whether the agent cancelled one now.
        is_cancelled: bool,
    },
}

/// How far a runner is, as its node reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It is being set up.
    SetUp {
        /// On this node.
        node: Option<String>,
    },
    /// "Listening for Jobs".
    Listening,
    /// A workflow job started in it.
    WorkflowJobStarted {
        /// The workflow run, where the node knows.
        run: Option<Run>,
    },
    /// It is over.
    Finished {
        /// How.
        outcome: Outcome,
        /// End of the job script's log.
        log_tail: Option<String>,
    },
}

/// What decides whether a node may have a runner token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Why the repository may not be served, or not for this class.
    pub refusal: Option<Why>,
    /// Queued workflow jobs of the class.
    pub demand: usize,
    /// Launches of the class that were given a runner token and have no workflow job yet.
    pub redeemed: usize,
}

/// What must be known beside the launch itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Context {
    /// Queued workflow jobs of the class. A launch that ends without one while none waits is no failure.
    pub demand: usize,
}

/// What follows from a happening, beside the new state. Rows are written in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// People see this.
    Timeline(Entry),
    /// Supply changed, or a decision is due: the class is planned again.
    Replan,
    /// The class failed once more.
    ClassFailed(String),
    /// Slurm lost a launch of the class.
    ClassLost(String),
    /// The class is refused for good.
    ClassRefused(String),
    /// A workflow job started: the class works.
    ClassWorks,
    /// A launch fitted under the limit that had delayed it: the next one of the class may fit too.
    TryNextOfClass,
}

/// A launch after something happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The launch.
    pub launch: Launch,
    /// What follows.
    pub effects: Vec<Effect>,
}

/// Why a happening is refused. The words are the answer to a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Nothing waits for it: 410.
    #[error("{0}")]
    Gone(String),
    /// Somebody else has it, or redemption is closed: 409.
    #[error("{0}")]
    Conflict(String),
    /// The next attempt to register its runner is not due yet: 429.
    #[error(
        "the launch token was redeemed {attempts} times already: try again in {} s",
        wait.num_seconds()
    )]
    TooSoon {
        /// Attempts so far.
        attempts: u32,
        /// Until the next may begin, in whole seconds.
        wait: TimeDelta,
    },
    /// Slurm has not started its Slurm job, as far as is known: look again, and answer 503.
    #[error("Slurm has not started Slurm job {0} yet")]
    NotStarted(SlurmJobId),
    /// It is too late for this, or it is known already: nothing changes.
    #[error("it is too late for that")]
    Late,
}

type Outcomes = Result<Applied, Rejected>;

impl Launch {
    /// What becomes of the launch when `happening` happens at `now`. Pure: whatever it needs to know is in its arguments.
    ///
    /// A refusal that changes the launch (a node is turned away) is an `Ok` whose state is over: see [`Applied::turned_away`].
    pub fn apply(&self, happening: Happening, context: Context, now: DateTime<Utc>) -> Outcomes {
        let change = Change {
            launch: self.clone(),
            effects: Vec::new(),
            context,
            now,
        };
        match happening {
            Happening::Leased { until } => change.leased(until),
            Happening::DemandConfirmed => Ok(change.demand_confirmed()),
            Happening::CausedBy(workflow_job) => change.caused_by(workflow_job),
            Happening::Accepted {
                cluster,
                slurm_job,
                token_expires_at,
            } => Ok(change.accepted(cluster, slurm_job, token_expires_at)),
            Happening::Delayed {
                reason,
                is_limit,
                next,
            } => Ok(change.delayed(reason, is_limit, next)),
            Happening::MayTryAgain => change.may_try_again(),
            Happening::Refused { words } => change.refused(words),
            Happening::SlurmReported {
                report,
                slurm_job,
                exit_code,
                ended_at,
            } => change.slurm_reported(report, slurm_job.as_ref(), exit_code, ended_at),
            Happening::CalledBack {
                caller,
                mode,
                admission,
                runner,
                name,
            } => change.called_back(caller, mode, admission, runner, name),
            Happening::Minted {
                attempt,
                github_id,
                progress_token_hash,
            } => change.minted(attempt, github_id, progress_token_hash),
            Happening::MintFailed { words } => change.mint_failed(words),
            Happening::Progressed { phase, at } => change.progressed(phase, at),
            Happening::EndedBeforeRunner {
                outcome,
                log_tail,
                at,
            } => change.ended_before_runner(outcome, log_tail, at),
            Happening::NotWanted(why) => change.not_wanted(why),
            Happening::ReleaseWanted(why) => change.release_wanted(why),
            Happening::ReleaseNotWanted => change.release_not_wanted(),
            Happening::Deregistered { attempt } => change.deregistered(attempt),
            Happening::DeregistrationRefused => Ok(change.deregistration_refused()),
            Happening::DeregistrationUnknown => Ok(change.deregistration_unknown()),
            Happening::DeregistrationDelayed { until } => Ok(change.deregister_at(Some(until))),
            Happening::GaveUpIdle => Ok(change.gave_up(Outcome::Idle)),
            Happening::Silent { attempt } => change.silent(attempt),
            Happening::Attributed(workflow_job) => change.attributed(workflow_job),
            Happening::AttributionGivenUp => change.attribution_given_up(),
            Happening::CancelWanted => change.cancel_wanted(),
            Happening::CancelAsked { is_cancelled } => Ok(change.cancel_asked(is_cancelled)),
        }
    }
}

impl Applied {
    /// Why the node is turned away although the happening was applied: the launch is over. Answer 410.
    pub fn turned_away(&self) -> Option<String> {
        self.launch.over().map(|over| over.outcome.explained())
    }
}

/// When an attempt to register a runner that was made at `created_at` may begin.
fn attempt_due(created_at: DateTime<Utc>, attempt: u32) -> DateTime<Utc> {
    match attempt.checked_sub(3) {
        None => created_at,
        Some(doublings) => created_at + THIRD_ATTEMPT_AFTER * (1 << doublings.min(MOST_ATTEMPTS)),
    }
}

struct Change {
    launch: Launch,
    effects: Vec<Effect>,
    context: Context,
    now: DateTime<Utc>,
}

/// Submission
impl Change {
    fn leased(mut self, until: DateTime<Utc>) -> Outcomes {
        let State::Planned = self.launch.state else {
            return Err(Rejected::Late);
        };
        let submission = &mut self.launch.submission;
        // One process at a time; a lease that ran out (the process was killed) is taken again.
        let is_held = submission.lease_until.is_some_and(|held| held > self.now);
        if is_held || submission.not_before > self.now {
            return Err(Rejected::Late);
        }
        submission.lease_until = Some(until);
        submission.attempts = submission.attempts.saturating_add(1);
        Ok(self.done())
    }

    fn demand_confirmed(mut self) -> Applied {
        self.launch.submission.verify_demand = false;
        self.done()
    }

    fn caused_by(mut self, workflow_job: WorkflowJobId) -> Outcomes {
        let State::Planned = self.launch.state else {
            return Err(Rejected::Late);
        };
        self.launch.cause = workflow_job;
        self.launch.submission.lease_until = None;
        Ok(self.done())
    }

    /// A launch that was withdrawn or called back meanwhile keeps that state and learns its Slurm job.
    fn accepted(
        mut self,
        cluster: String,
        slurm_job: Option<SlurmJobId>,
        token_expires_at: DateTime<Utc>,
    ) -> Applied {
        let detail = match &slurm_job {
            Some(job) => format!("Submitted to {cluster} as Slurm job {job}"),
            None => {
                format!("Submitted to {cluster}; its agent does not report which Slurm job")
            }
        };
        let slurm = &mut self.launch.slurm;
        slurm.cluster = Some(cluster);
        if slurm.id.is_none() {
            slurm.id = slurm_job;
        }
        slurm.token_expires_at = Some(token_expires_at);
        slurm.submitted_at.get_or_insert(self.now);
        let submission = &mut self.launch.submission;
        submission.lease_until = None;
        let was_limited = std::mem::take(&mut submission.is_limited);
        submission.delay = None;
        if let State::Planned = self.launch.state {
            self.launch.state = State::Submitted;
        }
        self.cancel_if_over();
        self.entry(Kind::Submitted, detail);
        if was_limited {
            self.effects.push(Effect::TryNextOfClass);
        }
        self.done()
    }

    fn delayed(mut self, reason: String, is_limit: bool, next: DateTime<Utc>) -> Applied {
        let submission = &mut self.launch.submission;
        submission.lease_until = None;
        let State::Planned = self.launch.state else {
            // Its answer may be what is lost.
            self.cancel_if_over();
            return self.done();
        };
        submission.not_before = next;
        submission.is_limited = is_limit;
        // The reason is shown once per change.
        if submission.delay.as_ref() != Some(&reason) {
            submission.delay = Some(reason.clone());
            self.entry(Kind::Delayed, reason);
        }
        self.done()
    }

    /// The launch ended while it was submitted. A cancellation that was asked for before the agent had it found nothing.
    fn cancel_if_over(&mut self) {
        let is_over_unused = self.launch.over().is_some_and(|over| over.runner.is_none());
        if is_over_unused || self.launch.slurm.cancel_at.is_some() {
            self.launch.slurm.cancel_at = Some(self.now);
        }
    }

    fn may_try_again(mut self) -> Outcomes {
        let State::Planned = self.launch.state else {
            return Err(Rejected::Late);
        };
        let submission = &mut self.launch.submission;
        submission.not_before = submission.not_before.min(self.now);
        Ok(self.done())
    }

    fn refused(mut self, words: String) -> Outcomes {
        let lease_until = self.launch.submission.lease_until.take();
        let State::Planned = self.launch.state else {
            return Err(Rejected::Late);
        };
        // Another attempt, before or after this one, may have been accepted.
        if self.launch.submission.attempts > 1 {
            let at = lease_until.unwrap_or(self.now);
            self.launch.slurm.cancel_at = Some(at.max(self.now));
        }
        self.effects.push(Effect::ClassRefused(words.clone()));
        self.entry(Kind::Refused, words.clone());
        self.over(Outcome::Refused { words }, None, None);
        self.effects.push(Effect::Replan);
        Ok(self.done())
    }
}

/// Slurm
impl Change {
    fn slurm_reported(
        mut self,
        report: SlurmReport,
        slurm_job: Option<&SlurmJobId>,
        exit_code: Option<i32>,
        ended_at: Option<DateTime<Utc>>,
    ) -> Outcomes {
        let slurm = &mut self.launch.slurm;
        // An agent that reports of its own accord may be faster than its answer to the submission.
        if slurm.submitted_at.is_none() {
            return Err(Rejected::Late);
        }
        // Anybody may write the comment of a launch into a Slurm job of their own, which an agent without its ledger cannot tell.
        if let (Some(known), Some(reported)) = (&slurm.id, slurm_job)
            && known != reported
        {
            return Err(Rejected::Late);
        }
        let before = slurm.report.as_ref();
        if before == Some(&report) {
            return Err(Rejected::Late);
        }
        // A better estimate of the start is no event, nor is that usage came.
        let is_news = before
            .is_none_or(|before| before.state != report.state || before.reason != report.reason);
        let is_over = report.state.is_over();
        let words = report.explained(exit_code);
        let at = if is_over {
            ended_at
        } else {
            report
                .starts_at
                .filter(|_| report.state == SlurmState::Running)
        };
        let is_lost = report.state.is_lost();
        slurm.report = Some(report);
        if is_news {
            let entry = Entry::new(Kind::Slurm, happened(at, self.now), words.clone());
            self.effects.push(Effect::Timeline(entry));
        }
        if is_over {
            // The node may have reported it already, and better.
            let outcome = Outcome::EndedBySlurm { words, is_lost };
            let deregister_at = Some(self.now);
            self.ended(outcome, None, ended_at, deregister_at);
        }
        Ok(self.done())
    }

    fn cancel_wanted(mut self) -> Outcomes {
        let State::Busy(..) = self.launch.state else {
            return Err(Rejected::Late);
        };
        let slurm = &mut self.launch.slurm;
        if slurm.cancel_at.is_some() || slurm.cancelled_at.is_some() {
            return Err(Rejected::Late);
        }
        slurm.cancel_at = Some(self.now);
        Ok(self.done())
    }

    fn cancel_asked(mut self, is_cancelled: bool) -> Applied {
        self.launch.slurm.cancel_at = None;
        self.launch.slurm.cancelled_at = Some(self.now);
        if is_cancelled {
            self.entry(Kind::Cancelled, "Its Slurm job is cancelled");
        }
        self.done()
    }
}

/// Redemption
impl Change {
    fn called_back(
        mut self,
        caller: Caller,
        mode: RunnerMode,
        admission: Admission,
        id: RunnerId,
        name: String,
    ) -> Outcomes {
        let existing = self.launch.runner().cloned();
        match (&self.launch.state, &existing) {
            (State::Over(over), _) => return Err(Rejected::Gone(over.outcome.explained())),
            (_, None) => {
                if let (Some(known), Some(calling)) = (&self.launch.slurm.id, &caller.slurm_job)
                    && known != calling
                {
                    return Err(Rejected::Conflict(format!(
                        "the launch is Slurm job {known}, not {calling}"
                    )));
                }
            }
            (state, Some(runner)) => {
                let bound = &runner.bound_to;
                if bound.slurm_job != caller.slurm_job {
                    let number = bound.slurm_job.as_ref().map_or("?", SlurmJobId::as_str);
                    return Err(Rejected::Conflict(format!(
                        "the launch token was redeemed by Slurm job {number} already"
                    )));
                }
                if caller.restart_count > bound.restart_count {
                    let deregister_at = Some(self.now);
                    self.ended(Outcome::Restarted, None, None, deregister_at);
                    return Ok(self.done());
                }
                // Repeatable by the same until it listens: an answer may have been lost.
                let is_repeatable = caller.restart_count == bound.restart_count
                    && caller.slurm_job.is_some()
                    && matches!(state, State::Redeeming(_) | State::Registered(_));
                if !is_repeatable {
                    return Err(Rejected::Conflict(
                        "the runner of this launch is registered already".into(),
                    ));
                }
            }
        }
        let refusal = admission.refusal.or_else(|| {
            let is_wanted = existing.is_some() || may_issue(admission.demand, admission.redeemed);
            (!is_wanted).then_some(Why::NoDemand)
        });
        if let Some(why) = refusal {
            if existing.is_some() {
                // It may be a late call of a node whose runner has work.
                return Err(Rejected::Gone(why.explained()));
            }
            self.withdraw(why);
            return Ok(self.done());
        }
        // Who reads the launch token of a pending Slurm job, as its user can, is not its node.
        if existing.is_none()
            && let Some(pending) = self.launch.slurm.not_started()
        {
            return Err(Rejected::NotStarted(pending.clone()));
        }
        if let Some(runner) = &existing {
            let attempts = runner.mint_attempt;
            let due = attempt_due(runner.created_at, attempts.saturating_add(1));
            if due > self.now {
                let wait = TimeDelta::seconds((due - self.now).num_seconds() + 1);
                return Err(Rejected::TooSoon { attempts, wait });
            }
            if attempts >= MOST_ATTEMPTS {
                let deregister_at = Some(self.now);
                self.ended(Outcome::RedeemedTooOften, None, None, deregister_at);
                return Ok(self.done());
            }
        }
        let runner = match existing {
            Some(runner) => Runner {
                name,
                mode,
                mint_attempt: runner.mint_attempt.saturating_add(1),
                github_id: None,
                progress_token_hash: None,
                set_up_at: None,
                ..runner
            },
            None => self.first_call(caller, mode, id, name),
        };
        self.launch.state = State::Redeeming(runner);
        Ok(self.done())
    }

    fn first_call(
        &mut self,
        mut caller: Caller,
        mode: RunnerMode,
        id: RunnerId,
        name: String,
    ) -> Runner {
        // It was submitted, even if the launcher ended before it had stored the answer.
        self.launch.slurm.submitted_at.get_or_insert(self.now);
        if caller.slurm_job.is_some() {
            self.launch.slurm.id.clone_from(&caller.slurm_job);
        } else {
            // The original contract does not say which Slurm job calls.
            caller.slurm_job.clone_from(&self.launch.slurm.id);
        }
        self.launch.submission.lease_until = None;
        let job = caller.slurm_job.as_ref().map_or("", SlurmJobId::as_str);
        let node = caller.node.as_deref().unwrap_or("an unnamed node");
        self.entry(
            Kind::Allocated,
            format!("Slurm job {job} runs on {node} and has called back"),
        );
        Runner {
            id,
            name,
            mode,
            bound_to: caller,
            mint_attempt: 1,
            github_id: None,
            progress_token_hash: None,
            created_at: self.now,
            set_up_at: None,
            listening_at: None,
            deregister_at: None,
            not_wanted: None,
        }
    }

    /// Rejected: it was withdrawn, or a newer attempt runs. Who registered the runner deletes it and answers 410.
    fn minted(mut self, attempt: u32, github_id: Option<i64>, hash: Vec<u8>) -> Outcomes {
        let State::Redeeming(runner) = &self.launch.state else {
            return Err(Rejected::Late);
        };
        if runner.mint_attempt != attempt {
            return Err(Rejected::Late);
        }
        let runner = Runner {
            github_id,
            progress_token_hash: Some(hash),
            ..runner.clone()
        };
        let detail = if github_id.is_some() {
            format!("Runner {} is registered at GitHub", runner.name)
        } else {
            format!(
                "A registration token was given out for runner {}",
                runner.name
            )
        };
        self.launch.state = State::Registered(runner);
        self.entry(Kind::Registered, detail);
        Ok(self.done())
    }

    fn mint_failed(mut self, words: String) -> Outcomes {
        if !matches!(
            self.launch.state,
            State::Redeeming(_) | State::Registered(_)
        ) {
            return Err(Rejected::Late);
        }
        // An earlier attempt may have registered one.
        let deregister_at = Some(self.now + GIVES_BACK_WITHIN);
        self.ended(
            Outcome::RefusedByGithub { words },
            None,
            None,
            deregister_at,
        );
        Ok(self.done())
    }
}

/// What the node reports
impl Change {
    fn progressed(mut self, phase: Phase, at: Option<DateTime<Utc>>) -> Outcomes {
        let when = happened(at, self.now);
        match phase {
            Phase::SetUp { node } => {
                let State::Registered(runner) = &mut self.launch.state else {
                    return Err(Rejected::Late);
                };
                if runner.set_up_at.replace(self.now).is_some() {
                    return Err(Rejected::Late);
                }
                let place = node.map(|n| format!(" on {n}")).unwrap_or_default();
                let detail = format!("Runner {} is being set up{place}", runner.name);
                self.effects
                    .push(Effect::Timeline(Entry::new(Kind::SetUp, when, detail)));
            }
            Phase::Listening => {
                let (State::Redeeming(runner) | State::Registered(runner)) = &self.launch.state
                else {
                    return Err(Rejected::Late);
                };
                let detail = format!("Runner {} listens for workflow jobs", runner.name);
                self.launch.state = State::Listening(Runner {
                    listening_at: Some(self.now),
                    ..runner.clone()
                });
                self.effects
                    .push(Effect::Timeline(Entry::new(Kind::Listening, when, detail)));
            }
            Phase::WorkflowJobStarted { run } => return self.work_started(run, at),
            Phase::Finished { outcome, log_tail } => {
                if self.launch.runner().is_none() || self.launch.over().is_some() {
                    return Err(Rejected::Late);
                }
                let deregister_at = Some(self.now + GIVES_BACK_WITHIN);
                self.ended(outcome, log_tail, at, deregister_at);
            }
        }
        Ok(self.done())
    }

    /// It stays supply until GitHub says which workflow job it is.
    fn work_started(mut self, run: Option<Run>, at: Option<DateTime<Utc>>) -> Outcomes {
        let started_at = happened(at, self.now);
        let (runner, work) = match &self.launch.state {
            State::Planned | State::Submitted => return Err(Rejected::Late),
            State::Redeeming(runner) | State::Registered(runner) | State::Listening(runner) => {
                (runner.clone(), Work::default())
            }
            State::Busy(runner, work) => (runner.clone(), work.clone()),
            State::Over(over) => {
                // The log line came first, the hook adds which run it was.
                let mut over = over.clone();
                let work = over.work.as_mut().filter(|work| work.run.is_none());
                let (Some(work), Some(run)) = (work, run) else {
                    return Err(Rejected::Late);
                };
                work.run = Some(run);
                self.launch.state = State::Over(over);
                return Ok(self.done());
            }
        };
        let is_news = work.started_at.is_none();
        let work = Work {
            started_at: work.started_at.or(Some(started_at)),
            run: work.run.or(run),
            ..work
        };
        // A pending deregistration stays pending: any process of the same user can make this report.
        if is_news {
            let detail = match work.run {
                Some(run) => format!(
                    "A workflow job of run {} started in runner {}",
                    run.id, runner.name
                ),
                None => format!("A workflow job started in runner {}", runner.name),
            };
            let entry = Entry::new(Kind::WorkflowJobStarted, started_at, detail);
            self.effects.push(Effect::Timeline(entry));
        }
        self.launch.state = State::Busy(runner, work);
        Ok(self.done())
    }

    fn ended_before_runner(
        mut self,
        outcome: Outcome,
        log_tail: Option<String>,
        at: Option<DateTime<Utc>>,
    ) -> Outcomes {
        if !matches!(
            self.launch.state,
            State::Planned | State::Submitted | State::Redeeming(_)
        ) {
            return Err(Rejected::Late);
        }
        // The broker may have registered its runner, and its answer was lost.
        let deregister_at = Some(self.now + GIVES_BACK_WITHIN);
        self.ended(outcome, log_tail, at, deregister_at);
        Ok(self.done())
    }
}

/// Withdrawal and release
impl Change {
    fn not_wanted(mut self, why: Why) -> Outcomes {
        match &mut self.launch.state {
            // Its node may have had an earlier answer, and a late call of it begins another attempt: only GitHub can tell.
            State::Redeeming(runner) if runner.mint_attempt > 1 => {
                runner.deregister_at.get_or_insert(self.now);
                runner.not_wanted = Some(why);
                Ok(self.done())
            }
            State::Planned | State::Submitted | State::Redeeming(_) => {
                self.withdraw(why);
                Ok(self.done())
            }
            // What has a runner token may have work: only GitHub can tell. And what has work is never withdrawn.
            State::Registered(_) | State::Listening(_) | State::Busy(..) | State::Over(_) => {
                Err(Rejected::Late)
            }
        }
    }

    fn release_wanted(mut self, why: Why) -> Outcomes {
        let now = self.now;
        match &mut self.launch.state {
            State::Registered(runner) | State::Listening(runner) => {
                runner.deregister_at.get_or_insert(now);
                runner.not_wanted = Some(why);
                Ok(self.done())
            }
            _ => Err(Rejected::Late),
        }
    }

    fn release_not_wanted(mut self) -> Outcomes {
        match &mut self.launch.state {
            State::Registered(runner) | State::Listening(runner) => {
                runner.deregister_at = None;
                runner.not_wanted = None;
                Ok(self.done())
            }
            // The planner did not mark what is over, so it does not unmark it.
            _ => Err(Rejected::Late),
        }
    }

    fn deregistered(mut self, attempt: u32) -> Outcomes {
        if !self.is_newest(attempt) {
            return Err(Rejected::Late);
        }
        if matches!(
            self.launch.state,
            State::Redeeming(_) | State::Registered(_) | State::Listening(_)
        ) {
            self.withdraw_as_the_planner_wanted();
        }
        // GitHub deletes no runner that has a workflow job: what its node reported of one is not so, or it is over.
        self.give_up_attribution();
        Ok(self.deregister_at(None))
    }

    fn deregistration_unknown(mut self) -> Applied {
        if matches!(self.launch.state, State::Redeeming(_)) {
            // Nothing is registered. A broker that is registering it finds the launch over and deletes the registration.
            self.withdraw_as_the_planner_wanted();
            return self.done();
        }
        self.deregister_at(None)
    }

    fn is_newest(&self, attempt: u32) -> bool {
        let runner = self.launch.runner();
        runner.is_some_and(|runner| runner.mint_attempt == attempt)
    }

    fn deregistration_refused(self) -> Applied {
        let launch = self.launch.clone();
        let mut change = match self.work_started(None, None) {
            Ok(applied) => applied,
            Err(_) => Applied {
                launch,
                effects: Vec::new(),
            },
        };
        if let Some(runner) = change.launch.runner_mut() {
            runner.deregister_at = None;
        }
        // Another one may be idle in its stead.
        change.effects.push(Effect::Replan);
        change
    }

    fn deregister_at(mut self, at: Option<DateTime<Utc>>) -> Applied {
        if let Some(runner) = self.launch.runner_mut() {
            runner.deregister_at = at;
        }
        self.done()
    }

    fn gave_up(mut self, outcome: Outcome) -> Applied {
        if self.launch.over().is_none() && self.launch.runner().is_some() {
            self.ended(outcome, None, None, None);
        }
        self.deregister_at(None)
    }

    fn silent(mut self, attempt: u32) -> Outcomes {
        if !self.is_newest(attempt) || self.launch.over().is_some() {
            return Err(Rejected::Late);
        }
        // It may have been registered since GitHub was asked.
        let deregister_at = Some(self.now + GIVES_BACK_WITHIN);
        self.ended(Outcome::Silent, None, None, deregister_at);
        Ok(self.done())
    }
}

/// Attribution
impl Change {
    /// The launch leaves supply in the transaction in which the workflow job leaves demand.
    fn attributed(mut self, workflow_job: WorkflowJobId) -> Outcomes {
        let name = match self.launch.runner() {
            Some(runner) => runner.name.clone(),
            None => return Err(Rejected::Late),
        };
        if let Some(Attribution::Job(_)) = self.launch.work().map(|work| work.attribution) {
            return Err(Rejected::Late);
        }
        let attribution = Attribution::Job(workflow_job);
        self.launch.state = match self.launch.state {
            State::Planned | State::Submitted => return Err(Rejected::Late),
            State::Redeeming(runner) | State::Registered(runner) | State::Listening(runner) => {
                let runner = Runner {
                    deregister_at: None,
                    ..runner
                };
                let work = Work {
                    attribution,
                    ..Work::default()
                };
                State::Busy(runner, work)
            }
            State::Busy(runner, work) => State::Busy(
                Runner {
                    deregister_at: None,
                    ..runner
                },
                Work {
                    attribution,
                    ..work
                },
            ),
            State::Over(over) => State::Over(Over {
                // It was for one.
                runner: over.runner.map(|runner| Runner {
                    deregister_at: None,
                    ..runner
                }),
                work: Some(Work {
                    attribution,
                    ..over.work.unwrap_or_default()
                }),
                ..over
            }),
        };
        self.effects.push(Effect::ClassWorks);
        self.entry(
            Kind::Attributed,
            format!("GitHub gave workflow job {workflow_job} to runner {name}"),
        );
        self.effects.push(Effect::Replan);
        Ok(self.done())
    }

    /// Only its node has reported a workflow job, so GitHub is asked to deregister its runner, and refuses if there is one.
    fn attribution_given_up(mut self) -> Outcomes {
        if !self.give_up_attribution() {
            return Err(Rejected::Late);
        }
        let now = self.now;
        Ok(self.deregister_at(Some(now)))
    }

    /// Whether its workflow job was still unknown.
    fn give_up_attribution(&mut self) -> bool {
        let (State::Busy(_, work)
        | State::Over(Over {
            work: Some(work), ..
        })) = &mut self.launch.state
        else {
            return false;
        };
        let was_unknown = work.attribution == Attribution::Unknown;
        if was_unknown {
            work.attribution = Attribution::GivenUp;
            self.effects.push(Effect::Replan);
        }
        was_unknown
    }
}

/// Ends
impl Change {
    fn withdraw_as_the_planner_wanted(&mut self) {
        let marked = self
            .launch
            .runner()
            .and_then(|runner| runner.not_wanted.clone());
        self.withdraw(marked.unwrap_or(Why::NoDemand));
    }

    /// Not wanted any more: its launch token answers 410 from now on, whatever Slurm's state. Who is registering its runner deletes it.
    fn withdraw(&mut self, why: Why) {
        let detail = why.explained();
        let mut runner = self.launch.runner().cloned();
        if let Some(runner) = &mut runner {
            runner.deregister_at = match self.launch.state {
                State::Registered(_) => Some(self.now),
                // Unless the broker ended while it registered it.
                State::Redeeming(_) => Some(self.now + GIVES_BACK_WITHIN),
                _ => None,
            };
        }
        if self.launch.submission.attempts > 0 || self.launch.slurm.submitted_at.is_some() {
            // While a lease is held, a submission is under way, and there is no telling yet what to cancel.
            let at = self.launch.submission.lease_until.unwrap_or(self.now);
            self.launch.slurm.cancel_at = Some(at.max(self.now));
        }
        self.over(Outcome::Withdrawn { why }, runner, None);
        self.entry(Kind::Withdrawn, detail);
        self.effects.push(Effect::Replan);
    }

    /// It ended although it was wanted. What had no workflow job leaves supply and is replaced while there is
    /// demand; what had one stays supply until that workflow job leaves demand.
    fn ended(
        &mut self,
        outcome: Outcome,
        log_tail: Option<String>,
        at: Option<DateTime<Utc>>,
        deregister_at: Option<DateTime<Utc>>,
    ) {
        let (runner, work) = match &self.launch.state {
            State::Over(_) => return,
            State::Planned | State::Submitted => (None, None),
            State::Redeeming(runner) | State::Registered(runner) | State::Listening(runner) => {
                (Some(runner.clone()), None)
            }
            State::Busy(runner, work) => (Some(runner.clone()), Some(work.clone())),
        };
        let has_worked = work.is_some();
        let words = outcome.explained();
        if !has_worked && self.context.demand > 0 {
            match outcome.blame() {
                Blame::None => {}
                Blame::Failure => self.effects.push(Effect::ClassFailed(words.clone())),
                Blame::Loss => self.effects.push(Effect::ClassLost(words.clone())),
            }
        }
        let detail = match &runner {
            Some(runner) => format!("Runner {} is over: {words}", runner.name),
            None => format!("The launch is over: {words}"),
        };
        let kind = if has_worked {
            Kind::Finished
        } else {
            Kind::EndedWithoutWorkflowJob
        };
        let entry = Entry::new(kind, happened(at, self.now), detail)
            .log_tail(log_tail.filter(|_| !has_worked));
        // One that had a workflow job is gone at GitHub. Its node's report alone does not spare it: any process of the same user can
        // make that.
        let is_used_up = work.as_ref().is_some_and(Work::is_named_by_github);
        let runner = runner.map(|runner| Runner {
            deregister_at: deregister_at.filter(|_| !is_used_up),
            ..runner
        });
        self.over(outcome, runner, work);
        self.effects.push(Effect::Timeline(entry));
        self.effects.push(Effect::Replan);
    }

    fn over(&mut self, outcome: Outcome, runner: Option<Runner>, work: Option<Work>) {
        // It does not stand in the way of the others of its class that wait behind the limit.
        self.launch.submission.is_limited = false;
        self.launch.state = State::Over(Over {
            outcome,
            at: self.now,
            runner,
            work,
        });
    }

    fn entry(&mut self, kind: Kind, detail: impl Into<String>) {
        let entry = Entry::new(kind, self.now, detail);
        self.effects.push(Effect::Timeline(entry));
    }

    fn done(self) -> Applied {
        Applied {
            launch: self.launch,
            effects: self.effects,
        }
    }
}
