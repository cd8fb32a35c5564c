//! `/api/public-repositories/{owner}/{name}`: foreign code runs nowhere until an administrator says so.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_contract::mapping::PublicRepositoryAllowance;
use gha_slurm_contract::problem::Problem;
use gha_slurm_contract::repository::REPOSITORY_UNREACHABLE;
use gha_slurm_domain::RepositoryFullName;
use gha_slurm_service_kit::{ApiError, Body, body, problem};
use gha_slurm_storage::{AsyncPgConnection, StorageError, replan, repositories};

use crate::resolve::{Resolved, unreachable};
use crate::state::{State, broker_error, storage_error};
use crate::token_broker::Answer;
use crate::users::is_the_one;

const MAX_REASON: usize = 500;

/// Allows a public repository.
#[utoipa::path(
    put,
    path = "/api/public-repositories/{owner}/{name}",
    operation_id = "allowPublicRepository",
    params(("owner" = String, Path), ("name" = String, Path)),
    request_body = PublicRepositoryAllowance,
    responses(
        (status = 204, description = "Its workflow jobs are no longer refused for being public"),
        (status = 400, description = "Not a repository, or no reason", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`administrators_only`, `other_site`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The App cannot see it", body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "`token_broker_failed`: repositories cannot be looked up", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "token-broker, GitHub or the database is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`repository_differs`: the name belongs to another repository", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []))
)]
pub(crate) async fn allow(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    body: Body,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    state.authorize(&request).await?;
    let invalid = |detail: String| {
        ApiError::new(StatusCode::BAD_REQUEST, "body_invalid", "The body is wrong").detail(detail)
    };
    let PublicRepositoryAllowance { reason, id } =
        body::json(&body.read().await?).map_err(|e| invalid(e.to_string()))?;
    let reason: String = reason.trim().chars().take(MAX_REASON).collect();
    if reason.is_empty() {
        return Err(invalid(
            "reason: say why, for those who come after you".into(),
        ));
    }
    set(&path, &state, Some(&reason), id).await
}

/// Refuses a public repository again.
#[utoipa::path(
    delete,
    path = "/api/public-repositories/{owner}/{name}",
    operation_id = "refusePublicRepository",
    params(("owner" = String, Path), ("name" = String, Path)),
    responses(
        (status = 204, description = "Refused again while it is public"),
        (status = 400, description = "Not a repository", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`administrators_only`, `other_site`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The App cannot see it", body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "`token_broker_failed`: repositories cannot be looked up", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "token-broker, GitHub or the database is in trouble: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []))
)]
pub(crate) async fn refuse(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    state.authorize(&request).await?;
    set(&path, &state, None, None).await
}

async fn set(
    (owner, name): &(String, String),
    state: &State,
    reason: Option<&str>,
    meant: Option<i64>,
) -> Result<HttpResponse, ApiError> {
    let name = RepositoryFullName::new(owner, name).map_err(|e| problem::repository_invalid(&e))?;
    let answer = state.token_broker.repository(&name).await;
    let found = match answer.map_err(|e| broker_error(&e))? {
        Answer::Found(repository) => Resolved {
            repository,
            charge: None,
        },
        Answer::Unreachable { install_url } => {
            let part = unreachable(0, &name, install_url);
            return Err(ApiError::new(
                StatusCode::NOT_FOUND,
                REPOSITORY_UNREACHABLE,
                "The App cannot see this repository",
            )
            .detail(part.detail.clone())
            .errors(vec![part]));
        }
    };
    is_the_one(&found, meant)?;
    let allow = async |conn: &mut AsyncPgConnection| -> Result<(), StorageError> {
        let repository = &found.repository;
        found.store(conn, state.clock.now()).await?;
        repositories::allow_public(conn, repository.id, reason).await?;
        replan::request(
            conn,
            repository.id,
            true,
            "the policy for public repositories changed",
        )
        .await
    };
    state
        .database
        .transaction("allow public repository", allow)
        .await
        .map_err(|e| storage_error(&e))?;
    tracing::info!(repository = %name, allowed = reason.is_some(), reason, "a public repository");
    Ok(HttpResponse::NoContent().finish())
}
