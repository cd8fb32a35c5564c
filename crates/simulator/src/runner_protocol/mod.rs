//! What the stand-in runner says to the simulator. Our own protocol, below `/simulator/runner`: the real one is not
//! documented. What it may do is the real one's, though: a session per runner, offers by long poll, taking an offer,
//! signs of life, one report at the end.

pub(crate) mod configuration;
pub(crate) mod messages;
mod work;

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use crate::model::Repository;
use crate::shared::Shared;
use crate::world::assignment::AcquireRefusal;
use crate::world::runners::{NewRunner, RunnerRefusal, SessionRefusal};
use crate::world::tokens::RunnerTokenUse;
use crate::world::workflow_jobs::Report;
use messages::{Finished, NewSession, Offer, Refusal, Registration, Removal, RenewedLock, Session};

/// Longest time a poll stays open (the real runner's are 50 s).
const LONGEST_POLL: Duration = Duration::from_secs(50);

/// The routes, below `/simulator/runner`.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/registrations", web::post().to(register))
        .route("/removals", web::post().to(remove))
        .route("/sessions", web::post().to(open_session))
        .route("/sessions/{session_id}", web::delete().to(close_session))
        .route("/sessions/{session_id}/offer", web::get().to(next_offer))
        .route(
            "/sessions/{session_id}/workflow-jobs/{id}/acquire",
            web::post().to(acquire),
        )
        .route(
            "/sessions/{session_id}/workflow-jobs/{id}/renew",
            web::post().to(renew),
        )
        .route(
            "/sessions/{session_id}/workflow-jobs/{id}/finish",
            web::post().to(finish),
        );
}

fn refuse(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    HttpResponse::build(status).json(Refusal {
        code: code.to_owned(),
        message: message.to_owned(),
    })
}

fn credential<'r>(request: &'r HttpRequest, scheme: &str) -> &'r str {
    request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix(scheme))
        .unwrap_or_default()
        .trim()
}

/// `config.sh --token`: registers with a registration token of the repository that the URL names.
async fn register(
    request: HttpRequest,
    shared: web::Data<Shared>,
    body: web::Json<Registration>,
) -> HttpResponse {
    let wanted = body.into_inner();
    let token = credential(&request, "RemoteAuth ");
    shared.change(|world, now| {
        let repository = world
            .tokens
            .repository_of(token, RunnerTokenUse::Register, now)
            .and_then(|id| world.repositories.get(&id).cloned())
            .filter(|repository| names(repository, &wanted.url));
        let Some(repository) = repository else {
            return refuse(StatusCode::NOT_FOUND, "not_found", "Not Found");
        };
        let new = NewRunner {
            name: wanted.name,
            repository_id: repository.id,
            labels: wanted.labels,
            work_folder: wanted.work_folder,
            ephemeral: wanted.ephemeral,
            just_in_time: false,
        };
        match world.register(new, wanted.replace, now) {
            Ok((runner, credential)) => HttpResponse::Created().json(configuration::files(
                &runner,
                &credential,
                &repository,
                &world.addresses,
            )),
            Err(RunnerRefusal::Busy) => refuse(
                StatusCode::CONFLICT,
                "busy",
                "the runner with this name has a workflow job",
            ),
            Err(_) => refuse(
                StatusCode::CONFLICT,
                "exists",
                "A runner exists with the same name",
            ),
        }
    })
}

/// Whether a URL (`https://github.com/owner/name`, on whatever host) names the repository.
fn names(repository: &Repository, url: &str) -> bool {
    let path = url.trim_end_matches('/').to_ascii_lowercase();
    path.ends_with(&format!("/{}", repository.full_name().to_ascii_lowercase()))
}

/// `config.sh remove --token`.
async fn remove(
    request: HttpRequest,
    shared: web::Data<Shared>,
    body: web::Json<Removal>,
) -> HttpResponse {
    let token = credential(&request, "RemoteAuth ");
    shared.change(|world, now| {
        let Some(repository_id) = world
            .tokens
            .repository_of(token, RunnerTokenUse::Remove, now)
        else {
            return refuse(StatusCode::NOT_FOUND, "not_found", "Not Found");
        };
        match world.delete_runner(repository_id, body.runner_id) {
            Ok(()) => HttpResponse::NoContent().finish(),
            Err(RunnerRefusal::Busy) => {
                refuse(StatusCode::CONFLICT, "busy", "the runner is running a job")
            }
            Err(_) => refuse(StatusCode::NOT_FOUND, "not_found", "Not Found"),
        }
    })
}

