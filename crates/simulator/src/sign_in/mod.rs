//! The sign-in of people through the App: the web application flow
//! (<https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-user-access-token-for-a-github-app>).

mod authorize;
mod page;
mod token;

use actix_web::web;

pub(crate) use authorize::{Choice, check_callback_urls, decide_at};

/// The routes, below `/login/oauth`.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/authorize", web::get().to(authorize::show))
        .route("/authorize", web::post().to(authorize::decide))
        .route("/access_token", web::post().to(token::access_token));
}
