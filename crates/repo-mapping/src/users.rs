//! `/api/users/{username}/repositories` and `/api/mapping-requests`: single repositories of a Slurm user, for administrators
//! and, by the word of a Slurm agent, for the user. What a user adds waits for an administrator: MUNGE proves who they are
//! on the cluster, not what they may do at GitHub.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_contract::mapping::{
    MAX_REPOSITORIES, MappingState, RepositoryEntry, UserRepository,
};
use gha_slurm_contract::problem::Problem;
use gha_slurm_domain::SlurmUser;
use gha_slurm_domain::admission::Charge;
use gha_slurm_service_kit::{ApiError, Body, problem};
use gha_slurm_storage::mappings::{self, Mapped, Replaced, Request, Requested};
use gha_slurm_storage::repositories::Repository;
use gha_slurm_storage::{AsyncPgConnection, StorageError, replan};
use serde::Deserialize;

use crate::access::Caller;
use crate::mapping::{replan_changed, resolved, taken_error, user_of, wrong_entries};
use crate::resolve::{Resolved, Wanted, part};
use crate::state::{State, storage_error};

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct OnlyWaiting {
    /// Only if the user asks for it at this moment: somebody may have decided meanwhile, or the user taken it back.
    #[serde(default)]
    waiting: bool,
}

fn does_not_wait() -> ApiError {
    let title = "It does not wait any more";
    ApiError::new(StatusCode::CONFLICT, "repository_not_waiting", title)
        .detail("The user took it back, or an administrator has decided. Nothing was changed.")
}

fn shown(
    state: &State,
    user: &SlurmUser,
    repository: &Repository,
    charge: Charge,
) -> UserRepository {
    UserRepository {
        user: user.to_string(),
        state: MappingState::Mapped,
        id: repository.id,
        url: state.repository_url(&repository.owner, &repository.name),
        account: charge.account,
        qos: charge.qos,
        requested_at: None,
        cluster: None,
    }
}

fn shown_request(state: &State, request: Request) -> UserRepository {
    UserRepository {
        state: MappingState::Waiting,
        requested_at: Some(request.requested_at),
        cluster: Some(request.cluster),
        ..shown(state, &request.user, &request.repository, request.charge)
    }
}

/// What a user has, and what they ask for.
#[utoipa::path(
    get,
    path = "/api/users/{username}/repositories",
    operation_id = "listUserRepositories",
    params(("username" = String, Path, description = "The Slurm user")),
    responses(
        (status = 200, description = "Mapped ones in their order, then those that wait", body = Vec<UserRepository>),
        (status = 400, description = "Not a Slurm user", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No or a wrong bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The assertion is about another user", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("agentAssertion" = []))
)]
pub(crate) async fn list(
    request: HttpRequest,
    path: web::Path<String>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let user = user_of(&path)?;
    state.authorize_for(&request, &user)?;
    let mut conn = state.connection().await?;
    let (_, mapped) = mappings::list(&mut conn, &user)
        .await
        .map_err(|e| storage_error(&e))?;
    let waiting = mappings::requests(&mut conn, Some(&user))
        .await
        .map_err(|e| storage_error(&e))?;
    let answer: Vec<UserRepository> = mapped
        .into_iter()
        .map(|Mapped { repository, charge }| shown(&state, &user, &repository, charge))
        .chain(
            waiting
                .into_iter()
                .map(|request| shown_request(&state, request)),
        )
        .collect();
    Ok(HttpResponse::Ok().json(answer))
}

