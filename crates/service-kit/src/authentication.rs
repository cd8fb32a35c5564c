//! Bearer tokens.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use crate::problem::ApiError;

/// The token of an `Authorization: Bearer` header, if that is what the request carries.
pub fn bearer(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|t| !t.is_empty())
}

/// The call carries no token.
pub fn token_missing() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "token_missing",
        "A token is needed",
    )
    .detail("Send Authorization: Bearer <token>.")
    .header("WWW-Authenticate", "Bearer")
}

/// The signed assertion that a call carries is missing, or not good for it.
pub fn assertion_invalid(detail: impl Into<String>) -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "assertion_invalid",
        "The assertion is not accepted",
    )
    .detail(detail)
    .header("WWW-Authenticate", "Bearer")
}

/// Requires one of `accepted` (several, for rotation), compared in constant time.
pub fn require_bearer(request: &HttpRequest, accepted: &[SecretString]) -> Result<(), ApiError> {
    let unauthorized = |detail: &str| {
        ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "A bearer token is needed",
        )
        .detail(detail)
        .header("WWW-Authenticate", "Bearer")
    };
    let Some(given) = bearer(request) else {
        return Err(unauthorized("Send Authorization: Bearer <token>."));
    };
    // Every one is compared, so that the time tells nothing.
    let matches = accepted.iter().fold(0_u8, |found, token| {
        found
            | token
                .expose_secret()
                .as_bytes()
                .ct_eq(given.as_bytes())
                .unwrap_u8()
    });
    if matches == 1 {
        Ok(())
    } else {
        Err(unauthorized("This token is not one of ours."))
    }
}
