//! Repositories: by name, by a former name (a redirect), by number.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::model::{Access, Repository};
use crate::rest::caller::{person, require_installation, require_permission, sees};
use crate::rest::error::GitHubError;
use crate::shared::Shared;
use crate::world::accounts::Lookup;
use crate::world::{Now, World};

/// The repository of the address, without any check of rights.
pub(crate) fn addressed(request: &HttpRequest, world: &World) -> Result<Repository, GitHubError> {
    let path = request.match_info();
    if let Some(id) = path.get("repository_id") {
        return id
            .parse()
            .ok()
            .and_then(|id: i64| world.repositories.get(&id).cloned())
            .ok_or_else(GitHubError::not_found);
    }
    let (Some(owner), Some(name)) = (path.get("owner"), path.get("repo")) else {
        return Err(GitHubError::not_found());
    };
    match world.find_repository(owner, name) {
        Lookup::Found(repository) => Ok(repository),
        Lookup::Renamed(id) => {
            let prefix = format!("/repos/{owner}/{name}");
            let rest = request
                .path()
                .split_once(prefix.as_str())
                .map_or("", |(_, rest)| rest);
            let query = request.query_string();
            let query = if query.is_empty() {
                ""
            } else {
                &format!("?{query}")
            };
            let location = format!("{}/repositories/{id}{rest}{query}", world.addresses.api);
            // Other methods than GET must keep theirs.
            let status = if request.method() == "GET" { 301 } else { 307 };
            Err(GitHubError::moved(status, &location))
        }
        Lookup::Unknown => Err(GitHubError::not_found()),
    }
}

/// The repository of the address, if the caller's token sees it and has this permission.
pub(crate) fn permitted(
    request: &HttpRequest,
    world: &World,
    now: Now,
    permission: &str,
    access: Access,
) -> Result<Repository, GitHubError> {
    let grant = require_installation(request, world, now)?;
    let repository = addressed(request, world)?;
    if !sees(&grant, world, repository.id) {
        // A public repository is no secret, a private one is.
        return Err(if repository.private {
            GitHubError::not_found()
        } else {
            GitHubError::not_accessible()
        });
    }
    require_permission(&grant, world, permission, access)?;
    Ok(repository)
}

/// `GET /repos/{owner}/{repo}` and `GET /repositories/{repository_id}`.
pub(crate) async fn get(
    request: HttpRequest,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, GitHubError> {
    let body = shared.read(|world, now| {
        let repository = addressed(&request, world)?;
        if let Some(person) = person(&request, world, now) {
            return world
                .role_of_token(person.id, &repository)
                .map(|role| world.repository_body_for(&repository, role))
                .ok_or_else(GitHubError::not_found);
        }
        let seen = if request.headers().contains_key("authorization") {
            let grant = require_installation(&request, world, now)?;
            sees(&grant, world, repository.id)
        } else {
            false
        };
        if seen || !repository.private {
            Ok(world.repository_body(&repository))
        } else {
            Err(GitHubError::not_found())
        }
    })?;
    Ok(HttpResponse::Ok().json(body))
}
