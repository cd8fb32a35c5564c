//! Sessions of people: a token in a cookie that scripts cannot read, of which the database has the hash.

use actix_web::cookie::Cookie;
use actix_web::cookie::time::Duration;
use actix_web::http::header::ORIGIN;
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_contract::people::Me;
use gha_slurm_contract::problem::Problem;
use gha_slurm_service_kit::ApiError;
use gha_slurm_service_kit::authentication::bearer;
use gha_slurm_service_kit::problem::query;
use gha_slurm_storage::StorageError;
use gha_slurm_storage::people::{self, NewSession, Person};
use oauth2::CsrfToken;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::access::Identity;
use crate::cookies;
use crate::github::Account;
use crate::sign_in_settings::SignIn;
use crate::state::{State, storage_error};

const COOKIE: &str = "__Host-gha-slurm";
const TOKEN_BYTES: u32 = 32;

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Begins the session of an authenticated person. It replaces the one that this browser had.
pub(crate) async fn begin(
    request: &HttpRequest,
    state: &State,
    sign_in: &SignIn,
    account: &Account,
) -> Result<Cookie<'static>, StorageError> {
    let token = CsrfToken::new_random_len(TOKEN_BYTES).into_secret();
    let new = NewSession {
        token_hash: &hash(&token),
        replaces: cookies::value(request, COOKIE).map(hash),
    };
    let person = (account.id, account.login.as_str());
    state
        .database
        .sign_in(person, new, sign_in.sessions, state.clock.now())
        .await?;
    sign_in.unknown.found(new.token_hash.to_vec());
    let lifetime = Duration::seconds(sign_in.sessions.most.num_seconds());
    Ok(cookies::set(COOKIE, token, lifetime))
}

/// The person whose session the call belongs to. A call that changes something must come from a page of this site.
pub(crate) async fn person(
    request: &HttpRequest,
    state: &State,
) -> Result<Option<Person>, ApiError> {
    // Without a way to sign in there is no session.
    let (Some(cookie), Some(sign_in)) = (cookies::value(request, COOKIE), &state.sign_in) else {
        return Ok(None);
    };
    if !is_own(request, &sign_in.origin) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "other_site",
            "The call comes from another site",
        )
        .detail(format!(
            "With a session, changes are made by pages of {} alone. Programs use a bearer token.",
            sign_in.origin
        )));
    }
    let hash = hash(cookie);
    sign_in.unknown.check(request, &hash)?;
    let mut conn = state.connection().await?;
    let now = state.clock.now();
    let person = people::of_session(&mut conn, &hash, sign_in.sessions, now)
        .await
        .map_err(|e| storage_error(&e))?;
    match person {
        Some(_) => sign_in.unknown.found(hash.into()),
        None => sign_in.unknown.count(request),
    }
    Ok(person)
}

/// Whether a page of this site makes the call, or it changes nothing. Browsers send `Origin` with every call that does, and no script can
/// change it (fetch.spec.whatwg.org, "Forbidden request-header").
fn is_own(request: &HttpRequest, own: &str) -> bool {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return true;
    }
    let origin = request.headers().get(ORIGIN);
    origin.is_some_and(|origin| origin.as_bytes() == own.as_bytes())
}

/// Whose credential the call carries, and what it opens.
#[utoipa::path(
    get,
    path = "/api/me",
    operation_id = "me",
    responses(
        (status = 200, description = "Who calls", body = Me),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []), ("userSession" = []), ("personSession" = []))
)]
pub(crate) async fn me(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let me = match state.identity(&request).await? {
        Identity::Token => Me {
            github_id: None,
            login: None,
            administrator: true,
            slurm_user: None,
        },
        Identity::Person(person) => Me {
            administrator: state.access.is_administrator(&person),
            slurm_user: state
                .access
                .link_of(&person)
                .ok()
                .map(|link| link.slurm_user.clone()),
            github_id: Some(person.github_id),
            login: Some(person.login),
        },
    };
    Ok(HttpResponse::Ok().json(me))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignOutQuery {
    /// Also in other browsers.
    #[serde(default)]
    everywhere: bool,
}

/// Ends the session.
#[utoipa::path(
    post,
    path = "/api/sign-out",
    operation_id = "signOut",
    params(SignOutQuery),
    responses(
        (status = 204, description = "It is over"),
        (status = 400, description = "The query is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is signed in", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`other_site`: the call comes from another site's page", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorSession" = []), ("userSession" = []), ("personSession" = []))
)]
pub(crate) async fn sign_out(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let SignOutQuery { everywhere } = query(&request)?;
    let person = match bearer(&request) {
        Some(_) => None,
        None => person(&request, &state).await?,
    };
    let (Some(person), Some(cookie)) = (person, cookies::value(&request, COOKIE)) else {
        return Err(signed_out());
    };
    let mut conn = state.connection().await?;
    let ended = if everywhere {
        people::sign_out_everywhere(&mut conn, person.github_id).await
    } else {
        people::sign_out(&mut conn, &hash(cookie)).await
    };
    ended.map_err(|e| storage_error(&e))?;
    Ok(HttpResponse::NoContent()
        .cookie(cookies::removed(COOKIE))
        .finish())
}

/// There is no session.
fn signed_out() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "signed_out",
        "Nobody is signed in",
    )
    .detail("The session is over. Sign in again.")
    .header("WWW-Authenticate", "Bearer")
}
