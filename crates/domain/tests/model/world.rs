//! Everything together, and the actions that a schedule is made of.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_domain::admission::{Charge, Mapping, Standing};
use gha_slurm_domain::planner::PlannerLimits;
use gha_slurm_domain::{SlurmState, WorkflowJobState};

use crate::broker::{Redeem, Release};
use crate::database::Database;
use crate::github::{Github, LABELS};
use crate::launcher::{Ask, Because, Cancel, Compare, Deregister, Submit, Watch};
use crate::node::Message;
use crate::slurm::{NODES, Slurm};

/// Slurm users that repositories are mapped to.
pub const USERS: [&str; 2] = ["alice", "bob"];
pub const REPOSITORIES: [i64; 2] = [1, 2];

/// Adds a line to the story, if one is told.
#[macro_export]
macro_rules! tell {
    ($world:expr, $($words:tt)*) => {
        if $world.is_told() {
            let line = format!($($words)*);
            $world.say(line);
        }
    };
}

/// What a process has begun. Each step is one call to the outside or one transaction.
#[derive(Debug, Clone)]
pub enum Task {
    Submit(Submit),
    Cancel(Cancel),
    Watch(Watch),
    Deregister(Deregister),
    Ask(Ask),
    Compare(Compare),
    Redeem(Redeem),
    Release(Release),
}

/// How a step goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    Fine,
    /// Whoever is called is in trouble: nothing is done.
    Trouble,
    /// Whoever is called refuses, for good.
    Refused,
    /// It is done, but the answer is lost.
    Unanswered,
}

/// What happens next. The number beside it picks one of those that it may happen to; where there is none, nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Queue,
    QueueWaiting,
    Approve,
    CancelJob,
    Assign,
    NoticeLostRunner,
    Deliver,
    DeliverTwice,
    Lose,
    DeliverReport,
    LoseReport,
    NodeSteps,
    Start,
    FailNode,
    Signal,
    Requeue,
    Forget,
    CancelAtSlurm,
    Steal,
    Submit,
    Cancel,
    Watch,
    Deregister,
    Ask,
    Compare,
    Silent,
    Unattributed,
    Sweep,
    TryLimited,
    Step,
    StepInTrouble,
    StepRefused,
    StepUnanswered,
    Crash,
    Seconds,
    Minutes,
    Hours,
    ChangeStanding,
    ChangePolicy,
}

use Kind::{
    Approve, Ask as AskGithub, Assign, Cancel as CancelLaunch, CancelAtSlurm, CancelJob,
    ChangePolicy, ChangeStanding, Compare as CompareList, Crash, Deliver, DeliverReport,
    DeliverTwice, Deregister as DeregisterRunner, FailNode, Forget, Hours, Lose, LoseReport,
    Minutes, NodeSteps, NoticeLostRunner, Queue, QueueWaiting, Requeue, Seconds, Signal, Silent,
    Start, Steal, Step, StepInTrouble, StepRefused, StepUnanswered, Submit as SubmitLaunch, Sweep,
    TryLimited, Unattributed, Watch as WatchSlurm,
};

