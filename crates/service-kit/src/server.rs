//! The server under a service's port: actix-web's, on connections that are bounded ([`Connection`]).

use std::fmt::Debug;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol, Request, Response};
use actix_server::{Server, ServerHandle};
use actix_service::{
    IntoServiceFactory, ServiceFactory, ServiceFactoryExt, fn_service, map_config,
};
use actix_web::body::MessageBody;
use actix_web::dev::AppConfig;
use anyhow::Context;
use gha_slurm_telemetry::prometheus::IntCounter;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use crate::connection::{Connection, HEAD_DEADLINE, Turn};
use crate::places::Places;

/// Connections that the kernel keeps until they are accepted, as actix-web has it.
const BACKLOG: i32 = 1024;
const TLS_DEADLINE: Duration = Duration::from_secs(5);

/// What connections are held against.
pub(crate) struct Bounds {
    /// Threads that answer.
    pub(crate) workers: usize,
    /// Most connections at the same time, divided among the threads; more wait.
    pub(crate) connections: usize,
    /// Requests in flight get so many seconds when the service stops.
    pub(crate) shutdown_timeout_s: u64,
    pub(crate) places: Places,
    /// Counts connections beyond that.
    pub(crate) refused: IntCounter,
    pub(crate) tls: Option<ServerConfig>,
}

/// A server on its port.
pub(crate) struct Bound {
    server: Server,
    port: u16,
    closing: CancellationToken,
}

impl Bound {
    /// Binds `listen`; `app` makes the application of each thread.
    pub(crate) fn bind<F, I, S, B>(
        listen: SocketAddr,
        bounds: Bounds,
        app: F,
    ) -> anyhow::Result<Self>
    where
        F: Fn() -> I + Send + Clone + 'static,
        I: IntoServiceFactory<S, Request>,
        S: ServiceFactory<Request, Config = AppConfig> + 'static,
        S::Error: Into<actix_web::Error>,
        S::InitError: Debug,
        S::Response: Into<Response<B>>,
        B: MessageBody + 'static,
    {
        let listener = TcpListener::bind(listen)?;
        rustix::net::listen(&listener, BACKLOG)?;
        let port = listener.local_addr()?.port();
        let Bounds {
            workers,
            connections: most_connections,
            shutdown_timeout_s,
            places,
            refused,
            tls,
        } = bounds;
        let tls = tls.map(|mut config| {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            TlsAcceptor::from(Arc::new(config))
        });
        let closing = CancellationToken::new();
        let shutdown = closing.clone();
        let connections = move || {
            let (places, refused, tls) = (places.clone(), refused.clone(), tls.clone());
            let shutdown = shutdown.clone();
            let app = app().into_factory().map_err(|error| {
                let error: actix_web::Error = error.into();
                error.as_response_error().error_response()
            });
            let http = HttpService::build()
                .client_request_timeout(HEAD_DEADLINE)
                .graceful_shutdown_signal(move || shutdown.clone().cancelled_owned())
                .on_connect_ext(|connection: &Connection<Stream>, data| {
                    data.insert::<Rc<Turn>>(connection.turn());
                })
                .finish(map_config(app, |()| AppConfig::default()));
            let accept = move |stream: TcpStream| {
                let (places, refused, tls) = (places.clone(), refused.clone(), tls.clone());
                async move {
                    let peer = stream.peer_addr()?;
                    let Some(place) = places.take(peer.ip()) else {
                        refused.inc();
                        return Err(DispatchError::DisconnectTimeout);
                    };
                    let stream = match tls {
                        None => Either::Left(stream),
                        Some(tls) => {
                            let accepted = tokio::time::timeout(TLS_DEADLINE, tls.accept(stream));
                            let late = |_| DispatchError::DisconnectTimeout;
                            Either::Right(accepted.await.map_err(late)??)
                        }
                    };
                    let connection = Connection::new(stream, place);
                    Ok((connection, Protocol::Http1, Some(peer)))
                }
            };
            fn_service(accept).and_then(http)
        };
        let server = Server::build()
            .workers(workers)
            .max_concurrent_connections(most_connections / workers)
            .shutdown_timeout(shutdown_timeout_s)
            .disable_signals()
            .listen("http", listener, connections)?
            .run();
        Ok(Self {
            server,
            port,
            closing,
        })
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Answers until `stop`, then finishes what is in flight.
    pub(crate) async fn run_until_stopped(self, stop: CancellationToken) -> anyhow::Result<()> {
        let handle: ServerHandle = self.server.handle();
        tokio::select! {
            result = self.server => result.context("the HTTP server has ended"),
            () = stop.cancelled() => {
                self.closing.cancel();
                handle.stop(true).await;
                Ok(())
            }
        }
    }
}

type Stream = Either<TcpStream, tokio_rustls::server::TlsStream<TcpStream>>;
