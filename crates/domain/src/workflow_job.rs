//! The life of a workflow job: facts that only go forward, merged by one pure function, whatever order they arrive in.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::bounded;
use crate::ids::{ClassId, InstallationId, RepositoryId, WorkflowJobId};
use crate::stored_as_text;
use crate::timeline::{self, Entry, Kind};

/// State of a workflow job as far as it is known.
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
pub enum WorkflowJobState {
    /// Created, waiting for an approval; not demand.
    Waiting,
    /// Wants a runner: demand.
    Queued,
    /// A runner has it.
    InProgress,
    /// Over, whatever the conclusion.
    Completed,
}

stored_as_text!(WorkflowJobState {
    Waiting => "waiting",
    Queued => "queued",
    InProgress => "in_progress",
    Completed => "completed",
});

impl WorkflowJobState {
    /// The state after hearing `heard`. `waiting` after `queued` keeps `queued`: which of them is newer cannot be told
    /// from an unordered stream, and assuming demand is the safe side until REST is asked.
    #[must_use]
    pub fn advance(self, heard: Self) -> Self {
        self.max(heard)
    }

    /// From GitHub's `status` (webhooks and REST; `requested` and `pending` come before `queued`).
    pub fn from_github(status: &str) -> Option<Self> {
        match status {
            "requested" | "pending" => Some(Self::Waiting),
            status => Self::parse(status),
        }
    }

    /// What a webhook says the state is. Action and status can disagree: one published `queued` example has the status
    /// `waiting` (environment protection) and is no demand yet.
    pub fn from_webhook(action: &str, status: &str) -> Self {
        match (action, Self::from_github(status)) {
            ("completed", _) => Self::Completed,
            ("in_progress", _) => Self::InProgress,
            ("waiting", _) | (_, None) => Self::Waiting,
            (_, Some(state)) => state,
        }
    }

    /// The kind of timeline entry that says so.
    fn kind(self) -> Kind {
        match self {
            Self::Waiting => Kind::Waiting,
            Self::Queued => Kind::Queued,
            Self::InProgress => Kind::InProgress,
            Self::Completed => Kind::Completed,
        }
    }
}

/// What is decided about a workflow job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not looked at yet.
    Undecided,
    /// It gets a runner.
    Ours,
    /// Not for this cluster.
    NotOurs,
    /// No Slurm user mapped its repository yet.
    WaitingForMapping,
    /// Its repository may not be served.
    Refused,
}

stored_as_text!(Verdict {
    Undecided => "undecided",
    Ours => "ours",
    NotOurs => "not_ours",
    WaitingForMapping => "waiting_for_mapping",
    Refused => "refused",
});

/// What GitHub says of a workflow job: the one shape of it, in webhooks and REST answers (which write `snake_case`), in events, in
/// the database and behind the page. What payloads of 2021 lack is optional. Texts are bounded wherever they are read.
/// Source: <https://docs.github.com/en/webhooks/webhook-events-and-payloads#workflow_job>.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowJobFacts {
    /// Numeric id.
    pub id: i64,
    /// Workflow run it belongs to.
    #[serde(alias = "run_id")]
    pub run_id: i64,
    /// Attempt of the run, from 1. Old payloads lack it.
    #[serde(alias = "run_attempt")]
    pub run_attempt: Option<i64>,
    /// Its name.
    #[serde(deserialize_with = "bounded::text")]
    pub name: String,
    /// The workflow's name.
    #[serde(
        alias = "workflow_name",
        default,
        deserialize_with = "bounded::optional_text"
    )]
    pub workflow_name: Option<String>,
    /// Branch of the head commit.
    #[serde(
        alias = "head_branch",
        default,
        deserialize_with = "bounded::optional_text"
    )]
    pub head_branch: Option<String>,
    /// Head commit.
    #[serde(
        alias = "head_sha",
        default,
        deserialize_with = "bounded::optional_text"
    )]
    pub head_sha: Option<String>,
    /// Its page at GitHub.
    #[serde(alias = "html_url", default, deserialize_with = "bounded::web_address")]
    pub html_url: Option<String>,
    /// The strings of `runs-on`.
    #[serde(default, deserialize_with = "bounded::labels")]
    pub labels: Vec<String>,
    /// `queued`, `in_progress`, `completed`, `waiting`, … — may disagree with the action.
    #[serde(deserialize_with = "bounded::text")]
    pub status: String,
    /// Set when completed.
    #[serde(default, deserialize_with = "bounded::optional_text")]
    pub conclusion: Option<String>,
    /// Runner that has it; null while queued.
    #[serde(alias = "runner_id")]
    pub runner_id: Option<i64>,
    /// Name of the runner that has it.
    #[serde(
        alias = "runner_name",
        default,
        deserialize_with = "bounded::optional_name"
    )]
    pub runner_name: Option<String>,
    /// When GitHub created it.
    #[serde(alias = "created_at", default, deserialize_with = "time")]
    pub created_at: Option<DateTime<Utc>>,
    /// When it started; while queued, when it was created.
    #[serde(alias = "started_at", default, deserialize_with = "time")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(alias = "completed_at", default, deserialize_with = "time")]
    pub completed_at: Option<DateTime<Utc>>,
}

