//! People, their roles, and their sign-in, over HTTP.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, done, handle};
use crate::request::{NewPerson, RoleChange, SignIn};
use crate::shared::Shared;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/people", web::post().to(create_person))
        .route("/people/{login}/authorization", web::delete().to(revoke))
        .route("/repositories/{id}/people/{login}", web::put().to(set_role))
        .route(
            "/repositories/{id}/people/{login}",
            web::delete().to(remove_role),
        )
        .route("/callback-urls", web::put().to(set_callback_urls))
        .route("/sign-ins", web::post().to(sign_in));
}

async fn create_person(shared: web::Data<Shared>, body: web::Json<NewPerson>) -> Answer {
    let person = handle(&shared).create_person(&body.login)?;
    Ok(HttpResponse::Created().json(person))
}

async fn revoke(shared: web::Data<Shared>, login: web::Path<String>) -> Answer {
    handle(&shared).revoke_authorization(&login)?;
    Ok(done())
}

async fn set_role(
    shared: web::Data<Shared>,
    path: web::Path<(i64, String)>,
    body: web::Json<RoleChange>,
) -> Answer {
    let (id, login) = path.into_inner();
    handle(&shared).set_role(id, &login, body.role)?;
    Ok(done())
}

async fn remove_role(shared: web::Data<Shared>, path: web::Path<(i64, String)>) -> Answer {
    let (id, login) = path.into_inner();
    handle(&shared).remove_role(id, &login)?;
    Ok(done())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallbackUrls {
    urls: Vec<String>,
}

async fn set_callback_urls(shared: web::Data<Shared>, body: web::Json<CallbackUrls>) -> Answer {
    handle(&shared).set_callback_urls(body.into_inner().urls)?;
    Ok(done())
}

async fn sign_in(shared: web::Data<Shared>, body: web::Json<SignIn>) -> Answer {
    let handle = handle(&shared);
    let location = match &body.login {
        Some(login) => handle.authorize(login, &body.url),
        None => handle.cancel_authorization(&body.url),
    }?;
    Ok(HttpResponse::Created().json(json!({ "location": location })))
}
