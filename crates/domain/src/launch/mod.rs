//! The life of a launch: one Slurm job of gha-slurm and its runner.
//!
//! [`Launch`] is everything that is known of one, [`State`] how far it is, with the data that belongs to each step. Whatever happens
//! to it is a [`Happening`]; [`Launch::apply`] is the only place that decides what follows. What counts as supply, what may be
//! withdrawn, what has to be cancelled or deregistered is derived here, too, and stored beside the state so that loops find it.

mod apply;
mod outcome;

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{ClassId, LaunchId, RepositoryId, RunnerId, SlurmJobId, WorkflowJobId};
use crate::slurm_state::SlurmState;
use crate::stored_as_text;

pub use apply::{Admission, Applied, Context, Effect, Happening, Phase, Rejected};
pub use outcome::{MOST_ATTEMPTS, Outcome, Why};

/// GitHub removes an ephemeral runner that has not connected for so long by itself
/// (<https://docs.github.com/en/actions/reference/runners/self-hosted-runners>).
pub const GITHUB_FORGETS: TimeDelta = TimeDelta::days(1);

/// A launch that has been over for so long hears nothing more from its node: within minutes a job script has reported the end and has
/// given its registration back, or has seen, after at most ten minutes of set-up, that it is not wanted. What still comes is from
/// somebody else.
const NODE_REPORTS_WITHIN: TimeDelta = TimeDelta::minutes(15);

/// How far a launch is: [`State`] without its data, as stored. In the order in which they come.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LaunchState {
    /// Wanted; the submission loop submits it.
    Planned,
    /// The agent has it.
    Submitted,
    /// Its node called back; its runner is being registered at GitHub.
    Redeeming,
    /// Its node has the runner token.
    Registered,
    /// Its runner listens for workflow jobs.
    Listening,
    /// A workflow job started in its runner.
    Busy,
    /// Over.
    Over,
}

stored_as_text!(LaunchState {
    Planned => "planned",
    Submitted => "submitted",
    Redeeming => "redeeming",
    Registered => "registered",
    Listening => "listening",
    Busy => "busy",
    Over => "over",
});

impl LaunchState {
    /// States in which Slurm has not started it, as far as is known.
    pub const PENDING: [Self; 2] = [Self::Planned, Self::Submitted];
}

/// Which runner token a launch token is redeemed for.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum RunnerMode {
    /// A just-in-time configuration: its registration is made at once, the node only starts it.
    #[default]
    Jit,
    /// A registration token for `config.sh`.
    Registration,
}

stored_as_text!(RunnerMode {
    Jit => "jit",
    Registration => "registration",
});

/// Everything that is known of one launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Its id, also the idempotency key of its submission.
    pub id: LaunchId,
    /// Its runner class.
    pub class: ClassId,
    /// Its scope.
    pub repository: RepositoryId,
    /// The workflow job that caused it; nothing binds it to that one.
    pub cause: WorkflowJobId,
    /// Trace to continue.
    pub traceparent: Option<String>,
    /// When it was planned; the newest is withdrawn first.
    pub planned_at: DateTime<Utc>,
    /// Its submission to the agent.
    pub submission: Submission,
    /// Its Slurm job.
    pub slurm: SlurmJob,
    /// How far it is.
    pub state: State,
}

/// The submission of a launch to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// Not to be submitted before.
    pub not_before: DateTime<Utc>,
    /// Whether GitHub must be asked first whether the workflow job still waits: the class failed before.
    pub verify_demand: bool,
    /// Attempts so far.
    pub attempts: u32,
    /// While this is to come, a process submits it, and there is no telling yet what to cancel.
    pub lease_until: Option<DateTime<Utc>>,
    /// A limit delays it: of its class, the oldest such launch tries for all.
    pub is_limited: bool,
    /// Why the last attempt failed, for people.
    pub delay: Option<String>,
}

/// The Slurm job of a launch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlurmJob {
    /// The cluster whose agent has it.
    pub cluster: Option<String>,
    /// Slurm's number.
    pub id: Option<SlurmJobId>,
    /// When the agent was known to have it.
    pub submitted_at: Option<DateTime<Utc>>,
    /// When its launch token expires.
    pub token_expires_at: Option<DateTime<Utc>>,
    /// What Slurm reported last.
    pub report: Option<SlurmReport>,
    /// From then on the agent is asked to cancel it.
    pub cancel_at: Option<DateTime<Utc>>,
    /// When the agent was asked.
    pub cancelled_at: Option<DateTime<Utc>>,
}

