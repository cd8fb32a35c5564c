//! The status of a build as people see it: one stage, the reason, the expected time, and what the user can do. It is derived here and
//! nowhere else; the API and the page show it.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::launch::{LaunchState, Outcome};
use crate::slurm_reason::SlurmReason;
use crate::slurm_state::SlurmState;
use crate::stop::Stop;
use crate::workflow_job::{Verdict, WorkflowJob, WorkflowJobState};

/// What the job script writes before the policy's words where a hook refused a workflow job on its node.
const REFUSED_ON_NODE: &str = "refused_by_policy: ";

/// How far a build is, as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BuildStage {
    /// GitHub holds it back: for an approval, a wait timer or a concurrency group.
    WaitingAtGithub,
    /// Its labels are not for this cluster.
    NotOurs,
    /// No Slurm user has mapped its repository.
    WaitingForMapping,
    /// It may not run as it is, or the cluster refuses it.
    Refused,
    /// Too many attempts failed: nothing is started for it until something changes.
    GivenUp,
    /// An administrator stopped all launches.
    Stopped,
    /// A Slurm job is about to be submitted for it.
    Planned,
    /// The submission failed and is tried again.
    Delayed,
    /// Its Slurm job waits in Slurm.
    Pending,
    /// Its Slurm job waits in Slurm, and cannot start as it is.
    NeverStarts,
    /// Its node has started, and its runner is being set up.
    Starting,
    /// It runs.
    Running,
    /// It succeeded.
    Succeeded,
    /// It failed.
    Failed,
    /// The cluster's policy refused it on its node, before its first step.
    RefusedOnNode,
    /// It was cancelled.
    Cancelled,
    /// It was skipped.
    Skipped,
    /// It is over, with another conclusion.
    Ended,
}

/// The status of a build as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildStatus {
    /// How far it is.
    pub stage: BuildStage,
    /// Why, in plain words: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Why its Slurm job is pending, in Slurm's own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_reason: Option<String>,
    /// When it is expected to go on: when Slurm expects to start its Slurm job, or when the next attempt is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_at: Option<DateTime<Utc>>,
    /// What the person can do: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What its runner class remembers, of a build that waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassStatus {
    /// Why nothing is launched for it, for people.
    pub stopped: Option<String>,
    /// The agent or Slurm refused it for good.
    pub is_refused: bool,
}

/// The launch that is on its way to a build that waits: which of several it gets cannot be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnTheWay {
    /// How far it is.
    pub state: LaunchState,
    /// Why its last submission failed, for people.
    pub delay: Option<String>,
    /// Not submitted before.
    pub not_before: DateTime<Utc>,
    /// The state of its Slurm job.
    pub slurm_state: Option<SlurmState>,
    /// Why that is so, in Slurm's word.
    pub slurm_reason: Option<String>,
    /// When Slurm expects to start it.
    pub starts_at: Option<DateTime<Utc>>,
    /// Its nodes.
    pub nodes: Option<String>,
}

/// What a status is derived from, beside the workflow job.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings<'a> {
    /// An administrator stopped all launches.
    pub stop: Option<&'a Stop>,
    /// Its runner class.
    pub class: Option<&'a ClassStatus>,
    /// The launch on its way.
    pub launch: Option<&'a OnTheWay>,
    /// How the launch ended whose runner had it.
    pub outcome: Option<&'a Outcome>,
}

impl BuildStatus {
    fn new(stage: BuildStage) -> Self {
        Self {
            stage,
            why: None,
            slurm_reason: None,
            expected_at: None,
            remedy: None,
        }
    }

    fn why(mut self, why: impl AsRef<str>) -> Self {
        self.why = sentence(why.as_ref());
        self
    }

    fn remedy(mut self, remedy: &str) -> Self {
        self.remedy = sentence(remedy);
        self
    }

