//! The App, its installations and their tokens.

use std::collections::BTreeSet;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bodies::{put, selection, time};
use crate::model::{Access, Installation, Permissions};
use crate::rest::caller::{installation_of, require_app, require_installation, sees};
use crate::rest::error::GitHubError;
use crate::rest::page::{Page, PageQuery};
use crate::rest::repository::addressed;
use crate::shared::Shared;
use crate::world::accounts::Lookup;
use crate::world::tokens::Grant;
use crate::world::{Now, World, end, known};

type Answer = Result<HttpResponse, GitHubError>;

/// `GET /app`.
pub(crate) async fn app(request: HttpRequest, shared: web::Data<Shared>) -> Answer {
    require_app(&request, &shared)?;
    Ok(HttpResponse::Ok().json(shared.read(|world, _| world.app_body())))
}

/// `GET /app/installations`.
pub(crate) async fn installations(
    request: HttpRequest,
    shared: web::Data<Shared>,
    query: web::Query<PageQuery>,
) -> Answer {
    require_app(&request, &shared)?;
    let (all, path) = shared.read(|world, _| {
        let all = world.installations.values();
        let bodies = all.map(|one| world.installation_body(one)).collect();
        (bodies, format!("{}/app/installations", world.addresses.api))
    });
    let (_, items, link) = query.cut(all, &path, request.query_string()).into_parts();
    Ok(Page::answer(link, &json!(items)))
}

/// `GET /app/installations/{installation_id}`.
pub(crate) async fn installation(
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<i64>,
) -> Answer {
    require_app(&request, &shared)?;
    let body = shared.read(|world, _| {
        let installation = world.installations.get(&id)?;
        Some(world.installation_body(installation))
    });
    Ok(HttpResponse::Ok().json(body.ok_or_else(GitHubError::not_found)?))
}

/// `GET /repos/{owner}/{repo}/installation`.
pub(crate) async fn of_repository(request: HttpRequest, shared: web::Data<Shared>) -> Answer {
    require_app(&request, &shared)?;
    let body = shared.read(|world, _| {
        let repository = addressed(&request, world)?;
        let installation = world
            .installation_for(repository.id)
            .ok_or_else(GitHubError::not_found)?;
        Ok::<_, GitHubError>(world.installation_body(installation))
    })?;
    Ok(HttpResponse::Ok().json(body))
}

/// How a token is to be narrowed.
#[derive(Debug, Default, Deserialize)]
struct Narrowed {
    repositories: Option<Vec<String>>,
    repository_ids: Option<Vec<i64>>,
    permissions: Option<Permissions>,
}

/// `POST /app/installations/{installation_id}/access_tokens`.
pub(crate) async fn access_token(
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<i64>,
    body: web::Bytes,
) -> Answer {
    require_app(&request, &shared)?;
    let narrowed: Narrowed = if body.iter().all(u8::is_ascii_whitespace) {
        Narrowed::default()
    } else {
        // `null` is what a client sends that has nothing to narrow.
        serde_json::from_slice::<Option<Narrowed>>(&body)
            .map_err(|_| GitHubError::new(422, "Invalid request."))?
            .unwrap_or_default()
    };
    let body = shared.change(|world, now| mint(world, *id, narrowed, now))?;
    Ok(HttpResponse::Created().json(body))
}

