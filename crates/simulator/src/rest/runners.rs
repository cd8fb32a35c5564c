//! Self-hosted runners of a repository.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bodies::time;
use crate::model::Access;
use crate::rest::error::GitHubError;
use crate::rest::page::{Page, PageQuery};
use crate::rest::repository::permitted;
use crate::runner_protocol::configuration;
use crate::shared::Shared;
use crate::world::runners::{NewRunner, RunnerRefusal};
use crate::world::tokens::RunnerTokenUse;
use crate::world::{World, end};

type Answer = Result<HttpResponse, GitHubError>;

const PERMISSION: &str = "administration";
/// Most labels of one runner (GitHub's API description).
const MAX_LABELS: usize = 100;

#[derive(Debug, Deserialize)]
pub(crate) struct NameQuery {
    name: Option<String>,
}

/// `GET …/actions/runners`.
pub(crate) async fn list(
    request: HttpRequest,
    shared: web::Data<Shared>,
    page: web::Query<PageQuery>,
    query: web::Query<NameQuery>,
) -> Answer {
    let (all, path) = shared.read(|world, now| {
        let repository = permitted(&request, world, now, PERMISSION, Access::Read)?;
        let all = world
            .runners(now)
            .iter()
            .filter(|runner| runner.repository_id == repository.id)
            .filter(|runner| query.name.as_ref().is_none_or(|name| *name == runner.name))
            .map(World::runner_body)
            .collect();
        let path = format!(
            "{}/repositories/{}/actions/runners",
            world.addresses.api, repository.id
        );
        Ok::<_, GitHubError>((all, path))
    })?;
    let (total, runners, link) = page.cut(all, &path, request.query_string()).into_parts();
    Ok(Page::answer(
        link,
        &json!({ "total_count": total, "runners": runners }),
    ))
}

fn runner_id(request: &HttpRequest) -> Result<i64, GitHubError> {
    request
        .match_info()
        .get("runner_id")
        .and_then(|id| id.parse().ok())
        .ok_or_else(GitHubError::not_found)
}

/// `GET …/actions/runners/{runner_id}`.
pub(crate) async fn get(request: HttpRequest, shared: web::Data<Shared>) -> Answer {
    let id = runner_id(&request)?;
    let body = shared.read(|world, now| {
        let repository = permitted(&request, world, now, PERMISSION, Access::Read)?;
        world
            .runner(repository.id, id, now)
            .map(|runner| World::runner_body(&runner))
            .ok_or_else(GitHubError::not_found)
    })?;
    Ok(HttpResponse::Ok().json(body))
}

/// `DELETE …/actions/runners/{runner_id}`: refused while it has a workflow job.
pub(crate) async fn delete(request: HttpRequest, shared: web::Data<Shared>) -> Answer {
    let id = runner_id(&request)?;
    shared.change(|world, now| {
        let repository = permitted(&request, world, now, PERMISSION, Access::Write)?;
        let name = world
            .runner(repository.id, id, now)
            .map(|runner| runner.name)
            .ok_or_else(GitHubError::not_found)?;
        world
            .delete_runner(repository.id, id)
            .map_err(|refusal| match refusal {
                RunnerRefusal::Busy => GitHubError::new(
                    422,
                    &format!("Bad request - Runner \"{name}\" is still running a job\""),
                ),
                RunnerRefusal::Exists | RunnerRefusal::Unknown => GitHubError::not_found(),
            })
    })?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST …/actions/runners/registration-token`.
pub(crate) async fn registration_token(request: HttpRequest, shared: web::Data<Shared>) -> Answer {
    runner_token(&request, &shared, RunnerTokenUse::Register)
}

/// `POST …/actions/runners/remove-token`.
pub(crate) async fn remove_token(request: HttpRequest, shared: web::Data<Shared>) -> Answer {
    runner_token(&request, &shared, RunnerTokenUse::Remove)
}

fn runner_token(request: &HttpRequest, shared: &Shared, usage: RunnerTokenUse) -> Answer {
    let body = shared.change(|world, now| {
        let repository = permitted(request, world, now, PERMISSION, Access::Write)?;
        let expires_at = end(now, world.timing.runner_token);
        let token = world.tokens.runner_token(repository.id, usage, expires_at);
        Ok::<Value, GitHubError>(json!({ "token": token, "expires_at": time(expires_at) }))
    })?;
    Ok(HttpResponse::Created().json(body))
}

#[derive(Debug, Deserialize)]
pub(crate) struct JitRequest {
    name: Option<String>,
    runner_group_id: Option<i64>,
    labels: Option<Vec<String>>,
    work_folder: Option<String>,
}

/// `POST …/actions/runners/generate-jitconfig`.
pub(crate) async fn generate_jit_config(
    request: HttpRequest,
    shared: web::Data<Shared>,
    body: web::Json<JitRequest>,
) -> Answer {
    let wanted = body.into_inner();
    let body = shared.change(|world, now| {
        let repository = permitted(&request, world, now, PERMISSION, Access::Write)?;
        let (name, labels) = valid(&wanted)?;
        let new = NewRunner {
            name: name.clone(),
            repository_id: repository.id,
            labels,
            work_folder: wanted.work_folder.unwrap_or_else(|| "_work".to_owned()),
            ephemeral: true,
            just_in_time: true,
        };
        let (runner, credential) = world.register(new, false, now).map_err(|_| {
            GitHubError::new(
                409,
                &format!("Already exists - A runner with the name {name} already exists."),
            )
        })?;
        let files = configuration::files(&runner, &credential, &repository, &world.addresses);
        Ok::<Value, GitHubError>(json!({
            "runner": World::runner_body(&runner),
            "encoded_jit_config": configuration::encode(&files),
        }))
    })?;
    Ok(HttpResponse::Created().json(body))
}

/// The name and labels, if they are such as GitHub accepts.
fn valid(wanted: &JitRequest) -> Result<(String, Vec<String>), GitHubError> {
    let name = wanted
        .name
        .clone()
        .filter(|name| !name.is_empty() && name.len() <= 64)
        .ok_or_else(|| GitHubError::invalid("name", "1 to 64 characters"))?;
    // Repositories have the one group of this number.
    if wanted.runner_group_id != Some(1) {
        return Err(GitHubError::invalid("runner_group_id", "no such group"));
    }
    let labels = wanted
        .labels
        .clone()
        .filter(|labels| (1..=MAX_LABELS).contains(&labels.len()))
        .ok_or_else(|| GitHubError::invalid("labels", "1 to 100 labels"))?;
    Ok((name, labels))
}
