//! Every answer that is an error.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
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
    #[error("the body is larger than {0} bytes")]
    TooLarge(u32),
    #[error("the body did not arrive within {0:?}")]
    SlowBody(Duration),
    #[error("the body did not arrive: {0}")]
    BrokenBody(String),
    #[error("too many large bodies at once")]
    NoRoom,
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

impl Refusal {
    /// The stable code of the answer; also the outcome in the metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::ContentType => "content_type_unsupported",
            Self::TooLarge(_) => "body_too_large",
            Self::SlowBody(_) => "body_timeout",
            Self::BrokenBody(_) => "body_invalid",
            Self::NoRoom => "overloaded",
            Self::NoSignature => "signature_missing",
            Self::Signature(_) => "signature_invalid",
            Self::Header(_) => "header_invalid",
            Self::Form | Self::Payload(_) => "payload_invalid",
            Self::Publish(PublishError::Unavailable(_)) => "broker_unavailable",
            Self::Publish(PublishError::Unroutable(_)) => "broker_unroutable",
            Self::Publish(PublishError::Serialise(_)) => "internal",
        }
    }

    fn answer(&self) -> ApiError {
        let (status, title) = match self {
            Self::ContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The content type is wrong",
            ),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::SlowBody(_) => (StatusCode::REQUEST_TIMEOUT, "The body came too slowly"),
            Self::BrokenBody(_) => (StatusCode::BAD_REQUEST, "The body is wrong"),
            Self::NoSignature | Self::Signature(_) => (
                StatusCode::UNAUTHORIZED,
                "The delivery is not signed with our secret",
            ),
            Self::Header(_) => (StatusCode::BAD_REQUEST, "A header is wrong"),
            Self::Form | Self::Payload(_) => (StatusCode::BAD_REQUEST, "The payload is wrong"),
            Self::NoRoom | Self::Publish(PublishError::Unavailable(_)) => {
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

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        self.answer().status_code()
    }

    fn error_response(&self) -> HttpResponse {
        self.answer().error_response()
    }
}
