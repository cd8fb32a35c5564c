//! The launches of this agent, shared: one lock over the book and over who waits for a place.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gha_slurm_domain::{Clock, LaunchId};
use gha_slurm_policy::Live;
use tokio::sync::{Notify, watch};

use crate::book::{Book, Place};
use crate::ledger::Entry;
use crate::quota::{Waiting, admit};

/// Longest a caller waits for Slurm to be asked; it is there for nodes, which ask again.
const LOOK_DEADLINE: Duration = Duration::from_secs(3);

/// The launches of this agent.
pub struct Launches {
    state: Mutex<State>,
    /// How often Slurm was asked, or something is known since.
    looks: watch::Sender<u64>,
    /// Somebody waits for the next time.
    look_now: Arc<Notify>,
}

struct State {
    book: Book,
    waiting: Waiting,
}

/// A place among those that the policy has; given back when dropped, unless it is [kept](Reservation::keep).
pub struct Reservation<'a> {
    launches: &'a Launches,
    launch: LaunchId,
    then: Place,
}

impl Reservation<'_> {
    /// Slurm may have it, but did not say so.
    pub fn keep(mut self) {
        self.then = Place::Doubtful;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let (launch, place) = (self.launch, self.then);
        self.launches.book(|book| book.set_place(launch, place));
    }
}

