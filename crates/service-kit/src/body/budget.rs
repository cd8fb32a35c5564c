//! The memory that bodies may take.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::StatusCode;

use crate::problem::ApiError;

const LARGEST: u32 = 2 << 20;
const DEADLINE: Duration = Duration::from_secs(10);
const BUDGET: u32 = 32 << 20;
/// Bodies with a `Content-Length` of at most this have a budget of their own, which other bodies cannot use up.
const SMALL: usize = 128 << 10;
/// Most bodies that are not small and are read at the same time: each connection has buffers of its own.
const LARGE_AT_ONCE: usize = 8;
/// One address may use one part in so many of each budget, and always enough for one body.
const SHARES: usize = 4;
/// When to come again.
const RETRY_AFTER_S: u64 = 10;

/// What the bodies of a service may cost. Clones share their budgets.
#[derive(Clone)]
pub struct BodyLimits {
    pub(super) largest: usize,
    pub(super) deadline: Duration,
    budgets: Arc<Budgets>,
}

struct Budgets {
    /// Bytes of small bodies.
    small: Arc<Budget>,
    /// Bytes of the others.
    large: Arc<Budget>,
    /// How many of the others there are.
    count: Arc<Budget>,
}

/// An amount for all, and a smaller one for each address.
struct Budget {
    all: usize,
    each: usize,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    by_all: usize,
    /// By addresses that use anything.
    by: HashMap<IpAddr, usize>,
}

/// What a body uses of a budget until it is dropped.
struct Use {
    budget: Arc<Budget>,
    by: Option<IpAddr>,
    amount: usize,
}

/// What a body uses of the budgets until it is dropped.
pub(super) struct Claim {
    bytes: Use,
    /// `None`: a small body.
    count: Option<Use>,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self::new(LARGEST, BUDGET, DEADLINE)
    }
}

impl BodyLimits {
    /// `largest` bytes for one body, `budget` bytes for all that are being read or used, `deadline` for one to arrive.
    pub fn new(largest: u32, budget: u32, deadline: Duration) -> Self {
        let (largest, budget) = (largest as usize, budget as usize);
        let small = small_part(budget);
        Self {
            largest,
            deadline,
            budgets: Arc::new(Budgets {
                small: Budget::new(small, SMALL),
                large: Budget::new(budget.saturating_sub(small), largest),
                count: Budget::new(LARGE_AT_ONCE, 1),
            }),
        }
    }

    /// Whether `budget` is enough for a body of `largest` bytes.
    pub fn fits(largest: u32, budget: u32) -> bool {
        let (largest, budget) = (largest as usize, budget as usize);
        largest <= SMALL.max(budget.saturating_sub(small_part(budget)))
    }

    /// For a body from an address, of which nothing has arrived. `length`: its `Content-Length`.
    pub(super) fn claim(&self, length: Option<usize>, by: Option<IpAddr>) -> Claim {
        let nothing_of = |budget: &Arc<Budget>| Use {
            budget: Arc::clone(budget),
            by,
            amount: 0,
        };
        let Budgets {
            small,
            large,
            count,
        } = &*self.budgets;
        if length.is_some_and(|length| length <= SMALL) {
            return Claim {
                bytes: nothing_of(small),
                count: None,
            };
        }
        Claim {
            bytes: nothing_of(large),
            count: Some(nothing_of(count)),
        }
    }
}

impl Claim {
    /// Uses so many more bytes.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        if let Some(count) = self.count.as_mut().filter(|count| count.amount == 0) {
            count.grow(1)?;
        }
        self.bytes.grow(bytes)
    }

    /// It is read: what it still uses is its bytes.
    pub(super) fn read(&mut self) {
        self.count = None;
    }
}

impl Budget {
    /// `least`: what one address may always use.
    fn new(all: usize, least: usize) -> Arc<Self> {
        Arc::new(Self {
            all,
            each: (all / SHARES).max(least),
            used: Mutex::default(),
        })
    }
}

impl Use {
    fn grow(&mut self, amount: usize) -> Result<(), ApiError> {
        let Budget { all, each, used } = &*self.budget;
        let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
        let by_this = self.by.and_then(|address| used.by.get(&address).copied());
        let by_this = by_this.unwrap_or_default() + amount;
        if self.by.is_some() && by_this > *each {
            return Err(overloaded(
                "Too many large bodies come from this address at once; try again.",
            ));
        }
        if used.by_all + amount > *all {
            return Err(overloaded(
                "Too many large bodies arrive at once; try again.",
            ));
        }
        used.by_all += amount;
        if let Some(address) = self.by {
            used.by.insert(address, by_this);
        }
        self.amount += amount;
        Ok(())
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut used = self
            .budget
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        used.by_all = used.by_all.saturating_sub(self.amount);
        let Some(address) = self.by else { return };
        if let Some(by_this) = used.by.get_mut(&address) {
            *by_this = by_this.saturating_sub(self.amount);
            if *by_this == 0 {
                used.by.remove(&address);
            }
        }
    }
}

/// How much of a budget is for small bodies.
fn small_part(budget: usize) -> usize {
    (budget / 4).max(SMALL)
}

fn overloaded(detail: &str) -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "overloaded",
        "Not available right now",
    )
    .detail(detail)
    .retry_after(RETRY_AFTER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(error: &ApiError) -> &str {
        error.problem().detail.as_deref().unwrap()
    }

    #[test]
    fn what_is_dropped_can_be_used_again() {
        let mib = 1 << 20;
        let limits = BodyLimits::new(2 * mib, 8 * mib, DEADLINE);
        let claim = |address: Option<&str>| limits.claim(None, address.map(|a| a.parse().unwrap()));
        let mut first = claim(Some("203.0.113.7"));
        first.grow(2 << 20).unwrap();
        let mut second = claim(Some("203.0.113.7"));
        let error = second.grow(1).unwrap_err();
        assert!(refusal(&error).contains("from this address"), "{error}");
        // Three quarters of it are for large bodies.
        let mut others = [claim(Some("203.0.113.8")), claim(None)];
        for other in &mut others {
            other.grow(2 << 20).unwrap();
        }
        let error = claim(None).grow(1).unwrap_err();
        assert!(refusal(&error).contains("arrive at once"), "{error}");
        // A small one has its own.
        limits.claim(Some(100), None).grow(100).unwrap();
        drop((first, second, others));
        let used = limits.budgets.large.used.lock().unwrap();
        assert_eq!((used.by_all, used.by.len()), (0, 0));
        drop(used);
        claim(Some("203.0.113.7")).grow(2 << 20).unwrap();
    }

    #[test]
    fn so_many_large_ones_are_read_at_once_and_none_counts_before_it_arrives() {
        let limits = BodyLimits::default();
        let claims = || limits.claim(None, None);
        let mut all: Vec<Claim> = (0..100).map(|_| claims()).collect();
        for claim in all.iter_mut().take(LARGE_AT_ONCE) {
            claim.grow(1).unwrap();
        }
        claims().grow(1).unwrap_err();
        // One that is read makes room for another, and keeps its bytes.
        all[0].read();
        all[0].grow(1).unwrap();
        claims().grow(1).unwrap();
    }
}