/// GitHub writes one field as text here and as Unix seconds there. A time that cannot be read is no reason to lose a build.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Time {
        Text(DateTime<Utc>),
        Seconds(i64),
        Unreadable(IgnoredAny),
    }
    Ok(match Time::deserialize(deserializer)? {
        Time::Text(time) => Some(time),
        Time::Seconds(seconds) => DateTime::from_timestamp(seconds, 0),
        Time::Unreadable(_) => None,
    })
}

impl WorkflowJobFacts {
    /// These facts completed by what was `known` before. Each fact is taken apart by name, so that a new one demands a decision.
    fn merged(self, known: &Self, heard: WorkflowJobState) -> Self {
        let Self {
            id,
            run_id,
            run_attempt,
            name,
            workflow_name,
            head_branch,
            head_sha,
            html_url,
            labels,
            status,
            conclusion,
            runner_id,
            runner_name,
            created_at,
            started_at,
            completed_at,
        } = self;
        Self {
            id,
            run_id,
            run_attempt: run_attempt.or(known.run_attempt),
            name,
            workflow_name: workflow_name.or_else(|| known.workflow_name.clone()),
            head_branch: head_branch.or_else(|| known.head_branch.clone()),
            head_sha: head_sha.or_else(|| known.head_sha.clone()),
            html_url: html_url.or_else(|| known.html_url.clone()),
            labels,
            status,
            conclusion: conclusion.or_else(|| known.conclusion.clone()),
            runner_id: runner_id.or(known.runner_id),
            runner_name: runner_name.or_else(|| known.runner_name.clone()),
            created_at: created_at.or(known.created_at),
            started_at,
            completed_at: completed_at.or(known.completed_at),
        }
        .started(heard)
        .or_started_at(known.started_at)
    }

    /// Whether a runner ever had it. GitHub sends null, 0 or an empty name where none had.
    pub fn had_runner(&self) -> bool {
        let has_name = self
            .runner_name
            .as_ref()
            .is_some_and(|name| !name.is_empty());
        has_name || self.runner_id.is_some_and(|id| id != 0)
    }

    /// While a workflow job is queued, GitHub sends the time of its creation as that of its start; also afterwards, where it was cancelled
    /// before a runner had it.
    fn started(self, heard: WorkflowJobState) -> Self {
        let has_started = match heard {
            WorkflowJobState::Waiting | WorkflowJobState::Queued => false,
            WorkflowJobState::InProgress => true,
            WorkflowJobState::Completed => self.had_runner(),
        };
        Self {
            started_at: self.started_at.filter(|_| has_started),
            ..self
        }
    }

    fn or_started_at(self, known: Option<DateTime<Utc>>) -> Self {
        Self {
            started_at: self.started_at.or(known),
            ..self
        }
    }
}

/// A workflow job as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowJob {
    /// What GitHub says.
    pub facts: WorkflowJobFacts,
    /// Its repository.
    pub repository: RepositoryId,
    /// Installation that reported it.
    pub installation: Option<InstallationId>,
    /// Its state.
    pub state: WorkflowJobState,
    /// What is decided about it.
    pub verdict: Verdict,
    /// Why, for people.
    pub reason: Option<String>,
    /// Its runner class, where it gets a runner.
    pub class: Option<ClassId>,
    /// Trace of the webhook that reported it first.
    pub traceparent: Option<String>,
    /// When something was learned about it last.
    pub updated_at: DateTime<Utc>,
}

/// Something that GitHub said about a workflow job.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The facts.
    pub facts: WorkflowJobFacts,
    /// The state they mean.
    pub state: WorkflowJobState,
    /// Repository.
    pub repository: RepositoryId,
    /// Installation that reported them.
    pub installation: Option<InstallationId>,
    /// Trace to continue, if this is the first report.
    pub traceparent: Option<String>,
}

/// What follows from a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// The workflow job as it is known now.
    pub job: WorkflowJob,
    /// For people, where its state changed.
    pub entry: Option<Entry>,
    /// GitHub must be asked which of two reports is newer.
    pub is_doubtful: bool,
    /// The runner that has it, where GitHub says.
    pub runner: Option<String>,
}

