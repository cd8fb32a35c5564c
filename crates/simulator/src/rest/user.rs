//! What a user access token reads: the person, and what both they and the App can access
//! (<https://docs.github.com/rest/apps/installations>).

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use crate::bodies::selection;
use crate::model::{Installation, Repository, Role};
use crate::rest::caller::require_person;
use crate::rest::error::GitHubError;
use crate::rest::page::{Page, PageQuery};
use crate::shared::Shared;
use crate::world::World;

type Answer = Result<HttpResponse, GitHubError>;

/// `GET /user` (<https://docs.github.com/rest/users/users#get-the-authenticated-user>).
pub(crate) async fn get(request: HttpRequest, shared: web::Data<Shared>) -> Answer {
    let body = shared.read(|world, now| {
        require_person(&request, world, now).map(|person| world.person_body(person))
    })?;
    Ok(HttpResponse::Ok().json(body))
}

/// `GET /user/installations`: those with a repository to which the person was given access.
pub(crate) async fn installations(
    request: HttpRequest,
    shared: web::Data<Shared>,
    page: web::Query<PageQuery>,
) -> Answer {
    let (all, path) = shared.read(|world, now| {
        let person = require_person(&request, world, now)?;
        let all = world.installations.values();
        let bodies = all
            .filter(|one| is_accessible(world, one, person.id))
            .map(|one| world.installation_body(one))
            .collect();
        Ok::<_, GitHubError>((bodies, address(&request, world)))
    })?;
    let (total, items, link) = page.cut(all, &path, request.query_string()).into_parts();
    let body = json!({ "total_count": total, "installations": items });
    Ok(Page::answer(link, &body))
}

/// `GET /user/installations/{installation_id}/repositories`: those to which the person was given access, with what
/// they may do in each.
pub(crate) async fn repositories(
    request: HttpRequest,
    shared: web::Data<Shared>,
    id: web::Path<i64>,
    page: web::Query<PageQuery>,
) -> Answer {
    let (all, path, selected) = shared.read(|world, now| {
        let person = require_person(&request, world, now)?;
        let installation = world
            .installations
            .get(&id)
            .filter(|installation| is_accessible(world, installation, person.id))
            .ok_or_else(GitHubError::not_found)?;
        if installation.suspended_at.is_some() {
            return Err(GitHubError::new(
                403,
                "This installation has been suspended",
            ));
        }
        let bodies: Vec<Value> = accessible(world, installation, person.id)
            .map(|(repository, role)| world.repository_body_for(repository, role))
            .collect();
        let path = address(&request, world);
        Ok((bodies, path, selection(installation)))
    })?;
    let (total, items, link) = page.cut(all, &path, request.query_string()).into_parts();
    let body = json!({
        "total_count": total, "repository_selection": selected, "repositories": items,
    });
    Ok(Page::answer(link, &body))
}

/// The address of a list for its links, below `/api/v3` where the caller is.
fn address(request: &HttpRequest, world: &World) -> String {
    format!("{}{}", world.addresses.api, request.path())
}

/// The repositories of an installation to which a person was given access, with their role. A public one alone is none.
fn accessible<'w>(
    world: &'w World,
    installation: &'w Installation,
    person_id: i64,
) -> impl Iterator<Item = (&'w Repository, Role)> {
    let ids = installation.repository_ids.iter();
    ids.filter_map(|id| world.repositories.get(id))
        .filter_map(move |repository| {
            let role = world.explicit_role(person_id, repository)?;
            Some((repository, role))
        })
}

fn is_accessible(world: &World, installation: &Installation, person_id: i64) -> bool {
    installation.account.id == person_id
        || accessible(world, installation, person_id).next().is_some()
}
