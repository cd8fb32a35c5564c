//! What GitHub allows an installation, or the App itself, and how much of it is left to which calls
//! (<https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>).

use std::collections::VecDeque;
use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::time::Instant;

/// How urgent calls are. Where little of a limit is left, the more urgent ones still get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Installation tokens, which every other call needs: GitHub alone says when there are none.
    Token,
    /// A node waits for its runner: may use everything.
    Callback,
    /// Launches: what their submission and their end depend on.
    Launch,
    /// Comparisons with what GitHub lists.
    Comparison,
}

impl Urgency {
    /// The percentage of a limit that is left to what is more urgent.
    const fn reserve(self) -> u32 {
        match self {
            Self::Token | Self::Callback => 0,
            Self::Launch => 20,
            Self::Comparison => 50,
        }
    }

    /// How much of `limit` it may use.
    fn share(self, limit: u32) -> u32 {
        let limit = u64::from(limit);
        u32::try_from(limit * u64::from(100 - self.reserve()) / 100).unwrap_or(u32::MAX)
    }
}

/// The secondary limit counts points in this time.
const WINDOW: Duration = Duration::from_secs(60);
/// Points are counted by the second, from its begin.
const SECOND: Duration = Duration::from_secs(1);
/// GitHub may move the end of a window by a second from response to response.
const SAME_RESET_S: i64 = 5;

/// Points of a call that changes something; one that reads costs 1.
const CHANGE: u32 = 5;

/// A call that somebody wants to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    urgency: Urgency,
    points: u32,
    points_per_minute: u32,
    now: Instant,
    /// Seconds since the epoch.
    now_s: i64,
}

impl Wanted {
    /// `now_s`: seconds since the epoch.
    pub(crate) fn new(
        urgency: Urgency,
        method: &Method,
        points_per_minute: u32,
        now_s: i64,
    ) -> Self {
        Self {
            urgency,
            points: if *method == Method::GET { 1 } else { CHANGE },
            points_per_minute,
            now: Instant::now(),
            now_s,
        }
    }
}

/// What is left of a primary limit, as GitHub's last response said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    limit: u32,
    remaining: u32,
    /// Seconds since the epoch.
    reset: i64,
}

impl Left {
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        Some(Self {
            limit: text("x-ratelimit-limit")?.parse().ok()?,
            remaining: text("x-ratelimit-remaining")?.parse().ok()?,
            reset: text("x-ratelimit-reset")?.parse().ok()?,
        })
    }
}

/// The primary limit (requests an hour, counted by GitHub) and the secondary one (points a minute, counted here). What the other
/// services and other launchers ask is known from what GitHub says remains.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    left: Option<Left>,
    /// What remained when GitHub's window was first heard of.
    remained: u32,
    /// Own calls since then that GitHub counts.
    own: u32,
    /// Calls of others since then.
    others: u32,
    /// When GitHub last said what remains.
    heard_at: Option<Instant>,
    /// Points of the last minute, oldest first.
    points: VecDeque<(Instant, u32)>,
}

impl Budget {
    /// Counts a call, unless a more urgent one needs what is left: then the time until it may be made.
    pub(crate) fn take(&mut self, wanted: &Wanted) -> Result<(), Duration> {
        if let Some(wait) = self.wait(wanted) {
            return Err(wait);
        }
        self.count(wanted.now, wanted.points);
        self.own = self.own.saturating_add(1);
        Ok(())
    }

