//! The job script on a node, and what it tells token-broker.

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_domain::launch::{Happening, Launch, Outcome, Phase, Run, RunnerMode};
use gha_slurm_domain::{LaunchId, SlurmState};

use crate::broker::{Redeem, Release};
use crate::github::Registration;
use crate::world::{Task, World};

/// A node waits so long for a workflow job.
pub const IDLE_DEADLINE: TimeDelta = TimeDelta::seconds(120);

/// It asks for a runner token so long, and for one answer so long.
const CALLBACK_DEADLINE: TimeDelta = TimeDelta::minutes(10);
const CALL_TIMEOUT: TimeDelta = TimeDelta::seconds(60);
/// With a runner token, it sets its runner up within this.
const SET_UP_DEADLINE: TimeDelta = TimeDelta::minutes(10);

/// The job script of one Slurm job.
#[derive(Debug, Clone)]
pub struct Process {
    pub step: Step,
    /// When this step began.
    since: DateTime<Utc>,
    called_at: DateTime<Utc>,
    /// Counts calls: the answer to an earlier one comes too late.
    pub call: u32,
    /// The broker asked it not to call before (`Retry-After`).
    call_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It has asked, or will ask, for a runner token.
    Redeeming,
    /// It has one, and will start the runner.
    Ready(Token),
    /// Its runner is connected.
    Connected(Token),
}

/// A runner token and the progress token that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub attempt: u32,
    pub mode: RunnerMode,
    pub name: String,
    /// `config.sh` has registered the runner; with JIT the broker has.
    pub is_registered: bool,
}

/// A report on its way to token-broker.
#[derive(Debug, Clone)]
pub struct Message {
    pub launch: LaunchId,
    /// The attempt whose progress token it carries. `None`: the launch token.
    pub attempt: Option<u32>,
    pub phase: Phase,
}

fn finished(reason: &str) -> Phase {
    Phase::Finished {
        outcome: Outcome::NodeReported {
            reason: reason.to_owned(),
            exit_code: None,
        },
        log_tail: None,
    }
}

impl World {
    fn process(&self, number: i64) -> Option<(LaunchId, Process)> {
        let job = self.slurm.jobs.get(&number)?;
        Some((job.launch, job.process.clone()?))
    }

    fn set_step(&mut self, number: i64, step: Step) {
        let now = self.now;
        let job = self.slurm.jobs.get_mut(&number);
        if let Some(process) = job.and_then(|job| job.process.as_mut()) {
            (process.step, process.since) = (step, now);
        }
    }

    fn send(&mut self, launch: LaunchId, attempt: Option<u32>, phase: Phase) {
        self.messages.push(Message {
            launch,
            attempt,
            phase,
        });
    }

    /// Slurm starts a job.
    pub fn start(&mut self, number: i64) {
        let now = self.now;
        if let Some(job) = self.slurm.jobs.get_mut(&number) {
            job.state = SlurmState::Running;
            job.process = Some(Process {
                step: Step::Redeeming,
                since: now,
                called_at: now,
                call: 0,
                call_at: now,
            });
        }
    }

    /// The process is killed: whatever it ran at GitHub loses its connection.
    pub fn killed(&mut self, number: i64, state: SlurmState, reports: bool) {
        let launch = self.slurm.jobs.get(&number).map(|job| job.launch);
        let process = self.slurm.end(number, state);
        if let (Some(launch), Some(process)) = (launch, process) {
            self.disconnect(launch);
            if reports {
                match process.step {
                    Step::Redeeming => self.send(launch, None, finished("signal")),
                    Step::Ready(token) | Step::Connected(token) => {
                        self.send(launch, Some(token.attempt), finished("signal"));
                    }
                }
            }
        }
    }

    pub fn requeued(&mut self, number: i64) {
        if let Some(job) = self.slurm.jobs.get_mut(&number) {
            (job.state, job.process) = (SlurmState::Pending, None);
            job.restarts += 1;
            let launch = job.launch;
            self.disconnect(launch);
        }
    }

    fn disconnect(&mut self, launch: LaunchId) {
        let now = self.now;
        for runner in self
            .github
            .registrations
            .values_mut()
            .filter(|r| r.launch == launch)
        {
            if runner.is_online {
                (runner.is_online, runner.seen_at) = (false, now);
            }
        }
    }

