//! What sacct prints as text.

use std::collections::{BTreeMap, HashMap};

use gha_slurm_domain::{SlurmState, Usage};

use crate::backend::JobUsage;
use crate::squeue;

/// What sacct is asked for. Nothing that a user may write: a comment could hold lines of its own.
pub(super) const COLUMNS: &str =
    "JobIDRaw,State,Submit,ElapsedRaw,CPUTimeRAW,TotalCPU,AllocTRES,MaxRSS";

/// The Slurm jobs of a listing (`--parsable2 --noheader --noconvert`). A Slurm job has a line of its own and one per step
/// (`17.batch`), which alone tell of memory.
pub(super) fn usages(listing: &str) -> Vec<JobUsage> {
    let mut jobs = Vec::new();
    let mut max_rss: HashMap<&str, u64> = HashMap::new();
    for line in listing.lines() {
        let columns: Vec<&str> = line.split('|').collect();
        let [id, state, submit, elapsed, cpu, used, tres, rss] = columns.as_slice() else {
            continue;
        };
        if let Some((job, _step)) = id.split_once('.') {
            let rss: u64 = rss.parse().unwrap_or_default();
            let max = max_rss.entry(job).or_default();
            *max = rss.max(*max);
            continue;
        }
        // `CANCELLED by 1000`.
        let state = state.split(' ').next().unwrap_or_default();
        let state = SlurmState::from_slurm(state);
        let (Ok(id), Ok(elapsed_s)) = (id.parse(), elapsed.parse()) else {
            continue;
        };
        let used = || Usage {
            elapsed_s,
            cpu_allocated_s: cpu.parse().unwrap_or_default(),
            cpu_used_s: seconds(used).unwrap_or_default(),
            max_rss_bytes: None,
            tres: counted(tres),
        };
        jobs.push(JobUsage {
            id,
            submitted_at: squeue::time(submit),
            state,
            usage: state.is_over().then(used).unwrap_or_default(),
        });
    }
    for job in jobs.iter_mut().filter(|job| job.state.is_over()) {
        let rss = max_rss.get(job.id.as_str()).copied();
        job.usage.max_rss_bytes = rss.filter(|bytes| *bytes > 0);
    }
    jobs
}

/// `[DD-[HH:]]MM:SS[.mmm]` in seconds, rounded.
fn seconds(text: &str) -> Option<u64> {
    let (days, rest) = text.split_once('-').unwrap_or(("0", text));
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let mut seconds: u64 = 0;
    for part in whole.split(':') {
        seconds = seconds.checked_mul(60)?.checked_add(part.parse().ok()?)?;
    }
    let half = fraction.starts_with(['5', '6', '7', '8', '9']);
    let days: u64 = days.parse().ok()?;
    days.checked_mul(86_400)?
        .checked_add(seconds)?
        .checked_add(u64::from(half))
}

/// `billing=2,cpu=2,gres/gpu=1,mem=100M`: memory is in MiB.
fn counted(tres: &str) -> BTreeMap<String, u64> {
    tres.split(',')
        .filter_map(|one| {
            let (name, count) = one.split_once('=')?;
            let digits = count.trim_end_matches(|c: char| !c.is_ascii_digit());
            Some((name.to_owned(), digits.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_complete_is_read() {
        let listing = "\
            17|FAILED|1795537616|2|4|00:01.632|billing=2,cpu=2,gres/gpu=1,mem=100M,node=1|\n\
            17.batch|FAILED|1795537616|2|4|00:01.632|cpu=2,mem=100M|3321856\n\
            17.0|COMPLETED|1795537616|1|2|00:00.132|cpu=2,mem=100M|4000000\n\
            18|CANCELLED by 0|1795537616|0|0|00:00:00||\n\
            19|RUNNING|1795537616|70|70|00:00:00|cpu=1|\n\
            garbage\n";
        let read = usages(listing);
        let ids: Vec<&str> = read.iter().map(|job| job.id.as_str()).collect();
        assert_eq!(ids, ["17", "18", "19"]);
        let states: Vec<SlurmState> = read.iter().map(|job| job.state).collect();
        let expected = [
            SlurmState::Failed,
            SlurmState::Cancelled,
            SlurmState::Running,
        ];
        assert_eq!(states, expected);
        let tres = [
            ("billing", 2),
            ("cpu", 2),
            ("gres/gpu", 1),
            ("mem", 100),
            ("node", 1),
        ];
        assert_eq!(
            read[0].usage,
            Usage {
                elapsed_s: 2,
                cpu_allocated_s: 4,
                cpu_used_s: 2,
                max_rss_bytes: Some(4_000_000),
                tres: tres.map(|(n, c)| (n.to_owned(), c)).into(),
            }
        );
        assert!(read[0].submitted_at.is_some());
        assert_eq!(read[1].usage, Usage::default());
        assert_eq!(read[2].usage, Usage::default(), "it is not over");
    }

    #[test]
    fn times_are_read() {
        assert_eq!(seconds("00:00:00"), Some(0));
        assert_eq!(seconds("00:00.499"), Some(0));
        assert_eq!(seconds("02:03.500"), Some(124));
        assert_eq!(seconds("2-03:04:05"), Some(183_845));
        assert_eq!(seconds(""), None);
        // Larger than any that Slurm has.
        for absurd in [
            "99999999999999999:00:00",
            "999999999999999999-00:00",
            "00:99999999999999999999",
        ] {
            assert_eq!(seconds(absurd), None, "{absurd}");
        }
        let last = seconds("213503982334601-07:00:15");
        assert_eq!(last, Some(u64::MAX));
        assert_eq!(seconds("213503982334601-07:00:15.5"), None);
    }
}
