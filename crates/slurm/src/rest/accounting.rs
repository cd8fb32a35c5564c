//! What slurmrestd's `/slurmdb` tells of Slurm jobs. Held against the slurmrestds that `version` names.

use gha_slurm_domain::{SlurmJobId, SlurmState, Usage};
use serde::Deserialize;

use super::version::{Fault, Number, Words, time};
use crate::api_version::ApiVersion;
use crate::backend::JobUsage;

/// `ESLURM_REST_EMPTY_RESULT`: it knows none of the Slurm jobs.
const NOTHING_FOUND: i64 = 9003;

/// The query for these Slurm jobs: one list before v0.0.40, whose comma must not be there in plain; then one by one (24.11
/// refuses a list).
pub(super) fn query(version: ApiVersion, ids: &[SlurmJobId]) -> String {
    let between = if version < ApiVersion::V40 {
        "%2C"
    } else {
        "&step="
    };
    let ids: Vec<&str> = ids.iter().map(SlurmJobId::as_str).collect();
    format!("jobs?step={}", ids.join(between))
}

/// What it answers, also (with 200) when it fails.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    errors: Option<Vec<Fault>>,
    #[serde(default)]
    jobs: Vec<Job>,
}

#[derive(Debug, Deserialize)]
struct Job {
    #[serde(rename = "job_id")]
    id: Number,
    state: State,
    time: Times,
    tres: Tres,
    #[serde(default)]
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct State {
    current: Words,
}

#[derive(Debug, Deserialize)]
struct Times {
    elapsed: Number,
    submission: Number,
}

#[derive(Debug, Deserialize)]
struct Tres {
    #[serde(default)]
    allocated: Vec<TresCount>,
}

#[derive(Debug, Deserialize)]
struct TresCount {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: Option<String>,
    /// Null, or negative, where there is none.
    #[serde(default)]
    count: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Step {
    time: StepTimes,
    tres: StepTres,
}

#[derive(Debug, Deserialize)]
struct StepTimes {
    total: CpuTime,
}

#[derive(Debug, Deserialize)]
struct CpuTime {
    seconds: u64,
    microseconds: u64,
}

#[derive(Debug, Deserialize)]
struct StepTres {
    /// What was used, whatever it is called.
    requested: StepUse,
}

#[derive(Debug, Deserialize)]
struct StepUse {
    #[serde(default)]
    max: Vec<TresCount>,
}

impl Answer {
    /// What it failed with.
    pub(super) fn failure(&self) -> Option<String> {
        let faults = self.errors.as_deref().unwrap_or_default();
        let fault = faults.iter().find(|f| f.code() != NOTHING_FOUND)?;
        Some(format!("accounting: {}", fault.words()))
    }

    /// The Slurm jobs it knows.
    pub(super) fn usages(&self) -> Vec<JobUsage> {
        self.jobs.iter().filter_map(Job::usage).collect()
    }
}

impl Job {
    fn usage(&self) -> Option<JobUsage> {
        let state = SlurmState::from_slurm(self.state.current.shown());
        Some(JobUsage {
            id: self.id.value()?.to_string().parse().ok()?,
            submitted_at: time(Some(&self.time.submission)),
            state,
            usage: if state.is_over() {
                self.used()?
            } else {
                Usage::default()
            },
        })
    }

    /// What it used. `None`: the record is not complete.
    fn used(&self) -> Option<Usage> {
        let counts = self.tres.allocated.iter().filter_map(|tres| {
            let count = u64::try_from(tres.count?).ok().filter(|count| *count > 0)?;
            Some((tres.shown(), count))
        });
        let tres: std::collections::BTreeMap<String, u64> = counts.collect();
        let elapsed_s = self.time.elapsed.value()?;
        let cpus = tres.get("cpu").copied().unwrap_or_default();
        let used = |step: &Step| {
            let CpuTime {
                seconds,
                microseconds,
            } = step.time.total;
            seconds
                .saturating_mul(1_000_000)
                .saturating_add(microseconds)
        };
        // Its own total is 0 in 22.05.
        let used: u64 = self.steps.iter().map(used).sum();
        let memory = |tres: &&TresCount| tres.kind == "mem";
        let max_rss = self
            .steps
            .iter()
            .flat_map(|step| &step.tres.requested.max)
            .filter(memory)
            .filter_map(|tres| u64::try_from(tres.count?).ok())
            .max();
        Some(Usage {
            elapsed_s,
            cpu_allocated_s: elapsed_s.saturating_mul(cpus),
            cpu_used_s: used.saturating_add(500_000) / 1_000_000,
            max_rss_bytes: max_rss.filter(|bytes| *bytes > 0),
            tres,
        })
    }
}

impl TresCount {
    /// As sacct writes it: `cpu`, `gres/gpu`.
    fn shown(&self) -> String {
        match self.name.as_deref() {
            None | Some("") => self.kind.clone(),
            Some(name) => format!("{}/{name}", self.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slurmrestd_24_11_says_is_read() {
        for version in [ApiVersion::V40, ApiVersion::V41, ApiVersion::V42] {
            let answer: Answer = super::super::version::recorded(version, "usage");
            assert_eq!(answer.failure(), None);
            let usages = answer.usages();
            let [worked, killed] = usages.as_slice() else {
                panic!("{usages:?}");
            };
            assert_eq!((worked.id.as_str(), killed.id.as_str()), ("14", "15"));
            let Usage {
                elapsed_s,
                cpu_allocated_s,
                cpu_used_s,
                max_rss_bytes,
                ref tres,
            } = worked.usage;
            assert!((2..20).contains(&elapsed_s), "{worked:?}");
            assert_eq!(cpu_allocated_s, 2 * elapsed_s);
            assert!((1..=cpu_allocated_s).contains(&cpu_used_s), "{worked:?}");
            assert!(max_rss_bytes.unwrap() > 25_000_000, "{worked:?}");
            for (name, count) in [("cpu", 2), ("gres/gpu", 1), ("node", 1)] {
                assert_eq!(tres.get(name), Some(&count), "{worked:?}");
            }
            assert!(worked.submitted_at.is_some());
        }
    }

    #[test]
    fn several_are_asked_for_as_the_version_wants_it() {
        let ids = ["1".parse().unwrap(), "2".parse().unwrap()];
        assert_eq!(query(ApiVersion::V38, &ids), "jobs?step=1%2C2");
        assert_eq!(query(ApiVersion::V40, &ids), "jobs?step=1&step=2");
    }
}