    /// Of a build, at `now`.
    pub fn of(job: &WorkflowJob, around: Surroundings<'_>, now: DateTime<Utc>) -> Self {
        let reason = job.reason.as_deref().unwrap_or_default();
        match (job.state, job.verdict) {
            (WorkflowJobState::Completed, _) => completed(job, around.outcome),
            (WorkflowJobState::InProgress, _) => Self::new(BuildStage::Running),
            (_, Verdict::NotOurs) => Self::new(BuildStage::NotOurs).why(reason),
            (_, Verdict::WaitingForMapping) => Self::new(BuildStage::WaitingForMapping)
                .why(reason)
                .remedy(
                    "Map the repository to your Slurm user: on this page, or by gha-slurm repos add on a login node",
                ),
            (_, Verdict::Refused) => Self::new(BuildStage::Refused).why(reason),
            (WorkflowJobState::Waiting, _) => Self::new(BuildStage::WaitingAtGithub)
                .why("GitHub holds it back: for an approval, a wait timer or a concurrency group")
                .remedy("Look at the workflow run at GitHub"),
            (WorkflowJobState::Queued, Verdict::Undecided) => Self::new(BuildStage::Planned),
            (WorkflowJobState::Queued, Verdict::Ours) => waiting(around, now),
        }
    }
}

/// It gets a runner of gha-slurm and has none yet.
fn waiting(around: Surroundings<'_>, now: DateTime<Utc>) -> BuildStatus {
    if let Some(stop) = around.stop {
        return BuildStatus::new(BuildStage::Stopped)
            .why(stop.explained())
            .remedy("It starts by itself when an administrator lets launches go on");
    }
    if let Some(ClassStatus {
        stopped: Some(stopped),
        is_refused,
    }) = around.class
    {
        let (stage, remedy) = if *is_refused {
            (
                BuildStage::Refused,
                "Change the labels of `runs-on`, or ask the administrators of the cluster. It is tried again when the mapping, the policy or \
                 Slurm's configuration changes, or by gha-slurm retry",
            )
        } else {
            (
                BuildStage::GivenUp,
                "Once the cause is fixed, run the workflow again, or ask an administrator for gha-slurm retry",
            )
        };
        return BuildStatus::new(stage).why(stopped).remedy(remedy);
    }
    let Some(launch) = around.launch else {
        return BuildStatus::new(BuildStage::Planned).why("A Slurm job is about to be submitted");
    };
    match (launch.state, launch.slurm_state) {
        (LaunchState::Planned, _) => planned(launch, now),
        (LaunchState::Submitted, Some(SlurmState::Pending)) => pending(launch, now),
        (LaunchState::Submitted, None) => {
            BuildStatus::new(BuildStage::Pending).why("Its Slurm job is submitted")
        }
        _ => {
            let on = match launch.nodes.as_deref() {
                Some(nodes) if !nodes.is_empty() => format!(" on {nodes}"),
                _ => String::new(),
            };
            BuildStatus::new(BuildStage::Starting).why(format!("Its runner is being set up{on}"))
        }
    }
}

fn planned(launch: &OnTheWay, now: DateTime<Utc>) -> BuildStatus {
    let mut status = match &launch.delay {
        Some(delay) => BuildStatus::new(BuildStage::Delayed).why(delay),
        None if launch.not_before > now => BuildStatus::new(BuildStage::Delayed)
            .why("The last attempt failed; another one is made after a pause"),
        None => BuildStatus::new(BuildStage::Planned).why("A Slurm job is about to be submitted"),
    };
    status.expected_at = Some(launch.not_before).filter(|at| *at > now);
    status
}

fn pending(launch: &OnTheWay, now: DateTime<Utc>) -> BuildStatus {
    let word = launch.slurm_reason.as_deref().unwrap_or("None");
    let known = SlurmReason::of_word(word);
    let stage = match known {
        Some(reason) if reason.can_never_start => BuildStage::NeverStarts,
        _ => BuildStage::Pending,
    };
    let status = BuildStatus::new(stage);
    let mut status = match known {
        Some(reason) => status
            .why(format!("In Slurm's queue: {}", reason.words))
            .remedy(reason.remedy),
        None => status.why(format!("In Slurm's queue: {word}")),
    };
    status.slurm_reason.clone_from(&launch.slurm_reason);
    // Where it never starts, Slurm's guess is of no use; one that has passed is none.
    status.expected_at = launch
        .starts_at
        .filter(|at| *at > now && stage == BuildStage::Pending);
    status
}

