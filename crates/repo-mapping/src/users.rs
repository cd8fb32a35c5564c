//! `/api/users/{username}/repositories` and `/api/mapping-requests`: single repositories of a Slurm user, for administrators,
//! and for the user, by the word of a Slurm agent or signed in. What a user adds waits for an administrator: MUNGE proves who they are
//! on the cluster, not what they may do at GitHub.

use actix_web::http::StatusCode;
use actix_web::http::header::ETAG;
use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_contract::mapping::{
    DEFAULT_CHARGE, MAX_REPOSITORIES, MappingState, RepositoryEntry, RepositoryIdentity,
    UserRepository,
};
use gha_slurm_contract::problem::Problem;
use gha_slurm_domain::SlurmUser;
use gha_slurm_service_kit::{ApiError, Body, body, problem};
use gha_slurm_storage::mappings::{self, Clusters, Mapped, Replaced, Request, Requested};
use gha_slurm_storage::{StorageError, replan};
use serde::Deserialize;

use crate::access::Caller;
use crate::mapping::{
    changed, etag, expected, replan_changed, resolved, taken_error, user_of, wrong_entries,
};
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

/// The request is not the one that was seen.
fn request_changed(request: &Request) -> ApiError {
    let or_default =
        |value: Option<&String>| value.map_or(DEFAULT_CHARGE, String::as_str).to_owned();
    let Request { user, cluster, .. } = request;
    let (account, qos) = (&request.charge.account, &request.charge.qos);
    ApiError::new(
        StatusCode::PRECONDITION_FAILED,
        "request_changed",
        "The request has changed since you looked",
    )
    .detail(format!(
        "{user} of cluster {cluster} now asks for account {}, QOS {}. Nothing was changed: look at the request again, then decide.",
        or_default(account.as_ref()),
        or_default(qos.as_ref())
    ))
    .header("ETag", etag(request.version))
}

/// The version of the request that an administrator saw.
fn seen(version: Option<i64>) -> Result<i64, ApiError> {
    version.ok_or_else(|| {
        ApiError::new(
            StatusCode::PRECONDITION_REQUIRED,
            "version_needed",
            "If-Match is needed",
        )
        .detail("Send the `version` of the request that you decide about, as GET /api/mapping-requests returns it.")
    })
}

/// Refuses a repository that has another id than the one that is meant.
pub(crate) fn is_the_one(found: &Resolved, meant: Option<i64>) -> Result<(), ApiError> {
    let id = found.repository.id.0;
    match meant {
        Some(meant) if meant != id => Err(ApiError::new(
            StatusCode::CONFLICT,
            "repository_differs",
            "The name belongs to another repository",
        )
        .detail(format!(
            "{} is repository {id} at GitHub, not {meant}. Nothing was changed.",
            found.repository.full_name
        ))),
        _ => Ok(()),
    }
}

fn shown(state: &State, user: &SlurmUser, mapped: Mapped) -> UserRepository {
    let Mapped {
        repository,
        cluster,
        charge,
    } = mapped;
    UserRepository {
        user: user.to_string(),
        state: MappingState::Mapped,
        id: repository.id,
        url: state.repository_url(&repository.owner, &repository.name),
        account: charge.account,
        qos: charge.qos,
        requested_at: None,
        cluster,
        version: None,
    }
}

fn shown_request(state: &State, request: Request) -> UserRepository {
    let asked = Mapped {
        repository: request.repository,
        cluster: Some(request.cluster),
        charge: request.charge,
    };
    UserRepository {
        state: MappingState::Waiting,
        requested_at: Some(request.requested_at),
        version: Some(request.version),
        ..shown(state, &request.user, asked)
    }
}

/// What a user has, and what they ask for.
#[utoipa::path(
    get,
    path = "/api/users/{username}/repositories",
    operation_id = "listUserRepositories",
    params(("username" = String, Path, description = "The Slurm user")),
    responses(
        (status = 200, description = "Mapped ones in their order, then those that wait; by the word of an agent, those of its cluster",
         body = Vec<UserRepository>, headers(("ETag" = String, description = "Version of the list, for If-Match"))),
        (status = 400, description = "Not a Slurm user", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`not_this_user`: the assertion or the person's link is about another user; `not_linked`: they are linked to none; `other_site`", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("agentAssertion" = []), ("administratorSession" = []), ("userSession" = []))
)]
pub(crate) async fn list(
    request: HttpRequest,
    path: web::Path<String>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let user = user_of(&path)?;
    let caller = state.authorize_for(&request, &user).await?;
    let (version, mapped, waiting) = of_clusters(&state, &user, caller.clusters()).await?;
    let answer: Vec<UserRepository> = mapped
        .into_iter()
        .map(|mapped| shown(&state, &user, mapped))
        .chain(
            waiting
                .into_iter()
                .map(|request| shown_request(&state, request)),
        )
        .collect();
    Ok(HttpResponse::Ok()
        .insert_header((ETAG, etag(version)))
        .json(answer))
}

