//! `/api/people`: the people who have signed in, and the Slurm users that administrators link them to.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_contract::people::{NewLink, Person};
use gha_slurm_contract::problem::Problem;
use gha_slurm_service_kit::{ApiError, Body, body};
use gha_slurm_storage::people::{self, Link};

use crate::access::Identity;
use crate::state::{State, storage_error};

fn shown(state: &State, person: people::Person) -> Person {
    let administrator = state.access.is_administrator(&person);
    let people::Person {
        github_id,
        login,
        signed_in_at,
        link,
    } = person;
    let (slurm_user, cluster, linked_by, linked_at) = match link {
        Some(link) => (
            Some(link.slurm_user),
            Some(link.cluster),
            Some(link.linked_by),
            Some(link.linked_at),
        ),
        None => (None, None, None, None),
    };
    Person {
        github_id,
        login,
        administrator,
        signed_in_at,
        slurm_user,
        cluster,
        linked_by,
        linked_at,
    }
}

fn unknown() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "person_unknown",
        "No person with this ID has signed in",
    )
    .detail("They have to sign in with GitHub first.")
}

/// The people who signed in recently or are linked.
#[utoipa::path(
    get,
    path = "/api/people",
    operation_id = "listPeople",
    responses(
        (status = 200, description = "By login", body = Vec<Person>),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`administrators_only`", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []))
)]
pub(crate) async fn list(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    state.authorize(&request).await?;
    let mut conn = state.connection().await?;
    let all = people::all(&mut conn)
        .await
        .map_err(|e| storage_error(&e))?;
    let list: Vec<Person> = all.into_iter().map(|one| shown(&state, one)).collect();
    Ok(HttpResponse::Ok().json(list))
}

/// Links a person to a Slurm user.
#[utoipa::path(
    put,
    path = "/api/people/{github_id}/slurm-user",
    operation_id = "linkPerson",
    params(("github_id" = i64, Path, description = "GitHub's id of their account")),
    request_body = NewLink,
    responses(
        (status = 200, description = "They are linked", body = Person),
        (status = 400, description = "Not such a body", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`administrators_only`, `other_site`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`person_unknown`: no person with this ID has signed in", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`cluster_unknown`: no agent of this cluster is known, or several are and none is named", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []))
)]
pub(crate) async fn link(
    request: HttpRequest,
    path: web::Path<String>,
    body: Body,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let linked_by = linker(&request, &state).await?;
    let github_id = path.parse().map_err(|_| unknown())?;
    let NewLink {
        slurm_user,
        cluster,
    } = body::json(&body.read().await?).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "body_invalid", "The body is wrong").detail(format!(
            "Send an object such as {{\"slurmUser\": \"alice\"}}: {error}"
        ))
    })?;
    let Some(known) = state.access.cluster(cluster.as_deref()) else {
        let detail = match cluster {
            Some(cluster) => {
                format!("cluster: the settings have no agent ([[agents]]) of {cluster}")
            }
            None => "cluster: name it, since the settings have not exactly one agent ([[agents]])"
                .into(),
        };
        return Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "cluster_unknown",
            "The cluster is not known",
        )
        .detail(detail));
    };
    let link = Link {
        slurm_user,
        cluster: known.to_owned(),
        linked_by,
        linked_at: state.clock.now(),
    };
    let linked = set(&state, github_id, Some(&link)).await?;
    tracing::info!(github.id = github_id, slurm.user = %link.slurm_user, by = link.linked_by, "a person was linked");
    Ok(linked)
}

/// Ends the link of a person to a Slurm user.
#[utoipa::path(
    delete,
    path = "/api/people/{github_id}/slurm-user",
    operation_id = "unlinkPerson",
    params(("github_id" = i64, Path, description = "GitHub's id of their account")),
    responses(
        (status = 200, description = "They are not linked", body = Person),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`administrators_only`, `other_site`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`person_unknown`: no person with this ID has signed in", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []))
)]
pub(crate) async fn unlink(
    request: HttpRequest,
    path: web::Path<String>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let by = linker(&request, &state).await?;
    let github_id: i64 = path.parse().map_err(|_| unknown())?;
    let unlinked = set(&state, github_id, None).await?;
    tracing::info!(github.id = github_id, by, "a person was unlinked");
    Ok(unlinked)
}

/// Requires an administrator. Returns who that is, for the record.
async fn linker(request: &HttpRequest, state: &State) -> Result<String, ApiError> {
    Ok(match state.authorize(request).await? {
        Identity::Token => "an administrator's token".into(),
        // Logins change hands.
        Identity::Person(person) => format!("{} ({})", person.login, person.github_id),
    })
}

async fn set(state: &State, github_id: i64, link: Option<&Link>) -> Result<HttpResponse, ApiError> {
    let mut conn = state.connection().await?;
    let person = people::link(&mut conn, github_id, link)
        .await
        .map_err(|e| storage_error(&e))?
        .ok_or_else(unknown)?;
    Ok(HttpResponse::Ok().json(shown(state, person)))
}