impl WorkflowJob {
    /// Its id.
    pub fn id(&self) -> WorkflowJobId {
        WorkflowJobId(self.facts.id)
    }

    /// Whether it wants a runner now.
    pub fn is_demand(&self) -> bool {
        self.state == WorkflowJobState::Queued && self.verdict == Verdict::Ours
    }

    /// Whether a decision about it still matters.
    pub fn is_open(&self) -> bool {
        self.state <= WorkflowJobState::Queued
    }

    /// Whether people see what happens to it: what is not for this cluster is not shown.
    pub fn has_timeline(&self) -> bool {
        self.verdict != Verdict::NotOurs
    }

    /// Merges a report into what is known. Order and repetition do not matter.
    pub fn learn(known: Option<&Self>, heard: Heard, now: DateTime<Utc>) -> Learned {
        let Heard {
            facts,
            state: reported,
            repository,
            installation,
            traceparent,
        } = heard;
        let state = known.map_or(reported, |job| job.state.advance(reported));
        let is_news = known.is_none_or(|job| job.state != state);
        let facts = match known {
            Some(job) => facts.merged(&job.facts, reported),
            None => facts.started(reported),
        };
        let mut job = Self {
            facts,
            repository,
            installation: installation.or(known.and_then(|job| job.installation)),
            state,
            verdict: known.map_or(Verdict::Undecided, |job| job.verdict),
            reason: known.and_then(|job| job.reason.clone()),
            class: known.and_then(|job| job.class),
            traceparent: known.map_or(traceparent, |job| job.traceparent.clone()),
            updated_at: known.map_or(now, |job| job.updated_at),
        };
        // A report that is no news may still bring what a late one knows: the runner's name, times.
        if known != Some(&job) {
            job.updated_at = now;
        }
        let entry = is_news.then(|| {
            let facts = &job.facts;
            let (at, detail) = match (state, &facts.runner_name, &facts.conclusion) {
                (WorkflowJobState::InProgress, Some(runner), _) => {
                    (facts.started_at, format!("Picked up by {runner}"))
                }
                (WorkflowJobState::InProgress, ..) => (facts.started_at, "In progress".to_owned()),
                (WorkflowJobState::Completed, _, Some(conclusion)) => {
                    (facts.completed_at, format!("Completed: {conclusion}"))
                }
                (WorkflowJobState::Completed, ..) => (facts.completed_at, "Completed".to_owned()),
                (WorkflowJobState::Queued, ..) => (facts.created_at, "Queued at GitHub".to_owned()),
                (WorkflowJobState::Waiting, ..) => (
                    facts.created_at,
                    "Waiting for an approval at GitHub".to_owned(),
                ),
            };
            Entry::new(state.kind(), timeline::happened(at, now), detail)
        });
        Learned {
            is_doubtful: reported == WorkflowJobState::Waiting && state == WorkflowJobState::Queued,
            runner: job
                .facts
                .runner_name
                .clone()
                .filter(|_| state >= WorkflowJobState::InProgress),
            job,
            entry,
        }
    }

    /// GitHub's REST API, asked in doubt, says that it waits for an approval: the only way back from `queued`.
    #[must_use]
    pub fn waits_after_all(&self, now: DateTime<Utc>) -> (Self, Entry) {
        self.set(
            WorkflowJobState::Waiting,
            "GitHub says that it waits for an approval",
            now,
        )
    }

    /// GitHub does not know it any more: it is over.
    #[must_use]
    pub fn forgotten(&self, now: DateTime<Utc>) -> (Self, Entry) {
        self.set(
            WorkflowJobState::Completed,
            "GitHub does not know this workflow job any more",
            now,
        )
    }

    fn set(&self, state: WorkflowJobState, reason: &str, now: DateTime<Utc>) -> (Self, Entry) {
        let job = Self {
            state,
            reason: Some(reason.to_owned()),
            updated_at: now,
            ..self.clone()
        };
        (job, Entry::new(state.kind(), now, reason))
    }

