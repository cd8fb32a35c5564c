//! What people see of a build: things that happened, each with when it happened and when it was recorded.

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::stored_as_text;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TimelineKind)]
pub enum Kind {
    /// GitHub: the workflow job waits for an approval.
    Waiting,
    /// GitHub: the workflow job waits for a runner.
    Queued,
    /// GitHub: a runner has the workflow job.
    InProgress,
    /// GitHub: the workflow job is over.
    Completed,
    /// The workflow job is not for this cluster.
    NotOurs,
    /// No Slurm user mapped the workflow job's repository yet.
    WaitingForMapping,
    /// The repository may not be served, or the agent or Slurm refused the launch.
    Refused,
    /// A launch is planned.
    Planned,
    /// A submission failed and is tried again.
    Delayed,
    /// The agent has submitted the launch.
    Submitted,
    /// Slurm reported something about the launch's Slurm job.
    Slurm,
    /// The Slurm job runs and its node has called back.
    Allocated,
    /// The runner is being set up on its node.
    SetUp,
    /// The runner is registered at GitHub.
    Registered,
    /// The runner listens for workflow jobs.
    Listening,
    /// A workflow job started in the runner.
    WorkflowJobStarted,
    /// GitHub said which workflow job the runner has.
    Attributed,
    /// The launch is over and had a workflow job.
    Finished,
    /// The launch is over and had no workflow job.
    EndedWithoutWorkflowJob,
    /// The launch is not wanted any more.
    Withdrawn,
    /// The Slurm job of a withdrawn launch is cancelled.
    Cancelled,
}

stored_as_text!(Kind {
    Waiting => "waiting",
    Queued => "queued",
    InProgress => "in_progress",
    Completed => "completed",
    NotOurs => "not_ours",
    WaitingForMapping => "waiting_for_mapping",
    Refused => "refused",
    Planned => "planned",
    Delayed => "delayed",
    Submitted => "submitted",
    Slurm => "slurm",
    Allocated => "allocated",
    SetUp => "set_up",
    Registered => "registered",
    Listening => "listening",
    WorkflowJobStarted => "workflow_job_started",
    Attributed => "attributed",
    Finished => "finished",
    EndedWithoutWorkflowJob => "ended_without_workflow_job",
    Withdrawn => "withdrawn",
    Cancelled => "cancelled",
});

/// One thing that happened to a workflow job or a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What.
    pub kind: Kind,
    /// When it happened, by the clock of who reported it, but never after it was recorded.
    pub happened_at: DateTime<Utc>,
    /// For people.
    pub detail: String,
    /// End of the job script's log.
    pub log_tail: Option<String>,
}

impl Entry {
    /// Something that happened at `happened_at`.
    pub fn new(kind: Kind, happened_at: DateTime<Utc>, detail: impl Into<String>) -> Self {
        Self {
            kind,
            happened_at,
            detail: detail.into(),
            log_tail: None,
        }
    }

    /// With the end of the job script's log.
    #[must_use]
    pub fn log_tail(mut self, tail: Option<String>) -> Self {
        self.log_tail = tail;
        self
    }
}

/// GitHub ends a workflow run after 35 days ("Usage limits" of GitHub Actions).
const OLDEST: TimeDelta = TimeDelta::days(40);

/// `reported`, but never after `now`: clocks of nodes and of GitHub differ from this one. What is older than any workflow run is no
/// time at which something of it happened, and is taken as `now`. GitHub writes whole seconds: such a time is taken as the end of its
/// second, so that what happened within the second comes before.
pub fn happened(reported: Option<DateTime<Utc>>, now: DateTime<Utc>) -> DateTime<Utc> {
    let Some(at) = reported.filter(|at| *at > now - OLDEST && *at < now) else {
        return now;
    };
    let is_whole = at.timestamp_subsec_nanos() == 0;
    let at = if is_whole {
        at + TimeDelta::milliseconds(999)
    } else {
        at
    };
    at.min(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_happens_after_it_is_recorded() {
        let second = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let ms = |ms| second + TimeDelta::milliseconds(ms);
        assert_eq!(happened(None, ms(5)), ms(5));
        assert_eq!(happened(Some(second), ms(5000)), ms(999));
        assert_eq!(happened(Some(second), ms(500)), ms(500));
        assert_eq!(happened(Some(ms(7)), ms(500)), ms(7));
        assert_eq!(happened(Some(ms(90_000)), ms(500)), ms(500));
        let days = |days| second - TimeDelta::days(days);
        assert_eq!(
            happened(Some(days(39)), ms(5)),
            days(39) + TimeDelta::milliseconds(999)
        );
        let last_whole = DateTime::from_timestamp(DateTime::<Utc>::MAX_UTC.timestamp(), 0).unwrap();
        for never in [days(41), DateTime::<Utc>::MIN_UTC, last_whole] {
            assert_eq!(happened(Some(never), ms(5)), ms(5));
        }
    }
}
