//! The state and its rules. No I/O, no waiting, no clock of its own: every function is told the time.

pub(crate) mod accounts;
pub(crate) mod assignment;
pub(crate) mod deliveries;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod people;
pub(crate) mod runners;
pub(crate) mod sign_ins;
mod time;
pub(crate) mod tokens;
pub(crate) mod workflow_jobs;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::{
    Account, Installation, Repository, Role, Runner, State, WorkflowJob, WorkflowRun,
};
use crate::request::TokenKind;
use crate::settings::{AppFacts, Timing};

pub(crate) use time::{Now, end};

/// The addresses that appear in answers and payloads, without a slash at the end.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    pub(crate) api: String,
    pub(crate) web: String,
}

/// All of this GitHub.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) app: AppFacts,
    pub(crate) addresses: Addresses,
    pub(crate) timing: Timing,
    ids: Ids,
    accounts: BTreeMap<String, Account>,
    pub(crate) installations: BTreeMap<i64, Installation>,
    pub(crate) repositories: BTreeMap<i64, Repository>,
    /// Lower-case `owner/name` that a repository had once.
    former_names: BTreeMap<String, i64>,
    /// Roles that people were given, by repository and person.
    roles: BTreeMap<(i64, i64), Role>,
    runners: BTreeMap<i64, Registration>,
    /// Ids of runners by repository and name in lower case.
    runner_names: HashMap<(i64, String), i64>,
    /// One id per spelling of a label.
    label_ids: BTreeMap<String, i64>,
    pub(crate) runs: BTreeMap<i64, WorkflowRun>,
    pub(crate) workflow_jobs: BTreeMap<i64, WorkflowJob>,
    pub(crate) tokens: tokens::Tokens,
    pub(crate) sign_ins: sign_ins::SignIns,
    pub(crate) deliveries: deliveries::Deliveries,
    pub(crate) faults: faults::Faults,
    assignment: Assignment,
    /// REST calls by route.
    pub(crate) calls: BTreeMap<String, u64>,
    /// REST calls by installation (or the App itself), for the rate limit.
    pub(crate) used: BTreeMap<String, u64>,
    /// Whether runners are told that their version is too old.
    pub(crate) runners_deprecated: bool,
}

/// A runner with what only it and the service know.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) facts: Runner,
    /// Proves that a session is this runner's.
    pub(crate) credential: String,
    pub(crate) session: Option<Session>,
    /// Its registration is gone, but it is still let to listen (actions/runner#4617).
    pub(crate) ghost: bool,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    /// Long polls that are open now.
    pub(crate) polls: u32,
    pub(crate) heard_at: Now,
    /// Since when it listens without work; the longest wait is served first.
    pub(crate) idle_since: Now,
}

/// Which workflow job is offered to which runner.
#[derive(Debug, Default)]
pub(crate) struct Assignment {
    pub(crate) paused: bool,
    /// Workflow job to the name of the one runner that may get it.
    pins: BTreeMap<i64, String>,
    /// Workflow jobs whose next offer is lost.
    lose: Vec<i64>,
    /// When an offer was made.
    offered_at: BTreeMap<i64, Now>,
}

impl World {
    pub(crate) fn new(app: AppFacts, addresses: Addresses, timing: Timing, now: Now) -> Self {
        Self {
            app,
            addresses,
            timing,
            ids: Ids::starting(now),
            accounts: BTreeMap::new(),
            installations: BTreeMap::new(),
            repositories: BTreeMap::new(),
            former_names: BTreeMap::new(),
            roles: BTreeMap::new(),
            runners: BTreeMap::new(),
            runner_names: HashMap::new(),
            label_ids: BTreeMap::new(),
            runs: BTreeMap::new(),
            workflow_jobs: BTreeMap::new(),
            tokens: tokens::Tokens::default(),
            sign_ins: sign_ins::SignIns::default(),
            deliveries: deliveries::Deliveries::default(),
            faults: faults::Faults::default(),
            assignment: Assignment::default(),
            calls: BTreeMap::new(),
            used: BTreeMap::new(),
            runners_deprecated: false,
        }
    }

    /// Everything, for callers.
    pub(crate) fn state(&self, now: Now) -> State {
        State {
            installations: self.installations.values().cloned().collect(),
            repositories: self.repositories.values().cloned().collect(),
            people: self.people(),
            runners: self.runners(now),
            workflow_runs: self.runs.values().cloned().collect(),
            workflow_jobs: self.workflow_jobs.values().cloned().collect(),
            deliveries: self.deliveries.attempted().cloned().collect(),
            calls: self.calls.clone(),
            assignment_paused: self.assignment.paused,
        }
    }

    /// Ends tokens of this kind.
    pub(crate) fn expire_tokens(&mut self, kind: TokenKind) {
        self.tokens.expire(kind);
        self.sign_ins.expire(kind);
    }

    /// What time alone changes. Gives whether anything did.
    pub(crate) fn expire(&mut self, now: Now) -> bool {
        self.sign_ins.prune(now);
        let offers = self.withdraw_stale_offers(now);
        let lost = self.fail_lost(now);
        offers || lost
    }
}

/// The id of the account that is made first.
pub const FIRST_ACCOUNT: i64 = 2_000_001;

/// Where ids come from. Accounts, repositories and installations count from fixed numbers, so that the same set-up has
/// the same ids after a restart; what passes by (runs, workflow jobs, runners, deliveries) starts at the time of day,
/// so that it never meets a number from before a restart.
#[derive(Debug)]
struct Ids {
    account: i64,
    installation: i64,
    repository: i64,
    label: i64,
    passing: i64,
}

impl Ids {
    fn starting(now: Now) -> Self {
        Self {
            account: FIRST_ACCOUNT - 1,
            installation: 50_000_000,
            repository: 700_000_000,
            label: 0,
            passing: now.timestamp_millis(),
        }
    }

    fn next(counter: &mut i64) -> i64 {
        *counter += 1;
        *counter
    }
}

/// Ids without repetition, for messages.
pub(crate) fn known<'a>(ids: impl IntoIterator<Item = &'a i64>) -> BTreeSet<i64> {
    ids.into_iter().copied().collect()
}
