//! What squeue prints. Always text: its JSON has every field of every Slurm job of the cluster (README.md has the figures).

use chrono::{DateTime, Utc};
use gha_slurm_domain::SlurmState;
use uuid::Uuid;

use crate::backend::{Numbers, Queue, SlurmJob, exit_code, standing};

/// What squeue is asked for, and how wide: it cuts what is wider (squeue(1), `--Format`).
const COLUMNS: [(&str, u16); 11] = [
    ("JobID", 20),
    ("State", 30),
    ("Reason", 200),
    ("StartTime", 30),
    ("EndTime", 30),
    ("NodeList", 2000),
    ("Comment", 400),
    ("UserName", 64),
    ("exit_code", 20),
    ("SubmitTime", 30),
    ("RestartCnt", 10),
];

/// `SLURM_TIME_FORMAT`: seconds since 1970. Local time is ambiguous when the clock goes back.
pub(super) const TIME_FORMAT: &str = "%s";

/// What stands after each column of one listing, and nobody can guess: a comment is its user's, and may hold line breaks and
/// whatever else looks like a column.
pub(super) struct Separator(String);

impl Separator {
    pub(super) fn new() -> Self {
        // No digit first: it comes after the width.
        Self(format!("\u{1f}{}", Uuid::new_v4().simple()))
    }

    /// One that can be guessed, for tests.
    #[cfg(feature = "fuzzing")]
    pub(super) fn known(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// For `SQUEUE_FORMAT2`: arguments can be read by everybody on the host, the environment cannot.
    pub(super) fn format(&self) -> String {
        let columns = COLUMNS.iter();
        let columns = columns.map(|(column, width)| format!("{column}:{width}{}", self.0));
        columns.collect::<Vec<_>>().join(",")
    }

    /// What squeue printed.
    pub(super) fn read(&self, listing: &str, known: &Numbers) -> Queue {
        let mut queue = Queue::default();
        let columns: Vec<&str> = listing.split(&self.0).map(str::trim).collect();
        for columns in columns.chunks_exact(COLUMNS.len()) {
            if let Some(job) = slurm_job(columns, known) {
                queue.ours.push(job);
            } else if let [_, state, _, _, _, _, _, user, ..] = columns {
                queue.add_other(user, SlurmState::from_slurm(state));
            }
        }
        queue
    }
}

/// The columns of one. `None`: not one of gha-slurm's Slurm jobs.
fn slurm_job(columns: &[&str], known: &Numbers) -> Option<SlurmJob> {
    let [
        id,
        state,
        reason_word,
        starts,
        ends,
        nodes,
        comment,
        user,
        exit,
        submitted,
        restarts,
    ] = columns
    else {
        return None;
    };
    let launch = known.launch_of(id, user, comment, || (time(submitted), *restarts != "0"))?;
    // 24.11 adds which: `RaisedSignal:9(Killed)`. It is in the exit code, too.
    let reason_word = match reason_word.split_once(':') {
        Some((word @ "RaisedSignal", _)) => word,
        _ => reason_word,
    };
    let (state, reason) = standing(state, reason_word);
    Some(SlurmJob {
        launch,
        id: id.parse().ok()?,
        user: (*user).to_owned(),
        state,
        reason,
        starts_at: time(starts),
        ended_at: time(ends).filter(|_| state.is_over()),
        nodes: Some((*nodes).to_owned()).filter(|n| !n.is_empty() && n != "(null)"),
        exit_code: exit_code_shown(exit).filter(|_| state.is_over()),
    })
}

/// `3:0`, the code and the signal (seen with 24.11), or a status as of wait(2) (22.05).
fn exit_code_shown(text: &str) -> Option<i32> {
    match text.split_once(':') {
        None => text.parse().ok().map(exit_code),
        Some((code, "0")) => code.parse().ok(),
        Some((_, signal)) => signal.parse::<i32>().ok()?.checked_add(128),
    }
}

/// As [`TIME_FORMAT`] says; `N/A` when Slurm does not know.
pub(super) fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(text.parse().ok()?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_squeue_prints_is_read() {
        let separator = Separator::new();
        let of = |comment: &str, state: &str, exit: &str| {
            let columns = [
                "17 ",
                state,
                "Priority ",
                "N/A ",
                "N/A ",
                " ",
                comment,
                "alice ",
                exit,
                "1795000000",
                "0",
            ];
            let columns = columns.map(|column| format!("{column}{}", separator.0));
            columns.concat() + "\n"
        };
        let ours = "gha-slurm:0192f0c1-2345-7000-8123-456789abcdef acme/widgets";
        let read = |line: &str| separator.read(line, &Numbers::default()).ours.pop();
        let job = read(&of(ours, "PENDING", "0")).unwrap();
        assert_eq!(
            (job.state, job.reason.as_deref(), job.exit_code, job.nodes),
            (SlurmState::Pending, Some("Priority"), None, None)
        );
        for (exit, code) in [
            ("768", Some(3)),
            ("3:0", Some(3)),
            ("0:9", Some(137)),
            ("9", Some(137)),
            ("0:nine", None),
            ("0:2147483647", None),
        ] {
            let job = read(&of(ours, "FAILED", exit)).unwrap();
            assert_eq!(job.exit_code, code, "{exit}");
        }
        let killed = of(ours, "FAILED", "0:9").replace("Priority", "RaisedSignal:9(Killed)");
        let reason = read(&killed).unwrap().reason;
        assert_eq!(reason.as_deref(), Some("RaisedSignal"));
        // A state of a newer Slurm.
        let new = read(&of(ours, "TELEPORTED", "0")).unwrap();
        let told = (new.state, new.reason.as_deref());
        assert_eq!(told, (SlurmState::Running, Some("TELEPORTED")));
        assert_eq!(read("garbage"), None);
        // A comment that looks like the end of one line and the beginning of another.
        let other = Separator::new().0;
        let hostile = format!("x{other}alice{other}0{other}\n{}", of(ours, "FAILED", "0"));
        let hostile = hostile.replace(&separator.0, &other);
        let lines = [
            of("(null)", "RUNNING", "0"),
            of("gha-slurm:nonsense", "PENDING", "0"),
            of(&hostile, "RUNNING", "0"),
            of("", "COMPLETED", "0"),
            of(ours, "RUNNING", "0"),
        ];
        let queue = separator.read(&lines.concat(), &Numbers::default());
        let states: Vec<SlurmState> = queue.ours.iter().map(|job| job.state).collect();
        assert_eq!(states, [SlurmState::Running]);
        assert_eq!(queue.others, [("alice".to_owned(), 3)].into());
        assert_eq!(time("N/A"), None);
        assert!(time("1795528702").is_some());
    }
}
