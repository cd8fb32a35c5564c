//! `/login/oauth/authorize`: a person decides whether to sign in.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use url::Url;

use super::page;
use crate::request::ControlError;
use crate::shared::Shared;
use crate::world::sign_ins::Code;
use crate::world::{Now, World, end};

const PATH: &str = "/login/oauth/authorize";
/// Characters of a PKCE challenge: a SHA-256 digest in base64url.
const CHALLENGE_LENGTH: usize = 43;
const TROUBLESHOOTING: &str =
    "https://docs.github.com/apps/managing-oauth-apps/troubleshooting-authorization-request-errors";

/// What the App asks for. `prompt` and `allow_signup` change nothing here: the page always asks, and nobody signs up.
#[derive(Debug, Default, Deserialize)]
pub(super) struct AuthorizeQuery {
    client_id: Option<String>,
    redirect_uri: Option<String>,
    state: Option<String>,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
    login: Option<String>,
}

/// The button that was pressed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Choice<'a> {
    /// That of this person.
    SignIn(&'a str),
    /// "Cancel".
    Cancel,
}

/// Why nobody is asked.
#[derive(Debug)]
enum Refusal {
    /// No App has this client id.
    UnknownClient,
    /// The address is not one of the App's callback URLs, so nobody is sent there.
    RedirectMismatch,
    /// There is no such person.
    NoPerson(ControlError),
    /// The App is told, at this address.
    Redirect(String),
}

/// A request that a person can decide on.
struct Valid {
    /// Where the person goes next.
    callback: Url,
    redirect_uri: String,
    challenge: Option<String>,
}

impl AuthorizeQuery {
    fn check(&self, world: &World) -> Result<Valid, Refusal> {
        if self.client_id.as_ref() != Some(&world.app.client_id) {
            return Err(Refusal::UnknownClient);
        }
        let mut callbacks = world.app.callback_urls.iter();
        let redirect_uri = match &self.redirect_uri {
            Some(wanted) => callbacks.find(|known| *known == wanted),
            None => callbacks.next(),
        };
        let (redirect_uri, callback) = redirect_uri
            .and_then(|uri| Some((uri.clone(), Url::parse(uri).ok()?)))
            .ok_or(Refusal::RedirectMismatch)?;
        match (&self.code_challenge, self.code_challenge_method.as_deref()) {
            (None, None) => {}
            (Some(challenge), Some("S256")) if is_challenge(challenge) => {}
            // GitHub's docs name no error for it; this one is RFC 7636's.
            _ => {
                let description = "The code_challenge must be a SHA-256 hash with the code_challenge_method S256.";
                let location =
                    self.failed(callback, "invalid_request", description, TROUBLESHOOTING);
                return Err(Refusal::Redirect(location));
            }
        }
        Ok(Valid {
            callback,
            redirect_uri,
            challenge: self.code_challenge.clone(),
        })
    }

    /// The address with an error.
    fn failed(&self, callback: Url, error: &str, description: &str, more: &str) -> String {
        let pairs = [
            ("error", error),
            ("error_description", description),
            ("error_uri", more),
        ];
        self.back(callback, &pairs)
    }

    /// The address with these pairs, and with the state that the App sent.
    fn back(&self, mut callback: Url, pairs: &[(&str, &str)]) -> String {
        let mut query = callback.query_pairs_mut();
        query.extend_pairs(pairs);
        if let Some(state) = &self.state {
            query.append_pair("state", state);
        }
        drop(query);
        callback.into()
    }

    /// Does what the person chose. Returns the address that the person goes to.
    fn decide(&self, world: &mut World, choice: Choice<'_>, now: Now) -> Result<String, Refusal> {
        let valid = self.check(world)?;
        let login = match choice {
            Choice::SignIn(login) => login,
            Choice::Cancel => {
                let description = "The user has denied your application access.";
                let more = format!("{TROUBLESHOOTING}/#access-denied");
                return Ok(self.failed(valid.callback, "access_denied", description, &more));
            }
        };
        let person_id = world.person_named(login).map_err(Refusal::NoPerson)?.id;
        let code = Code {
            person_id,
            redirect_uri: valid.redirect_uri,
            challenge: valid.challenge,
            expires_at: end(now, world.timing.authorization_code),
        };
        let code = world.sign_ins.authorize(code, now);
        Ok(self.back(valid.callback, &[("code", &code)]))
    }
}

