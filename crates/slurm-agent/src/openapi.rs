//! The OpenAPI document of the agent's port.

use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};

use crate::self_service::routes;
use crate::{calls, original};

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let assertion = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A JWT that the launcher signed for the agent and this call, valid at most a minute.",
            ))
            .build();
        components.add_security_scheme("launcherAssertion", SecurityScheme::Http(assertion));
        let in_body = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "The launch token, which is in the body, `launcherToken`, and in no header.",
            ))
            .build();
        components.add_security_scheme("launchTokenInBody", SecurityScheme::Http(in_body));
        let munge = ApiKeyValue::with_description(
            "Authorization",
            "`Munge` and a credential of munge(1) whose payload is the method, the path and the SHA-256 of the body, as the command \
             `gha-slurm` makes it.",
        );
        let munge = SecurityScheme::ApiKey(ApiKey::Header(munge));
        components.add_security_scheme("mungeCredential", munge);
        let shared = ApiKeyValue::with_description(
            "auth-token",
            "The shared secret of the original contract, where the site allows it (`original.file`).",
        );
        components.add_security_scheme("authToken", SecurityScheme::ApiKey(ApiKey::Header(shared)));
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "gha-slurm-munge",
        description = "What the launcher, and users on a login node, send to the agent of a cluster. `/config` is there with \
                       `[self_service]`, `/api/reload` with `[original]`. The relay (`[relay]`) has a port of its own, where it passes \
                       `/gha/runner`, `/gha/runner/progress` and `/gha/runner/release` on to token-broker as they are."
    ),
    paths(
        calls::start,
        calls::states,
        calls::cancel,
        calls::list,
        routes::list,
        routes::identity,
        routes::add,
        routes::remove,
        routes::runners,
        routes::cancel,
        original::reload,
    ),
    modifiers(&Security)
)]
struct Document;

/// The OpenAPI document of the agent's port.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
