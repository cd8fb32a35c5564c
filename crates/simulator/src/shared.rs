//! The one state behind a lock, and the news that it changed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use jsonwebtoken::DecodingKey;
use tokio::sync::watch;

use crate::world::{Now, World};

/// What every handler and task holds.
#[derive(Clone)]
pub(crate) struct Shared {
    inner: Arc<Inner>,
}

struct Inner {
    world: Mutex<World>,
    changes: watch::Sender<u64>,
    app_key: DecodingKey,
}

impl Shared {
    pub(crate) fn new(world: World, app_key: DecodingKey) -> Self {
        Self {
            inner: Arc::new(Inner {
                world: Mutex::new(world),
                changes: watch::Sender::new(0),
                app_key,
            }),
        }
    }

    pub(crate) fn app_key(&self) -> &DecodingKey {
        &self.inner.app_key
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        // A panic in a test's closure must not hide the state from the others.
        self.inner
            .world
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&World, Now) -> T) -> T {
        look(&self.lock(), Utc::now())
    }

    /// Changes the state, gives out what can be given out, and tells everybody who waits.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World, Now) -> T) -> T {
        let now = Utc::now();
        let answer = {
            let mut world = self.lock();
            let answer = change(&mut world, now);
            world.assign(now);
            answer
        };
        self.inner.changes.send_modify(|count| *count += 1);
        answer
    }

    /// Changes nothing that others wait for.
    pub(crate) fn note<T>(&self, note: impl FnOnce(&mut World, Now) -> T) -> T {
        note(&mut self.lock(), Utc::now())
    }

    /// Looks again after every change until there is an answer, at most for so long.
    pub(crate) async fn wait<T>(
        &self,
        deadline: Duration,
        mut look: impl FnMut(&mut World, Now) -> Option<T>,
    ) -> Option<T> {
        let mut changes = self.inner.changes.subscribe();
        let waiting = async {
            loop {
                changes.borrow_and_update();
                if let Some(answer) = self.note(&mut look) {
                    return Some(answer);
                }
                if changes.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::time::timeout(deadline, waiting).await.ok().flatten()
    }

    /// The next change, at most for so long.
    pub(crate) async fn changed(&self, at_most: Duration) {
        let mut changes = self.inner.changes.subscribe();
        changes.borrow_and_update();
        // Whether it changed or not, the caller looks again.
        let _ = tokio::time::timeout(at_most, changes.changed()).await;
    }
}