fn completed(job: &WorkflowJob, outcome: Option<&Outcome>) -> BuildStatus {
    if let Some(Outcome::NodeReported { reason, .. }) = outcome
        && let Some(words) = reason.strip_prefix(REFUSED_ON_NODE)
    {
        return BuildStatus::new(BuildStage::RefusedOnNode)
            .why(words)
            .remedy("The cluster's policy decides which events, actors and containers may run; ask its administrators");
    }
    let had_runner = job.facts.had_runner();
    match job.facts.conclusion.as_deref() {
        Some("success") => BuildStatus::new(BuildStage::Succeeded),
        Some("failure") => BuildStatus::new(BuildStage::Failed),
        Some("timed_out") => BuildStatus::new(BuildStage::Failed).why(
            "It took longer than `timeout-minutes` of its workflow, or than its Slurm job may",
        ),
        Some("startup_failure") => {
            BuildStatus::new(BuildStage::Failed).why("GitHub could not start it")
        }
        Some("cancelled") if !had_runner => {
            BuildStatus::new(BuildStage::Cancelled).why("It was cancelled before a runner had it")
        }
        Some("cancelled") => BuildStatus::new(BuildStage::Cancelled),
        Some("skipped") => BuildStatus::new(BuildStage::Skipped),
        Some(other) => {
            BuildStatus::new(BuildStage::Ended).why(format!("GitHub's conclusion: {other}"))
        }
        None => BuildStatus::new(BuildStage::Ended),
    }
}

