//! Most that somebody who has not shown who they are may ask for, by address.

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

/// What is counted is forgotten after this.
const WINDOW: Duration = Duration::from_secs(10);
/// Addresses that are counted at the same time; with more, the least used are forgotten.
const ADDRESSES: u64 = 50_000;

/// Counts by address what is done for strangers, in windows of ten seconds. Who is behind a trusted proxy that does not say for whom it
/// calls is not counted.
#[derive(Clone)]
pub struct Strangers {
    most: u32,
    counts: Cache<IpAddr, Arc<AtomicU32>>,
}

impl Strangers {
    /// At most so much from one address in ten seconds.
    pub fn at_most(most: u32) -> Self {
        Self {
            most,
            counts: Cache::builder()
                .max_capacity(ADDRESSES)
                .time_to_live(WINDOW)
                .build(),
        }
    }

    /// 429 for an address that has had it all.
    pub fn check(&self, request: &HttpRequest) -> Result<(), ApiError> {
        let spent = client_address(request)
            .and_then(|address| self.counts.get(&counted_as(address)))
            .map_or(0, |count| count.load(Ordering::Relaxed));
        if spent < self.most {
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            "Too many requests",
        )
        .detail("Too many requests came from this address without a credential.")
        .retry_after(WINDOW.as_secs()))
    }

    /// Counts one request.
    pub fn count(&self, request: &HttpRequest) {
        if let Some(address) = client_address(request) {
            self.counts
                .get_with(counted_as(address), Arc::default)
                .fetch_add(1, Ordering::Relaxed);
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
