//! What can go wrong with a call, as its caller needs to know it.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

/// How long to wait where GitHub is in trouble and does not say how long.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_secs(5);
/// How long to wait after a secondary rate limit without `retry-after`: at least a minute (docs.github.com, "Rate
/// limits for the REST API").
const PAUSE_AFTER_LIMIT: Duration = Duration::from_secs(60);

/// GitHub's words for a secondary limit, now and in older Enterprise Servers ("You have triggered an abuse detection mechanism").
const SECONDARY_LIMIT: [&str; 2] = ["secondary rate limit", "abuse detection"];
/// GitHub's answer (404) to the JWT of an App that it does not have.
const UNKNOWN_APP: &str = "Integration not found";
/// How long to wait where GitHub does not accept the App's credentials: somebody has to correct them.
const PAUSE_AFTER_UNAUTHORIZED: Duration = Duration::from_secs(30);

/// A call to GitHub failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GithubError {
    /// A rate limit is used up, or what is left of it is for more urgent calls: no call before this has passed.
    #[error(
        "{call}: what GitHub's rate limits leave for it is used up for another {} s", .retry_after.as_secs()
    )]
    RateLimited {
        /// Which call.
        call: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// No answer, or a 5xx: trying again can help. The call may still have taken effect.
    #[error("{call}: GitHub is in trouble: {detail}")]
    Unavailable {
        /// Which call.
        call: &'static str,
        /// What happened.
        detail: String,
    },
    /// GitHub does not accept the credentials, which are the deployment's own: this says nothing about what the call is about. The call
    /// had no effect (<https://docs.github.com/en/rest/using-the-rest-api/troubleshooting-the-rest-api>).
    #[error(
        "{call}: GitHub does not accept the App's credentials ({message}); check github.app_id, github.private_key and the clock of this machine"
    )]
    Unauthorized {
        /// Which call.
        call: &'static str,
        /// GitHub's words.
        message: String,
    },
    /// GitHub answered no.
    #[error("{call}: GitHub answered {status}: {message}")]
    Refused {
        /// Which call.
        call: &'static str,
        /// HTTP status.
        status: u16,
        /// GitHub's words.
        message: String,
    },
    /// The answer is not what GitHub documents.
    #[error("{call}: GitHub's answer is not understood: {detail}")]
    Unexpected {
        /// Which call.
        call: &'static str,
        /// What was not understood.
        detail: String,
    },
    /// The App's private key or the API's address cannot be used.
    #[error("{0}")]
    Setup(String),
}

impl GithubError {
    /// When to try again; `None`: trying again does not help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => Some(*retry_after),
            // What is not GitHub's format may be a proxy's page.
            Self::Unavailable { .. } | Self::Unexpected { .. } => Some(PAUSE_AFTER_TROUBLE),
            Self::Unauthorized { .. } => Some(PAUSE_AFTER_UNAUTHORIZED),
            Self::Refused { .. } | Self::Setup(_) => None,
        }
    }

    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub(crate) fn from_answer(
        call: &'static str,
        status: StatusCode,
        headers: &HeaderMap,
        body: &str,
        now_s: u64,
    ) -> Self {
        if let Some(retry_after) = rate_limit(status, headers, body, now_s) {
            return Self::RateLimited { call, retry_after };
        }
        let message = message(body);
        let is_unknown_app = status == StatusCode::NOT_FOUND && message == UNKNOWN_APP;
        if status == StatusCode::UNAUTHORIZED || is_unknown_app {
            return Self::Unauthorized { call, message };
        }
        // Redirects that were not followed, and answers of a proxy, are no verdict of GitHub's.
        let is_passing = matches!(status.as_u16(), 407 | 408 | 421 | 425);
        if status.is_server_error() || status.is_redirection() || is_passing {
            return Self::Unavailable {
                call,
                detail: format!("{} {message}", status.as_u16()),
            };
        }
        Self::Refused {
            call,
            status: status.as_u16(),
            message,
        }
    }
}

/// The rules of docs.github.com, "Rate limits for the REST API": `retry-after`, else `x-ratelimit-reset` when nothing
/// remains, else a minute for a secondary limit.
fn rate_limit(status: StatusCode, headers: &HeaderMap, body: &str, now_s: u64) -> Option<Duration> {
    if status != StatusCode::FORBIDDEN && status != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    if let Some(seconds) = number("retry-after") {
        return Some(Duration::from_secs(seconds));
    }
    if number("x-ratelimit-remaining") == Some(0) {
        let reset = number("x-ratelimit-reset").unwrap_or(now_s);
        return Some(Duration::from_secs(reset.saturating_sub(now_s).max(1)));
    }
    let body = body.to_lowercase();
    let limited = status == StatusCode::TOO_MANY_REQUESTS
        || SECONDARY_LIMIT.iter().any(|words| body.contains(words));
    limited.then_some(PAUSE_AFTER_LIMIT)
}

fn message(body: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    let text = serde_json::from_str::<Message>(body)
        .map_or_else(|_| body.trim().to_owned(), |answer| answer.message);
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()))
            .collect::<Vec<(http::HeaderName, http::HeaderValue)>>()
            .into_iter()
            .collect()
    }

    #[test]
    fn rate_limits_are_told_from_refusals() {
        let of = |status: u16, pairs: &[(&'static str, &str)], body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            GithubError::from_answer("test", status, &headers(pairs), body, 1_000)
                .retry_after()
                .map(|d| d.as_secs())
        };
        assert_eq!(of(403, &[("retry-after", "7")], ""), Some(7));
        let exhausted = [
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1030"),
        ];
        assert_eq!(of(403, &exhausted, ""), Some(30));
        assert_eq!(
            of(403, &[], "You have exceeded a secondary rate limit"),
            Some(60)
        );
        let of_old_servers = "You have triggered an abuse detection mechanism. Please wait";
        assert_eq!(of(403, &[], of_old_servers), Some(60));
        assert_eq!(of(403, &[], "Secondary Rate Limit"), Some(60));
        assert_eq!(of(429, &[], ""), Some(60));
        assert_eq!(
            of(403, &[("x-ratelimit-remaining", "12")], "no permission"),
            None
        );
        assert_eq!(of(404, &[], "Not Found"), None);
        assert_eq!(of(422, &[], "Validation Failed"), None);
        assert_eq!(of(401, &[], "Bad credentials"), Some(30));
        let unknown_app = r#"{"message": "Integration not found"}"#;
        assert_eq!(of(404, &[], unknown_app), Some(30));
        for passing in [302, 407, 408] {
            assert_eq!(of(passing, &[], ""), Some(5), "{passing}");
        }
        assert_eq!(of(502, &[], "<html>"), Some(5));
    }
}
