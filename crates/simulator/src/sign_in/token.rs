//! `POST /login/oauth/access_token`: exchanges a code or a refresh token for tokens
//! (<https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens>).

use std::collections::BTreeMap;

use actix_web::http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use actix_web::{HttpRequest, HttpResponse, web};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use crate::shared::Shared;
use crate::world::sign_ins::TokenPair;
use crate::world::{Now, World};

const TROUBLESHOOTING: &str = "https://docs.github.com/apps/managing-oauth-apps";

/// Why there are no tokens. GitHub answers these with the status 200
/// (<https://docs.github.com/apps/oauth-apps/maintaining-oauth-apps/troubleshooting-oauth-app-access-token-request-errors>).
#[derive(Debug, Clone, Copy)]
enum TokenError {
    ClientCredentials,
    RedirectUri,
    /// The code, or the PKCE verifier: GitHub's docs name no error of its own for the latter.
    Code,
    RefreshToken,
    GrantType,
}

impl TokenError {
    fn body(self) -> Value {
        let (error, description, more) = match self {
            Self::ClientCredentials => (
                "incorrect_client_credentials",
                "The client_id and/or client_secret passed are incorrect.",
                "/troubleshooting-oauth-app-access-token-request-errors/#incorrect-client-credentials",
            ),
            Self::RedirectUri => (
                "redirect_uri_mismatch",
                "The redirect_uri MUST match the registered callback URL for this application.",
                "/troubleshooting-authorization-request-errors/#redirect-uri-mismatch2",
            ),
            Self::Code => (
                "bad_verification_code",
                "The code passed is incorrect or expired.",
                "/troubleshooting-oauth-app-access-token-request-errors/#bad-verification-code",
            ),
            Self::RefreshToken => (
                "bad_refresh_token",
                "The refresh token passed is incorrect or expired.",
                "/troubleshooting-oauth-app-access-token-request-errors",
            ),
            Self::GrantType => (
                "unsupported_grant_type",
                "The grant_type passed is not supported.",
                "/troubleshooting-oauth-app-access-token-request-errors",
            ),
        };
        json!({
            "error": error,
            "error_description": description,
            "error_uri": format!("{TROUBLESHOOTING}{more}"),
        })
    }
}

/// Parameters by name.
struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Those of the query and of the body, which is a form or JSON.
    fn of(request: &HttpRequest, body: &[u8]) -> Self {
        let pairs = |bytes| form_urlencoded::parse(bytes).into_owned();
        let mut parameters: BTreeMap<String, String> =
            pairs(request.query_string().as_bytes()).collect();
        if mentions_json(request, CONTENT_TYPE) {
            let fields: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
            for (name, value) in fields {
                if let Value::String(value) = value {
                    parameters.insert(name, value);
                }
            }
        } else {
            parameters.extend(pairs(body));
        }
        Self(parameters)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

fn mentions_json(request: &HttpRequest, header: HeaderName) -> bool {
    request
        .headers()
        .get(header)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.to_ascii_lowercase().contains("application/json"))
}

/// `POST /login/oauth/access_token`: answers JSON if asked to, a form otherwise.
pub(super) async fn access_token(
    request: HttpRequest,
    shared: web::Data<Shared>,
    body: web::Bytes,
) -> HttpResponse {
    let parameters = Parameters::of(&request, &body);
    let body = shared.change(|world, now| {
        exchange(world, &parameters, now).map_or_else(TokenError::body, |pair| {
            json!({
                "access_token": pair.access_token,
                "expires_in": world.timing.user_token.as_secs(),
                "refresh_token": pair.refresh_token,
                "refresh_token_expires_in": world.timing.refresh_token.as_secs(),
                "scope": "",
                "token_type": "bearer",
            })
        })
    });
    let mut answer = HttpResponse::Ok();
    answer.insert_header(("cache-control", "no-store"));
    if mentions_json(&request, ACCEPT) {
        return answer.json(body);
    }
    answer
        .content_type("application/x-www-form-urlencoded; charset=utf-8")
        .body(form(&body))
}

/// The fields of an object as a form.
fn form(body: &Value) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (name, value) in body.as_object().into_iter().flatten() {
        match value {
            Value::String(text) => form.append_pair(name, text),
            other => form.append_pair(name, &other.to_string()),
        };
    }
    form.finish()
}

fn exchange(world: &mut World, parameters: &Parameters, now: Now) -> Result<TokenPair, TokenError> {
    let is_app = parameters.get("client_id") == Some(world.app.client_id.as_str())
        && parameters.get("client_secret") == Some(world.app.client_secret.expose_secret());
    if !is_app {
        return Err(TokenError::ClientCredentials);
    }
    match parameters.get("grant_type") {
        None | Some("authorization_code") => redeem(world, parameters, now),
        Some("refresh_token") => {
            let token = parameters.get("refresh_token").unwrap_or_default();
            world
                .sign_ins
                .refresh(token, &world.timing, now)
                .ok_or(TokenError::RefreshToken)
        }
        Some(_) => Err(TokenError::GrantType),
    }
}

fn redeem(world: &mut World, parameters: &Parameters, now: Now) -> Result<TokenPair, TokenError> {
    let code = parameters.get("code").unwrap_or_default();
    let code = world
        .sign_ins
        .take_code(code, now)
        .ok_or(TokenError::Code)?;
    let redirect_uri = parameters.get("redirect_uri");
    if redirect_uri.is_some_and(|uri| uri != code.redirect_uri) {
        return Err(TokenError::RedirectUri);
    }
    if let Some(challenge) = &code.challenge {
        let verifier = parameters.get("code_verifier").unwrap_or_default();
        let hash = digest(&SHA256, verifier.as_bytes());
        if URL_SAFE_NO_PAD.encode(hash) != *challenge {
            return Err(TokenError::Code);
        }
    }
    Ok(world.sign_ins.issue(code.person_id, &world.timing, now))
}
