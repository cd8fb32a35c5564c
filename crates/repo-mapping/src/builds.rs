//! `/api/builds`: what became of workflow jobs.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use gha_slurm_contract::build::{Build, BuildDetail, BuildStatus, TimelineEntry};
use gha_slurm_contract::problem::Problem;
use gha_slurm_domain::status::Surroundings;
use gha_slurm_domain::{SlurmUser, Stop, WorkflowJob, WorkflowJobFacts, WorkflowJobId};
use gha_slurm_service_kit::ApiError;
use gha_slurm_service_kit::problem::{query, query_invalid};
use gha_slurm_storage::builds::{self, BuildRow};
use gha_slurm_storage::{AsyncPgConnection, stops, usage};
use serde::Deserialize;

use crate::access::not_this_user;
use crate::state::{State, storage_error};
use crate::usage::of_build;

const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 200;

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct BuildsQuery {
    /// Only builds that spend or spent this Slurm user's account, or will by their repository's mapping.
    #[param(value_type = Option<String>)]
    user: Option<SlurmUser>,
    /// How many, newest first: 1 to 200, 50 unless given.
    limit: Option<i64>,
}

/// A build as people see it. Each fact is taken apart by name, so that a new one demands a decision.
fn shown(state: &State, stop: Option<&Stop>, row: BuildRow) -> Build {
    let surroundings = Surroundings {
        stop,
        ..row.surroundings()
    };
    let status = BuildStatus::of(&row.workflow_job, surroundings, state.clock.now());
    let BuildRow {
        workflow_job,
        owner,
        name: repository,
        slurm_user,
        ..
    } = row;
    let WorkflowJob {
        facts,
        repository: _,
        installation: _,
        state: how_far,
        verdict,
        // In `status`.
        reason: _,
        class: _,
        traceparent: _,
        updated_at,
    } = workflow_job;
    let WorkflowJobFacts {
        id,
        run_id: _,
        run_attempt: _,
        name,
        workflow_name,
        head_branch,
        head_sha: _,
        html_url,
        labels,
        status: _,
        conclusion,
        runner_id: _,
        runner_name,
        created_at,
        started_at,
        completed_at,
    } = facts;
    Build {
        workflow_job_id: id,
        repository_url: state.repository_url(&owner, &repository),
        slurm_user,
        name,
        workflow_name,
        html_url,
        head_branch,
        labels,
        state: how_far,
        conclusion,
        verdict,
        status,
        runner_name,
        queued_at: created_at,
        started_at,
        completed_at,
        updated_at,
    }
}

/// What an administrator stopped all launches with, while that lasts.
async fn stop(conn: &mut AsyncPgConnection) -> Result<Option<Stop>, ApiError> {
    let current = stops::current(conn).await.map_err(|e| storage_error(&e))?;
    Ok(current.map(|current| current.stop()))
}

/// The Slurm user whose builds are shown: who may see those of one alone cannot ask for another's.
pub(crate) fn of_visible(
    visible: Option<SlurmUser>,
    asked: Option<SlurmUser>,
) -> Result<Option<SlurmUser>, ApiError> {
    match (visible, asked) {
        (None, asked) => Ok(asked),
        (Some(own), Some(asked)) if own != asked => {
            Err(not_this_user("You are another Slurm user"))
        }
        (own, _) => Ok(own),
    }
}

/// The newest builds.
#[utoipa::path(
    get,
    path = "/api/builds",
    operation_id = "listBuilds",
    params(BuildsQuery),
    responses(
        (status = 200, description = "Newest first", body = Vec<Build>),
        (status = 400, description = "The query is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`not_linked`: the person is linked to no Slurm user; `not_this_user`: they ask for another one's", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []), ("userSession" = []))
)]
pub(crate) async fn list(
    request: HttpRequest,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let visible = state.visible(&request).await?;
    let query: BuildsQuery = query(&request)?;
    let user = of_visible(visible, query.user)?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(query_invalid(format!("limit: write 1 to {MAX_LIMIT}")));
    }
    let mut conn = state.connection().await?;
    let rows = builds::list(&mut conn, user.as_ref(), limit)
        .await
        .map_err(|e| storage_error(&e))?;
    let stop = stop(&mut conn).await?;
    let shown = |row| shown(&state, stop.as_ref(), row);
    let list: Vec<Build> = rows.into_iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(list))
}

/// One build and its timeline.
#[utoipa::path(
    get,
    path = "/api/builds/{workflow_job_id}",
    operation_id = "getBuild",
    params(("workflow_job_id" = i64, Path, description = "GitHub's id of the workflow job")),
    responses(
        (status = 200, description = "The build", body = BuildDetail),
        (status = 401, description = "No valid session or bearer token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`not_linked`: the person is linked to no Slurm user", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "We never heard of it, or it is another user's", body = Problem, content_type = "application/problem+json"),
    ),
    security(("administratorToken" = []), ("administratorSession" = []), ("userSession" = []))
)]
pub(crate) async fn get(
    request: HttpRequest,
    path: web::Path<String>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let visible = state.visible(&request).await?;
    let unknown = || {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "build_unknown",
            "There is no such build",
        )
        .detail("GitHub has not told us of a workflow job with this id.")
    };
    let id = WorkflowJobId(path.parse().map_err(|_| unknown())?);
    let mut conn = state.connection().await?;
    let row = builds::find(&mut conn, id)
        .await
        .map_err(|e| storage_error(&e))?
        // What is somebody else's is not there.
        .filter(|row| {
            let is_of = |user: &SlurmUser| row.slurm_user.as_deref() == Some(user.as_str());
            visible.as_ref().is_none_or(is_of)
        })
        .ok_or_else(unknown)?;
    let timeline = builds::timeline(&mut conn, id)
        .await
        .map_err(|e| storage_error(&e))?
        .into_iter()
        .map(|entry| TimelineEntry {
            happened_at: entry.happened_at,
            recorded_at: entry.recorded_at,
            kind: entry.kind,
            detail: entry.detail,
            launch_id: entry.launch_id,
            slurm_job_id: entry.slurm_job_id,
            runner_name: entry.runner_name,
            log_tail: entry.log_tail,
        })
        .collect();
    let usage = usage::of_build(&mut conn, id)
        .await
        .map_err(|e| storage_error(&e))?;
    let stop = stop(&mut conn).await?;
    Ok(HttpResponse::Ok().json(BuildDetail {
        build: shown(&state, stop.as_ref(), row),
        timeline,
        usage: usage.as_ref().map(of_build),
    }))
}
