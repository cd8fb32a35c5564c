//! What this GitHub holds, as callers see it. The same types go in and out of the handle and of the control API.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// An owner of repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// GitHub's id.
    pub id: i64,
    /// Its name, as first written.
    pub login: String,
    /// Whether it is an organization; otherwise a user.
    pub organization: bool,
}

/// How far a permission goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// May look.
    Read,
    /// May change.
    Write,
    /// May administer.
    Admin,
}

/// Permission name (`administration`, `actions`, …) to access.
pub type Permissions = BTreeMap<String, Access>;

/// The App on an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// GitHub's id.
    pub id: i64,
    /// Where it is installed.
    pub account: Account,
    /// Whether every repository of the account, also a future one, belongs to it.
    pub all_repositories: bool,
    /// The repositories it may see.
    pub repository_ids: BTreeSet<i64>,
    /// What it may do.
    pub permissions: Permissions,
    /// Since when it is suspended.
    pub suspended_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// GitHub's id: stays when the repository is renamed, is new when a name is made again.
    pub id: i64,
    /// Whose it is.
    pub owner: Account,
    /// Its present name, without the owner.
    pub name: String,
    /// Whether only members see it.
    pub private: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Repository {
    /// `owner/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.owner.login, self.name)
    }
}

/// A label of a runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerLabel {
    /// GitHub's id: one per spelling.
    pub id: i64,
    /// The label as it was sent.
    pub name: String,
    /// `read-only` for those that the runner reports about itself, `custom` otherwise.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A registered runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// GitHub's id.
    pub id: i64,
    /// Its name, unique in its repository.
    pub name: String,
    /// Where it is registered.
    pub repository_id: i64,
    /// `unknown` until it connected.
    pub os: String,
    /// What it offers.
    pub labels: Vec<RunnerLabel>,
    /// Deleted after one workflow job.
    pub ephemeral: bool,
    /// Made by a just-in-time configuration; otherwise by a registration token.
    pub just_in_time: bool,
    /// The runner's software, once it connected.
    pub version: Option<String>,
    /// Where it keeps its work, as configured.
    pub work_folder: String,
    /// Whether it has a live session.
    pub online: bool,
    /// Whether it waits for a workflow job at this moment.
    pub listening: bool,
    /// The workflow job it was given.
    pub workflow_job_id: Option<i64>,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}

/// Where a workflow job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Held back by an environment's protection rules.
    Waiting,
    /// Waits for a runner.
    Queued,
    /// A runner has it.
    InProgress,
    /// Over.
    Completed,
}

impl Status {
    /// As GitHub writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
        }
    }
}

/// How a workflow job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// Every step succeeded.
    Success,
    /// A step or a hook failed, or the runner was lost.
    Failure,
    /// Somebody cancelled it, or its runner was stopped.
    Cancelled,
    /// It was never to run.
    Skipped,
}

impl Conclusion {
    /// As GitHub writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

/// A step of a workflow job, as the runner reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is called.
    pub name: String,
    /// How it ended.
    pub conclusion: Conclusion,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub completed_at: DateTime<Utc>,
}

/// A workflow job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkflowJob {
    /// GitHub's id.
    pub id: i64,
    /// The workflow run it belongs to.
    pub run_id: i64,
    /// The repository it belongs to.
    pub repository_id: i64,
    /// Its display name.
    pub name: String,
    /// The strings of `runs-on`.
    pub labels: Vec<String>,
    /// Where it stands.
    pub status: Status,
    /// How it ended.
    pub conclusion: Option<Conclusion>,
    /// The runner that has or had it.
    pub runner_id: Option<i64>,
    /// That runner's name.
    pub runner_name: Option<String>,
    /// The runner it was offered to and that has not taken it yet.
    pub offered_to: Option<i64>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When a runner took it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub completed_at: Option<DateTime<Utc>>,
    /// What was done.
    pub steps: Vec<Step>,
    /// What the steps printed.
    pub output: String,
    /// The bash script that is its one step.
    pub script: String,
    /// Milliseconds the runner spends setting up (downloading actions) before the first hook.
    pub set_up_ms: u64,
    /// The image of its `container:`.
    pub container: Option<String>,
    /// The images of its `services:`.
    pub services: Vec<String>,
    /// Somebody asked a running one to stop.
    pub cancel_requested: bool,
}

