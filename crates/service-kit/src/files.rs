//! Open files. Each connection is one, and a process may have only so many: the number of connections follows from the limit, so that
//! clients leave the service what it needs for its own work.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files for the service's own work: connections to PostgreSQL, RabbitMQ and GitHub, programs that it runs, its state and its log.
const RESERVE: u64 = 128;
/// Connections that the operations port takes at the same time.
pub(crate) const OPERATIONS_CONNECTIONS: usize = 32;
/// Most connections at the same time on any other port; more wait.
const MOST_CONNECTIONS: u64 = 2048;
/// A port that takes fewer at the same time serves nobody.
const FEWEST_CONNECTIONS: u64 = 16;
/// Ports beside the operations port: the agent has its own and the relay's.
const PORTS: u64 = 2;
/// A connection, and one to whoever is asked for the answer.
const FILES_PER_CONNECTION: u64 = 2;
/// Files with which every port takes as many connections as it ever does. The limit is not raised further: programs that the service runs
/// inherit it, and some of them close every number up to it.
const ENOUGH: u64 =
    RESERVE + OPERATIONS_CONNECTIONS as u64 + PORTS * FILES_PER_CONNECTION * MOST_CONNECTIONS;
/// Files without which no service starts.
const FEWEST: u64 =
    RESERVE + OPERATIONS_CONNECTIONS as u64 + PORTS * FILES_PER_CONNECTION * FEWEST_CONNECTIONS;

/// The process may not open enough files to serve anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "at most {limit} files may be open at the same time, and at least {FEWEST} are needed: set LimitNOFILE= in the service's unit (outside \
     of systemd: ulimit -n) to {ENOUGH} or more"
)]
pub(crate) struct TooFewFiles {
    limit: u64,
}

/// Raises the soft limit as far as needed and allowed. Returns a warning where ports take fewer connections than they could.
pub(crate) fn raise_limit() -> Result<Option<String>, TooFewFiles> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(u64::MAX).min(ENOUGH);
    if current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum,
        };
        // Where even this is forbidden, the limit stays as it is, and is what counts below.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    let limit = limit();
    if limit < FEWEST {
        return Err(TooFewFiles { limit });
    }
    Ok((limit < ENOUGH).then(|| {
        format!(
            "at most {limit} files may be open at the same time: each port takes {} connections and not {MOST_CONNECTIONS}. Set LimitNOFILE= \
             in the service's unit (outside of systemd: ulimit -n) to {ENOUGH} or more",
            connections_within(limit)
        )
    }))
}

/// How many connections a port other than the operations port takes at the same time.
pub(crate) fn connections() -> usize {
    usize::try_from(connections_within(limit())).unwrap_or(usize::MAX)
}

fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn connections_within(limit: u64) -> u64 {
    let left = limit.saturating_sub(RESERVE + OPERATIONS_CONNECTIONS as u64);
    (left / (PORTS * FILES_PER_CONNECTION)).clamp(FEWEST_CONNECTIONS, MOST_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        for limit in FEWEST..=2 * ENOUGH {
            let connections = connections_within(limit);
            let taken = PORTS * FILES_PER_CONNECTION * connections + OPERATIONS_CONNECTIONS as u64;
            assert!(limit - taken >= RESERVE, "{limit}: {connections}");
        }
        assert_eq!(connections_within(FEWEST), FEWEST_CONNECTIONS);
        assert_eq!(connections_within(1024), 216);
        assert_eq!(connections_within(ENOUGH), MOST_CONNECTIONS);
        assert_eq!(connections_within(u64::MAX), MOST_CONNECTIONS);
    }
}