    /// How long a call has to wait. `None`: it may be made.
    pub(crate) fn wait(&mut self, wanted: &Wanted) -> Option<Duration> {
        let Wanted {
            urgency,
            points,
            points_per_minute,
            now,
            now_s,
        } = *wanted;
        if urgency == Urgency::Token {
            return None;
        }
        // An Enterprise Server has no limits unless its administrator sets some.
        let left = self.left?;
        if left.reset > now_s
            && left.limit - left.remaining.min(left.limit) >= urgency.share(left.limit)
        {
            return Some(Duration::from_secs(left.reset.abs_diff(now_s)));
        }
        self.forget_old(now);
        let share = urgency.share(points_per_minute).max(points);
        let points_of_all = self.points.iter().map(|(_, points)| *points);
        let mut used = points_of_all.fold(0, u32::saturating_add);
        let mut frees = self.points.iter();
        let mut wait = None;
        while used.saturating_add(points) > share {
            let (at, freed) = frees.next()?;
            used = used.saturating_sub(*freed);
            wait = Some((*at + WINDOW + SECOND).saturating_duration_since(now));
        }
        wait
    }

    /// Takes in what GitHub said remains after a call of ours.
    pub(crate) fn heard(&mut self, left: Left, was_free: bool, now: Instant) {
        let is_same_window = self
            .left
            .is_some_and(|known| (known.reset - left.reset).abs() <= SAME_RESET_S);
        if !is_same_window {
            (self.remained, self.own, self.others) = (left.remaining, 0, 0);
        } else if was_free {
            self.own = self.own.saturating_sub(1);
        }
        let fell = self.remained.saturating_sub(left.remaining);
        let others = fell.saturating_sub(self.own);
        if others > self.others {
            // Most of them are registrations of runners.
            let points = f64::from(others - self.others) * f64::from(CHANGE);
            self.count(now, (points * self.part_of_last_minute(now)) as u32);
            self.others = others;
        }
        self.heard_at = Some(now);
        self.left = Some(left);
    }

    /// How much of the time since GitHub was last heard belongs to the last minute.
    fn part_of_last_minute(&self, now: Instant) -> f64 {
        let silence = self.heard_at.map_or(WINDOW, |at| now - at);
        WINDOW.div_duration_f64(silence.max(WINDOW))
    }

    /// The percentage of the primary limit that is left, as far as is known.
    pub(crate) fn percent_left(&self, now_s: i64) -> u32 {
        match self.left {
            Some(left) if left.reset > now_s => {
                left.remaining.saturating_mul(100) / left.limit.max(1)
            }
            _ => 100,
        }
    }