async fn open_session(
    request: HttpRequest,
    shared: web::Data<Shared>,
    body: web::Json<NewSession>,
) -> HttpResponse {
    let credential = credential(&request, "Bearer ");
    let opened =
        shared.change(|world, now| world.open_session(credential, &body.version, &body.os, now));
    match opened {
        Ok((session_id, runner)) => HttpResponse::Created().json(Session {
            session_id,
            runner_name: runner.name,
        }),
        Err(SessionRefusal::Deleted) => refuse(
            StatusCode::NOT_FOUND,
            "deleted",
            "The runner registration has been deleted from the server",
        ),
        Err(SessionRefusal::Conflict) => refuse(
            StatusCode::CONFLICT,
            "session_conflict",
            "A session for this runner already exists.",
        ),
        Err(SessionRefusal::Deprecated) => refuse(
            StatusCode::FORBIDDEN,
            "deprecated",
            "is deprecated and cannot receive messages.",
        ),
    }
}

async fn close_session(shared: web::Data<Shared>, session_id: web::Path<String>) -> HttpResponse {
    shared.change(|world, _| world.close_session(&session_id));
    HttpResponse::NoContent().finish()
}

#[derive(Debug, Deserialize)]
struct PollQuery {
    timeout_seconds: u64,
}

impl PollQuery {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds).min(LONGEST_POLL)
    }
}

/// Counts an open long poll, also when its connection is cut.
struct OpenPoll {
    shared: Shared,
    session_id: String,
}

impl OpenPoll {
    fn new(shared: &Shared, session_id: &str) -> Self {
        shared.change(|world, now| world.count_poll(session_id, true, now));
        Self {
            shared: shared.clone(),
            session_id: session_id.to_owned(),
        }
    }
}

impl Drop for OpenPoll {
    fn drop(&mut self) {
        let session_id = &self.session_id;
        self.shared
            .change(|world, now| world.count_poll(session_id, false, now));
    }
}

/// The workflow job that is offered, or 204 when none came in time.
async fn next_offer(
    shared: web::Data<Shared>,
    session_id: web::Path<String>,
    query: web::Query<PollQuery>,
) -> HttpResponse {
    let poll = OpenPoll::new(&shared, &session_id);
    let offer = shared
        .wait(query.duration(), |world, _| {
            if world.with_session(&session_id).is_none() {
                return Some(None);
            }
            world.offer_for(&session_id).map(Some)
        })
        .await;
    drop(poll);
    match offer {
        Some(Some(workflow_job_id)) => HttpResponse::Ok().json(Offer { workflow_job_id }),
        Some(None) => refuse(
            StatusCode::NOT_FOUND,
            "deleted",
            "The runner registration has been deleted from the server",
        ),
        None => HttpResponse::NoContent().finish(),
    }
}

/// Takes the offered workflow job.
async fn acquire(shared: web::Data<Shared>, path: web::Path<(String, i64)>) -> HttpResponse {
    let (session_id, id) = path.into_inner();
    shared.change(|world, now| {
        let Some(runner_id) = world
            .with_session(&session_id)
            .map(|runner| runner.facts.id)
        else {
            return refuse(StatusCode::NOT_FOUND, "deleted", "no such session");
        };
        match world.acquire(runner_id, id, now) {
            Ok(workflow_job) => match work::of(world, &workflow_job) {
                Some(work) => HttpResponse::Ok().json(work),
                None => refuse(StatusCode::NOT_FOUND, "gone", "Job not found"),
            },
            Err(AcquireRefusal::Gone) => refuse(StatusCode::NOT_FOUND, "gone", "Job not found"),
            Err(AcquireRefusal::Lost) => {
                refuse(StatusCode::CONFLICT, "lost", "Job assignment is invalid")
            }
        }
    })
}

/// A sign of life while a workflow job runs; answers early when somebody cancels it.
async fn renew(
    shared: web::Data<Shared>,
    path: web::Path<(String, i64)>,
    query: web::Query<PollQuery>,
) -> HttpResponse {
    let (session_id, id) = path.into_inner();
    let poll = OpenPoll::new(&shared, &session_id);
    let cancelled = shared
        .wait(query.duration(), |world, _| {
            let cancelled = world
                .workflow_jobs
                .get(&id)
                .is_none_or(|job| job.cancel_requested);
            cancelled.then_some(())
        })
        .await
        .is_some();
    drop(poll);
    HttpResponse::Ok().json(RenewedLock { cancelled })
}

/// How the workflow job ended.
async fn finish(
    shared: web::Data<Shared>,
    path: web::Path<(String, i64)>,
    body: web::Json<Finished>,
) -> HttpResponse {
    let (session_id, id) = path.into_inner();
    let finished = body.into_inner();
    shared.change(|world, now| {
        let Some(runner_id) = world
            .with_session(&session_id)
            .map(|runner| runner.facts.id)
        else {
            return refuse(StatusCode::NOT_FOUND, "deleted", "no such session");
        };
        let report = Report {
            conclusion: finished.conclusion,
            steps: finished.steps,
            output: finished.output,
        };
        match world.finish(id, runner_id, report, now) {
            Ok(()) => HttpResponse::NoContent().finish(),
            Err(error) => refuse(StatusCode::CONFLICT, "not_yours", &error.to_string()),
        }
    })
}
