//! Calls to an agent that accepts no connection: they wait here until it asks for them, and their callers until it answers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gha_slurm_contract::outbound::{Call, CallAnswer, MAX_CALLS_AT_ONCE};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::agent::{AgentError, CALL_DEADLINE};

/// An agent that does not poll for this long counts as unreachable.
const TAKE_DEADLINE: Duration = Duration::from_secs(10);
/// What is in flight when the launcher stops gets so long; the next launcher makes the call again.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The calls to one agent.
pub struct Mailbox {
    state: Mutex<State>,
    /// [`TAKE_DEADLINE`], except in tests.
    take_deadline: Duration,
    /// There is a call, or another poll.
    changed: Notify,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    calls: Vec<Pending>,
    /// How many polls there were; the last one counts.
    polls: u64,
}

struct Pending {
    call: Call,
    given: bool,
    answer: oneshot::Sender<CallAnswer>,
}

/// Takes a call back when no caller waits for its answer any more.
struct TakeBack<'a> {
    mailbox: &'a Mailbox,
    id: Uuid,
}

impl Drop for TakeBack<'_> {
    fn drop(&mut self) {
        let id = self.id;
        self.mailbox.lock().calls.retain(|p| p.call.id != id);
    }
}

impl Mailbox {
    /// An empty one. After `stop` callers wait no longer than a few seconds.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            state: Mutex::default(),
            take_deadline: TAKE_DEADLINE,
            changed: Notify::new(),
            stop,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call: its answer, or why there is none.
    pub async fn call(&self, call: Call) -> Result<CallAnswer, AgentError> {
        let (sender, answer) = oneshot::channel();
        let id = call.id;
        self.lock().calls.push(Pending {
            call,
            given: false,
            answer: sender,
        });
        let _take_back = TakeBack { mailbox: self, id };
        self.changed.notify_waiters();
        let not_taken = async {
            sleep(self.take_deadline).await;
            let given = self.lock().calls.iter().any(|p| p.call.id == id && p.given);
            if given {
                sleep(CALL_DEADLINE).await;
            }
        };
        let stopped = async {
            self.stop.cancelled().await;
            sleep(STOP_DEADLINE).await;
        };
        tokio::select! {
            answer = answer => answer.map_err(|_| AgentError::Silent),
            () = not_taken => Err(AgentError::NotAsking),
            () = sleep(CALL_DEADLINE) => Err(AgentError::Silent),
            () = stopped => Err(AgentError::Stopping),
        }
    }

    /// What the agent has to answer: waits for calls, at most `wait`. What it was given and does not have in flight was lost, and
    /// is given again. Ends an older poll, whose connection must be dead.
    pub async fn poll(
        &self,
        in_hand: &[Uuid],
        wait: Duration,
        quit: &CancellationToken,
    ) -> Vec<Call> {
        let until = Instant::now() + wait;
        let this = {
            let mut state = self.lock();
            for pending in &mut state.calls {
                pending.given = in_hand.contains(&pending.call.id);
            }
            state.polls += 1;
            state.polls
        };
        self.changed.notify_waiters();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking: what comes in between is not missed.
            changed.as_mut().enable();
            if let Some(calls) = self.take(this) {
                return calls;
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(until) => return Vec::new(),
                () = quit.cancelled() => return Vec::new(),
            }
        }
    }

    /// `None`: there is nothing yet.
    fn take(&self, poll: u64) -> Option<Vec<Call>> {
        let mut state = self.lock();
        if state.polls != poll {
            return Some(Vec::new());
        }
        let new = state.calls.iter_mut().filter(|p| !p.given);
        let calls: Vec<Call> = new
            .take(MAX_CALLS_AT_ONCE)
            .map(|pending| {
                pending.given = true;
                pending.call.clone()
            })
            .collect();
        (!calls.is_empty()).then_some(calls)
    }

    /// The agent's answers. An answer whose caller no longer waits is dropped.
    pub fn answer(&self, answers: Vec<CallAnswer>) {
        let mut state = self.lock();
        for answer in answers {
            let at = state.calls.iter().position(|p| p.call.id == answer.id);
            if let Some(at) = at {
                // Its caller may be giving up just now.
                let _ = state.calls.swap_remove(at).answer.send(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn call(path: &str) -> Call {
        Call {
            id: Uuid::new_v4(),
            path: path.into(),
            assertion: None,
            traceparent: None,
            body: serde_json::Value::Null,
        }
    }

    fn answer(id: Uuid) -> CallAnswer {
        CallAnswer {
            id,
            status: 200,
            retry_after_s: None,
            body: serde_json::Value::Null,
        }
    }

    fn mailbox() -> (Arc<Mailbox>, CancellationToken) {
        let stop = CancellationToken::new();
        (Arc::new(Mailbox::new(stop.clone())), stop)
    }

    const WAIT: Duration = Duration::from_secs(25);
    const SOON: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_waiting_poll_gets_the_call_and_the_caller_its_answer() {
        let (mailbox, quit) = mailbox();
        let caller = tokio::spawn({
            let mailbox = Arc::clone(&mailbox);
            async move {
                sleep(SOON).await;
                mailbox.call(call("/a")).await
            }
        });
        let given = mailbox.poll(&[], WAIT, &quit).await;
        assert_eq!((given.len(), given[0].path.as_str()), (1, "/a"));
        assert!(
            mailbox.poll(&[given[0].id], SOON, &quit).await.is_empty(),
            "it has it"
        );
        mailbox.answer(vec![answer(given[0].id), answer(Uuid::new_v4())]);
        assert_eq!(caller.await.unwrap().unwrap().status, 200);
        assert!(mailbox.lock().calls.is_empty());
    }

    #[tokio::test]
    async fn what_was_lost_on_the_way_is_given_again() {
        let (mailbox, quit) = mailbox();
        let caller = tokio::spawn({
            let mailbox = Arc::clone(&mailbox);
            async move { mailbox.call(call("/a")).await }
        });
        let first = mailbox.poll(&[], WAIT, &quit).await;
        let again = mailbox.poll(&[], WAIT, &quit).await;
        assert_eq!(first, again);
        mailbox.answer(vec![answer(again[0].id)]);
        assert!(caller.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_newer_poll_ends_the_older() {
        let (mailbox, quit) = mailbox();
        let older = tokio::spawn({
            let (mailbox, quit) = (Arc::clone(&mailbox), quit.clone());
            async move {
                let start = Instant::now();
                (mailbox.poll(&[], WAIT, &quit).await, start.elapsed())
            }
        });
        tokio::task::yield_now().await;
        let (newer, caller) = tokio::join!(mailbox.poll(&[], WAIT, &quit), async {
            let (calls, waited) = older.await.unwrap();
            assert!(calls.is_empty() && waited < WAIT);
            tokio::time::timeout(SOON, mailbox.call(call("/b"))).await
        });
        assert_eq!(newer.len(), 1);
        assert!(caller.is_err(), "nobody answered");
        assert!(mailbox.lock().calls.is_empty(), "taken back");
    }

    #[tokio::test]
    async fn an_agent_that_is_away_and_a_stop_are_told() {
        let stop = CancellationToken::new();
        let mut mailbox = Mailbox::new(stop.clone());
        mailbox.take_deadline = SOON;
        let away = mailbox.call(call("/a")).await;
        assert_eq!(away, Err(AgentError::NotAsking));
        mailbox.take_deadline = WAIT;
        stop.cancel();
        assert_eq!(mailbox.call(call("/a")).await, Err(AgentError::Stopping));
        assert!(mailbox.poll(&[], WAIT, &stop).await.is_empty());
    }
}
