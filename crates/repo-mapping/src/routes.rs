//! The service's routes and its OpenAPI document.

use actix_web::middleware::from_fn;
use actix_web::web;
use gha_slurm_contract::build::{Build, BuildDetail, BuildStage, BuildStatus, TimelineEntry};
use gha_slurm_contract::mapping::{ListEntry, RepositoryEntry, RepositoryIdentity, UserRepository};
use gha_slurm_contract::people::{Me, NewLink, Person, SignInWays};
use gha_slurm_contract::problem::{Problem, ProblemPart};
use gha_slurm_contract::usage::{BuildUsage, MonthlyUsage, UsageSum};
use gha_slurm_service_kit::body::LargestBody;
use gha_slurm_service_kit::strangers::limited;
use gha_slurm_service_kit::{Strangers, problem};
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};

use crate::state::State;
use crate::web_application::WebApplication;
use crate::{
    builds, mapping, people, public_repositories, session, sign_in, usage, users, web_application,
};

/// A list of 1,000 repositories with the longest names GitHub has.
const BODY_LIMIT: usize = 256 * 1024;
/// Most calls about signing in of one address in ten seconds: a sign-in takes three, and a whole institute may share an address.
pub(crate) const SIGN_INS: u32 = 200;

pub(crate) fn configure(
    config: &mut web::ServiceConfig,
    state: State,
    application: Option<WebApplication>,
    strangers: Strangers,
) {
    config
        .app_data(web::Data::new(state))
        .app_data(LargestBody(BODY_LIMIT))
        .service(
            web::resource("/repositories/{username}")
                .route(web::get().to(mapping::list))
                .route(web::post().to(mapping::replace))
                .route(problem::method_not_allowed("GET, POST")),
        )
        .service(
            web::scope("/api/sign-in")
                .wrap(from_fn(move |request, next| {
                    limited(strangers.clone(), request, next)
                }))
                .service(
                    web::resource("")
                        .route(web::get().to(sign_in::ways))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/github")
                        .route(web::get().to(sign_in::begin))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/github/callback")
                        .route(web::get().to(sign_in::callback))
                        .route(problem::method_not_allowed("GET")),
                )
                .default_service(web::to(problem::not_found)),
        )
        .service(
            web::scope("/api")
                .service(
                    web::resource("/me")
                        .route(web::get().to(session::me))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/sign-out")
                        .route(web::post().to(session::sign_out))
                        .route(problem::method_not_allowed("POST")),
                )
                .service(
                    web::resource("/people")
                        .route(web::get().to(people::list))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/people/{github_id}/slurm-user")
                        .route(web::put().to(people::link))
                        .route(web::delete().to(people::unlink))
                        .route(problem::method_not_allowed("PUT, DELETE")),
                )
                .service(
                    web::resource("/builds")
                        .route(web::get().to(builds::list))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/builds/{workflow_job_id}")
                        .route(web::get().to(builds::get))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/mapping-requests")
                        .route(web::get().to(users::requests))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/users/{username}/repositories")
                        .route(web::get().to(users::list))
                        .route(web::post().to(users::add))
                        .route(problem::method_not_allowed("GET, POST")),
                )
                .service(
                    web::resource("/users/{username}/repositories/{owner}/{name}")
                        .route(web::get().to(users::identity))
                        .route(web::delete().to(users::remove))
                        .route(problem::method_not_allowed("GET, DELETE")),
                )
                .service(
                    web::resource("/usage")
                        .route(web::get().to(usage::get))
                        .route(problem::method_not_allowed("GET")),
                )
                .service(
                    web::resource("/public-repositories/{owner}/{name}")
                        .route(web::put().to(public_repositories::allow))
                        .route(web::delete().to(public_repositories::refuse))
                        .route(problem::method_not_allowed("PUT, DELETE")),
                )
                .default_service(web::to(problem::not_found)),
        );
    if let Some(application) = application {
        config.service(application.service());
    }
}

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        for (name, what) in [
            ("administratorToken", "One of `access.tokens`."),
            (
                "agentAssertion",
                "A JWT that a Slurm agent (`[[agents]]`) signed for the Slurm user in the path, valid at most a minute.",
            ),
        ] {
            let scheme = HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some(what))
                .build();
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
        for (name, whose) in [
            (
                "administratorSession",
                "an administrator's (`access.administrators`)",
            ),
            (
                "userSession",
                "a person's who is linked to the Slurm user in the path or query; without one, of that user's things alone",
            ),
            ("personSession", "anybody's"),
        ] {
            let what = format!(
                "The session of a person who signed in with GitHub, {whose}. A call that is not GET or HEAD also needs `Origin`, of \
                 `sign_in.public_url`."
            );
            let cookie = ApiKeyValue::with_description("__Host-gha-slurm", &what);
            components.add_security_scheme(name, SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "repo-mapping",
        description = "Which repositories may spend which Slurm user's account, and what became of their builds."
    ),
    paths(
        mapping::list,
        mapping::replace,
        users::list,
        users::add,
        users::identity,
        users::remove,
        users::requests,
        builds::list,
        builds::get,
        usage::get,
        public_repositories::allow,
        public_repositories::refuse,
        sign_in::ways,
        sign_in::begin,
        sign_in::callback,
        session::me,
        session::sign_out,
        people::list,
        people::link,
        people::unlink,
        web_application::page
    ),
    components(schemas(
        Build,
        BuildDetail,
        BuildStatus,
        BuildStage,
        TimelineEntry,
        ListEntry,
        RepositoryEntry,
        RepositoryIdentity,
        UserRepository,
        BuildUsage,
        MonthlyUsage,
        UsageSum,
        SignInWays,
        Me,
        Person,
        NewLink,
        Problem,
        ProblemPart
    )),
    modifiers(&Security)
)]
struct Document;

/// The OpenAPI document of the service's port.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
