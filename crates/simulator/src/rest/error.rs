//! Errors as GitHub writes them: `{"message", "documentation_url", "status"}`.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};

use crate::request::RestEffect;

/// An answer that is not what was asked for; redirects too.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{status}: {message}")]
pub(crate) struct GitHubError {
    status: u16,
    message: String,
    errors: Option<Value>,
    headers: BTreeMap<String, String>,
}

impl GitHubError {
    pub(crate) fn new(status: u16, message: &str) -> Self {
        Self {
            status,
            message: message.to_owned(),
            errors: None,
            headers: BTreeMap::new(),
        }
    }

    pub(crate) fn not_found() -> Self {
        Self::new(404, "Not Found")
    }

    pub(crate) fn bad_credentials() -> Self {
        Self::new(401, "Bad credentials")
    }

    pub(crate) fn not_accessible() -> Self {
        Self::new(403, "Resource not accessible by integration")
    }

    pub(crate) fn invalid(field: &str, reason: &str) -> Self {
        Self {
            errors: Some(
                json!([{ "resource": "Request", "field": field, "code": "invalid", "message": reason }]),
            ),
            ..Self::new(422, "Validation Failed")
        }
    }

    pub(crate) fn moved(status: u16, location: &str) -> Self {
        let message = if status == 301 {
            "Moved Permanently"
        } else {
            "Temporary Redirect"
        };
        Self::new(status, message).header("location", location)
    }

    pub(crate) fn primary_rate_limit(reset_after_seconds: u64) -> Self {
        let reset = chrono::Utc::now().timestamp() + reset_after_seconds.cast_signed();
        Self::new(403, "API rate limit exceeded for installation.")
            .header("x-ratelimit-remaining", "0")
            .header("x-ratelimit-reset", &reset.to_string())
    }

    /// What a fault answers instead.
    pub(crate) fn instead(effect: RestEffect) -> Self {
        match effect {
            RestEffect::PrimaryRateLimit {
                reset_after_seconds,
            } => Self::primary_rate_limit(reset_after_seconds),
            RestEffect::SecondaryRateLimit {
                retry_after_seconds,
            } => Self::new(429, "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.")
                .header("retry-after", &retry_after_seconds.to_string()),
            RestEffect::Answer {
                status,
                headers,
                message,
            } => {
                let phrase = StatusCode::from_u16(status)
                    .ok()
                    .and_then(|status| status.canonical_reason())
                    .unwrap_or("Error");
                Self {
                    headers,
                    ..Self::new(status, message.as_deref().unwrap_or(phrase))
                }
            }
            RestEffect::LoseAnswer | RestEffect::DelayMs(_) => Self::new(502, "Server Error"),
        }
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }
}

impl ResponseError for GitHubError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut body = json!({
            "message": self.message,
            "documentation_url": "https://docs.github.com/rest",
            "status": self.status.to_string(),
        });
        if let Some(errors) = &self.errors {
            crate::bodies::put(&mut body, json!({ "errors": errors }));
        }
        if let Some(location) = self.headers.get("location") {
            crate::bodies::put(&mut body, json!({ "url": location }));
        }
        let mut answer = HttpResponse::build(self.status_code());
        for (name, value) in &self.headers {
            answer.insert_header((name.as_str(), value.as_str()));
        }
        answer.json(body)
    }
}