fn is_challenge(text: &str) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() == CHALLENGE_LENGTH && text.bytes().all(is_base64url)
}

impl Refusal {
    fn into_response(self) -> HttpResponse {
        match self {
            Self::UnknownClient => page::refuse(
                StatusCode::NOT_FOUND,
                "Not Found",
                "There is no App with this client_id.",
            ),
            Self::RedirectMismatch => page::refuse(
                StatusCode::BAD_REQUEST,
                "redirect_uri_mismatch",
                "The redirect_uri MUST match the registered callback URL for this application.",
            ),
            Self::NoPerson(error) => {
                page::refuse(StatusCode::NOT_FOUND, "Not Found", &error.to_string())
            }
            Self::Redirect(location) => redirect(&location),
        }
    }
}

fn redirect(location: &str) -> HttpResponse {
    HttpResponse::Found()
        .insert_header(("location", location))
        .insert_header(("cache-control", "no-store"))
        .finish()
}

/// `GET /login/oauth/authorize`: asks who signs in. The person of `login` is the first to choose from.
pub(super) async fn show(
    shared: web::Data<Shared>,
    query: web::Query<AuthorizeQuery>,
) -> HttpResponse {
    shared.read(|world, _| match query.check(world) {
        Ok(_) => {
            let mut logins: Vec<&str> = world
                .logins()
                .map(|account| account.login.as_str())
                .collect();
            let hint = query.login.as_deref().unwrap_or_default();
            // Stable: the others stay in their order.
            logins.sort_by_key(|login| !login.eq_ignore_ascii_case(hint));
            page::choose(&world.app.slug, &logins)
        }
        Err(refusal) => refusal.into_response(),
    })
}

/// The page's form.
#[derive(Debug, Deserialize)]
pub(super) struct Pressed {
    login: Option<String>,
}

/// `POST /login/oauth/authorize`: the page's form comes back.
pub(super) async fn decide(
    shared: web::Data<Shared>,
    query: web::Query<AuthorizeQuery>,
    pressed: web::Form<Pressed>,
) -> HttpResponse {
    let choice = pressed
        .login
        .as_deref()
        .map_or(Choice::Cancel, Choice::SignIn);
    match shared.change(|world, now| query.decide(world, choice, now)) {
        Ok(location) => redirect(&location),
        Err(refusal) => refusal.into_response(),
    }
}

/// What a browser does that opens this address and presses this button. Returns the address that it is redirected to.
pub(crate) fn decide_at(
    world: &mut World,
    authorize_url: &str,
    choice: Choice<'_>,
    now: Now,
) -> Result<String, ControlError> {
    let wrong = || ControlError::Conflict(format!("{authorize_url:?} is not an address of {PATH}"));
    let url = Url::parse(authorize_url).map_err(|_| wrong())?;
    let page = Url::parse(&format!("{}{PATH}", world.addresses.web));
    if page.map_or(true, |page| page.path() != url.path()) {
        return Err(wrong());
    }
    let query = web::Query::<AuthorizeQuery>::from_query(url.query().unwrap_or_default())
        .map_err(|error| ControlError::Conflict(error.to_string()))?;
    query
        .decide(world, choice, now)
        .or_else(|refusal| match refusal {
            Refusal::UnknownClient => {
                Err(ControlError::NotFound("App with this client_id".to_owned()))
            }
            Refusal::RedirectMismatch => Err(ControlError::Conflict(
                "redirect_uri_mismatch: the redirect_uri is not one of the App's callback URLs"
                    .to_owned(),
            )),
            Refusal::NoPerson(error) => Err(error),
            Refusal::Redirect(location) => Ok(location),
        })
}

/// Refuses what people cannot be sent back to.
pub(crate) fn check_callback_urls(urls: &[String]) -> Result<(), ControlError> {
    for url in urls {
        let is_web = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !is_web {
            let text = format!("the callback URL {url:?} is not an http address");
            return Err(ControlError::Conflict(text));
        }
    }
    Ok(())
}
