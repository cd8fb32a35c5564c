//! Waiting for conditions instead of for time.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// What a condition answers: `Some`, `true` and `Ok` end the waiting; the rest is shown when the deadline passes.
pub trait Condition {
    /// What the waiting gives.
    type Value;
    /// The value, or what is seen instead.
    fn value(self) -> Result<Self::Value, String>;
}

impl<T> Condition for Option<T> {
    type Value = T;
    fn value(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl Condition for bool {
    type Value = ();
    fn value(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(String::new)
    }
}

impl<T, E: Debug> Condition for Result<T, E> {
    type Value = T;
    fn value(self) -> Result<T, String> {
        self.map_err(|seen| format!("; seen last: {seen:?}"))
    }
}

/// Polls `condition` until it gives a value, at most for `deadline`; panics with `what`, and what was seen last, otherwise.
#[track_caller]
pub fn wait_until<C, F>(
    what: &str,
    deadline: Duration,
    condition: impl FnMut() -> F,
) -> impl Future<Output = C::Value>
where
    C: Condition,
    F: Future<Output = C>,
{
    let caller = std::panic::Location::caller();
    async move {
        match try_wait_until(what, deadline, condition).await {
            Ok(value) => value,
            Err(error) => panic!("{caller}: {error}"),
        }
    }
}

/// As [`wait_until`], but answers the text instead of panicking.
pub async fn try_wait_until<C, F>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> anyhow::Result<C::Value>
where
    C: Condition,
    F: Future<Output = C>,
{
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let seen = match condition().await.value() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if start.elapsed() >= deadline {
            anyhow::bail!("not within {deadline:?}: {what}{seen}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
