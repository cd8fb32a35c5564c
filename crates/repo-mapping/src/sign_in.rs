//! `/api/sign-in`: people sign in with GitHub, which sends them back with a code.

use actix_web::cookie::Cookie;
use actix_web::cookie::time::Duration;
use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gha_slurm_contract::people::SignInWays;
use gha_slurm_contract::problem::Problem;
use gha_slurm_service_kit::ApiError;
use gha_slurm_service_kit::problem::query;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::cookies;
use crate::github::{Begun, CALLBACK, SignInError};
use crate::session;
use crate::sign_in_settings::SignIn;
use crate::state::{State, storage_error};

/// What a sign-in that has begun has to bring back, in the browser that began it.
const COOKIE: &str = "__Host-gha-slurm-sign-in";
/// A code of GitHub's is valid for ten minutes; people may have to sign in there first.
const PATIENCE: Duration = Duration::minutes(15);
/// Longest address to come back to.
const LONGEST_PATH: usize = 1024;

/// In the cookie.
#[derive(Serialize, Deserialize)]
struct Started {
    state: String,
    verifier: String,
    return_to: String,
}

/// Why a callback begins no session, as the page learns it: `/?sign_in=…`.
enum NotSignedIn {
    Cancelled,
    Expired,
    Failed,
    Unavailable,
}

impl NotSignedIn {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Unavailable => "unavailable",
        }
    }
}

impl From<&SignInError> for NotSignedIn {
    fn from(error: &SignInError) -> Self {
        match error {
            SignInError::Code(_) => Self::Expired,
            SignInError::Unavailable(_) => Self::Unavailable,
            SignInError::Unexpected(_) => Self::Failed,
        }
    }
}

/// How people can sign in here.
#[utoipa::path(
    get,
    path = "/api/sign-in",
    operation_id = "signInWays",
    responses(
        (status = 200, description = "The ways that the settings have", body = SignInWays),
        (status = 429, description = "Too many requests from this address: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(())
)]
pub(crate) async fn ways(state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok().json(SignInWays {
        github: state.sign_in.is_some(),
    })
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct BeginQuery {
    /// Where on this site to come back to: a path, with its query.
    return_to: Option<String>,
}

fn sign_in(state: &State) -> Result<&SignIn, ApiError> {
    state.sign_in.as_deref().ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "sign_in_off",
            "Sign-in with GitHub is not set up here",
        )
        .detail("The settings of repo-mapping have no [sign_in].")
    })
}