/// Adds one repository, or charges it to something else. An administrator's word is enough, and grants what the user asks
/// for, account and QOS too where the administrator names neither; a user's word waits.
#[utoipa::path(
    post,
    path = "/api/users/{username}/repositories",
    operation_id = "addUserRepository",
    params(("username" = String, Path, description = "The Slurm user"), OnlyWaiting),
    request_body = RepositoryEntry,
    responses(
        (status = 200, description = "It is mapped", body = UserRepository),
        (status = 202, description = "It waits for an administrator", body = UserRepository),
        (status = 400, description = "Not a Slurm user, or not such a body", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No or a wrong bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The assertion is about another user", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`repository_mapped_elsewhere`: it is mapped to another user; `repository_not_waiting`: `waiting` was asked for", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`repositories_invalid`: it cannot be used", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "GitHub or the database is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("agentAssertion" = []))
)]
pub(crate) async fn add(
    request: HttpRequest,
    path: web::Path<String>,
    body: Body,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let user = user_of(&path)?;
    let caller = state.authorize_for(&request, &user)?;
    let OnlyWaiting { waiting } = problem::query(&request)?;
    let entry: RepositoryEntry = serde_json::from_slice(&body.read().await?).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "body_invalid", "The body is wrong").detail(format!(
            "Send an object such as {{\"repository\": \"https://github.com/owner/name\"}}: {error}"
        ))
    })?;
    let written = entry.repository.clone();
    let wanted = Wanted::new(entry).map_err(|problem| {
        wrong_entries(vec![part(
            0,
            &written,
            "charge_invalid",
            problem.to_string(),
        )])
    })?;
    let found = resolved(&state, vec![wanted]).await?;
    let Some(found) = found.first() else {
        return Err(ApiError::internal(&"one entry was resolved to nothing"));
    };
    has_room(&state, &user).await?;
    let answer = match caller {
        Caller::Administrator => grant(&state, &user, found, waiting).await?,
        Caller::User { cluster } => ask(&state, &user, found, &cluster).await?,
    };
    let status = match answer.state {
        MappingState::Mapped => StatusCode::OK,
        MappingState::Waiting => StatusCode::ACCEPTED,
    };
    Ok(HttpResponse::build(status).json(answer))
}

/// Refuses what would make a user's list too long, waiting ones counted.
async fn has_room(state: &State, user: &SlurmUser) -> Result<(), ApiError> {
    let mut conn = state.connection().await?;
    let (_, mapped) = mappings::list(&mut conn, user)
        .await
        .map_err(|e| storage_error(&e))?;
    let waiting = mappings::requests(&mut conn, Some(user))
        .await
        .map_err(|e| storage_error(&e))?;
    if mapped.len() + waiting.len() < MAX_REPOSITORIES {
        return Ok(());
    }
    let error = ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "too_many_repositories",
        "The list is too long",
    );
    Err(error.detail(format!(
        "A Slurm user can have {MAX_REPOSITORIES} repositories. Remove one first."
    )))
}

/// An administrator's word.
async fn grant(
    state: &State,
    user: &SlurmUser,
    found: &Resolved,
    only_waiting: bool,
) -> Result<UserRepository, ApiError> {
    let granted = state
        .database
        .transaction::<_, StorageError, _>("map repository", async |conn| {
            let now = state.clock.now();
            found.store(conn, now).await?;
            mappings::lock_list(conn, user).await?;
            let mut entry = found.entry();
            let waits = mappings::requests(conn, Some(user)).await?;
            let waits = waits
                .iter()
                .any(|request| request.repository.id == entry.repository.0);
            if only_waiting && !waits {
                return Ok(None);
            }
            if waits && entry.charge.as_ref() == Some(&Charge::default()) {
                // As the user asks for.
                entry.charge = None;
            }
            let replaced = mappings::add(conn, user, entry, now).await?;
            replan_changed(conn, &replaced).await?;
            Ok(Some((replaced, mappings::list(conn, user).await?.1)))
        })
        .await
        .map_err(|e| storage_error(&e))?;
    let (replaced, list) = granted.ok_or_else(does_not_wait)?;
    if let Replaced::TakenByOthers(taken) = replaced {
        return Err(taken_error(std::slice::from_ref(found), &taken));
    }
    tracing::info!(%user, repository = %found.repository.name, "a repository was mapped");
    list.into_iter()
        .find(|mapped| mapped.repository.id == found.repository.id.0)
        .map(|Mapped { repository, charge }| shown(state, user, &repository, charge))
        .ok_or_else(|| ApiError::internal(&"what was mapped is not in the list"))
}

