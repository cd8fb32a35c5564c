//! Workflow jobs and runs of a repository.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::{Access, Conclusion};
use crate::rest::error::GitHubError;
use crate::rest::page::{Page, PageQuery};
use crate::rest::repository::permitted;
use crate::shared::Shared;

type Answer = Result<HttpResponse, GitHubError>;

const PERMISSION: &str = "actions";
/// Most results of a filtered list (GitHub's API description).
const MAX_FILTERED: usize = 1000;

fn number(request: &HttpRequest, name: &str) -> Result<i64, GitHubError> {
    request
        .match_info()
        .get(name)
        .and_then(|id| id.parse().ok())
        .ok_or_else(GitHubError::not_found)
}

/// `GET …/actions/jobs/{job_id}`.
pub(crate) async fn job(request: HttpRequest, shared: web::Data<Shared>) -> Answer {
    let id = number(&request, "job_id")?;
    let body = shared.read(|world, now| {
        let repository = permitted(&request, world, now, PERMISSION, Access::Read)?;
        world
            .workflow_jobs
            .get(&id)
            .filter(|job| job.repository_id == repository.id)
            .map(|job| world.workflow_job_body(job))
            .ok_or_else(GitHubError::not_found)
    })?;
    Ok(HttpResponse::Ok().json(body))
}

#[derive(Debug, Deserialize)]
pub(crate) struct RunsQuery {
    status: Option<String>,
    event: Option<String>,
}

/// `GET …/actions/runs`: the newest first; `status` takes a status or a conclusion.
pub(crate) async fn runs(
    request: HttpRequest,
    shared: web::Data<Shared>,
    page: web::Query<PageQuery>,
    query: web::Query<RunsQuery>,
) -> Answer {
    let (all, path) = shared.read(|world, now| {
        let repository = permitted(&request, world, now, PERMISSION, Access::Read)?;
        let filtered = query.status.is_some() || query.event.is_some();
        let all: Vec<Value> = world
            .runs
            .values()
            .rev()
            .filter(|run| run.repository_id == repository.id)
            .filter(|run| query.event.as_ref().is_none_or(|event| *event == run.event))
            .filter(|run| {
                let (status, conclusion) = world.run_status(run.id);
                query.status.as_deref().is_none_or(|wanted| {
                    wanted == status.as_str() || Some(wanted) == conclusion.map(Conclusion::as_str)
                })
            })
            .take(if filtered { MAX_FILTERED } else { usize::MAX })
            .map(|run| world.run_body(run))
            .collect();
        let path = format!(
            "{}/repositories/{}/actions/runs",
            world.addresses.api, repository.id
        );
        Ok::<_, GitHubError>((all, path))
    })?;
    let (total, workflow_runs, link) = page.cut(all, &path, request.query_string()).into_parts();
    Ok(Page::answer(
        link,
        &json!({ "total_count": total, "workflow_runs": workflow_runs }),
    ))
}

/// `GET …/actions/runs/{run_id}`.
pub(crate) async fn run(request: HttpRequest, shared: web::Data<Shared>) -> Answer {
    let id = number(&request, "run_id")?;
    let body = shared.read(|world, now| {
        let repository = permitted(&request, world, now, PERMISSION, Access::Read)?;
        world
            .run_of(&repository, id)
            .map(|run| world.run_body(run))
            .map_err(|_| GitHubError::not_found())
    })?;
    Ok(HttpResponse::Ok().json(body))
}

/// `GET …/actions/runs/{run_id}/jobs`.
pub(crate) async fn jobs_of_run(
    request: HttpRequest,
    shared: web::Data<Shared>,
    page: web::Query<PageQuery>,
) -> Answer {
    let id = number(&request, "run_id")?;
    let (all, path) = shared.read(|world, now| {
        let repository = permitted(&request, world, now, PERMISSION, Access::Read)?;
        world
            .run_of(&repository, id)
            .map_err(|_| GitHubError::not_found())?;
        let all: Vec<Value> = world
            .workflow_jobs
            .values()
            .filter(|job| job.run_id == id)
            .map(|job| world.workflow_job_body(job))
            .collect();
        let path = format!(
            "{}/repositories/{}/actions/runs/{id}/jobs",
            world.addresses.api, repository.id
        );
        Ok::<_, GitHubError>((all, path))
    })?;
    let (total, jobs, link) = page.cut(all, &path, request.query_string()).into_parts();
    Ok(Page::answer(
        link,
        &json!({ "total_count": total, "jobs": jobs }),
    ))
}
