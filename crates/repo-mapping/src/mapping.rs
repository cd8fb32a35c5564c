//! `/repositories/{username}`: the repositories of a Slurm user.

use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, IF_MATCH};
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use gha_slurm_contract::mapping::{ListEntry, MAX_REPOSITORIES, RepositoryEntry};
use gha_slurm_contract::problem::{Problem, ProblemPart};
use gha_slurm_domain::{RepositoryId, SlurmUser};
use gha_slurm_service_kit::{ApiError, Body};
use gha_slurm_storage::mappings::{self, Entry, Mapped, Replaced};
use gha_slurm_storage::{AsyncPgConnection, StorageError, replan};

use crate::resolve::{Resolved, Unresolved, Wanted, part, resolve_list};
use crate::state::{State, broker_error, storage_error};

pub(crate) fn user_of(text: &str) -> Result<SlurmUser, ApiError> {
    text.parse()
        .map_err(|error: gha_slurm_domain::ids::InvalidId| {
            ApiError::new(StatusCode::BAD_REQUEST, "user_invalid", "Not a Slurm user")
                .detail(error.to_string())
        })
}

pub(crate) fn etag(version: i64) -> String {
    format!("\"{version}\"")
}

fn answer(state: &State, version: i64, list: &[Mapped]) -> HttpResponse {
    let urls: Vec<String> = list
        .iter()
        .map(|m| state.repository_url(&m.repository.owner, &m.repository.name))
        .collect();
    HttpResponse::Ok()
        .insert_header((ETAG, etag(version)))
        .json(urls)
}

/// The repositories that may spend a Slurm user's account.
#[utoipa::path(
    get,
    path = "/repositories/{username}",
    operation_id = "listRepositories",
    params(("username" = String, Path, description = "The Slurm user")),
    responses(
        (status = 200, description = "Repository URLs; none for a user nobody wrote a list for", body = Vec<String>,
         headers(("ETag" = String, description = "Version of the list, for If-Match"))),
        (status = 400, description = "Not a Slurm user", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`not_linked`: the person is linked to no Slurm user; `not_this_user`: to another one", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []), ("userSession" = []))
)]
pub(crate) async fn list(
    request: HttpRequest,
    path: web::Path<String>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let user = user_of(&path)?;
    let caller = state.authorize_without_agents(&request, &user).await?;
    let mut conn = state.connection().await?;
    let (version, mut list) = mappings::list(&mut conn, &user)
        .await
        .map_err(|e| storage_error(&e))?;
    let clusters = caller.clusters();
    list.retain(|mapped| clusters.include(mapped.cluster.as_deref()));
    Ok(answer(&state, version, &list))
}

/// The version a caller saw: `None` without If-Match, or with `*`.
pub(crate) fn expected(request: &HttpRequest) -> Result<Option<i64>, ApiError> {
    let Some(value) = request.headers().get(IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    text.strip_prefix('"')
        .and_then(|t| t.strip_suffix('"'))
        .and_then(|t| t.parse().ok())
        .map(Some)
        .ok_or_else(|| changed(None))
}

pub(crate) fn changed(current: Option<i64>) -> ApiError {
    let error = ApiError::new(
        StatusCode::PRECONDITION_FAILED,
        "mapping_changed",
        "The list was changed by somebody else",
    )
    .detail("Read the list again and repeat your change on it.");
    match current {
        Some(version) => error.header("ETag", etag(version)),
        None => error,
    }
}

pub(crate) fn wrong_entries(errors: Vec<ProblemPart>) -> ApiError {
    ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "repositories_invalid",
        "Some entries cannot be used",
    )
    .detail("Nothing was changed; each wrong entry is named in `errors`.")
    .errors(errors)
}

fn entries(body: &[u8]) -> Result<Vec<Wanted>, ApiError> {
    const EXAMPLE: &str = "[\"https://github.com/owner/name\", {\"repository\": \"owner/name\", \"account\": \"chemistry\"}]";
    let invalid = |detail: String| {
        ApiError::new(StatusCode::BAD_REQUEST, "body_invalid", "The body is wrong").detail(detail)
    };
    let values: Vec<serde_json::Value> =
        gha_slurm_service_kit::body::json(body).map_err(|error| {
            invalid(format!(
                "Send a JSON array of repositories, such as {EXAMPLE}: {error}"
            ))
        })?;
    if values.len() > MAX_REPOSITORIES {
        return Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "too_many_repositories",
            "The list is too long",
        )
        .detail(format!(
            "A Slurm user can have {MAX_REPOSITORIES} repositories, not {}.",
            values.len()
        )));
    }
    let (mut wanted, mut wrong) = (Vec::with_capacity(values.len()), Vec::new());
    for (index, value) in values.into_iter().enumerate() {
        match value {
            serde_json::Value::String(repository) => wanted.push(Wanted {
                repository,
                charge: None,
            }),
            value @ serde_json::Value::Object(_) => {
                let shown = value.get("repository").and_then(|r| r.as_str());
                let shown = shown.unwrap_or_default().to_owned();
                let entry: RepositoryEntry = serde_json::from_value(value)
                    .map_err(|error| invalid(format!("Entry {index}: {error}")))?;
                match Wanted::new(entry) {
                    Ok(entry) => wanted.push(entry),
                    Err(problem) => {
                        wrong.push(part(index, &shown, "charge_invalid", problem.to_string()));
                    }
                }
            }
            _ => {
                return Err(invalid(format!(
                    "Entry {index} is neither a text nor an object; send such as {EXAMPLE}"
                )));
            }
        }
    }
    if wrong.is_empty() {
        Ok(wanted)
    } else {
        Err(wrong_entries(wrong))
    }
}