/// A user's word.
async fn ask(
    state: &State,
    user: &SlurmUser,
    found: &Resolved,
    cluster: &str,
) -> Result<UserRepository, ApiError> {
    let id = found.repository.id;
    let charge = found.charge.clone().unwrap_or_default();
    let (requested, mapped, waiting) = state
        .database
        .transaction::<_, StorageError, _>("request repository", async |conn| {
            let now = state.clock.now();
            found.store(conn, now).await?;
            let requested = mappings::request(conn, user, id, &charge, cluster, now).await?;
            let (_, mapped) = mappings::list(conn, user).await?;
            let waiting = mappings::requests(conn, Some(user)).await?;
            Ok((requested, mapped, waiting))
        })
        .await
        .map_err(|e| storage_error(&e))?;
    let answer = match requested {
        Requested::TakenByOther => {
            return Err(taken_error(std::slice::from_ref(found), &[id]));
        }
        Requested::Mapped => mapped
            .into_iter()
            .find(|mapped| mapped.repository.id == id.0)
            .map(|Mapped { repository, charge }| shown(state, user, &repository, charge)),
        Requested::Waits => {
            tracing::info!(%user, cluster, repository = %found.repository.name, "a repository waits for an administrator");
            waiting
                .into_iter()
                .find(|request| request.repository.id == id.0)
                .map(|request| shown_request(state, request))
        }
    };
    answer.ok_or_else(|| ApiError::internal(&"what was asked for is not in the list"))
}

/// Removes one repository, or what a user asks for. What is pending for it is withdrawn.
#[utoipa::path(
    delete,
    path = "/api/users/{username}/repositories/{owner}/{name}",
    operation_id = "removeUserRepository",
    params(("username" = String, Path, description = "The Slurm user"), ("owner" = String, Path), ("name" = String, Path), OnlyWaiting),
    responses(
        (status = 204, description = "It is not mapped to the user any more, and does not wait"),
        (status = 400, description = "Not a Slurm user", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No or a wrong bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The assertion is about another user", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The user does not have it", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`repository_not_waiting`: `waiting` was asked for", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("agentAssertion" = []))
)]
pub(crate) async fn remove(
    request: HttpRequest,
    path: web::Path<(String, String, String)>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let (user, owner, name) = path.into_inner();
    let user = user_of(&user)?;
    state.authorize_for(&request, &user)?;
    let OnlyWaiting { waiting } = problem::query(&request)?;
    if waiting {
        let remove = async |conn: &mut AsyncPgConnection| {
            mappings::remove_request(conn, &user, &owner, &name).await
        };
        state
            .database
            .transaction("remove request", remove)
            .await
            .map_err(|e| storage_error(&e))?
            .ok_or_else(does_not_wait)?;
        tracing::info!(%user, owner, name, "a request for a repository was removed");
        return Ok(HttpResponse::NoContent().finish());
    }
    let removed = state
        .database
        .transaction::<_, StorageError, _>("remove repository", async |conn| {
            let removed = mappings::remove(conn, &user, &owner, &name).await?;
            if let Some((id, true)) = removed {
                replan::request(conn, id, true, "the repository mapping changed").await?;
            }
            Ok(removed)
        })
        .await
        .map_err(|e| storage_error(&e))?;
    if removed.is_none() {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "repository_not_mapped",
            "The user does not have this repository",
        )
        .detail(format!(
            "{user} has no repository {owner}/{name}, and asks for none of this name."
        )));
    }
    tracing::info!(%user, owner, name, "a repository was removed");
    Ok(HttpResponse::NoContent().finish())
}

/// What users of all clusters ask for, the oldest first. An administrator grants one by adding it for the user, and refuses
/// it by removing it.
#[utoipa::path(
    get,
    path = "/api/mapping-requests",
    operation_id = "listMappingRequests",
    responses(
        (status = 200, description = "What waits", body = Vec<UserRepository>),
        (status = 401, description = "No or a wrong bearer token", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []))
)]
pub(crate) async fn requests(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    state.authorize(&request)?;
    let mut conn = state.connection().await?;
    let waiting = mappings::requests(&mut conn, None)
        .await
        .map_err(|e| storage_error(&e))?;
    let answer: Vec<UserRepository> = waiting
        .into_iter()
        .map(|request| shown_request(&state, request))
        .collect();
    Ok(HttpResponse::Ok().json(answer))
}
