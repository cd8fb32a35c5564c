//! Processes that are not our children: known by their pid and the time they started, so that a pid that was given to
//! somebody else is not mistaken for this one.

use rustix::process::{Pid, Signal};

/// A process that leads a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leader {
    pid: Pid,
    started: u64,
}

/// What is read from `/proc/<pid>/stat`, see proc_pid_stat(5).
struct Stat {
    pid: Pid,
    state: String,
    session: i32,
    started: u64,
}

fn parse(stat: &str) -> Option<Stat> {
    let (pid, rest) = stat.split_once(' ')?;
    // The program's name is in parentheses and may hold anything; after it comes field 3.
    let (_, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        pid: Pid::from_raw(pid.parse().ok()?)?,
        state: (*fields.first()?).to_owned(),
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn read(pid: Pid) -> Option<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
}

impl Leader {
    /// The process that left `stat`, its own `/proc/<pid>/stat`, behind.
    pub(super) fn parse(stat: &str) -> Option<Self> {
        let Stat { pid, started, .. } = parse(stat)?;
        Some(Self { pid, started })
    }

    /// Whether it runs.
    pub(super) fn is_alive(self) -> bool {
        read(self.pid).is_some_and(|now| now.started == self.started && now.state != "Z")
    }

    /// Sends a signal to every process of its session.
    pub(super) fn signal_session(self, signal: Signal) {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let pid = process.file_name().to_str().and_then(|n| n.parse().ok());
            if let Some(stat) = pid.and_then(Pid::from_raw).and_then(read)
                && stat.session == self.pid.as_raw_nonzero().get()
            {
                // It may have ended since.
                let _ = rustix::process::kill_process(stat.pid, signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        let leader = Leader::parse(&own).unwrap();
        assert!(leader.is_alive());
        let other = Leader {
            started: leader.started + 1,
            ..leader
        };
        assert!(!other.is_alive(), "the pid was given to somebody else");
        let odd = "17 (a) b) ) S 1 17 17 0 -1 4194304 1 1 1 1 1 1 1 1 20 0 1 0 4711 1";
        assert_eq!(Leader::parse(odd).unwrap().started, 4711);
        assert!(Leader::parse("garbage").is_none());
    }
}