    /// Whether the node would do anything now, without another's help.
    pub fn can_step(&self, number: i64) -> bool {
        let Some((_, process)) = self.process(number) else {
            return false;
        };
        match &process.step {
            Step::Redeeming => {
                process.call_at <= self.now || process.since + CALLBACK_DEADLINE <= self.now
            }
            Step::Ready(_) => true,
            Step::Connected(token) => match self.github.find(&token.name) {
                None => true,
                Some(id) => {
                    let has_work = self
                        .github
                        .registrations
                        .get(&id)
                        .is_some_and(|r| r.job.is_some());
                    has_work || process.since + IDLE_DEADLINE <= self.now
                }
            },
        }
    }

    /// The job script goes on.
    pub fn node_steps(&mut self, number: i64) {
        let Some((launch, process)) = self.process(number) else {
            return;
        };
        match process.step {
            Step::Redeeming if process.since + CALLBACK_DEADLINE <= self.now => {
                self.ends(number, launch, None, "callback_unavailable");
            }
            Step::Redeeming => self.call_back(number, launch),
            Step::Ready(token) if process.since + SET_UP_DEADLINE <= self.now => {
                self.ends(number, launch, Some(token.attempt), "set_up_deadline");
            }
            Step::Ready(token) => self.start_runner(number, launch, token),
            Step::Connected(token) => match self.github.find(&token.name) {
                // Deregistered: the runner ends by itself.
                None => self.ends(number, launch, Some(token.attempt), "no_workflow_job"),
                Some(id)
                    if self
                        .github
                        .registrations
                        .get(&id)
                        .is_some_and(|r| r.job.is_some()) =>
                {
                    self.github.complete(id);
                    self.ends(number, launch, Some(token.attempt), "completed");
                }
                Some(_) if process.since + IDLE_DEADLINE <= self.now => {
                    let call = self.next_call(number);
                    let release = Release::new(number, call, launch, token.attempt);
                    self.tasks.push(Task::Release(release));
                }
                Some(_) => {}
            },
        }
    }

    fn next_call(&mut self, number: i64) -> u32 {
        let now = self.now;
        match self
            .slurm
            .jobs
            .get_mut(&number)
            .and_then(|job| job.process.as_mut())
        {
            Some(process) => {
                process.call += 1;
                process.called_at = now;
                process.call
            }
            None => 0,
        }
    }

    fn call_back(&mut self, number: i64, launch: LaunchId) {
        let Some(job) = self.slurm.jobs.get(&number) else {
            return;
        };
        if job.token_expires_at <= self.now {
            // 401, also for the report of the end.
            self.slurm.end(number, SlurmState::Failed);
            return;
        }
        let restarts = job.restarts;
        let mode = if launch.0.as_u128().is_multiple_of(4) {
            RunnerMode::Registration
        } else {
            RunnerMode::Jit
        };
        let call = self.next_call(number);
        let redeem = Redeem::new(number, call, launch, restarts, mode);
        self.tasks.push(Task::Redeem(redeem));
    }

    fn start_runner(&mut self, number: i64, launch: LaunchId, mut token: Token) {
        if token.mode == RunnerMode::Registration {
            let Some(known) = self.db.launches.get(&launch) else {
                return;
            };
            let (class, repository) = (known.class, known.repository.0);
            // `config.sh`, then "am I still wanted?".
            if !token.is_registered {
                token.is_registered = true;
                let labels = self.db.classes.get(&class).map_or(0, |class| class.labels);
                self.github.register(Registration {
                    name: token.name.clone(),
                    launch,
                    repository,
                    labels,
                    is_online: false,
                    job: None,
                    seen_at: self.now,
                    is_orphan: false,
                });
                self.set_step(number, Step::Ready(token));
                return;
            }
            if known.over().is_some() {
                self.ends(number, launch, Some(token.attempt), "not_wanted");
                return;
            }
        }
        let now = self.now;
        let found = self.github.find(&token.name);
        match found.and_then(|id| self.github.registrations.get_mut(&id)) {
            Some(runner) => {
                (runner.is_online, runner.seen_at) = (true, now);
                let attempt = Some(token.attempt);
                self.set_step(number, Step::Connected(token));
                self.send(launch, attempt, Phase::SetUp { node: None });
                self.send(launch, attempt, Phase::Listening);
            }
            None => self.ends(number, launch, Some(token.attempt), "runner_failed"),
        }
    }