/// Replaces the whole list. One wrong entry changes nothing and is named with its index.
#[utoipa::path(
    post,
    path = "/repositories/{username}",
    operation_id = "replaceRepositories",
    params(
        ("username" = String, Path, description = "The Slurm user"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the list that was changed"),
    ),
    request_body(content = Vec<ListEntry>, description = "`https://github.com/owner/name` or `owner/name`; or an object that also says what its launches are charged to"),
    responses(
        (status = 200, description = "The new list", body = Vec<String>,
         headers(("ETag" = String, description = "Its version"))),
        (status = 400, description = "Not a Slurm user, or not a JSON array of texts and objects", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`administrators_only`, `other_site`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`repository_mapped_elsewhere`: a repository is mapped to another user", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "`mapping_changed`: somebody else changed the list", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`repositories_invalid`: entries that cannot be used", body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "`token_broker_failed`: repositories cannot be looked up", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "token-broker, GitHub or the database is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []))
)]
pub(crate) async fn replace(
    request: HttpRequest,
    path: web::Path<String>,
    body: Body,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    state.authorize(&request).await?;
    let user = user_of(&path)?;
    let expected = expected(&request)?;
    let resolved = resolved(&state, entries(&body.read().await?)?).await?;
    let (replaced, list) = state
        .database
        .transaction::<_, StorageError, _>("replace mapping", async |conn| {
            store(conn, &user, &resolved, expected, state.clock.now()).await
        })
        .await
        .map_err(|e| storage_error(&e))?;
    match replaced {
        Replaced::Done { version, changed } => {
            tracing::info!(%user, repositories = list.len(), changed = changed.len(), "a mapping was replaced");
            Ok(answer(&state, version, &list))
        }
        Replaced::VersionMismatch { current } => Err(changed(Some(current))),
        Replaced::TakenByOthers(taken) => Err(taken_error(&resolved, &taken)),
    }
}

/// Asks about every entry.
pub(crate) async fn resolved(
    state: &State,
    entries: Vec<Wanted>,
) -> Result<Vec<Resolved>, ApiError> {
    resolve_list(&state.token_broker, &state.web_url, entries)
        .await
        .map_err(|error| match error {
            Unresolved::Wrong(errors) => wrong_entries(errors),
            Unresolved::Failed(error) => broker_error(&error),
        })
}

/// Requests a new plan for every scope whose mapping changed.
pub(crate) async fn replan_changed(
    conn: &mut AsyncPgConnection,
    replaced: &Replaced,
) -> Result<(), StorageError> {
    if let Replaced::Done { changed, .. } = replaced {
        for scope in changed {
            replan::request(conn, *scope, true, "the repository mapping changed").await?;
        }
    }
    Ok(())
}

async fn store(
    conn: &mut AsyncPgConnection,
    user: &SlurmUser,
    resolved: &[Resolved],
    expected: Option<i64>,
    now: DateTime<Utc>,
) -> Result<(Replaced, Vec<Mapped>), StorageError> {
    for one in resolved {
        one.store(conn, now).await?;
    }
    let entries: Vec<Entry> = resolved.iter().map(Resolved::entry).collect();
    let replaced = mappings::replace(conn, user, &entries, expected, now).await?;
    replan_changed(conn, &replaced).await?;
    let (_, list) = mappings::list(conn, user).await?;
    Ok((replaced, list))
}

/// Names the repositories, never whose they are.
pub(crate) fn taken_error(resolved: &[Resolved], taken: &[RepositoryId]) -> ApiError {
    let errors = resolved
        .iter()
        .enumerate()
        .filter(|(_, r)| taken.contains(&r.repository.id))
        .map(|(index, r)| {
            let name = r.repository.full_name.to_string();
            let detail = format!(
                "{name} is mapped to another Slurm user, who has to give it up first; ask an administrator"
            );
            part(index, &name, "repository_mapped_elsewhere", detail)
        })
        .collect();
    ApiError::new(
        StatusCode::CONFLICT,
        "repository_mapped_elsewhere",
        "A repository is mapped to another Slurm user",
    )
    .detail("Nothing was changed; the repositories are named in `errors`.")
    .errors(errors)
}
