//! Most that may be asked for in a while: by somebody who has not shown who they are, counted by address; or by anything else.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::middleware::Next;
use actix_web::{HttpRequest, ResponseError};
use moka::sync::Cache;

use crate::client_address::{client_address, counted_as};
use crate::problem::ApiError;

/// What is counted is forgotten after this, unless said otherwise.
const WINDOW: Duration = Duration::from_secs(10);
/// Keys that are counted at the same time; with more, the least used are forgotten.
const KEYS: u64 = 50_000;

/// Counts by key, in windows of time.
#[derive(Clone)]
pub struct Window<K> {
    most: u32,
    length: Duration,
    counts: Cache<K, Arc<AtomicU32>>,
}

impl<K: Hash + Eq + Send + Sync + 'static> Window<K> {
    /// At most so much for one key in ten seconds.
    pub fn at_most(most: u32) -> Self {
        Self::at_most_in(WINDOW, most)
    }

    /// At most so much for one key in this time.
    pub fn at_most_in(length: Duration, most: u32) -> Self {
        Self {
            most,
            length,
            counts: Cache::builder()
                .max_capacity(KEYS)
                .time_to_live(length)
                .build(),
        }
    }

    /// Counts one call; 429 with `detail` for a key that has had it all.
    pub fn take(&self, key: K, detail: &str) -> Result<(), ApiError> {
        if self.count(key) < self.most {
            return Ok(());
        }
        Err(self.too_many(detail))
    }

    fn too_many(&self, detail: &str) -> ApiError {
        ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            "Too many requests",
        )
        .detail(detail)
        .retry_after(self.length.as_secs())
    }

    fn is_spent(&self, key: &K) -> bool {
        let count = self.counts.get(key);
        count.is_some_and(|count| count.load(Ordering::Relaxed) >= self.most)
    }

    /// Counts one, and returns how many there were before.
    fn count(&self, key: K) -> u32 {
        let count = self.counts.get_with(key, Arc::default);
        count.fetch_add(1, Ordering::Relaxed)
    }
}

/// Counts by address what is done for strangers, in windows of ten seconds. Who is behind a trusted proxy that does not say for whom it
/// calls is not counted.
#[derive(Clone)]
pub struct Strangers(Window<IpAddr>);

impl Strangers {
    /// At most so much from one address in ten seconds.
    pub fn at_most(most: u32) -> Self {
        Self(Window::at_most(most))
    }

    /// 429 for an address that has had it all.
    pub fn check(&self, request: &HttpRequest) -> Result<(), ApiError> {
        match client_address(request).map(counted_as) {
            Some(address) if self.0.is_spent(&address) => Err(self
                .0
                .too_many("Too many requests came from this address without a credential.")),
            _ => Ok(()),
        }
    }

    /// Counts one request.
    pub fn count(&self, request: &HttpRequest) {
        if let Some(address) = client_address(request) {
            self.0.count(counted_as(address));
        }
    }
}

/// For routes that answer anybody, middleware that counts each request:
/// `.wrap(from_fn(move |request, next| limited(strangers.clone(), request, next)))`.
pub async fn limited<B: MessageBody>(
    strangers: Strangers,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    if let Err(refusal) = strangers.check(request.request()) {
        return Ok(request
            .into_response(refusal.error_response())
            .map_into_right_body());
    }
    strangers.count(request.request());
    Ok(next.call(request).await?.map_into_left_body())
}