    fn ends(&mut self, number: i64, launch: LaunchId, attempt: Option<u32>, reason: &str) {
        self.disconnect(launch);
        self.slurm.end(number, SlurmState::Completed);
        self.send(launch, attempt, finished(reason));
    }

    /// GitHub gives a runner a workflow job; its node sees that.
    pub fn assigned(&mut self, runner: i64, job: i64) {
        self.github.assign(runner, job);
        let Some(registration) = self.github.registrations.get(&runner) else {
            return;
        };
        let (launch, name) = (registration.launch, registration.name.clone());
        let token = self.slurm.jobs.values().find_map(|job| match &job.process {
            Some(Process {
                step: Step::Connected(token),
                ..
            }) if job.launch == launch && token.name == name => Some(token.attempt),
            _ => None,
        });
        // The log line comes first; the hook, which knows the run, may fail.
        let run = (job % 3 != 0).then_some(Run {
            id: job,
            attempt: 1,
        });
        if token.is_some() {
            self.send(launch, token, Phase::WorkflowJobStarted { run });
        }
    }

    /// 429 to the node's call number `call`.
    pub fn told_to_wait(&mut self, number: i64, call: u32, wait: TimeDelta) {
        let call_at = self.now + wait;
        let job = self.slurm.jobs.get_mut(&number);
        if let Some(process) = job.and_then(|job| job.process.as_mut())
            && process.call == call
        {
            process.call_at = call_at;
        }
    }

    /// A process of the same user, which can read the launch token and the progress token, redeems again, or reports what is not so.
    pub fn steals(&mut self, number: i64, pick: u8) -> Option<()> {
        let job = self.slurm.jobs.get(&number)?;
        let (launch, restarts) = (job.launch, job.restarts);
        let attempt = self.db.launches.get(&launch)?.runner()?.mint_attempt;
        match pick % 3 {
            0 => {
                let redeem = Redeem::new(number, u32::MAX, launch, restarts, RunnerMode::Jit);
                self.tasks.push(Task::Redeem(redeem));
            }
            1 => self.send(
                launch,
                Some(attempt),
                Phase::WorkflowJobStarted { run: None },
            ),
            _ => self.send(launch, Some(attempt), finished("completed")),
        }
        Some(())
    }

    /// An answer to the node's call number `call`.
    pub fn answered(&mut self, number: i64, call: u32, answer: Result<Token, Turned>) {
        let Some((launch, process)) = self.process(number) else {
            return;
        };
        if process.call != call || process.called_at + CALL_TIMEOUT < self.now {
            return;
        }
        match (answer, process.step) {
            (Ok(token), Step::Redeeming) => self.set_step(number, Step::Ready(token)),
            (Err(Turned::Away(reason)), Step::Redeeming) => {
                self.ends(number, launch, None, reason);
            }
            (Err(Turned::Released), Step::Connected(token)) => {
                self.ends(number, launch, Some(token.attempt), "idle");
            }
            _ => {}
        }
    }

    /// A report reaches token-broker.
    pub fn deliver(&mut self, message: Message) {
        let Some(launch) = self.db.launches.get(&message.launch) else {
            return;
        };
        let happening = match message.attempt {
            Some(attempt) if !has_progress_token(launch, attempt) => return,
            Some(_) => Happening::Progressed {
                phase: message.phase,
                at: None,
            },
            None => match message.phase {
                Phase::Finished { outcome, log_tail } => Happening::EndedBeforeRunner {
                    outcome,
                    log_tail,
                    at: None,
                },
                _ => return,
            },
        };
        let _ = self.happen(message.launch, happening);
    }
}

/// Why a node gets nothing, or may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// 409 or 410.
    Away(&'static str),
    /// 204 to a release.
    Released,
}

/// A newer redemption replaces the progress token.
pub fn has_progress_token(launch: &Launch, attempt: u32) -> bool {
    launch.runner().is_some_and(|runner| {
        runner.mint_attempt == attempt && runner.progress_token_hash.is_some()
    })
}
