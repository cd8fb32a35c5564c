//! The control API, below `/simulator`: the handle over HTTP.

mod people;

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError, web};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use crate::handle::Handle;
use crate::model::Status;
use crate::request::{
    ControlError, NewInstallation, NewRepository, NewWorkflowJob, ReleaseOrder, RepositoryChange,
    RestFault, TokenKind, WebhookFault,
};
use crate::shared::Shared;

type Answer = Result<HttpResponse, ControlError>;

impl ResponseError for ControlError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TimedOut(_) => StatusCode::REQUEST_TIMEOUT,
        }
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::build(self.status_code()).json(json!({ "message": self.to_string() }))
    }
}

/// The routes, below `/simulator`.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/health", web::get().to(health))
        .route("/state", web::get().to(state))
        .route("/calls", web::delete().to(reset_calls))
        .route("/installations", web::post().to(create_installation))
        .route("/installations/{id}", web::delete().to(delete_installation))
        .route("/installations/{id}/suspend", web::post().to(suspend))
        .route("/installations/{id}/unsuspend", web::post().to(unsuspend))
        .route("/repositories", web::post().to(create_repository))
        .route("/repositories/{id}", web::patch().to(change_repository))
        .route("/repositories/{id}", web::delete().to(delete_repository))
        .route(
            "/repositories/{id}/installation",
            web::put().to(add_to_installation),
        )
        .route(
            "/repositories/{id}/installation",
            web::delete().to(remove_from_installation),
        )
        .configure(people::routes)
        .route("/workflow-jobs", web::post().to(queue))
        .route("/workflow-jobs/{id}", web::get().to(workflow_job))
        .route("/workflow-jobs/{id}/approve", web::post().to(approve))
        .route("/workflow-jobs/{id}/cancel", web::post().to(cancel))
        .route("/workflow-jobs/{id}/skip", web::post().to(skip))
        .route("/workflow-jobs/{id}/assign", web::post().to(assign))
        .route("/workflow-jobs/{id}/lose-offer", web::post().to(lose_offer))
        .route("/assignment", web::put().to(set_assignment))
        .route("/webhook", web::put().to(set_webhook))
        .route("/webhook/ping", web::post().to(ping))
        .route("/webhook/faults", web::post().to(add_webhook_fault))
        .route("/webhook/faults", web::delete().to(clear_webhook_faults))
        .route("/webhook/release", web::post().to(release_webhooks))
        .route(
            "/webhook/deliveries/{id}/redeliver",
            web::post().to(redeliver),
        )
        .route("/rest-faults", web::post().to(add_rest_fault))
        .route("/rest-faults", web::delete().to(clear_rest_faults))
        .route("/tokens/expire", web::post().to(expire_tokens))
        .route("/runners/deprecated", web::put().to(deprecate_runners));
}

fn handle(shared: &Shared) -> Handle {
    Handle::new(shared.clone())
}

fn done() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

async fn state(shared: web::Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().json(handle(&shared).state())
}

async fn reset_calls(shared: web::Data<Shared>) -> HttpResponse {
    handle(&shared).reset_calls();
    done()
}

async fn create_installation(
    shared: web::Data<Shared>,
    body: web::Json<NewInstallation>,
) -> Answer {
    let installation = handle(&shared).create_installation(body.into_inner())?;
    Ok(HttpResponse::Created().json(installation))
}

async fn delete_installation(shared: web::Data<Shared>, id: web::Path<i64>) -> Answer {
    handle(&shared).delete_installation(*id)?;
    Ok(done())
}

async fn suspend(shared: web::Data<Shared>, id: web::Path<i64>) -> Answer {
    let installation = handle(&shared).suspend_installation(*id, true)?;
    Ok(HttpResponse::Ok().json(installation))
}

async fn unsuspend(shared: web::Data<Shared>, id: web::Path<i64>) -> Answer {
    let installation = handle(&shared).suspend_installation(*id, false)?;
    Ok(HttpResponse::Ok().json(installation))
}

async fn create_repository(shared: web::Data<Shared>, body: web::Json<NewRepository>) -> Answer {
    let repository = handle(&shared).create_repository(&body)?;
    Ok(HttpResponse::Created().json(repository))
}

async fn change_repository(
    shared: web::Data<Shared>,
    id: web::Path<i64>,
    body: web::Json<RepositoryChange>,
) -> Answer {
    let repository = handle(&shared).change_repository(*id, &body)?;
    Ok(HttpResponse::Ok().json(repository))
}

async fn delete_repository(shared: web::Data<Shared>, id: web::Path<i64>) -> Answer {
    handle(&shared).delete_repository(*id)?;
    Ok(done())
}

