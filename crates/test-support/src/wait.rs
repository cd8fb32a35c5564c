//! Waiting for conditions instead of for time.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// What a condition returns: `Some`, `true` and `Ok` end the waiting; the rest is shown when the deadline passes.
pub trait Condition {
    /// What the waiting returns.
    type Value;
    /// The value, or what the condition saw instead.
    fn value(self) -> Result<Self::Value, NotYet>;
}

/// The condition does not hold yet.
#[derive(Debug, Default, thiserror::Error)]
#[error("{}", .seen.as_ref().map(|seen| format!("; seen last: {seen}")).unwrap_or_default())]
pub struct NotYet {
    /// The condition's error, for the report when the deadline passes.
    seen: Option<String>,
}

impl<T> Condition for Option<T> {
    type Value = T;
    fn value(self) -> Result<T, NotYet> {
        self.ok_or_else(NotYet::default)
    }
}

impl Condition for bool {
    type Value = ();
    fn value(self) -> Result<(), NotYet> {
        self.then_some(()).ok_or_else(NotYet::default)
    }
}

impl<T, E: Debug> Condition for Result<T, E> {
    type Value = T;
    fn value(self) -> Result<T, NotYet> {
        self.map_err(|error| NotYet {
            seen: Some(format!("{error:?}")),
        })
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