/// How often each kind comes: what makes things go on comes most.
pub const WEIGHTS: [(Kind, u32); 39] = [
    (Queue, 10),
    (QueueWaiting, 1),
    (Approve, 1),
    (CancelJob, 3),
    (Assign, 10),
    (NoticeLostRunner, 2),
    (Deliver, 16),
    (DeliverTwice, 2),
    (Lose, 3),
    (DeliverReport, 12),
    (LoseReport, 3),
    (NodeSteps, 24),
    (Start, 14),
    (FailNode, 2),
    (Signal, 2),
    (Requeue, 2),
    (Forget, 1),
    (CancelAtSlurm, 1),
    (Steal, 2),
    (SubmitLaunch, 16),
    (CancelLaunch, 4),
    (WatchSlurm, 4),
    (DeregisterRunner, 5),
    (AskGithub, 3),
    (CompareList, 2),
    (Silent, 3),
    (Unattributed, 3),
    (Sweep, 8),
    (TryLimited, 1),
    (Step, 50),
    (StepInTrouble, 3),
    (StepRefused, 1),
    (StepUnanswered, 4),
    (Crash, 4),
    (Seconds, 5),
    (Minutes, 4),
    (Hours, 1),
    (ChangeStanding, 1),
    (ChangePolicy, 1),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action(pub Kind, pub u8);

/// Everything.
#[derive(Debug)]
pub struct World {
    pub now: DateTime<Utc>,
    pub limits: PlannerLimits,
    pub github: Github,
    pub slurm: Slurm,
    pub db: Database,
    pub standings: BTreeMap<i64, Standing>,
    pub tasks: Vec<Task>,
    /// Reports of nodes on their way.
    pub messages: Vec<Message>,
    /// The first invariant that did not hold.
    pub problem: Option<String>,
    /// Counts changes: while it stands still, nothing happens.
    pub changes: u64,
    /// How often something has ended at the cluster, as the launcher knows.
    pub freed_known: u64,
    story: Option<Vec<String>>,
}

fn one_of<T: Copy>(these: &[T], pick: u8) -> Option<T> {
    these.get(usize::from(pick) % these.len().max(1)).copied()
}

/// Takes one out of a list.
fn take<T>(these: &mut Vec<T>, pick: u8) -> Option<T> {
    let index = usize::from(pick) % these.len().max(1);
    (index < these.len()).then(|| these.remove(index))
}

impl World {
    pub fn new(is_told: bool) -> Self {
        let standing = Standing {
            mapped_to: mapping(USERS[0]),
            public: false,
            public_allowed: false,
            suspended: false,
            installed: true,
        };
        Self {
            now: DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default(),
            limits: PlannerLimits::default(),
            github: Github::default(),
            slurm: Slurm::default(),
            db: Database::default(),
            standings: REPOSITORIES.map(|id| (id, standing.clone())).into(),
            tasks: Vec::new(),
            messages: Vec::new(),
            problem: None,
            changes: 0,
            freed_known: 0,
            story: is_told.then(Vec::new),
        }
    }

    pub fn is_told(&self) -> bool {
        self.story.is_some()
    }

    pub fn say(&mut self, line: String) {
        if let Some(story) = &mut self.story {
            story.push(line);
        }
    }

    pub fn story(self) -> Vec<String> {
        self.story.unwrap_or_default()
    }

    pub fn wrong(&mut self, problem: Option<String>) {
        if self.problem.is_none() && problem.is_some() {
            self.problem = problem;
        }
    }

    pub fn passes(&mut self, time: TimeDelta) {
        self.now += time;
        self.github.forget(self.now);
    }

    /// One action of a schedule.
    pub fn perform(&mut self, Action(kind, pick): Action) {
        self.now += TimeDelta::milliseconds(1);
        if self.act(kind, pick).is_none() {
            return;
        }
        let problem = self.problem_of_counts();
        self.wrong(problem);
    }

    fn act(&mut self, kind: Kind, pick: u8) -> Option<()> {
        match kind {
            Queue | QueueWaiting | Approve | CancelJob | Assign | NoticeLostRunner => {
                return self.act_at_github(kind, pick);
            }
            Start | FailNode | Signal | Requeue | Forget | CancelAtSlurm | Steal => {
                return self.act_at_slurm(kind, pick);
            }
            Deliver | DeliverTwice | Lose => {
                let webhook = take(&mut self.github.webhooks, pick)?;
                let (id, state) = (webhook.job, webhook.action);
                tell!(
                    self,
                    "{kind:?} the webhook that workflow job {id} is {state:?}"
                );
                if kind == DeliverTwice {
                    self.github.webhooks.push(webhook.clone());
                }
                if kind != Lose {
                    let heard =
                        WorkflowJobState::from_webhook(state.as_str(), &webhook.facts.status);
                    self.learn(webhook.repository, webhook.facts, heard);
                }
            }
            DeliverReport | LoseReport => {
                let message = take(&mut self.messages, pick)?;
                let launch = message.launch.0.as_u128();
                tell!(self, "{kind:?} of launch {launch}: {:?}", message.phase);
                if kind == DeliverReport {
                    self.deliver(message);
                }
            }
            NodeSteps => {
                let running = self.slurm.in_state(SlurmState::Running);
                let able: Vec<i64> = running.into_iter().filter(|n| self.can_step(*n)).collect();
                let number = one_of(&able, pick)?;
                let job = self.slurm.jobs.get(&number);
                tell!(
                    self,
                    "the job script of Slurm job {number} goes on: {:?}",
                    job.map(|j| &j.process)
                );
                self.node_steps(number);
            }
            Step | StepInTrouble | StepRefused | StepUnanswered => {
                let luck = match kind {
                    StepInTrouble => Luck::Trouble,
                    StepRefused => Luck::Refused,
                    StepUnanswered => Luck::Unanswered,
                    _ => Luck::Fine,
                };
                let task = take(&mut self.tasks, pick)?;
                tell!(self, "{kind:?}: {task:?}");
                let next = self.step(task, luck);
                self.tasks.extend(next);
            }
            Crash => {
                let task = take(&mut self.tasks, pick)?;
                tell!(self, "whoever does this is killed: {task:?}");
                match &task {
                    Task::Redeem(redeem) => redeem.crashed(self),
                    Task::Submit(submit) if !submit.can_crash(self.now) => self.tasks.push(task),
                    _ => {}
                }
            }
            Seconds | Minutes | Hours => {
                let count = i64::from(pick) % 30 + 1;
                let time = match kind {
                    Seconds => TimeDelta::seconds(count),
                    Minutes => TimeDelta::minutes(count),
                    _ => TimeDelta::hours(count),
                };
                tell!(self, "{count} {kind:?} pass");
                self.passes(time);
            }
            ChangeStanding => self.change_standing(pick)?,
            ChangePolicy => {
                self.slurm.refuses = !self.slurm.refuses;
                tell!(
                    self,
                    "the cluster's policy changes: it refuses everything: {}",
                    self.slurm.refuses
                );
                for repository in REPOSITORIES {
                    self.decide_scope(repository);
                }
            }
            _ => return self.begin(kind, pick),
        }
        Some(())
    }

    fn act_at_github(&mut self, kind: Kind, pick: u8) -> Option<()> {
        let jobs = |state: &[WorkflowJobState]| -> Vec<i64> {
            let jobs = self
                .github
                .jobs
                .iter()
                .filter(|(_, job)| state.contains(&job.state));
            jobs.map(|(id, _)| *id).collect()
        };
        match kind {
            Queue | QueueWaiting => {
                let (labels, words) = one_of(&LABELS, pick)?;
                let repository = if pick % 4 == 3 { 2 } else { 1 };
                let state = if kind == Queue {
                    WorkflowJobState::Queued
                } else {
                    WorkflowJobState::Waiting
                };
                let id = self.github.queue(repository, labels, state);
                tell!(
                    self,
                    "workflow job {id} of repository {repository} is {state:?}, with labels {words:?}"
                );
            }
            Approve => {
                let id = one_of(&jobs(&[WorkflowJobState::Waiting]), pick)?;
                tell!(self, "somebody approves workflow job {id}");
                self.github.becomes(id, WorkflowJobState::Queued);
            }
            CancelJob => {
                let id = one_of(
                    &jobs(&[WorkflowJobState::Waiting, WorkflowJobState::Queued]),
                    pick,
                )?;
                tell!(self, "somebody cancels workflow job {id}");
                self.github.becomes(id, WorkflowJobState::Completed);
            }
            Assign => {
                let (runner, job) = one_of(&self.github.matches(), pick)?;
                let registration = self.github.registrations.get(&runner);
                let launch = registration.map(|r| r.launch.0.as_u128());
                tell!(
                    self,
                    "GitHub gives workflow job {job} to the runner of launch {launch:?}"
                );
                self.assigned(runner, job);
            }
            _ => {
                let runners = self.github.registrations.iter();
                let lost = runners.filter(|(_, runner)| runner.job.is_some() && !runner.is_online);
                let lost: Vec<i64> = lost.map(|(id, _)| *id).collect();
                let runner = one_of(&lost, pick)?;
                tell!(
                    self,
                    "GitHub notices that runner {runner} lost its connection"
                );
                self.github.complete(runner);
            }
        }
        Some(())
    }

    fn act_at_slurm(&mut self, kind: Kind, pick: u8) -> Option<()> {
        let pending = self.slurm.in_state(SlurmState::Pending);
        let running = self.slurm.in_state(SlurmState::Running);
        let both: Vec<i64> = pending.iter().chain(&running).copied().collect();
        let number = match kind {
            Start if running.len() >= NODES => None,
            Start => one_of(&pending, pick),
            Forget | CancelAtSlurm => one_of(&both, pick),
            _ => one_of(&running, pick),
        }?;
        let launch = self
            .slurm
            .jobs
            .get(&number)
            .map(|job| job.launch.0.as_u128());
        tell!(self, "{kind:?}: Slurm job {number}, launch {launch:?}");
        match kind {
            Start => self.start(number),
            Requeue => self.requeued(number),
            Steal => return self.steals(number, pick),
            FailNode => self.killed(number, SlurmState::NodeFailed, false),
            Signal => self.killed(number, SlurmState::TimedOut, true),
            Forget => self.killed(number, SlurmState::Gone, false),
            _ => self.killed(number, SlurmState::Cancelled, pick.is_multiple_of(2)),
        }
        Some(())
    }

    /// A loop looks, and begins what it finds due.
    fn begin(&mut self, kind: Kind, pick: u8) -> Option<()> {
        let due = match kind {
            SubmitLaunch => self.to_submit(),
            CancelLaunch => self.to_cancel(),
            DeregisterRunner => self.to_deregister(),
            Silent => self.silent(),
            Unattributed => self.unattributed(),
            _ => Vec::new(),
        };
        let launch = one_of(&due, pick);
        let task = match kind {
            SubmitLaunch => Submit::begin(self, launch?),
            CancelLaunch => Some(Task::Cancel(Cancel::new(launch?))),
            DeregisterRunner => Deregister::begin(self.db.launches.get(&launch?)?, Because::Marked),
            Silent => Deregister::begin(self.db.launches.get(&launch?)?, Because::Silent),
            Unattributed => {
                tell!(self, "{kind:?}: launch {}", launch?.0.as_u128());
                self.look_for_workflow_job(launch?);
                return Some(());
            }
            WatchSlurm => Some(Task::Watch(Watch::begin(self))),
            AskGithub => {
                let due = self.db.questions.iter().filter(|(_, at)| **at <= self.now);
                let due: Vec<_> = due.map(|(id, _)| *id).collect();
                Some(Task::Ask(Ask::new(self, one_of(&due, pick)?)))
            }
            CompareList => Some(Task::Compare(Compare::begin(
                self,
                one_of(&REPOSITORIES, pick)?,
            ))),
            Sweep => {
                tell!(self, "the launcher plans what asked for it");
                self.sweep();
                return Some(());
            }
            _ => {
                tell!(self, "the agent says that something has ended");
                self.try_limited();
                return Some(());
            }
        };
        tell!(self, "begin: {task:?}");
        self.tasks.extend(task);
        Some(())
    }

    pub fn step(&mut self, task: Task, luck: Luck) -> Option<Task> {
        match task {
            Task::Submit(task) => task.step(self, luck),
            Task::Cancel(task) => task.step(self, luck),
            Task::Watch(task) => task.step(self),
            Task::Deregister(task) => task.step(self, luck),
            Task::Ask(task) => task.step(self, luck),
            Task::Compare(task) => task.step(self, luck),
            Task::Redeem(task) => task.step(self, luck),
            Task::Release(task) => task.step(self, luck),
        }
    }

    fn change_standing(&mut self, pick: u8) -> Option<()> {
        let repository = one_of(&REPOSITORIES, pick)?;
        let standing = self.standings.get_mut(&repository)?;
        match pick / 2 % 4 {
            0 => standing.suspended = !standing.suspended,
            1 => standing.mapped_to = None,
            user => standing.mapped_to = mapping(USERS[usize::from(user % 2)]),
        }
        let words = format!("{standing:?}");
        tell!(self, "repository {repository}: {words}");
        self.decide_scope(repository);
        Some(())
    }
}

fn mapping(user: &str) -> Option<Mapping> {
    user.parse().ok().map(|user| Mapping {
        user,
        cluster: None,
        charge: Charge::default(),
    })
}