/// The version of a user's list, and what they have and ask for on these clusters.
async fn of_clusters(
    state: &State,
    user: &SlurmUser,
    clusters: Clusters<'_>,
) -> Result<(i64, Vec<Mapped>, Vec<Request>), ApiError> {
    let mut conn = state.connection().await?;
    let (version, mut mapped) = mappings::list(&mut conn, user)
        .await
        .map_err(|e| storage_error(&e))?;
    let mut waiting = mappings::requests(&mut conn, Some(user))
        .await
        .map_err(|e| storage_error(&e))?;
    mapped.retain(|mapped| clusters.include(mapped.cluster.as_deref()));
    waiting.retain(|request| clusters.include(Some(&request.cluster)));
    Ok((version, mapped, waiting))
}

/// The repository that a name belongs to now, for a user who is about to confirm it.
#[utoipa::path(
    get,
    path = "/api/users/{username}/repositories/{owner}/{name}",
    operation_id = "identifyRepository",
    params(("username" = String, Path, description = "The Slurm user who asks"), ("owner" = String, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "The repository", body = RepositoryIdentity),
        (status = 400, description = "Not a Slurm user", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`not_this_user`: the assertion or the person's link is about another user; `not_linked`: they are linked to none; `other_site`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`repositories_invalid`: it cannot be used", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "GitHub is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("agentAssertion" = []), ("administratorSession" = []), ("userSession" = []))
)]
pub(crate) async fn identity(
    request: HttpRequest,
    path: web::Path<(String, String, String)>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let (user, owner, name) = path.into_inner();
    let user = user_of(&user)?;
    let caller = state.authorize_for(&request, &user).await?;
    state.may_look_up(&request, &caller, &user)?;
    let wanted = Wanted {
        repository: format!("{owner}/{name}"),
        charge: None,
    };
    let found = only_one(resolved(&state, vec![wanted]).await?)?;
    let name = &found.repository.full_name;
    Ok(HttpResponse::Ok().json(RepositoryIdentity {
        id: found.repository.id.0,
        url: state.repository_url(name.owner(), name.name()),
    }))
}

fn only_one(found: Vec<Resolved>) -> Result<Resolved, ApiError> {
    let first = found.into_iter().next();
    first.ok_or_else(|| ApiError::internal(&"one entry was resolved to nothing"))
}

/// Adds one repository, or charges it to something else. An administrator's word is enough; a user's word waits. With `waiting`, an
/// administrator grants the request of the version in If-Match, for its cluster, and for its account and QOS unless they name others.
#[utoipa::path(
    post,
    path = "/api/users/{username}/repositories",
    operation_id = "addUserRepository",
    params(
        ("username" = String, Path, description = "The Slurm user"),
        OnlyWaiting,
        ("If-Match" = Option<String>, Header, description = "With `waiting`: the version of the request that was seen. Without: the ETag of the list"),
    ),
    request_body = RepositoryEntry,
    responses(
        (status = 200, description = "It is mapped", body = UserRepository),
        (status = 202, description = "It waits for an administrator", body = UserRepository),
        (status = 400, description = "Not a Slurm user, or not such a body", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`not_this_user`: the assertion or the person's link is about another user; `not_linked`: they are linked to none; `other_site`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`repository_mapped_elsewhere`: it is mapped to another user; `repository_not_waiting`: `waiting` was asked for; `repository_differs`: the name belongs to another repository than `id`", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "`request_changed`, `mapping_changed`: it is not what was seen any more", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`repositories_invalid`: it cannot be used", body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "`token_broker_failed`: repositories cannot be looked up", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "token-broker, GitHub or the database is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 428, description = "`version_needed`: an administrator decides about a request without If-Match", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("agentAssertion" = []), ("administratorSession" = []), ("userSession" = []))
)]
pub(crate) async fn add(
    request: HttpRequest,
    path: web::Path<String>,
    body: Body,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let user = user_of(&path)?;
    let caller = state.authorize_for(&request, &user).await?;
    let OnlyWaiting { waiting } = problem::query(&request)?;
    let expected = expected(&request)?;
    let entry: RepositoryEntry = body::json(&body.read().await?).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "body_invalid", "The body is wrong").detail(format!(
            "Send an object such as {{\"repository\": \"https://github.com/owner/name\"}}: {error}"
        ))
    })?;
    let written = entry.repository.clone();
    let meant = entry.id;
    let grant = Grant {
        what: if waiting && caller == Caller::Administrator {
            What::Request(seen(expected)?)
        } else {
            What::Mapping { expected }
        },
        names_charge: entry.account.is_some() || entry.qos.is_some(),
        cluster: entry.cluster.clone(),
    };
    let wanted = Wanted::new(entry).map_err(|problem| {
        wrong_entries(vec![part(
            0,
            &written,
            "charge_invalid",
            problem.to_string(),
        )])
    })?;
    if let (Caller::User { .. }, Some(cluster)) = (&caller, &grant.cluster) {
        let detail = format!("cluster: only administrators name one, and you named {cluster}");
        return Err(wrong_entries(vec![part(
            0,
            &written,
            "cluster_invalid",
            detail,
        )]));
    }
    state.may_look_up(&request, &caller, &user)?;
    let found = only_one(resolved(&state, vec![wanted]).await?)?;
    is_the_one(&found, meant)?;
    has_room(&state, &user, caller.clusters()).await?;
    let answer = match &caller {
        Caller::Administrator => grant.carry_out(&state, &user, &found).await?,
        Caller::User { cluster, is_only } => ask(&state, &user, &found, cluster, *is_only).await?,
    };
    let status = match answer.state {
        MappingState::Mapped => StatusCode::OK,
        MappingState::Waiting => StatusCode::ACCEPTED,
    };
    Ok(HttpResponse::build(status).json(answer))
}

