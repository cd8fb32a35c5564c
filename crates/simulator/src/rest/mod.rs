//! GitHub's REST API, as far as the App uses it.

mod actions;
mod app;
mod authorizations;
mod caller;
mod error;
mod hook;
mod page;
mod repository;
mod runners;
mod user;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody, to_bytes};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{ETAG, HeaderName, HeaderValue, IF_NONE_MATCH};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, HttpResponse, ResponseError as _, web};
use chrono::{DurationRound as _, TimeDelta};

use crate::request::RestEffect;
use crate::rest::error::GitHubError;
use crate::shared::Shared;

/// The routes, the same below `/` (github.com) and `/api/v3` (GitHub Enterprise Server).
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/app", web::get().to(app::app))
        .route("/app/installations", web::get().to(app::installations))
        .route(
            "/app/installations/{installation_id}",
            web::get().to(app::installation),
        )
        .route(
            "/app/installations/{installation_id}/access_tokens",
            web::post().to(app::access_token),
        )
        .route("/app/hook/deliveries", web::get().to(hook::deliveries))
        .route(
            "/app/hook/deliveries/{delivery_id}",
            web::get().to(hook::delivery),
        )
        .route(
            "/app/hook/deliveries/{delivery_id}/attempts",
            web::post().to(hook::redeliver),
        )
        .route(
            "/installation/repositories",
            web::get().to(app::installation_repositories),
        )
        .route("/rate_limit", web::get().to(app::rate_limit))
        .route("/user", web::get().to(user::get))
        .route("/user/installations", web::get().to(user::installations))
        .route(
            "/user/installations/{installation_id}/repositories",
            web::get().to(user::repositories),
        )
        .route(
            "/applications/{client_id}/token",
            web::delete().to(authorizations::delete_token),
        )
        .route(
            "/applications/{client_id}/grant",
            web::delete().to(authorizations::delete_grant),
        );
    // A renamed repository redirects to its numeric address, so everything answers there as well.
    for repository in ["/repos/{owner}/{repo}", "/repositories/{repository_id}"] {
        let at = |rest: &str| format!("{repository}{rest}");
        config
            .route(repository, web::get().to(repository::get))
            .route(&at("/installation"), web::get().to(app::of_repository))
            .route(&at("/actions/runners"), web::get().to(runners::list))
            .route(
                &at("/actions/runners/registration-token"),
                web::post().to(runners::registration_token),
            )
            .route(
                &at("/actions/runners/remove-token"),
                web::post().to(runners::remove_token),
            )
            .route(
                &at("/actions/runners/generate-jitconfig"),
                web::post().to(runners::generate_jit_config),
            )
            .route(
                &at("/actions/runners/{runner_id}"),
                web::get().to(runners::get),
            )
            .route(
                &at("/actions/runners/{runner_id}"),
                web::delete().to(runners::delete),
            )
            .route(&at("/actions/jobs/{job_id}"), web::get().to(actions::job))
            .route(&at("/actions/runs"), web::get().to(actions::runs))
            .route(&at("/actions/runs/{run_id}"), web::get().to(actions::run))
            .route(
                &at("/actions/runs/{run_id}/jobs"),
                web::get().to(actions::jobs_of_run),
            );
    }
}

/// Whatever no route answers.
pub(crate) async fn not_found() -> HttpResponse {
    GitHubError::not_found().error_response()
}

/// A body that is not the JSON asked for.
pub(crate) fn unparsable(
    error: &actix_web::error::JsonPayloadError,
    request: &HttpRequest,
) -> Error {
    control_or_github(request, &error.to_string(), || {
        GitHubError::new(400, "Problems parsing JSON")
    })
}

/// A query that is not the one asked for.
pub(crate) fn bad_query(
    error: &actix_web::error::QueryPayloadError,
    request: &HttpRequest,
) -> Error {
    control_or_github(request, &error.to_string(), || {
        GitHubError::new(422, "Validation Failed")
    })
}

/// Whoever controls the simulator is told what is wrong; GitHub's callers what GitHub tells them.
fn control_or_github(
    request: &HttpRequest,
    reason: &str,
    github: impl FnOnce() -> GitHubError,
) -> Error {
    if request.path().starts_with("/simulator/") {
        return actix_web::error::ErrorUnprocessableEntity(reason.to_owned());
    }
    github().into()
}