impl SlurmJob {
    /// The Slurm job, if its agent tells where it stands and has not said that it started. An agent of the original contract tells
    /// neither, nor its number.
    pub fn not_started(&self) -> Option<&SlurmJobId> {
        let is_pending = |report: &SlurmReport| report.state == SlurmState::Pending;
        let is_known_to_have_started = self.report.as_ref().is_some_and(|r| !is_pending(r));
        self.id.as_ref().filter(|_| !is_known_to_have_started)
    }
}

/// What Slurm reports of a Slurm job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlurmReport {
    /// Its state.
    pub state: SlurmState,
    /// Slurm's word for why.
    pub reason: Option<String>,
    /// When it started, or is expected to.
    pub starts_at: Option<DateTime<Utc>>,
    /// Its nodes.
    pub nodes: Option<String>,
    /// It has ended, and what it used is not known yet.
    pub usage_to_come: bool,
}

/// Who called back from a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `SLURM_JOB_ID`. `None`: the original contract, which does not say.
    pub slurm_job: Option<SlurmJobId>,
    /// `SLURM_RESTART_COUNT`.
    pub restart_count: i32,
    /// The node.
    pub node: Option<String>,
}

/// A runner: one registration at GitHub, for at most one workflow job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    /// Its id here.
    pub id: RunnerId,
    /// Its name at GitHub.
    pub name: String,
    /// Which runner token its node asked for.
    pub mode: RunnerMode,
    /// Redemption is bound to this Slurm job and restart.
    pub bound_to: Caller,
    /// Counts registrations made for it; only the newest may complete.
    pub mint_attempt: u32,
    /// GitHub's id, known at mint with JIT.
    pub github_id: Option<i64>,
    /// SHA-256 of its progress token.
    pub progress_token_hash: Option<Vec<u8>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its node reported that it sets the runner up; once for a registration.
    pub set_up_at: Option<DateTime<Utc>>,
    /// When its node reported "Listening for Jobs".
    pub listening_at: Option<DateTime<Utc>>,
    /// From then on GitHub is asked to deregister it.
    pub deregister_at: Option<DateTime<Utc>>,
    /// Why the planner does not want it any more, while GitHub is asked to deregister it.
    pub not_wanted: Option<Why>,
}

/// The workflow job that started in a runner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// When, as the node or GitHub said.
    pub started_at: Option<DateTime<Utc>>,
    /// The workflow run that the node named.
    pub run: Option<Run>,
    /// Which workflow job it is.
    pub attribution: Attribution,
}

impl Work {
    /// Whether GitHub has named the workflow job, and not only its node reported one.
    pub fn is_named_by_github(&self) -> bool {
        matches!(self.attribution, Attribution::Job(_))
    }
}

/// A workflow run and its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// GitHub's id.
    pub id: i64,
    /// From 1.
    pub attempt: i64,
}

/// Which workflow job a runner has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Attribution {
    /// GitHub has not said yet: it may be any queued one, so the launch stays supply.
    #[default]
    Unknown,
    /// This one.
    Job(WorkflowJobId),
    /// GitHub knows none, however long it was asked.
    GivenUp,
}

/// How far a launch is, with the data of each step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Wanted; the submission loop submits it.
    Planned,
    /// The agent has it.
    Submitted,
    /// Its node called back; its runner is being registered.
    Redeeming(Runner),
    /// Its node has the runner token.
    Registered(Runner),
    /// Its runner listens for workflow jobs; redemption is closed.
    Listening(Runner),
    /// A workflow job started in its runner.
    Busy(Runner, Work),
    /// Over.
    Over(Over),
}

/// How a launch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// Why.
    pub outcome: Outcome,
    /// When.
    pub at: DateTime<Utc>,
    /// Its runner, if it got one.
    pub runner: Option<Runner>,
    /// Its workflow job, if it had one.
    pub work: Option<Work>,
}

impl Over {
    /// Whether its node has had its time to report, and its progress token is worth nothing any more.
    pub fn is_closed(&self, now: DateTime<Utc>) -> bool {
        self.at + NODE_REPORTS_WITHIN <= now
    }
}

impl State {
    /// The state without its data.
    pub fn stage(&self) -> LaunchState {
        match self {
            Self::Planned => LaunchState::Planned,
            Self::Submitted => LaunchState::Submitted,
            Self::Redeeming(_) => LaunchState::Redeeming,
            Self::Registered(_) => LaunchState::Registered,
            Self::Listening(_) => LaunchState::Listening,
            Self::Busy(..) => LaunchState::Busy,
            Self::Over(_) => LaunchState::Over,
        }
    }
}