async fn add_to_installation(shared: web::Data<Shared>, id: web::Path<i64>) -> Answer {
    handle(&shared).set_installed(*id, true)?;
    Ok(done())
}

async fn remove_from_installation(shared: web::Data<Shared>, id: web::Path<i64>) -> Answer {
    handle(&shared).set_installed(*id, false)?;
    Ok(done())
}

async fn queue(shared: web::Data<Shared>, body: web::Json<NewWorkflowJob>) -> Answer {
    let workflow_job = handle(&shared).queue(body.into_inner())?;
    Ok(HttpResponse::Created().json(workflow_job))
}

#[derive(Debug, Deserialize)]
struct WaitQuery {
    wait_for: Option<Status>,
    timeout_seconds: Option<u64>,
}

async fn workflow_job(
    shared: web::Data<Shared>,
    id: web::Path<i64>,
    query: web::Query<WaitQuery>,
) -> Answer {
    let found = shared.read(|world, _| world.workflow_job(*id).cloned())?;
    let workflow_job = match query.wait_for {
        None => found,
        Some(status) => {
            let deadline = Duration::from_secs(query.timeout_seconds.unwrap_or(30));
            handle(&shared)
                .wait_for_status(*id, status, deadline)
                .await?
        }
    };
    Ok(HttpResponse::Ok().json(workflow_job))
}

async fn approve(shared: web::Data<Shared>, id: web::Path<i64>) -> Answer {
    Ok(HttpResponse::Ok().json(handle(&shared).approve(*id)?))
}

async fn cancel(shared: web::Data<Shared>, id: web::Path<i64>) -> Answer {
    Ok(HttpResponse::Ok().json(handle(&shared).cancel(*id)?))
}

async fn skip(shared: web::Data<Shared>, id: web::Path<i64>) -> Answer {
    Ok(HttpResponse::Ok().json(handle(&shared).skip(*id)?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Assign {
    runner: String,
}

async fn assign(shared: web::Data<Shared>, id: web::Path<i64>, body: web::Json<Assign>) -> Answer {
    handle(&shared).assign(*id, &body.runner)?;
    Ok(done())
}

async fn lose_offer(shared: web::Data<Shared>, id: web::Path<i64>) -> Answer {
    handle(&shared).lose_next_offer(*id)?;
    Ok(done())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AssignmentBody {
    paused: bool,
}

async fn set_assignment(
    shared: web::Data<Shared>,
    body: web::Json<AssignmentBody>,
) -> HttpResponse {
    handle(&shared).pause_assignment(body.paused);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookBody {
    url: String,
    secret: SecretString,
    #[serde(default)]
    form: bool,
}

async fn set_webhook(shared: web::Data<Shared>, body: web::Json<WebhookBody>) -> HttpResponse {
    let WebhookBody { url, secret, form } = body.into_inner();
    handle(&shared).set_webhook(&url, secret, form);
    done()
}

async fn ping(shared: web::Data<Shared>) -> Answer {
    handle(&shared).ping()?;
    Ok(done())
}

async fn add_webhook_fault(
    shared: web::Data<Shared>,
    body: web::Json<WebhookFault>,
) -> HttpResponse {
    handle(&shared).add_webhook_fault(body.into_inner());
    done()
}

async fn clear_webhook_faults(shared: web::Data<Shared>) -> HttpResponse {
    handle(&shared).clear_webhook_faults();
    done()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    #[serde(default)]
    order: ReleaseOrder,
}

async fn release_webhooks(shared: web::Data<Shared>, body: web::Json<Release>) -> HttpResponse {
    let released = handle(&shared).release_webhooks(&body.order);
    HttpResponse::Ok().json(json!({ "released": released }))
}

async fn redeliver(shared: web::Data<Shared>, id: web::Path<i64>) -> Answer {
    handle(&shared).redeliver(*id)?;
    Ok(done())
}

async fn add_rest_fault(shared: web::Data<Shared>, body: web::Json<RestFault>) -> HttpResponse {
    handle(&shared).add_rest_fault(body.into_inner());
    done()
}

async fn clear_rest_faults(shared: web::Data<Shared>) -> HttpResponse {
    handle(&shared).clear_rest_faults();
    done()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expire {
    kind: TokenKind,
}

async fn expire_tokens(shared: web::Data<Shared>, body: web::Json<Expire>) -> HttpResponse {
    handle(&shared).expire_tokens(body.kind);
    done()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deprecated {
    deprecated: bool,
}

async fn deprecate_runners(shared: web::Data<Shared>, body: web::Json<Deprecated>) -> HttpResponse {
    handle(&shared).deprecate_runners(body.deprecated);
    done()
}
