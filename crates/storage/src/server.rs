//! Where the database is, and whether the way there is TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diesel::ConnectionError;
use diesel_async::AsyncPgConnection;
use gha_slurm_settings::DatabaseUrl;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use tokio::net::UnixStream;
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::pool::StorageError;
use crate::silence::Heard;
use crate::sqlstate::{Marked, MarkedPlain, MarkedTls};

type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// Where a database is.
#[derive(Clone)]
pub(crate) struct Server {
    config: Config,
    tls: MakeRustlsConnect,
}

impl Server {
    /// The database at `url`, which says whether the connection has TLS. With TLS, the server's certificate and name are checked against
    /// the CAs of the system and of `ca_file`.
    pub(crate) fn new(url: &str, ca_file: Option<&Path>) -> Result<Self, StorageError> {
        let setup = |key: &str, error: &dyn std::fmt::Display| {
            StorageError::Setup(format!("database.{key}: {error}"))
        };
        let url: DatabaseUrl = url.parse().map_err(|e| setup("url", &e))?;
        let config = url.config(ca_file.is_some());
        let tls = config.get_ssl_mode() == SslMode::Require;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| setup("url", &e))?;
        let builder = if tls {
            let roots = match ca_file {
                None => Vec::new(),
                Some(path) => gha_slurm_tls::certificates(path)
                    .map_err(|e| setup("ca_file", &format!("{}: {e}", path.display())))?,
            };
            let verifier = Verifier::new_with_extra_roots(roots, provider)
                .map_err(|e| setup("ca_file", &e))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        } else {
            builder.with_root_certificates(RootCertStore::empty())
        };
        Ok(Self {
            config,
            tls: MakeRustlsConnect::new(builder.with_no_client_auth()),
        })
    }

    /// A bare connection, for `LISTEN`.
    pub(crate) async fn connect(
        &self,
    ) -> Result<(Client, Connection<Socket, Stream>), tokio_postgres::Error> {
        self.config.connect(self.tls.clone()).await
    }

    /// A connection for queries, whose errors carry their [SQLSTATE](crate::sqlstate). It fails when the server owes an answer and is
    /// [silent](crate::silence) for `patience`.
    pub(crate) async fn establish(
        &self,
        patience: Duration,
    ) -> Result<AsyncPgConnection, ConnectionError> {
        let bad = |error: tokio_postgres::Error| {
            // Its own text names no cause.
            let cause = std::error::Error::source(&error).map(|e| format!(": {e}"));
            ConnectionError::BadConnection(format!("{error}{}", cause.unwrap_or_default()))
        };
        if self.config.get_ssl_mode() == SslMode::Require {
            let connected = self
                .config
                .connect(MarkedTls(self.tls.clone(), patience))
                .await;
            let (client, connection) = connected.map_err(bad)?;
            return AsyncPgConnection::try_from_client_and_connection(client, connection).await;
        }
        if let Some(address) = self.unix_socket() {
            let stream = UnixStream::connect(&address).await.map_err(|error| {
                ConnectionError::BadConnection(format!("{}: {error}", address.display()))
            })?;
            let connected = self
                .config
                .connect_raw(Marked::new(Heard::new(stream, patience)), NoTls)
                .await;
            let (client, connection) = connected.map_err(bad)?;
            // Ends with the client; its error is also that of the statement in flight.
            tokio::spawn(connection);
            return AsyncPgConnection::try_from(client).await;
        }
        let mut config = self.config.clone();
        config
            .ssl_mode(SslMode::Require)
            .ssl_negotiation(SslNegotiation::Direct);
        let (client, connection) = config.connect(MarkedPlain(patience)).await.map_err(bad)?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    }

    /// The socket of the server, where it is on this machine and no host has another address.
    fn unix_socket(&self) -> Option<PathBuf> {
        let [Host::Unix(folder)] = self.config.get_hosts() else {
            return None;
        };
        if !self.config.get_hostaddrs().is_empty() {
            return None;
        }
        let port = self.config.get_ports().first().unwrap_or(&5432);
        Some(folder.join(format!(".s.PGSQL.{port}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_not_understood_is_named_without_its_password() {
        let error = Server::new("postgres://a:hunter2@db/d?sslmode=prefer", None).err();
        assert_eq!(
            error.unwrap().to_string(),
            "database.url: sslmode `prefer`: write disable or require"
        );
    }

    #[test]
    fn an_address_beside_a_socket_is_not_forgotten() {
        let socket = |url: &str| Server::new(url, None).unwrap().unix_socket();
        let here = socket("postgres://a@/d?host=/run/postgresql");
        assert_eq!(here, Some("/run/postgresql/.s.PGSQL.5432".into()));
        let both = socket("postgres://a@/d?host=/run/postgresql&hostaddr=127.0.0.1");
        assert_eq!(both, None);
    }

    #[test]
    fn a_ca_that_cannot_be_read_is_named() {
        let error = |path: &str| {
            let server = Server::new("postgres://a@db/d", Some(Path::new(path)));
            server.err().unwrap().to_string()
        };
        assert!(error("/nowhere.pem").starts_with("database.ca_file: /nowhere.pem: "));
        let none = error("/etc/hostname");
        assert!(none.contains("there is no certificate"), "{none}");
    }
}