/// Sends a browser to GitHub, where its person signs in.
#[utoipa::path(
    get,
    path = "/api/sign-in/github",
    operation_id = "signInWithGithub",
    params(BeginQuery),
    responses(
        (status = 302, description = "To GitHub; to the page, if another site sent the browser here"),
        (status = 400, description = "The query is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`sign_in_off`: the settings have no `[sign_in]`", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests from this address: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(())
)]
pub(crate) async fn begin(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let sign_in = sign_in(&state)?;
    let BeginQuery { return_to } = query(&request)?;
    // Another site must not sign a person in again who has signed out: its link leads to the page.
    let from = request.headers().get("Sec-Fetch-Site");
    if from.is_some_and(|from| from != "same-origin" && from != "none") {
        return Ok(HttpResponse::Found()
            .insert_header((LOCATION, "/"))
            .finish());
    }
    let Begun {
        url,
        state,
        verifier,
    } = sign_in.github.begin();
    let started = Started {
        state,
        verifier,
        return_to: own_path(return_to).unwrap_or_else(|| "/".into()),
    };
    let value = serde_json::to_vec(&started).map_err(|e| ApiError::internal(&e))?;
    let value = URL_SAFE_NO_PAD.encode(value);
    Ok(HttpResponse::Found()
        .insert_header((LOCATION, url))
        .cookie(cookies::set(COOKIE, value, PATIENCE))
        .finish())
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CallbackQuery {
    /// Of GitHub, for this sign-in.
    code: Option<String>,
    /// As it was sent to GitHub.
    state: Option<String>,
    /// `access_denied`: the person pressed Cancel.
    error: Option<String>,
}

/// GitHub sends the browser back here.
#[utoipa::path(
    get,
    path = "/api/sign-in/github/callback",
    operation_id = "signedInWithGithub",
    params(CallbackQuery),
    responses(
        (status = 302, description = "With a session in a cookie, to where the sign-in began; without, to `/?sign_in=` and `cancelled`, `expired`, `failed` or `unavailable`"),
        (status = 400, description = "The query is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`sign_in_off`: the settings have no `[sign_in]`", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests from this address: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(())
)]
pub(crate) async fn callback(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let sign_in = sign_in(&state)?;
    let query: CallbackQuery = query(&request)?;
    let mut answer = HttpResponse::Found();
    let Some(started) = started(&request, query.state.as_deref()) else {
        // That of a sign-in in another tab stays.
        let expired = format!("/?sign_in={}", NotSignedIn::Expired.as_str());
        return Ok(answer.insert_header((LOCATION, expired)).finish());
    };
    answer.cookie(cookies::removed(COOKIE));
    match signed_in(&request, &state, sign_in, query, started).await? {
        Ok((cookie, return_to)) => answer.cookie(cookie).insert_header((LOCATION, return_to)),
        Err(why) => answer.insert_header((LOCATION, format!("/?sign_in={}", why.as_str()))),
    };
    Ok(answer.finish())
}

/// The session's cookie, and where the sign-in began.
async fn signed_in(
    request: &HttpRequest,
    state: &State,
    sign_in: &SignIn,
    query: CallbackQuery,
    started: Started,
) -> Result<Result<(Cookie<'static>, String), NotSignedIn>, ApiError> {
    let code = match (query.code, query.error.as_deref()) {
        (Some(code), None) => code,
        (_, Some("access_denied")) => return Ok(Err(NotSignedIn::Cancelled)),
        (_, error) => {
            // Whoever has begun a sign-in can write this.
            let error: Option<String> = error.map(|text| {
                let plain = text.chars().filter(char::is_ascii_graphic);
                plain.take(64).collect()
            });
            tracing::warn!(
                error,
                "GitHub sends people back without a code: check the App's client id and that its callback URL is \
                sign_in.public_url followed by {CALLBACK}"
            );
            return Ok(Err(NotSignedIn::Failed));
        }
    };
    let account = match sign_in.github.finish(code, started.verifier).await {
        Ok(account) => account,
        Err(error) => {
            tracing::warn!(%error, "a sign-in failed");
            return Ok(Err(NotSignedIn::from(&error)));
        }
    };
    let cookie = session::begin(request, state, sign_in, &account)
        .await
        .map_err(|e| storage_error(&e))?;
    tracing::info!(
        github.id = account.id,
        github.login = account.login,
        "signed in"
    );
    Ok(Ok((cookie, started.return_to)))
}

/// The sign-in that this browser began, if it is that with this state.
fn started(request: &HttpRequest, state: Option<&str>) -> Option<Started> {
    let cookie = cookies::value(request, COOKIE)?;
    let value = URL_SAFE_NO_PAD.decode(cookie).ok()?;
    let started: Started = serde_json::from_slice(&value).ok()?;
    let is_same = started.state.as_bytes().ct_eq(state?.as_bytes());
    let return_to = own_path(Some(started.return_to))?;
    bool::from(is_same).then_some(Started {
        return_to,
        ..started
    })
}

/// The path, if it is one of this site: browsers take `//` and `/\` for another host.
fn own_path(path: Option<String>) -> Option<String> {
    path.filter(|path| {
        let is_own = path.starts_with('/') && !path.starts_with("//");
        let is_plain = path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
        is_own && is_plain && path.len() <= LONGEST_PATH
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_come_back_to_this_site_alone() {
        for path in ["/", "/builds/17?user=alice#log", "/a//b"] {
            assert_eq!(own_path(Some(path.into())).as_deref(), Some(path));
        }
        for path in [
            "",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "javascript:alert(1)",
            "/\t/evil.example",
            "/a b",
            "/\r\nset-cookie: a=b",
            "builds",
        ] {
            assert_eq!(own_path(Some(path.into())), None, "{path:?}");
        }
        assert_eq!(own_path(Some(format!("/{}", "a".repeat(5000)))), None);
    }
}
