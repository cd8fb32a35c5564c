//! Waiting for conditions instead of for time.

use std::future::Future;
use std::time::{Duration, Instant};

/// Polls `condition` until it gives a value, at most for `deadline`; panics with `what` otherwise.
#[track_caller]
pub fn wait_until<T, F>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> impl Future<Output = T>
where
    F: Future<Output = Option<T>>,
{
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            assert!(
                start.elapsed() < deadline,
                "{caller}: not within {deadline:?}: {what}"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}