    fn count(&mut self, now: Instant, points: u32) {
        self.forget_old(now);
        match self.points.back_mut() {
            Some((at, sum)) if now.saturating_duration_since(*at) < SECOND => {
                *sum = sum.saturating_add(points);
            }
            _ => self.points.push_back((now, points)),
        }
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, _)) = self.points.front()
            && now.saturating_duration_since(*at) >= WINDOW + SECOND
        {
            self.points.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_000;

    fn wanted(urgency: Urgency, points: u32, now: Instant) -> Wanted {
        Wanted {
            urgency,
            points,
            points_per_minute: 900,
            now,
            now_s: NOW_S,
        }
    }

    fn left(remaining: u32) -> Left {
        Left {
            limit: 5_000,
            remaining,
            reset: NOW_S + 600,
        }
    }

    fn known(remaining: u32) -> (Budget, Instant) {
        let (mut budget, now) = (Budget::default(), Instant::now());
        budget.heard(left(remaining), false, now);
        (budget, now)
    }

    /// How many calls of `points` points are made before one has to wait.
    fn calls(budget: &mut Budget, urgency: Urgency, points: u32, now: Instant) -> usize {
        let take = |_: &usize| budget.take(&wanted(urgency, points, now)).is_ok();
        (0..10_000).take_while(take).count()
    }

    #[test]
    fn the_last_of_a_primary_limit_is_for_callbacks() {
        let wait = |remaining, urgency| {
            let (mut budget, now) = known(remaining);
            budget.wait(&wanted(urgency, 1, now))
        };
        let until_reset = Some(Duration::from_secs(600));
        assert_eq!(wait(2_501, Urgency::Comparison), None);
        assert_eq!(wait(2_500, Urgency::Comparison), until_reset);
        assert_eq!(wait(1_001, Urgency::Launch), None);
        assert_eq!(wait(1_000, Urgency::Launch), until_reset);
        assert_eq!(wait(1, Urgency::Callback), None);
        assert_eq!(wait(0, Urgency::Callback), until_reset);
        assert_eq!(wait(0, Urgency::Token), None);
        let (mut budget, now) = known(0);
        let after_reset = budget.wait(&Wanted {
            now_s: NOW_S + 600,
            ..wanted(Urgency::Comparison, 1, now)
        });
        assert_eq!(after_reset, None);
    }

    #[test]
    fn the_points_of_a_minute_are_left_to_what_is_more_urgent() {
        let (mut budget, now) = known(5_000);
        assert_eq!(calls(&mut budget, Urgency::Comparison, 1, now), 450);
        assert_eq!(calls(&mut budget, Urgency::Launch, 5, now), 54);
        assert_eq!(calls(&mut budget, Urgency::Callback, 5, now), 36);
        let wait = budget.wait(&wanted(Urgency::Callback, 5, now));
        assert_eq!(wait, Some(WINDOW + SECOND));
        let later = now + WINDOW + SECOND;
        assert_eq!(calls(&mut budget, Urgency::Comparison, 1, later), 450);
    }

    #[test]
    fn the_calls_of_others_count() {
        let (mut budget, now) = known(5_000);
        assert!(budget.take(&wanted(Urgency::Comparison, 1, now)).is_ok());
        // One is ours, and ninety registered runners.
        budget.heard(left(4_909), false, now);
        assert_eq!(calls(&mut budget, Urgency::Comparison, 1, now), 0);
        assert_eq!(calls(&mut budget, Urgency::Launch, 1, now), 269);
        // A response that was overtaken tells nothing new, and neither does one that cost nothing.
        budget.heard(left(4_950), false, now);
        assert_eq!(budget.others, 90);
        // Two hours' calls were not made in one minute.
        let (mut budget, now) = known(5_000);
        budget.heard(left(3_200), false, now + WINDOW * 120);
        assert_eq!(
            calls(&mut budget, Urgency::Comparison, 1, now + WINDOW * 120),
            375
        );
    }

    #[test]
    fn unchanged_answers_are_nobodys_calls() {
        let (mut budget, now) = known(5_000);
        for _ in 0..100 {
            assert!(budget.take(&wanted(Urgency::Callback, 1, now)).is_ok());
            budget.heard(left(5_000), true, now);
        }
        budget.heard(left(4_990), false, now);
        assert_eq!((budget.own, budget.others), (0, 10));
    }

    #[test]
    fn a_server_without_limits_has_none_kept_for_it() {
        let mut budget = Budget::default();
        assert_eq!(
            calls(&mut budget, Urgency::Comparison, 5, Instant::now()),
            10_000
        );
    }

    proptest::proptest! {
        /// Whatever is asked, no minute has more points than GitHub allows.
        #[test]
        fn no_minute_has_more_than_is_allowed(
            asks in proptest::collection::vec((0_u64..5_000, 1_u32..6, 0_u8..3), 1..600),
        ) {
            let (mut budget, mut now) = known(5_000);
            let mut made: Vec<(Instant, u32)> = Vec::new();
            for (pause_ms, points, urgency) in asks {
                now += Duration::from_millis(pause_ms / 20);
                let urgency = [Urgency::Callback, Urgency::Launch, Urgency::Comparison][usize::from(urgency)];
                let call = Wanted { points_per_minute: 100, ..wanted(urgency, points, now) };
                match budget.take(&call) {
                    Ok(()) => made.push((now, points)),
                    Err(wait) => proptest::prop_assert!(wait <= WINDOW + SECOND),
                }
                let minute: u32 = made.iter().filter(|(at, _)| *at + WINDOW > now).map(|(_, p)| p).sum();
                proptest::prop_assert!(minute <= 100);
            }
        }
    }
}