/// With a capital letter and a full stop. Nothing where there is no text.
fn sentence(text: &str) -> Option<String> {
    let text = text.trim();
    let mut letters = text.chars();
    let first = letters.next()?;
    let end = if text.ends_with(['.', '!', '?', '…']) {
        ""
    } else {
        "."
    };
    Some(first.to_uppercase().chain(letters).collect::<String>() + end)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{ClassId, RepositoryId};

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn job(state: WorkflowJobState, conclusion: Option<&str>) -> WorkflowJob {
        let facts = serde_json::json!({
            "id": 7, "run_id": 1, "name": "build", "status": state.as_str(), "conclusion": conclusion,
        });
        WorkflowJob {
            facts: serde_json::from_value(facts).unwrap(),
            repository: RepositoryId(1),
            installation: None,
            state,
            verdict: Verdict::Ours,
            reason: None,
            class: Some(ClassId(1)),
            traceparent: None,
            updated_at: now(),
        }
    }

    fn launch(state: LaunchState, slurm: Option<(SlurmState, &str)>) -> OnTheWay {
        OnTheWay {
            state,
            delay: None,
            not_before: now(),
            slurm_state: slurm.map(|(state, _)| state),
            slurm_reason: slurm.map(|(_, reason)| reason.to_owned()),
            starts_at: Some(now() + TimeDelta::hours(30)),
            nodes: None,
        }
    }

    fn queued(around: Surroundings<'_>) -> BuildStatus {
        BuildStatus::of(&job(WorkflowJobState::Queued, None), around, now())
    }

    #[test]
    fn what_was_cancelled_in_the_queue_never_ran() {
        let cancelled = job(WorkflowJobState::Completed, Some("cancelled"));
        let status = BuildStatus::of(&cancelled, Surroundings::default(), now());
        assert_eq!(status.stage, BuildStage::Cancelled);
        assert_eq!(
            status.why.as_deref(),
            Some("It was cancelled before a runner had it.")
        );
    }

    #[test]
    fn what_is_given_up_is_told_from_what_is_refused_and_from_a_stop() {
        let stopped = |is_refused| ClassStatus {
            stopped: Some("why".into()),
            is_refused,
        };
        let (given_up, refused) = (stopped(false), stopped(true));
        let of = |class, stop| {
            queued(Surroundings {
                class: Some(class),
                stop,
                ..Surroundings::default()
            })
        };
        let status = of(&given_up, None);
        assert_eq!(status.stage, BuildStage::GivenUp);
        assert_eq!(status.why.as_deref(), Some("Why."));
        assert!(
            status
                .remedy
                .is_some_and(|remedy| remedy.contains("gha-slurm retry"))
        );
        assert_eq!(of(&refused, None).stage, BuildStage::Refused);
        let stop = Stop {
            since: now(),
            reason: "maintenance".into(),
        };
        assert_eq!(of(&given_up, Some(&stop)).stage, BuildStage::Stopped);
    }

    #[test]
    fn what_its_node_refused_is_no_failure_of_the_build() {
        let failed = job(WorkflowJobState::Completed, Some("failure"));
        let reported = |reason: &str| Outcome::NodeReported {
            reason: reason.to_owned(),
            exit_code: None,
        };
        let of = |outcome: Outcome| {
            let around = Surroundings {
                outcome: Some(&outcome),
                ..Surroundings::default()
            };
            BuildStatus::of(&failed, around, now())
        };
        let refused = of(reported("refused_by_policy: forks may not run here"));
        assert_eq!(refused.stage, BuildStage::RefusedOnNode);
        assert_eq!(refused.why.as_deref(), Some("Forks may not run here."));
        assert_eq!(of(reported("completed")).stage, BuildStage::Failed);
    }

    #[test]
    fn what_waits_for_an_approval_is_not_planned() {
        let waiting = job(WorkflowJobState::Waiting, None);
        let status = BuildStatus::of(&waiting, Surroundings::default(), now());
        assert_eq!(status.stage, BuildStage::WaitingAtGithub);
    }

    #[test]
    fn slurms_reason_is_told_in_words_with_when_it_starts() {
        let of = |reason, starts_in| {
            let pending = Some((SlurmState::Pending, reason));
            let launch = OnTheWay {
                starts_at: Some(now() + starts_in),
                ..launch(LaunchState::Submitted, pending)
            };
            queued(Surroundings {
                launch: Some(&launch),
                ..Surroundings::default()
            })
        };
        let status = of("Priority", TimeDelta::hours(30));
        assert_eq!(status.stage, BuildStage::Pending);
        assert_eq!(status.slurm_reason.as_deref(), Some("Priority"));
        assert_eq!(status.expected_at, Some(now() + TimeDelta::hours(30)));
        assert!(
            status
                .why
                .is_some_and(|why| why.contains("higher priority"))
        );
        // A guess that has passed is none.
        assert_eq!(of("Priority", TimeDelta::hours(-1)).expected_at, None);
        let never = of("PartitionTimeLimit", TimeDelta::hours(30));
        assert_eq!(never.stage, BuildStage::NeverStarts);
        assert_eq!(never.expected_at, None);
        assert!(never.remedy.is_some());
        let newer = of("SomethingNewer", TimeDelta::zero());
        assert_eq!(newer.stage, BuildStage::Pending);
        assert!(newer.why.is_some_and(|why| why.contains("SomethingNewer")));
    }

    #[test]
    fn a_pause_after_a_failure_has_its_end() {
        let later = now() + TimeDelta::seconds(40);
        let of = |delay: Option<&str>, not_before| {
            let launch = OnTheWay {
                delay: delay.map(str::to_owned),
                not_before,
                ..launch(LaunchState::Planned, None)
            };
            let status = queued(Surroundings {
                launch: Some(&launch),
                ..Surroundings::default()
            });
            (status.stage, status.expected_at)
        };
        assert_eq!(of(Some("down"), later), (BuildStage::Delayed, Some(later)));
        assert_eq!(of(None, later), (BuildStage::Delayed, Some(later)));
        assert_eq!(of(None, now()), (BuildStage::Planned, None));
        let running = launch(LaunchState::Submitted, Some((SlurmState::Running, "")));
        let around = Surroundings {
            launch: Some(&running),
            ..Surroundings::default()
        };
        assert_eq!(queued(around).stage, BuildStage::Starting);
    }

    proptest! {
        /// What is over never waits, and what waits is never over, whatever is known beside it.
        #[test]
        fn a_stage_agrees_with_what_github_says(
            state in 0..WorkflowJobState::ALL.len(), verdict in 0..Verdict::ALL.len(), stopped in any::<bool>(), has_launch in any::<bool>(),
            reason in proptest::option::of("[A-Za-z]{0,20}")
        ) {
            use BuildStage::{Cancelled, Ended, Failed, RefusedOnNode, Running, Skipped, Succeeded};
            let state = WorkflowJobState::ALL[state];
            let job = WorkflowJob { verdict: Verdict::ALL[verdict], ..job(state, Some("success")) };
            let class = ClassStatus { stopped: stopped.then(String::new), is_refused: false };
            let slurm = reason.as_deref().map(|reason| (SlurmState::Pending, reason));
            let launch = launch(LaunchState::Submitted, slurm);
            let around = Surroundings {
                class: Some(&class),
                launch: has_launch.then_some(&launch),
                ..Surroundings::default()
            };
            let status = BuildStatus::of(&job, around, now());
            let is_over = matches!(status.stage, Succeeded | Failed | RefusedOnNode | Cancelled | Skipped | Ended);
            prop_assert_eq!(is_over, state == WorkflowJobState::Completed);
            prop_assert_eq!(status.stage == Running, state == WorkflowJobState::InProgress);
            prop_assert!(!status.why.is_some_and(|why| why.is_empty() || !why.ends_with(['.', '!', '?', '…'])));
        }
    }
}
