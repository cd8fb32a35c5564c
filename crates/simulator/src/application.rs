//! Starts and stops the simulator.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use anyhow::{Context, Result};
use chrono::Utc;
use tokio_util::sync::CancellationToken;

use crate::handle::Handle;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::webhooks;
use crate::world::{Addresses, World};
use crate::{control, rest, runner_protocol, sign_in};

/// How often it looks at what time alone changes.
const TICK: Duration = Duration::from_millis(100);

/// A GitHub that listens but does not answer yet.
#[derive(Debug)]
pub struct Simulator {
    listener: TcpListener,
    address: SocketAddr,
    settings: Settings,
    handle: Handle,
}

impl Simulator {
    /// Binds the address.
    pub fn build(settings: Settings) -> Result<Self> {
        sign_in::check_callback_urls(&settings.app.callback_urls)?;
        let listener = TcpListener::bind(settings.listen)
            .with_context(|| format!("cannot listen on {}", settings.listen))?;
        let address = listener.local_addr()?;
        let api = settings.public_url.as_ref().map_or_else(
            || format!("http://{address}"),
            |url| url.as_str().trim_end_matches('/').to_owned(),
        );
        let web = settings.web_url.as_ref().map_or_else(
            || api.clone(),
            |url| url.as_str().trim_end_matches('/').to_owned(),
        );
        let world = World::new(
            settings.app.clone(),
            Addresses { api, web },
            settings.timing.clone(),
            Utc::now(),
        );
        let shared = Shared::new(world, settings.app_key.0.clone());
        Ok(Self {
            listener,
            address,
            settings,
            handle: Handle::new(shared),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Controls it, also while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Answers until told to stop.
    pub async fn run_until_stopped(self, stop: CancellationToken) -> Result<()> {
        let shared = self.handle.shared().clone();
        let client = webhooks::client(self.settings.timing.webhook)?;
        let server = {
            let shared = shared.clone();
            HttpServer::new(move || {
                App::new()
                    .app_data(web::Data::new(shared.clone()))
                    .app_data(
                        web::JsonConfig::default()
                            // GitHub reads a body as JSON whatever its type says.
                            .content_type_required(false)
                            .content_type(|_| true)
                            .error_handler(|error, request| rest::unparsable(&error, request)),
                    )
                    .app_data(
                        web::QueryConfig::default()
                            .error_handler(|error, request| rest::bad_query(&error, request)),
                    )
                    .service(web::scope("/simulator/runner").configure(runner_protocol::routes))
                    .service(web::scope("/simulator").configure(control::routes))
                    .service(
                        web::scope("/login/oauth")
                            .wrap(from_fn(rest::page_middleware))
                            .configure(sign_in::routes),
                    )
                    .service(
                        web::scope("/api/v3")
                            .wrap(from_fn(rest::middleware))
                            .configure(rest::routes),
                    )
                    .service(
                        web::scope("")
                            .wrap(from_fn(rest::middleware))
                            .configure(rest::routes),
                    )
                    .default_service(web::to(rest::not_found))
            })
            .workers(1)
            .disable_signals()
            // A runner that is gone must not be offered anything: its long poll ends with its connection.
            .h1_allow_half_closed(false)
            .shutdown_timeout(1)
            .listen(self.listener)?
            .run()
        };
        let tasks = CancellationToken::new();
        let sender = tokio::spawn(
            tasks
                .clone()
                .run_until_cancelled_owned(webhooks::send(shared.clone(), client)),
        );
        let ticker = tokio::spawn(tasks.clone().run_until_cancelled_owned(tick(shared)));
        let handle = server.handle();
        let stopping = tokio::spawn(async move {
            stop.cancelled().await;
            // Long polls would keep a graceful stop waiting for nothing.
            handle.stop(false).await;
        });
        let ended = server.await;
        stopping.abort();
        tasks.cancel();
        let _ = tokio::join!(sender, ticker);
        ended.context("the HTTP server failed")
    }
}

async fn tick(shared: Shared) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        if shared.note(World::expire) {
            shared.change(|_, _| ());
        }
    }
}