/// A workflow run: one or more workflow jobs of one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowRun {
    /// GitHub's id.
    pub id: i64,
    /// Where it runs.
    pub repository_id: i64,
    /// Position among the runs of the workflow.
    pub run_number: i64,
    /// The event that triggered it (`push`, `pull_request`, …).
    pub event: String,
    /// The repository the commit comes from; another one for a fork's pull request, none when the fork was deleted.
    pub head_repository: Option<HeadRepository>,
    /// The branch.
    pub head_branch: String,
    /// The commit.
    pub head_sha: String,
    /// Who triggered it.
    pub actor: Account,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// The repository a workflow run's commit comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadRepository {
    /// GitHub's id.
    pub id: i64,
    /// `owner/name`.
    pub full_name: String,
    /// Whether it is a fork.
    pub fork: bool,
}

/// One attempt to deliver a webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// GitHub's id of the attempt.
    pub id: i64,
    /// The same for every attempt to deliver one event.
    pub guid: String,
    /// The event's name.
    pub event: String,
    /// The event's action.
    pub action: Option<String>,
    /// The installation it is about.
    pub installation_id: Option<i64>,
    /// The repository it is about.
    pub repository_id: Option<i64>,
    /// The workflow job it is about.
    pub workflow_job_id: Option<i64>,
    /// Whether somebody asked for this attempt.
    pub redelivery: bool,
    /// The exact body, before any form encoding.
    pub payload: String,
    /// When it was attempted; not yet while empty.
    pub delivered_at: Option<DateTime<Utc>>,
    /// Seconds it took.
    pub duration: f64,
    /// `OK`, or what went wrong.
    pub status: String,
    /// The answer's status; 502 when nobody answered, 504 when nobody answered in time.
    pub status_code: u16,
    /// The headers that were sent.
    pub request_headers: BTreeMap<String, String>,
    /// The address it was sent to.
    pub url: String,
    /// The answer's headers.
    pub response_headers: BTreeMap<String, String>,
    /// The answer's body.
    pub response_payload: String,
}

/// What a person may do in a repository, in GitHub's words. Each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Pull,
    /// Manages issues and pull requests.
    Triage,
    /// Writes.
    Push,
    /// Manages the repository without access to sensitive settings.
    Maintain,
    /// Administers the repository, its runners included.
    Admin,
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of pull, triage, push, maintain and admin")]
pub struct UnknownRole(String);

impl std::str::FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        match text {
            "pull" => Ok(Self::Pull),
            "triage" => Ok(Self::Triage),
            "push" => Ok(Self::Push),
            "maintain" => Ok(Self::Maintain),
            "admin" => Ok(Self::Admin),
            _ => Err(UnknownRole(text.to_owned())),
        }
    }
}

/// A person who can sign in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// GitHub's id.
    pub id: i64,
    /// The name, as first written.
    pub login: String,
    /// Roles by repository id, without those of an owner.
    pub roles: BTreeMap<i64, Role>,
    /// Whether the person has authorized the App.
    pub authorized: bool,
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Installations by id.
    pub installations: Vec<Installation>,
    /// Repositories by id.
    pub repositories: Vec<Repository>,
    /// People by login.
    pub people: Vec<Person>,
    /// Registered runners by id.
    pub runners: Vec<Runner>,
    /// Workflow runs by id.
    pub workflow_runs: Vec<WorkflowRun>,
    /// Workflow jobs by id.
    pub workflow_jobs: Vec<WorkflowJob>,
    /// Attempted deliveries, oldest first.
    pub deliveries: Vec<Delivery>,
    /// REST calls by route, for example `POST /repos/{owner}/{repo}/actions/runners/generate-jitconfig`.
    pub calls: BTreeMap<String, u64>,
    /// Whether no workflow job is given to a runner on its own.
    pub assignment_paused: bool,
}

impl State {
    /// The workflow job with this id.
    pub fn workflow_job(&self, id: i64) -> Option<&WorkflowJob> {
        self.workflow_jobs.iter().find(|job| job.id == id)
    }

    /// The runner with this name.
    pub fn runner(&self, name: &str) -> Option<&Runner> {
        self.runners.iter().find(|runner| runner.name == name)
    }
}