    /// Records a decision; `None`: it is the one that stands.
    #[must_use]
    pub fn decided(&self, decision: Decision, now: DateTime<Utc>) -> Option<(Self, Option<Entry>)> {
        let (verdict, reason, class) = match decision {
            Decision::Ours(class) => (Verdict::Ours, None, Some(class)),
            Decision::NotOurs(reason) => (Verdict::NotOurs, Some(reason), None),
            Decision::WaitingForMapping(reason) => (Verdict::WaitingForMapping, Some(reason), None),
            Decision::Refused(reason) => (Verdict::Refused, Some(reason), None),
        };
        if self.verdict == verdict && self.class == class && self.reason == reason {
            return None;
        }
        let kind = match verdict {
            Verdict::Undecided | Verdict::Ours => None,
            Verdict::NotOurs => Some(Kind::NotOurs),
            Verdict::WaitingForMapping => Some(Kind::WaitingForMapping),
            Verdict::Refused => Some(Kind::Refused),
        };
        let entry = kind
            .zip(reason.as_ref())
            .map(|(kind, reason)| Entry::new(kind, now, reason));
        let job = Self {
            verdict,
            reason,
            class,
            updated_at: now,
            ..self.clone()
        };
        Some((job, entry))
    }
}

/// What is decided about a workflow job, with the reason for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It gets a runner of this class.
    Ours(ClassId),
    /// Not for this cluster.
    NotOurs(String),
    /// No Slurm user mapped its repository yet.
    WaitingForMapping(String),
    /// Its repository may not be served.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(status: &str) -> WorkflowJobFacts {
        serde_json::from_value(serde_json::json!({
            "id": 7, "run_id": 1, "name": "build", "labels": ["slurm"], "status": status,
            "created_at": "2026-11-28T00:00:00Z", "started_at": 1_795_824_000, "completed_at": "yesterday"
        }))
        .unwrap()
    }

    fn heard(state: WorkflowJobState, runner: Option<&str>) -> Heard {
        let facts = WorkflowJobFacts {
            runner_name: runner.map(str::to_owned),
            ..facts(state.as_str())
        };
        Heard {
            facts,
            state,
            repository: RepositoryId(1),
            installation: None,
            traceparent: None,
        }
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn run(reports: &[(WorkflowJobState, bool)]) -> WorkflowJob {
        let mut known = None;
        for (state, has_runner) in reports {
            let report = heard(*state, has_runner.then_some("r"));
            known = Some(WorkflowJob::learn(known.as_ref(), report, now()).job);
        }
        known.unwrap()
    }

    #[test]
    fn github_and_events_are_read_alike() {
        let facts = facts("queued");
        assert_eq!(facts.started_at, DateTime::from_timestamp(1_795_824_000, 0));
        assert_eq!(facts.completed_at, None);
        let event = serde_json::to_value(&facts).unwrap();
        assert_eq!(event["runId"], 1);
        assert_eq!(
            serde_json::from_value::<WorkflowJobFacts>(event).unwrap(),
            facts
        );
    }

    #[test]
    fn what_no_runner_had_never_started() {
        let queued = run(&[(WorkflowJobState::Queued, false)]);
        let ended = |runner| {
            let report = heard(WorkflowJobState::Completed, runner);
            WorkflowJob::learn(Some(&queued), report, now()).job.facts
        };
        assert!(facts("completed").started_at.is_some());
        assert_eq!(ended(None).started_at, None);
        assert_eq!(ended(Some("")).started_at, None);
        assert!(ended(Some("r")).started_at.is_some());
    }

    #[test]
    fn a_late_waiting_is_doubtful_and_changes_nothing() {
        let queued = run(&[(WorkflowJobState::Queued, false)]);
        let late = heard(WorkflowJobState::Waiting, None);
        let learned = WorkflowJob::learn(Some(&queued), late, now());
        assert!(learned.is_doubtful && learned.entry.is_none());
        assert_eq!(learned.job.state, WorkflowJobState::Queued);
    }

    #[test]
    fn the_same_decision_is_no_news() {
        let job = run(&[(WorkflowJobState::Queued, false)]);
        let decision = Decision::NotOurs("no label".into());
        let (job, entry) = job.decided(decision.clone(), now()).unwrap();
        assert_eq!(entry.unwrap().kind, Kind::NotOurs);
        assert_eq!(job.decided(decision, now()), None);
        assert!(!job.is_demand());
        let (job, entry) = job.decided(Decision::Ours(ClassId(1)), now()).unwrap();
        assert!(job.is_demand() && entry.is_none() && job.reason.is_none());
    }

    proptest! {
        #[test]
        fn order_and_repetition_do_not_matter(
            mut reports in proptest::collection::vec(
                (0..WorkflowJobState::ALL.len(), any::<bool>()).prop_map(|(i, r)| (WorkflowJobState::ALL[i], r)), 1..12)
        ) {
            let forward = run(&reports);
            reports.reverse();
            reports.push(reports[0]);
            let backward = run(&reports);
            prop_assert_eq!(forward.state, backward.state);
            prop_assert_eq!(forward.facts.runner_name, backward.facts.runner_name);
        }
    }
}