impl Launches {
    /// With what is in the ledger.
    pub fn new(entries: Vec<Entry>, clock: Clock) -> Self {
        Self {
            state: Mutex::new(State {
                book: Book::new(entries, clock),
                waiting: Waiting::default(),
            }),
            looks: watch::Sender::default(),
            look_now: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes the book, under its lock. `work` must not wait.
    pub fn book<T>(&self, work: impl FnOnce(&mut Book) -> T) -> T {
        work(&mut self.lock().book)
    }

    /// What is remembered of a launch.
    pub fn entry(&self, launch: LaunchId) -> Option<Entry> {
        self.book(|book| book.entry(launch).cloned())
    }

    /// Takes a place for a launch that was remembered, if `allowed` says so of those that are taken beside it. Counting and
    /// taking are one step: two starts at the same moment never get the last place both. What others may have who wait longer
    /// counts as taken.
    pub fn reserve<E>(
        &self,
        launch: LaunchId,
        allowed: impl Fn(&Entry, Live) -> Result<(), E>,
    ) -> Result<Reservation<'_>, E> {
        let State { book, waiting } = &mut *self.lock();
        admit(book, waiting, launch, allowed)?;
        book.set_place(launch, Place::Taken);
        Ok(Reservation {
            launches: self,
            launch,
            then: Place::None,
        })
    }

    /// Changes each time Slurm was asked.
    pub fn looks(&self) -> watch::Receiver<u64> {
        self.looks.subscribe()
    }

    /// Has Slurm asked soon, and waits until it was, at most [`LOOK_DEADLINE`].
    pub(crate) async fn look_now(&self) {
        let mut looks = self.looks();
        looks.mark_unchanged();
        self.look_now.notify_one();
        // Late or never: then what is known is told.
        let _ = tokio::time::timeout(LOOK_DEADLINE, looks.changed()).await;
    }

    /// Notified when Slurm should be asked soon.
    pub(crate) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.look_now)
    }

    /// Slurm was asked.
    pub(crate) fn looked(&self) {
        self.looks.send_modify(|looks| *looks += 1);
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use gha_slurm_domain::{SlurmState, Usage};
    use gha_slurm_slurm::{JobUsage, Queue, SlurmJob};
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicI64, Ordering};
    use uuid::Uuid;

    use super::*;
    use crate::book::{ASKED_LISTS, USAGE_PATIENCE};

    fn launches_of(entries: Vec<Entry>) -> Launches {
        Launches::new(entries, Clock::new(|| DateTime::UNIX_EPOCH))
    }

    fn entry(id: u128) -> Entry {
        Entry {
            launch: LaunchId(uuid::Uuid::from_u128(id)),
            slurm_user: "alice".parse().unwrap(),
            repository_id: 1,
            repository_url: "https://github.com/acme/widgets".into(),
            intended_at: DateTime::UNIX_EPOCH,
            launcher: None,
            expires_at: None,
            slurm_job_id: Some(id.to_string().parse().unwrap()),
            answered_at: None,
            ended: None,
        }
    }

    fn job(id: u128, number: &str, state: SlurmState) -> SlurmJob {
        SlurmJob {
            launch: LaunchId(uuid::Uuid::from_u128(id)),
            id: number.parse().unwrap(),
            user: "alice".into(),
            state,
            reason: None,
            starts_at: None,
            ended_at: None,
            nodes: None,
            exit_code: None,
        }
    }

    /// A list, complete at once, where there is no accounting. Those that have ended.
    fn list(launches: &Launches, jobs: Vec<SlurmJob>) -> Vec<Entry> {
        let begun = launches.book(Book::begin);
        answered(launches, jobs, begun)
    }

    fn answered(launches: &Launches, jobs: Vec<SlurmJob>, begun: u64) -> Vec<Entry> {
        let (mut ended, missing) = launches.book(|book| book.take_in(queue(jobs), begun));
        ended.extend(launches.book(|book| book.take_in_missing(&missing, &[], begun)));
        ended
    }

    fn states(launches: &Launches, ids: &[u128]) -> Vec<SlurmState> {
        let ids: Vec<_> = ids.iter().map(|id| entry(*id).launch).collect();
        launches
            .book(|book| book.states(&ids, None))
            .iter()
            .map(|s| s.state)
            .collect()
    }

    #[test]
    fn the_end_is_kept_and_a_miss_is_no_end() {
        use SlurmState::{Gone, NodeFailed, Running};
        let launches = launches_of(vec![entry(1), entry(2)]);
        assert!(states(&launches, &[1, 2]).is_empty(), "not asked yet");
        let running = job(2, "2", Running);
        let ended = list(&launches, vec![job(1, "1", NodeFailed), running]);
        assert_eq!(ended.len(), 1);
        assert_eq!(states(&launches, &[1, 2]), [NodeFailed, Running]);
        assert!(list(&launches, vec![]).is_empty());
        assert_eq!(
            states(&launches, &[1, 2]),
            [NodeFailed, Running],
            "one list without it says nothing"
        );
        // Another user's Slurm job with gha-slurm's comment, or another launch's Slurm job with its number.
        let others = vec![job(2, "99", Running), job(3, "2", Running)];
        assert_eq!(list(&launches, others).len(), 1);
        assert_eq!(states(&launches, &[1, 2]), [NodeFailed, Gone]);
        assert_eq!(launches.book(|book| book.freed()), 2);
        list(&launches, vec![]);
        // After a restart.
        let again = launches_of(vec![launches.entry(entry(1).launch).unwrap()]);
        assert_eq!(states(&again, &[1]), [NodeFailed]);
        assert_eq!(seen(&launches, 1), Live::default(), "both are over");
    }

    #[test]
    fn a_list_from_before_the_submission_was_answered_says_nothing() {
        let launches = launches_of(vec![intent(1)]);
        let before = launches.book(Book::begin);
        let (also_before, after) = (launches.book(Book::begin), {
            launches.book(|book| book.remember(entry(1)));
            launches.book(Book::begin)
        });
        assert!(answered(&launches, vec![], before).is_empty());
        assert!(answered(&launches, vec![], also_before).is_empty());
        assert!(answered(&launches, vec![], after).is_empty());
        assert_eq!(list(&launches, vec![]).len(), 1);
    }

    #[test]
    fn what_no_list_ever_had_may_be_hidden_and_is_not_gone() {
        use SlurmState::{Gone, Running};
        let seconds = Arc::new(AtomicI64::new(0));
        let time = Arc::clone(&seconds);
        let clock =
            Clock::new(move || DateTime::from_timestamp(time.load(Ordering::SeqCst), 0).unwrap());
        let of = |id: u128, user: &str| Entry {
            slurm_user: user.parse().unwrap(),
            expires_at: DateTime::from_timestamp(86_400, 0),
            ..entry(id)
        };
        let launches = Launches::new(vec![of(1, "alice"), of(2, "bob")], clock);
        let list = |jobs: Vec<SlurmJob>| {
            let queue = Queue {
                shows_everybody: false,
                ..queue(jobs)
            };
            launches.book(|book| {
                let begun = book.begin();
                let (_, missing) = book.take_in(queue, begun);
                book.take_in_missing(&missing, &[], begun);
            });
        };
        for _ in 0..5 {
            list(vec![]);
        }
        // Nor is one that is in no ledger, either.
        assert_eq!(states(&launches, &[1, 2, 3]), []);
        for _ in 0..5 {
            list(vec![]);
        }
        assert_eq!(states(&launches, &[1, 2, 3]), []);
        assert_eq!(launches.book(|book| book.hidden()), 2);
        assert_eq!(seen(&launches, 1).total, 1, "the other one has its place");
        // A Slurm job of alice's: hers are not hidden.
        list(vec![job(9, "9", Running)]);
        list(vec![]);
        assert_eq!(states(&launches, &[1, 2]), [Gone]);
        assert_eq!(launches.book(|book| book.hidden()), 1);
        // A launch token that has expired is worth nothing on a node.
        seconds.store(86_401, Ordering::SeqCst);
        list(vec![]);
        assert_eq!(states(&launches, &[1, 2]), [Gone, Gone]);
        assert_eq!(launches.book(|book| book.hidden()), 0);
    }

    #[test]
    fn accounting_says_how_it_ended_and_without_its_answer_nothing_is_gone() {
        let launches = launches_of(vec![entry(1), entry(2)]);
        let begun = launches.book(Book::begin);
        for _ in 0..5 {
            let (ended, missing) = launches.book(|book| {
                let begun = book.begin();
                book.take_in(queue(vec![]), begun)
            });
            assert!(ended.is_empty());
            assert_eq!(missing.len(), 2);
        }
        let accounted = JobUsage {
            id: "1".parse().unwrap(),
            submitted_at: None,
            state: SlurmState::OutOfMemory,
            usage: Usage::default(),
        };
        let both = ["1", "2"].map(|id| id.parse().unwrap());
        let ended = launches.book(|book| book.take_in_missing(&both, &[accounted], begun));
        assert_eq!(ended.len(), 1);
        let told = launches.book(|book| book.states(&[entry(1).launch], None));
        assert_eq!(told[0].state, SlurmState::OutOfMemory);
        assert!(told[0].usage.is_some());
        assert!(states(&launches, &[2]).is_empty());
        list(&launches, vec![]);
        assert_eq!(states(&launches, &[2]), [SlurmState::Gone]);
    }

    #[test]
    fn a_record_that_is_not_over_counts_as_a_list_for_an_hour() {
        let seconds = Arc::new(AtomicI64::new(1_000_000));
        let time = Arc::clone(&seconds);
        let clock =
            Clock::new(move || DateTime::from_timestamp(time.load(Ordering::SeqCst), 0).unwrap());
        let launches = Launches::new(vec![entry(1)], clock);
        list(&launches, vec![job(1, "1", SlurmState::Running)]);
        let record = |state| JobUsage {
            id: "1".parse().unwrap(),
            submitted_at: None,
            state,
            usage: Usage::default(),
        };
        let unlisted = |state| {
            launches.book(|book| {
                let begun = book.begin();
                let (_, missing) = book.take_in(queue(vec![]), begun);
                book.take_in_missing(&missing, &[record(state)], begun)
                    .len()
            })
        };
        for _ in 0..5 {
            assert_eq!(unlisted(SlurmState::Running), 0);
        }
        assert_eq!(states(&launches, &[1]), [SlurmState::Running]);
        // slurmctld may have lost its state, and left such records.
        seconds.fetch_add(3600, Ordering::SeqCst);
        assert_eq!([0; 2].map(|_| unlisted(SlurmState::Running)), [0, 1]);
        assert_eq!(states(&launches, &[1]), [SlurmState::Gone]);
    }

    #[test]
    fn slurm_jobs_with_somebody_elses_comment_count_as_their_users_own() {
        use SlurmState::{Completed, Running};
        let launches = launches_of(vec![entry(1), intent(2)]);
        let made_up = ["21", "22", "23"].map(|number| job(9, number, Running));
        let copies = ["31", "32"].map(|number| job(1, number, Running));
        let over = job(1, "33", Completed);
        let mut jobs = vec![job(1, "1", Running), over];
        jobs.extend(made_up.into_iter().chain(copies));
        list(&launches, jobs);
        let live = seen(&launches, 2);
        assert_eq!((live.of_user, live.of_users_own), (1 + 3, 2));
    }

    #[test]
    fn what_the_ledger_lost_is_looked_for_in_the_list() {
        use SlurmState::{Gone, Running};
        let launches = launches_of(vec![]);
        let alice = "alice".parse().unwrap();
        let (one, two) = (entry(1).launch, entry(2).launch);
        assert_eq!(
            launches.book(|book| book.stray(one, &alice)),
            None,
            "not asked yet"
        );
        assert!(states(&launches, &[1, 2]).is_empty());
        list(&launches, vec![job(1, "17", Running)]);
        assert_eq!(
            launches.book(|book| book.stray(one, &alice)),
            Some(Some("17".parse().unwrap()))
        );
        assert_eq!(
            launches.book(|book| book.stray(one, &"bob".parse().unwrap())),
            Some(None)
        );
        assert_eq!(launches.book(|book| book.stray(two, &alice)), Some(None));
        assert_eq!(
            states(&launches, &[1, 2]),
            [Running],
            "one list says nothing"
        );
        list(&launches, vec![job(1, "17", Running)]);
        assert_eq!(states(&launches, &[1, 2]), [Running, Gone]);
        let told = launches.book(|book| book.states(&[one, two], None));
        assert_eq!((&*told[0].slurm_job_id, &*told[1].slurm_job_id), ("17", ""));
        // The place of its user is taken, and nobody else's.
        launches.book(|book| book.remember(intent(3)));
        assert_eq!(
            (seen(&launches, 3).of_user, seen(&launches, 3).total),
            (1, 0)
        );
        launches.book(|book| book.remember(intent(1)));
        let of_user = seen(&launches, 3).of_user;
        assert_eq!(of_user, 1, "its number was lost in a power cut");
        list(&launches, vec![]);
        assert_eq!(states(&launches, &[1]), []);
        list(&launches, vec![]);
        list(&launches, vec![]);
        assert_eq!(states(&launches, &[1]), [Gone]);
        // No client waits for it any more.
        for _ in 0..ASKED_LISTS {
            list(&launches, vec![]);
        }
        assert!(launches.book(|book| book.sizes().asked == 0));
    }

    #[test]
    fn a_launcher_hears_of_its_own() {
        let (ours, theirs) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let of = |id, launcher| Entry {
            launcher,
            ..entry(id)
        };
        let entries = vec![of(1, Some(ours)), of(2, Some(theirs)), of(3, None)];
        let launches = launches_of(entries);
        let running = |id: u128| job(id, &id.to_string(), SlurmState::Running);
        list(&launches, vec![running(1), running(2), running(3)]);
        let listed = launches.book(|book| book.of_launcher(ours));
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].launch, entry(1).launch);
        let all = [1, 2, 3].map(|id| entry(id).launch);
        assert_eq!(launches.book(|book| book.states(&all, Some(ours))).len(), 2);
        assert_eq!(
            launches.book(|book| book.states(&all, None)).len(),
            3,
            "of an earlier version"
        );
    }

    #[test]
    fn usage_is_asked_for_ever_more_rarely_and_then_no_more() {
        let at = |seconds: i64| DateTime::from_timestamp(seconds, 0).unwrap();
        let time = Arc::new(AtomicI64::new(0));
        let clock = Arc::clone(&time);
        let clock = Clock::new(move || at(clock.load(Ordering::SeqCst)));
        let launches = Launches::new(vec![entry(1), entry(2)], clock);
        let over = SlurmJob {
            ended_at: Some(at(1000)),
            ..job(1, "1", SlurmState::Completed)
        };
        list(&launches, vec![over, job(2, "2", SlurmState::Running)]);
        let due = |seconds: i64| -> Vec<String> {
            let due = {
                time.store(seconds, Ordering::SeqCst);
                launches.book(Book::usage_due)
            }
            .into_iter();
            due.map(|id| id.to_string()).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(due(1000), ["1"], "the other one runs");
        assert_eq!(due(1001), ["1"]);
        assert_eq!(due(1100), ["1"]);
        assert_eq!(due(1120), none, "20 s later, 120 s after its end");
        assert_eq!(due(1140), ["1"]);
        let day = USAGE_PATIENCE.num_seconds();
        assert_eq!(due(1000 + day), none, "given up");

        let usage = |submitted: i64| JobUsage {
            id: "1".parse().unwrap(),
            submitted_at: Some(at(submitted)),
            state: SlurmState::Completed,
            usage: Usage {
                elapsed_s: 5,
                ..Usage::default()
            },
        };
        let earlier = usage(-3600);
        assert!(
            launches
                .book(|book| book.take_in_usage(&[earlier]))
                .is_empty(),
            "another one's"
        );
        let changed = launches.book(|book| book.take_in_usage(&[usage(900)]));
        let ended = changed[0].ended.as_ref().unwrap();
        assert_eq!(ended.usage.as_ref().unwrap().elapsed_s, 5);
        assert_eq!(due(1200), none);
        let told = launches.book(|book| book.states(&[entry(1).launch], None));
        assert_eq!(
            (&told[0].usage, told[0].usage_to_come),
            (&ended.usage, false)
        );
        assert!(
            launches
                .book(|book| book.take_in_usage(&[usage(900)]))
                .is_empty(),
            "known"
        );
    }

    fn queue(ours: Vec<SlurmJob>) -> Queue {
        Queue {
            ours,
            others: HashMap::new(),
            shows_everybody: true,
        }
    }

    /// What a launch sees beside it.
    fn seen(launches: &Launches, id: u128) -> Live {
        let seen = std::cell::Cell::new(Live::default());
        let own = entry(id).launch;
        let _ = launches.reserve(own, |entry, live| {
            if entry.launch == own {
                seen.set(live);
            }
            Err::<(), ()>(())
        });
        seen.get()
    }

    fn intent(id: u128) -> Entry {
        Entry {
            slurm_job_id: None,
            ..entry(id)
        }
    }

    #[test]
    fn a_place_is_taken_once_and_given_back() {
        let launches = launches_of(vec![intent(1), intent(2), intent(3)]);
        let first = launches
            .reserve(intent(1).launch, |_, _| Ok::<(), ()>(()))
            .unwrap();
        let taken = Live {
            of_user: 1,
            of_repository: 1,
            total: 1,
            ..Live::default()
        };
        assert_eq!(seen(&launches, 2), taken);
        assert_eq!(seen(&launches, 1), Live::default(), "its own");
        drop(first);
        assert_eq!(seen(&launches, 2), Live::default());
        // Slurm did not answer: it counts until two lists do not show it.
        let first = launches
            .reserve(intent(1).launch, |_, _| Ok::<(), ()>(()))
            .unwrap();
        let before = launches.book(Book::begin);
        first.keep();
        answered(&launches, vec![], before);
        list(&launches, vec![]);
        assert_eq!(seen(&launches, 2), taken);
        list(&launches, vec![]);
        assert_eq!(seen(&launches, 2), Live::default());
        assert_eq!(launches.book(|book| book.freed()), 2);
        // One with a Slurm job counts, reserved or not.
        let first = launches
            .reserve(intent(1).launch, |_, _| Ok::<(), ()>(()))
            .unwrap();
        launches.book(|book| book.remember(entry(1)));
        drop(first);
        assert_eq!(seen(&launches, 2), taken);
        let elsewhere = Entry {
            slurm_user: "bob".parse().unwrap(),
            repository_id: 2,
            ..intent(4)
        };
        launches.book(|book| book.remember(elsewhere));
        let mut others = queue(vec![job(1, "1", SlurmState::Running)]);
        others.others.insert("bob".into(), 7);
        launches.book(|book| {
            let begun = book.begin();
            book.take_in(others, begun)
        });
        let expected = Live {
            of_users_own: 7,
            total: 1,
            ..Live::default()
        };
        assert_eq!(seen(&launches, 4), expected);
    }

    fn at_most(most: u32, live: Live) -> Result<(), ()> {
        if live.total < most { Ok(()) } else { Err(()) }
    }

    #[test]
    fn those_that_wait_take_places_in_turn() {
        let of = |id, launcher, user: &str| Entry {
            launcher: Some(Uuid::from_u128(launcher)),
            slurm_user: user.parse().unwrap(),
            ..intent(id)
        };
        let mut entries: Vec<Entry> = (10..20).map(|id| of(id, 1, "alice")).collect();
        entries.extend((20..30).map(|id| of(id, 2, "alice")));
        entries.extend((30..40).map(|id| of(id, 2, "bob")));
        let launches = launches_of(entries);
        // Two places; of bob's at most one.
        let asks = |id| {
            let place = launches.reserve(intent(id).launch, |entry, live| {
                let bobs = entry.slurm_user.as_str() == "bob";
                if bobs && live.of_user > 0 {
                    return Err(());
                }
                at_most(2, live)
            });
            place.is_ok_and(|place| {
                place.keep();
                true
            })
        };
        let ends = |id| launches.book(|book| book.set_place(intent(id).launch, Place::None));
        assert!(asks(30) && asks(10));
        assert!(!asks(31) && !asks(20) && !asks(11));
        // bob waits longest, but may not have a second one.
        ends(10);
        assert!(!asks(11), "it is the other launcher's turn");
        assert!(asks(20));
        ends(20);
        assert!(asks(12) && !asks(21));
        ends(30);
        assert!(asks(31), "now he may");
        assert!(!asks(21) && !asks(32));
    }

    #[test]
    fn many_at_once_get_no_more_than_there_is() {
        let launches = launches_of((1..=64).map(intent).collect());
        let most = 5;
        let got = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|threads| {
            for id in 1..=64 {
                let (launches, got) = (&launches, &got);
                threads.spawn(move || {
                    let allowed = |_: &Entry, live| at_most(most, live);
                    if let Ok(place) = launches.reserve(intent(id).launch, allowed) {
                        got.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        place.keep();
                    }
                });
            }
        });
        assert_eq!(got.into_inner(), most);
    }
}
