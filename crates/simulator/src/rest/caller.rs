//! Who calls: the App by its signed JWT or its client secret, an installation or a person by a token.

use actix_web::HttpRequest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, Validation};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::model::{Access, Account, Installation};
use crate::rest::error::GitHubError;
use crate::settings::AppFacts;
use crate::shared::Shared;
use crate::world::tokens::Grant;
use crate::world::{Now, World};

/// The App may sign for at most so long ahead (GitHub docs, generating a JSON web token).
const LONGEST_SECONDS: i64 = 600;

fn credential(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get("authorization")?.to_str().ok()?;
    let (scheme, value) = header.split_once(' ')?;
    let accepted = scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token");
    accepted.then_some(value.trim())
}

/// Whose rate limit a call uses up.
pub(crate) fn spender(request: &HttpRequest, shared: &Shared) -> String {
    let token = credential(request).filter(|credential| credential.starts_with("gh"));
    let spender = token.and_then(|token| {
        shared.read(|world, now| {
            let grant = world.tokens.grant(token, now);
            grant
                .map(|grant| format!("installation {}", grant.installation_id))
                .or_else(|| Some(format!("user {}", world.sign_ins.person_of(token, now)?)))
        })
    });
    spender.unwrap_or_else(|| "app".to_owned())
}

/// The person whose user access token this is; nobody if it is none that is valid.
pub(crate) fn person<'w>(request: &HttpRequest, world: &'w World, now: Now) -> Option<&'w Account> {
    let id = world.sign_ins.person_of(credential(request)?, now)?;
    world.person_with_id(id)
}

/// Requires a user access token.
pub(crate) fn require_person<'w>(
    request: &HttpRequest,
    world: &'w World,
    now: Now,
) -> Result<&'w Account, GitHubError> {
    let token =
        credential(request).ok_or_else(|| GitHubError::new(401, "Requires authentication"))?;
    if world.tokens.grant(token, now).is_some() {
        return Err(GitHubError::not_accessible());
    }
    person(request, world, now).ok_or_else(GitHubError::bad_credentials)
}

/// Requires the App's client id and client secret (HTTP Basic), and its client id in the address.
pub(crate) fn require_client(request: &HttpRequest, world: &World) -> Result<(), GitHubError> {
    let AppFacts {
        client_id,
        client_secret,
        ..
    } = &world.app;
    let expected = STANDARD.encode(format!("{client_id}:{}", client_secret.expose_secret()));
    let header = request.headers().get("authorization");
    let is_client = header
        .and_then(|header| header.to_str().ok())
        .and_then(|header| header.split_once(' '))
        .is_some_and(|(scheme, value)| {
            scheme.eq_ignore_ascii_case("basic") && value.trim() == expected
        });
    if !is_client {
        return Err(GitHubError::bad_credentials());
    }
    if request.match_info().get("client_id") != Some(client_id.as_str()) {
        return Err(GitHubError::not_found());
    }
    Ok(())
}

/// Requires the App's JWT: RS256, `iat` not ahead, `exp` ahead by at most ten minutes, `iss` the App's id or client id.
pub(crate) fn require_app(request: &HttpRequest, shared: &Shared) -> Result<(), GitHubError> {
    let undecodable = || GitHubError::new(401, "A JSON web token could not be decoded");
    let token = credential(request).ok_or_else(undecodable)?;
    let mut validation = Validation::new(Algorithm::RS256);
    // The claims are checked below, with GitHub's rules and words.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let claims = jsonwebtoken::decode::<Value>(token, shared.app_key(), &validation)
        .map_err(|_| undecodable())?
        .claims;
    shared.read(|world, now| check_claims(&claims, world, now))
}

fn check_claims(claims: &Value, world: &World, now: Now) -> Result<(), GitHubError> {
    let refuse = |message: &str| Err(GitHubError::new(401, message));
    let now = now.timestamp();
    let expires = claims.get("exp").and_then(Value::as_i64);
    let Some(expires) = expires.filter(|expires| *expires > now) else {
        return refuse(
            "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires",
        );
    };
    if expires > now + LONGEST_SECONDS {
        return refuse("'Expiration time' claim ('exp') is too far in the future");
    }
    let issued = claims.get("iat").and_then(Value::as_i64);
    if issued.is_none_or(|issued| issued > now) {
        return refuse(
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
        );
    }
    let issuer = match claims.get("iss") {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => text.clone(),
        _ => return refuse("Missing 'issuer' claim ('iss') in assertion"),
    };
    if issuer == world.app.id.to_string() || issuer == world.app.client_id {
        return Ok(());
    }
    if issuer.parse::<u64>().is_err() {
        return refuse("'Issuer' claim ('iss') must be an Integer");
    }
    Err(GitHubError::new(404, "Integration not found"))
}

/// Requires an installation access token.
pub(crate) fn require_installation(
    request: &HttpRequest,
    world: &World,
    now: Now,
) -> Result<Grant, GitHubError> {
    let Some(token) = credential(request) else {
        return Err(GitHubError::new(401, "Requires authentication"));
    };
    let grant = world.tokens.grant(token, now).ok_or_else(|| {
        match world.sign_ins.person_of(token, now) {
            Some(_) => GitHubError::not_accessible(),
            None => GitHubError::bad_credentials(),
        }
    })?;
    let installation = installation_of(grant, world).ok_or_else(GitHubError::bad_credentials)?;
    if installation.suspended_at.is_some() {
        return Err(GitHubError::new(
            403,
            "This installation has been suspended",
        ));
    }
    Ok(grant.clone())
}

pub(crate) fn installation_of<'w>(grant: &Grant, world: &'w World) -> Option<&'w Installation> {
    world.installations.get(&grant.installation_id)
}

/// The repositories a token sees at this moment.
pub(crate) fn sees(grant: &Grant, world: &World, repository_id: i64) -> bool {
    let installed = installation_of(grant, world)
        .is_some_and(|installation| installation.repository_ids.contains(&repository_id));
    installed
        && grant
            .repository_ids
            .as_ref()
            .is_none_or(|ids| ids.contains(&repository_id))
}

/// Requires a permission of a token. One that the installation has lost since is lost to its tokens, too.
pub(crate) fn require_permission(
    grant: &Grant,
    world: &World,
    permission: &str,
    access: Access,
) -> Result<(), GitHubError> {
    let still_granted = permission == "metadata"
        || installation_of(grant, world).is_some_and(|installation| {
            installation
                .permissions
                .get(permission)
                .is_some_and(|granted| *granted >= access)
        });
    if still_granted && grant.allows(permission, access) {
        Ok(())
    } else {
        Err(GitHubError::not_accessible())
    }
}
