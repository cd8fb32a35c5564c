//! The App ends what people authorized (<https://docs.github.com/rest/apps/oauth-applications>). The webhook
//! `github_app_authorization` is about what people revoke themselves, so these send none.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use crate::rest::caller::require_client;
use crate::rest::error::GitHubError;
use crate::shared::Shared;

type Answer = Result<HttpResponse, GitHubError>;

#[derive(Deserialize)]
struct TokenBody {
    access_token: String,
}

/// The token that is named in a body.
fn token_of(body: &[u8]) -> Result<String, GitHubError> {
    serde_json::from_slice(body)
        .map(|TokenBody { access_token }| access_token)
        .map_err(|_| GitHubError::invalid("access_token", "a user access token"))
}

/// `DELETE /applications/{client_id}/token`: ends one token. Its refresh token ends with it.
pub(crate) async fn delete_token(
    request: HttpRequest,
    shared: web::Data<Shared>,
    body: web::Bytes,
) -> Answer {
    shared.change(|world, now| {
        require_client(&request, world)?;
        let is_known = world.sign_ins.revoke_token(&token_of(&body)?, now);
        is_known.then_some(()).ok_or_else(GitHubError::not_found)
    })?;
    Ok(HttpResponse::NoContent().finish())
}

/// `DELETE /applications/{client_id}/grant`: ends the authorization of the token's person, with all of their tokens.
pub(crate) async fn delete_grant(
    request: HttpRequest,
    shared: web::Data<Shared>,
    body: web::Bytes,
) -> Answer {
    shared.change(|world, now| {
        require_client(&request, world)?;
        let person_id = world
            .sign_ins
            .person_of(&token_of(&body)?, now)
            .ok_or_else(GitHubError::not_found)?;
        world.sign_ins.revoke(person_id);
        Ok::<_, GitHubError>(())
    })?;
    Ok(HttpResponse::NoContent().finish())
}
