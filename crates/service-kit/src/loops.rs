//! Detects loops that are stuck. Nothing else notices a round that never ends: the process is alive, its connections are fine, and the
//! work is not done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The loops are looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// All loops of a process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loops(Arc<Mutex<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    next: u64,
    loops: BTreeMap<u64, Watch>,
}

#[derive(Debug)]
struct Watch {
    name: &'static str,
    limit: Duration,
    /// When the next sign of life is due.
    due: Instant,
}

/// A loop's sign of life; dropped when it ends.
#[derive(Debug)]
pub struct Pulse {
    id: u64,
    loops: Loops,
}

/// A loop has given no sign of life for too long.
#[derive(Debug, thiserror::Error)]
#[error("the loop `{name}` has been stuck for {} s", .since.as_secs())]
pub struct Stuck {
    name: &'static str,
    since: Duration,
}

impl Loops {
    pub(crate) fn watch(&self, name: &'static str, limit: Duration) -> Pulse {
        let mut watched = self.watched();
        let id = watched.next;
        watched.next += 1;
        let due = Instant::now() + limit;
        watched.loops.insert(id, Watch { name, limit, due });
        Pulse {
            id,
            loops: self.clone(),
        }
    }

    /// Reports which loop is stuck, again and again, and once that none is any more. Returns one that has been stuck for as long again.
    pub(crate) async fn stuck(&self, report: impl Fn(Option<&Stuck>)) -> Stuck {
        let mut was_stuck = false;
        loop {
            let late = self.latest();
            if late.is_some() || was_stuck {
                report(late.as_ref().map(|(_, stuck)| stuck));
            }
            if late.is_some() != was_stuck {
                was_stuck = late.is_some();
                tracing::error!(
                    is_stuck = was_stuck,
                    "{}",
                    match &late {
                        Some((_, stuck)) => stuck.to_string(),
                        None => "all loops go on again".to_owned(),
                    }
                );
            }
            if let Some((true, stuck)) = late {
                return stuck;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The loop that is stuck for the longest, and whether that is twice its limit.
    fn latest(&self) -> Option<(bool, Stuck)> {
        let now = Instant::now();
        let watched = self.watched();
        let late = watched.loops.values().filter(|watch| watch.due <= now);
        let watch = late.min_by_key(|watch| watch.due)?;
        let overdue = now - watch.due;
        let since = overdue + watch.limit;
        Some((
            overdue >= watch.limit,
            Stuck {
                name: watch.name,
                since,
            },
        ))
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pulse {
    /// The loop goes on.
    pub fn beat(&self) {
        self.rest(Duration::ZERO);
    }

    /// The loop goes on, and pauses for so long.
    pub(crate) fn rest(&self, pause: Duration) {
        if let Some(watch) = self.loops.watched().loops.get_mut(&self.id) {
            watch.due = Instant::now() + pause + watch.limit;
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.loops.watched().loops.remove(&self.id);
    }
}