/// Refuses what would make a user's list too long, waiting ones counted.
async fn has_room(state: &State, user: &SlurmUser, clusters: Clusters<'_>) -> Result<(), ApiError> {
    let (_, mapped, waiting) = of_clusters(state, user, clusters).await?;
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
struct Grant {
    what: What,
    /// Whether it names an account or QOS.
    names_charge: bool,
    cluster: Option<String>,
}

/// What an administrator grants.
enum What {
    /// The request of this version.
    Request(i64),
    /// A mapping, whether or not it was asked for.
    Mapping {
        /// The version of the list that was seen.
        expected: Option<i64>,
    },
}

/// What became of a decision.
enum Decided<T> {
    Done(T),
    NotWaiting,
    RequestChanged(Request),
    ListChanged(i64),
}

impl<T> Decided<T> {
    fn done(self) -> Result<T, ApiError> {
        match self {
            Self::Done(done) => Ok(done),
            Self::NotWaiting => Err(does_not_wait()),
            Self::RequestChanged(now) => Err(request_changed(&now)),
            Self::ListChanged(current) => Err(changed(Some(current))),
        }
    }
}

/// Of these requests for one repository, the one that was seen.
fn find_seen(asked: Vec<Request>, version: i64) -> Decided<Request> {
    let (seen, others): (Vec<_>, Vec<_>) = asked
        .into_iter()
        .partition(|request| request.version == version);
    match (seen.into_iter().next(), others.into_iter().next()) {
        (Some(seen), _) => Decided::Done(seen),
        (None, Some(other)) => Decided::RequestChanged(other),
        (None, None) => Decided::NotWaiting,
    }
}

impl Grant {
    async fn carry_out(
        &self,
        state: &State,
        user: &SlurmUser,
        found: &Resolved,
    ) -> Result<UserRepository, ApiError> {
        let id = found.repository.id;
        let granted = state
            .database
            .transaction::<_, StorageError, _>("map repository", async |conn| {
                let now = state.clock.now();
                found.store(conn, now).await?;
                let current = mappings::lock_list(conn, user).await?;
                let mut entry = mappings::Entry {
                    cluster: self.cluster.clone(),
                    ..found.entry()
                };
                match self.what {
                    What::Request(version) => {
                        let mut asked = mappings::requests(conn, Some(user)).await?;
                        asked.retain(|request| request.repository.id == id.0);
                        let request = match find_seen(asked, version) {
                            Decided::Done(request) => request,
                            Decided::RequestChanged(now) => {
                                return Ok(Decided::RequestChanged(now));
                            }
                            _ => return Ok(Decided::NotWaiting),
                        };
                        entry.cluster = Some(request.cluster);
                        if !self.names_charge {
                            entry.charge = Some(request.charge);
                        }
                    }
                    What::Mapping { expected } => {
                        if expected.is_some_and(|expected| expected != current) {
                            return Ok(Decided::ListChanged(current));
                        }
                    }
                }
                let replaced = mappings::add(conn, user, entry, now).await?;
                replan_changed(conn, &replaced).await?;
                let (_, list) = mappings::list(conn, user).await?;
                Ok(Decided::Done((replaced, list)))
            })
            .await
            .map_err(|e| storage_error(&e))?;
        let (replaced, list) = granted.done()?;
        if let Replaced::TakenByOthers(taken) = replaced {
            return Err(taken_error(std::slice::from_ref(found), &taken));
        }
        tracing::info!(%user, repository = %found.repository.full_name, "a repository was mapped");
        list.into_iter()
            .find(|mapped| mapped.repository.id == id.0)
            .map(|mapped| shown(state, user, mapped))
            .ok_or_else(|| ApiError::internal(&"what was mapped is not in the list"))
    }
}

/// A user's word.
async fn ask(
    state: &State,
    user: &SlurmUser,
    found: &Resolved,
    cluster: &str,
    is_only: bool,
) -> Result<UserRepository, ApiError> {
    let id = found.repository.id;
    let charge = found.charge.clone().unwrap_or_default();
    let (requested, mapped, waiting) = state
        .database
        .transaction::<_, StorageError, _>("request repository", async |conn| {
            let now = state.clock.now();
            found.store(conn, now).await?;
            let requested =
                mappings::request(conn, user, id, &charge, cluster, is_only, now).await?;
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
            .map(|mapped| shown(state, user, mapped)),
        Requested::Waits => {
            tracing::info!(%user, cluster, repository = %found.repository.full_name, "a repository waits for an administrator");
            waiting
                .into_iter()
                .find(|request| request.repository.id == id.0 && request.cluster == cluster)
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
    params(
        ("username" = String, Path, description = "The Slurm user"),
        ("owner" = String, Path),
        ("name" = String, Path),
        OnlyWaiting,
        ("If-Match" = Option<String>, Header, description = "With `waiting`: the version of the request that was seen. Without: the ETag of the list"),
    ),
    responses(
        (status = 204, description = "It is not mapped to the user any more, and does not wait"),
        (status = 400, description = "Not a Slurm user", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`not_this_user`: the assertion or the person's link is about another user; `not_linked`: they are linked to none; `other_site`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The user does not have it", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`repository_not_waiting`: `waiting` was asked for", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "`request_changed`, `mapping_changed`: it is not what was seen any more", body = Problem, content_type = "application/problem+json"),
        (status = 428, description = "`version_needed`: an administrator decides about a request without If-Match", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("agentAssertion" = []), ("administratorSession" = []), ("userSession" = []))
)]
pub(crate) async fn remove(
    request: HttpRequest,
    path: web::Path<(String, String, String)>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let (user, owner, name) = path.into_inner();
    let user = user_of(&user)?;
    let caller = state.authorize_for(&request, &user).await?;
    let OnlyWaiting { waiting } = problem::query(&request)?;
    let expected = expected(&request)?;
    let clusters = caller.clusters();
    if waiting {
        let version = match caller {
            Caller::Administrator => Some(seen(expected)?),
            Caller::User { .. } => expected,
        };
        let withdrawn = state
            .database
            .transaction::<_, StorageError, _>("remove request", async |conn| {
                mappings::lock_list(conn, &user).await?;
                let mut asked = mappings::requests(conn, Some(&user)).await?;
                asked.retain(|request| {
                    clusters.include(Some(&request.cluster))
                        && request.repository.is_named(&owner, &name)
                });
                let one = match version {
                    Some(version) => find_seen(asked, version),
                    None => asked
                        .into_iter()
                        .next()
                        .map_or(Decided::NotWaiting, Decided::Done),
                };
                if let Decided::Done(request) = &one {
                    mappings::withdraw(conn, std::slice::from_ref(request)).await?;
                }
                Ok(one)
            })
            .await
            .map_err(|e| storage_error(&e))?;
        withdrawn.done()?;
        tracing::info!(%user, owner, name, "a request for a repository was removed");
        return Ok(HttpResponse::NoContent().finish());
    }
    let removed = state
        .database
        .transaction::<_, StorageError, _>("remove repository", async |conn| {
            let current = mappings::lock_list(conn, &user).await?;
            if expected.is_some_and(|expected| expected != current) {
                return Ok(Decided::ListChanged(current));
            }
            let removed = mappings::remove(conn, &user, clusters, &owner, &name).await?;
            if let Some((id, true)) = removed {
                replan::request(conn, id, true, "the repository mapping changed").await?;
            }
            Ok(Decided::Done(removed))
        })
        .await
        .map_err(|e| storage_error(&e))?;
    if removed.done()?.is_none() {
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
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`administrators_only`, `other_site`", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []))
)]
pub(crate) async fn requests(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    state.authorize(&request).await?;
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
