//! Every answer that is an error.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use gha_slurm_amqp::PublishError;
use gha_slurm_auth::webhook::SignatureError;
use gha_slurm_github::payloads::PayloadError;
use gha_slurm_service_kit::ApiError;

/// When to come again; a broker's restart takes longer, but GitHub does not come by itself anyway.
const RETRY_AFTER_S: u64 = 10;

/// Why a delivery is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("send application/json or application/x-www-form-urlencoded")]
    ContentType,
    #[error("{0}")]
    Body(ApiError),
    #[error("only GitHub's addresses are let in (webhook.allowed_addresses)")]
    Address,
    #[error("X-Hub-Signature-256 is missing: set a secret for the webhook")]
    NoSignature,
    #[error("X-Hub-Signature-256: {0}")]
    Signature(SignatureError),
    #[error("the header {0} is missing or malformed")]
    Header(&'static str),
    #[error("the form has no field `payload`")]
    Form,
    #[error(transparent)]
    Payload(PayloadError),
    #[error(transparent)]
    Publish(PublishError),
}

/// Lines about deliveries of which nothing is known to come from GitHub: one in a while. The metrics count all.
#[derive(Default)]
pub(crate) struct Unverified(Mutex<Quiet>);

#[derive(Default)]
struct Quiet {
    /// When the last line was written.
    last: Option<Instant>,
    /// How many have had none since.
    unsaid: u64,
}

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(10);

impl Unverified {
    /// Writes a line about a refusal, unless there was one just now.
    pub(crate) fn log(&self, refusal: &Refusal) {
        if let Some(before) = self.turn(Instant::now()) {
            tracing::info!(reason = %refusal, before, "a delivery is refused");
        }
    }

    /// How many have had no line, if it is time for one.
    fn turn(&self, now: Instant) -> Option<u64> {
        let mut quiet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = |last| now.saturating_duration_since(last) < PAUSE;
        if quiet.last.is_some_and(soon) {
            quiet.unsaid += 1;
            return None;
        }
        quiet.last = Some(now);
        Some(std::mem::take(&mut quiet.unsaid))
    }
}

impl Refusal {
    /// The stable code of the answer; also the outcome in the metrics.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Body(error) => &error.problem().code,
            Self::Address => "address_not_allowed",
            Self::ContentType => "content_type_unsupported",
            Self::NoSignature => "signature_missing",
            Self::Signature(_) => "signature_invalid",
            Self::Header(_) => "header_invalid",
            Self::Form | Self::Payload(_) => "payload_invalid",
            Self::Publish(PublishError::Unavailable(_)) => "broker_unavailable",
            Self::Publish(PublishError::Unroutable(_)) => "broker_unroutable",
            Self::Publish(PublishError::Serialise(_)) => "internal",
        }
    }

    fn answer(self) -> ApiError {
        let (status, title) = match self {
            Self::Body(error) => return error,
            Self::Address => (StatusCode::FORBIDDEN, "Not from this address"),
            Self::ContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The content type is wrong",
            ),
            Self::NoSignature | Self::Signature(_) => (
                StatusCode::UNAUTHORIZED,
                "The delivery is not signed with our secret",
            ),
            Self::Header(_) => (StatusCode::BAD_REQUEST, "A header is wrong"),
            Self::Form | Self::Payload(_) => (StatusCode::BAD_REQUEST, "The payload is wrong"),
            Self::Publish(PublishError::Unavailable(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "Not available right now")
            }
            Self::Publish(PublishError::Unroutable(_)) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Nobody is there to take the event",
            ),
            Self::Publish(PublishError::Serialise(_)) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something is wrong on our side",
            ),
        };
        let error = ApiError::new(status, self.code(), title).detail(self.to_string());
        if status == StatusCode::SERVICE_UNAVAILABLE {
            error.retry_after(RETRY_AFTER_S)
        } else {
            error
        }
    }
}

impl From<Refusal> for actix_web::Error {
    fn from(refusal: Refusal) -> Self {
        refusal.answer().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_get_one_line_in_a_while() {
        let unverified = Unverified::default();
        let start = Instant::now();
        assert_eq!(unverified.turn(start), Some(0));
        for _ in 0..200 {
            assert_eq!(unverified.turn(start + PAUSE / 2), None);
        }
        assert_eq!(unverified.turn(start + PAUSE), Some(200));
        assert_eq!(unverified.turn(start + PAUSE * 2), Some(0));
    }
}