fn mint(world: &mut World, id: i64, narrowed: Narrowed, now: Now) -> Result<Value, GitHubError> {
    let installation = world
        .installations
        .get(&id)
        .cloned()
        .ok_or_else(GitHubError::not_found)?;
    if installation.suspended_at.is_some() {
        return Err(GitHubError::new(
            403,
            "This installation has been suspended",
        ));
    }
    let repository_ids = chosen_repositories(world, &installation, &narrowed)?;
    let permissions = chosen_permissions(&installation, narrowed.permissions)?;
    let expires_at = end(now, world.timing.installation_token);
    let grant = Grant {
        installation_id: id,
        repository_ids: repository_ids.clone(),
        permissions: permissions.clone(),
        expires_at,
    };
    let token = world.tokens.mint(world.app.id, grant);
    let mut body = json!({
        "token": token,
        "expires_at": time(expires_at),
        "permissions": permissions,
        "repository_selection": if repository_ids.is_some() { "selected" } else { selection(&installation) },
    });
    if let Some(ids) = repository_ids {
        let repositories: Vec<Value> = world
            .repositories_among(&ids)
            .iter()
            .map(|repository| world.repository_body(repository))
            .collect();
        put(&mut body, json!({ "repositories": repositories }));
    }
    Ok(body)
}

fn chosen_repositories(
    world: &World,
    installation: &Installation,
    narrowed: &Narrowed,
) -> Result<Option<BTreeSet<i64>>, GitHubError> {
    let refuse = || {
        GitHubError::new(
            422,
            "There is at least one repository that does not exist or is not accessible to the parent installation.",
        )
    };
    if narrowed.repositories.is_none() && narrowed.repository_ids.is_none() {
        return Ok(None);
    }
    let mut ids = known(narrowed.repository_ids.iter().flatten());
    for name in narrowed.repositories.iter().flatten() {
        match world.find_repository(&installation.account.login, name) {
            Lookup::Found(repository) => ids.insert(repository.id),
            _ => return Err(refuse()),
        };
    }
    if ids.is_empty() || !ids.is_subset(&installation.repository_ids) {
        return Err(refuse());
    }
    Ok(Some(ids))
}

fn chosen_permissions(
    installation: &Installation,
    wanted: Option<Permissions>,
) -> Result<Permissions, GitHubError> {
    let Some(mut wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        return Ok(installation.permissions.clone());
    };
    let granted = wanted.iter().all(|(name, access)| {
        installation
            .permissions
            .get(name)
            .is_some_and(|granted| granted >= access)
    });
    if !granted {
        return Err(GitHubError::new(
            422,
            "The permissions requested are not granted to this installation.",
        ));
    }
    // Always there, whether asked for or not.
    wanted.entry("metadata".to_owned()).or_insert(Access::Read);
    Ok(wanted)
}

/// `GET /installation/repositories`.
pub(crate) async fn installation_repositories(
    request: HttpRequest,
    shared: web::Data<Shared>,
    query: web::Query<PageQuery>,
) -> Answer {
    let (all, path, selected) = shared.read(|world, now| {
        let grant = require_installation(&request, world, now)?;
        let installation = installation_of(&grant, world).ok_or_else(GitHubError::not_found)?;
        let seen = installation.repository_ids.iter().copied();
        let ids: BTreeSet<i64> = seen.filter(|id| sees(&grant, world, *id)).collect();
        let all = world
            .repositories_among(&ids)
            .iter()
            .map(|repository| world.repository_body(repository))
            .collect();
        let path = format!("{}/installation/repositories", world.addresses.api);
        let selected = if grant.repository_ids.is_some() {
            "selected"
        } else {
            selection(installation)
        };
        Ok::<_, GitHubError>((all, path, selected))
    })?;
    let (total, repositories, link) = query.cut(all, &path, request.query_string()).into_parts();
    let body = json!({
        "total_count": total, "repository_selection": selected, "repositories": repositories,
    });
    Ok(Page::answer(link, &body))
}

/// `GET /rate_limit`; does not count.
pub(crate) async fn rate_limit(request: HttpRequest, shared: web::Data<Shared>) -> Answer {
    let spender = super::caller::spender(&request, &shared);
    let body = shared.note(|world, now| {
        let used = world.used.entry(spender).or_default();
        *used = used.saturating_sub(1);
        let used = *used;
        let reset = now.timestamp() / 3600 * 3600 + 3600;
        world.rate_limit_body(used, reset)
    });
    Ok(HttpResponse::Ok().json(body))
}