/// Counts the call, makes it go wrong if asked to, and adds the headers of every answer.
pub(crate) async fn middleware(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(shared) = request.app_data::<web::Data<Shared>>().cloned() else {
        return Err(GitHubError::new(500, "no state").into());
    };
    let route = route_of(&request);
    let spender = caller::spender(request.request(), &shared);
    let (effect, mut limit) = shared.note(|world, now| {
        *world.calls.entry(route.clone()).or_default() += 1;
        let used = world.used.entry(spender.clone()).or_default();
        *used += 1;
        let reset = now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now) + TimeDelta::hours(1);
        let limit = Limit {
            most: world.timing.rate_limit,
            used: *used,
            reset: reset.timestamp(),
        };
        (world.faults.take_rest(&route), limit)
    });
    let mut answer = match effect {
        None if limit.used > limit.most => {
            let refusal = GitHubError::new(403, "API rate limit exceeded for installation.");
            request.into_response(refusal.error_response())
        }
        None => {
            let known = request.headers().get(IF_NONE_MATCH).cloned();
            let is_read = request.method() == Method::GET;
            let answer = next.call(request).await?.map_into_boxed_body();
            if is_read && answer.status() == StatusCode::OK {
                let (answer, is_unchanged) = conditional(answer, known.as_ref()).await?;
                if is_unchanged {
                    // It does not count (GitHub docs, best practices for using the REST API).
                    let used = shared.note(|world, _| {
                        let used = world.used.entry(spender).or_default();
                        *used = used.saturating_sub(1);
                        *used
                    });
                    limit.used = used;
                }
                answer
            } else {
                answer
            }
        }
        Some(effect) => disturbed(effect, request, next).await?,
    };
    limit.write(answer.headers_mut());
    Ok(answer)
}

/// Counts a call of what is no part of the REST API and has no rate limit, and makes it go wrong if asked to.
pub(crate) async fn page_middleware(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(shared) = request.app_data::<web::Data<Shared>>().cloned() else {
        return Err(GitHubError::new(500, "no state").into());
    };
    let route = route_of(&request);
    let effect = shared.note(|world, _| {
        *world.calls.entry(route.clone()).or_default() += 1;
        world.faults.take_rest(&route)
    });
    match effect {
        None => Ok(next.call(request).await?.map_into_boxed_body()),
        Some(effect) => disturbed(effect, request, next).await,
    }
}

/// The answer that a fault asks for.
async fn disturbed(
    effect: RestEffect,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    Ok(match effect {
        RestEffect::DelayMs(milliseconds) => {
            let done = next.call(request).await?.map_into_boxed_body();
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            done
        }
        RestEffect::LoseAnswer => {
            let done = next.call(request).await?;
            done.into_response(GitHubError::new(502, "Server Error").error_response())
        }
        effect => request.into_response(GitHubError::instead(effect).error_response()),
    })
}

/// Adds an `ETag` to a response, or replaces it by 304 without a body if the caller has it already.
async fn conditional(
    answer: ServiceResponse<BoxBody>,
    known: Option<&HeaderValue>,
) -> Result<(ServiceResponse<BoxBody>, bool), Error> {
    let (request, answer) = answer.into_parts();
    let (head, body) = answer.into_parts();
    let body = to_bytes(body)
        .await
        .map_err(|_| GitHubError::new(500, "no body"))?;
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let etag = format!("W/\"{:016x}\"", hasher.finish());
    let etag = HeaderValue::from_str(&etag).map_err(|_| GitHubError::new(500, "no ETag"))?;
    let is_unchanged = known == Some(&etag);
    let mut answer = if is_unchanged {
        HttpResponse::NotModified().finish()
    } else {
        head.set_body(BoxBody::new(body))
    };
    answer.headers_mut().insert(ETAG, etag);
    Ok((ServiceResponse::new(request, answer), is_unchanged))
}

/// `GET /repos/{owner}/{repo}/…`, whichever of its addresses was used.
fn route_of(request: &ServiceRequest) -> String {
    let pattern = request
        .match_pattern()
        .unwrap_or_else(|| request.path().to_owned());
    let pattern = pattern.strip_prefix("/api/v3").unwrap_or(&pattern);
    let pattern = pattern.replacen("/repositories/{repository_id}", "/repos/{owner}/{repo}", 1);
    format!("{} {pattern}", request.method())
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    most: u64,
    used: u64,
    reset: i64,
}

impl Limit {
    fn write(self, headers: &mut actix_web::http::header::HeaderMap) {
        let remaining = self.most.saturating_sub(self.used);
        for (name, value) in [
            ("x-ratelimit-limit", self.most.to_string()),
            ("x-ratelimit-used", self.used.min(self.most).to_string()),
            ("x-ratelimit-remaining", remaining.to_string()),
            ("x-ratelimit-reset", self.reset.to_string()),
            ("x-ratelimit-resource", "core".to_owned()),
            (
                "x-github-request-id",
                uuid::Uuid::new_v4().simple().to_string(),
            ),
        ] {
            let name = HeaderName::from_static(name);
            if headers.contains_key(&name) {
                continue;
            }
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}