/// A launch to be planned.
#[derive(Debug, Clone)]
pub struct NewLaunch {
    /// Its id.
    pub id: LaunchId,
    /// Its runner class.
    pub class: ClassId,
    /// Its scope.
    pub repository: RepositoryId,
    /// The workflow job that causes it.
    pub cause: WorkflowJobId,
    /// Trace to continue.
    pub traceparent: Option<String>,
    /// Not to be submitted before.
    pub not_before: DateTime<Utc>,
    /// Whether GitHub must be asked first whether the workflow job still waits.
    pub verify_demand: bool,
}

impl Launch {
    /// A launch that is planned now.
    pub fn planned(new: NewLaunch, now: DateTime<Utc>) -> Self {
        let NewLaunch {
            id,
            class,
            repository,
            cause,
            traceparent,
            not_before,
            verify_demand,
        } = new;
        Self {
            id,
            class,
            repository,
            cause,
            traceparent,
            planned_at: now,
            submission: Submission {
                not_before,
                verify_demand,
                attempts: 0,
                lease_until: None,
                is_limited: false,
                delay: None,
            },
            slurm: SlurmJob::default(),
            state: State::Planned,
        }
    }

    /// Whether it counts as supply: it is on its way to a queued workflow job or has a runner, or a workflow job started in it that
    /// GitHub has not named. It leaves supply only together with that workflow job's leaving demand.
    pub fn is_supply(&self) -> bool {
        match &self.state {
            State::Planned
            | State::Submitted
            | State::Redeeming(_)
            | State::Registered(_)
            | State::Listening(_) => true,
            State::Busy(_, work) => work.attribution == Attribution::Unknown,
            State::Over(over) => over
                .work
                .as_ref()
                .is_some_and(|work| work.attribution == Attribution::Unknown),
        }
    }

    /// Whether it counts as supply and was given a runner token, or is being given one.
    pub fn is_redeemed_supply(&self) -> bool {
        self.is_supply() && !matches!(self.state, State::Planned | State::Submitted)
    }

    /// Whether Slurm is asked how it is: it has it, or accounting still owes what it used.
    pub fn is_watched(&self) -> bool {
        self.slurm.submitted_at.is_some()
            && self
                .slurm
                .report
                .as_ref()
                .is_none_or(|report| !report.state.is_over() || report.usage_to_come)
    }

    /// Its runner, if it ever got one.
    pub fn runner(&self) -> Option<&Runner> {
        match &self.state {
            State::Planned | State::Submitted => None,
            State::Redeeming(runner)
            | State::Registered(runner)
            | State::Listening(runner)
            | State::Busy(runner, _) => Some(runner),
            State::Over(over) => over.runner.as_ref(),
        }
    }

    fn runner_mut(&mut self) -> Option<&mut Runner> {
        match &mut self.state {
            State::Planned | State::Submitted => None,
            State::Redeeming(runner)
            | State::Registered(runner)
            | State::Listening(runner)
            | State::Busy(runner, _) => Some(runner),
            State::Over(over) => over.runner.as_mut(),
        }
    }

    /// The workflow job that started in it, if any did.
    pub fn work(&self) -> Option<&Work> {
        match &self.state {
            State::Busy(_, work) => Some(work),
            State::Over(over) => over.work.as_ref(),
            _ => None,
        }
    }

    /// How it ended, if it did.
    pub fn over(&self) -> Option<&Over> {
        match &self.state {
            State::Over(over) => Some(over),
            _ => None,
        }
    }
}

impl SlurmReport {
    /// Nothing is known but the state.
    pub fn new(state: SlurmState) -> Self {
        Self {
            state,
            reason: None,
            starts_at: None,
            nodes: None,
            usage_to_come: false,
        }
    }

    /// For people: `pending (Priority, starts ~14:05 UTC)`, `running on n3`, `node failed`.
    pub fn explained(&self, exit_code: Option<i32>) -> String {
        let mut details: Vec<String> = self.reason.iter().cloned().collect();
        if self.state == SlurmState::Pending {
            details.extend(
                self.starts_at
                    .map(|at| format!("starts ~{} UTC", at.format("%H:%M"))),
            );
        }
        if let Some(code) = exit_code.filter(|code| *code != 0) {
            details.push(format!("exit code {code}"));
        }
        let nodes = match &self.nodes {
            Some(nodes) if !nodes.is_empty() => format!(" on {nodes}"),
            _ => String::new(),
        };
        let details = if details.is_empty() {
            String::new()
        } else {
            format!(" ({})", details.join(", "))
        };
        format!("{}{nodes}{details}", self.state.explained())
    }
}
