//! Where a database is, and whether the connection has TLS: read once, for the check of settings and for the connection itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use url::form_urlencoded;

/// Each address of the server is tried for so long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The kernel closes a connection whose data is not acknowledged for this long (tcp(7), `TCP_USER_TIMEOUT`).
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// An idle connection is looked at after this (tcp(7), `TCP_KEEPIDLE`), which also keeps firewalls from forgetting it,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// then as often as this,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// and is closed after so many looks without an answer.
const KEEPALIVE_RETRIES: u32 = 3;

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// A URL of PostgreSQL, as the connection reads it.
#[derive(Clone)]
pub struct DatabaseUrl {
    config: Config,
    /// What `sslmode` asks for.
    tls: Option<bool>,
}

/// Why a URL of PostgreSQL is not accepted. It does not repeat the URL, which may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseUrlError {
    /// Another scheme, or none.
    #[error("write postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    NotPostgres,
    /// The driver cannot read it, or would not connect.
    #[error("{0}")]
    Invalid(String),
    /// Readers differ about which of them counts.
    #[error("`{0}` is given twice")]
    Twice(String),
    /// `prefer` and `allow` send the password in clear text to a server that asks for it.
    #[error("sslmode `{0}`: write disable or require")]
    SslMode(String),
}

/// Whether a text is meant as a URL of PostgreSQL.
pub(crate) fn is_database_url(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

impl DatabaseUrl {
    /// The server's name, if a connection would be in clear text to another machine.
    pub fn clear_text_to(&self) -> Option<String> {
        if self.tls == Some(false) {
            self.elsewhere()
        } else {
            None
        }
    }

    /// Settings for the driver, with or without TLS. Without `sslmode`, TLS is required if the server has a CA file in the settings or
    /// is not on this machine. A server that is gone without a word is noticed within half a minute, unless the URL has
    /// `connect_timeout`, `tcp_user_timeout` or `keepalives…` of its own.
    pub fn config(&self, has_ca_file: bool) -> Config {
        let tls = self
            .tls
            .unwrap_or_else(|| has_ca_file || self.elsewhere().is_some());
        let mut config = self.config.clone();
        config.ssl_mode(if tls {
            SslMode::Require
        } else {
            SslMode::Disable
        });
        config
    }

    pub(crate) fn password(&self) -> Option<String> {
        let password = self.config.get_password()?;
        Some(String::from_utf8_lossy(password).into_owned())
    }

    /// A server that is not on this machine. The driver may try each, whichever the URL names first.
    fn elsewhere(&self) -> Option<String> {
        let addresses = self.config.get_hostaddrs().iter();
        let named = self
            .config
            .get_hosts()
            .iter()
            .filter_map(|host| match host {
                Host::Tcp(name) if !is_here(name) => Some(name.clone()),
                Host::Tcp(_) | Host::Unix(_) => None,
            });
        addresses
            .filter(|address| !address.to_canonical().is_loopback())
            .map(ToString::to_string)
            .chain(named)
            .next()
    }
}

impl std::str::FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_database_url(text) {
            return Err(DatabaseUrlError::NotPostgres);
        }
        // The driver takes what is before the first `@` for the user and the password, whatever is in it.
        let user = text.find('@').map_or(0, |at| at + 1);
        let query = text
            .get(user..)
            .and_then(|rest| rest.find('?'))
            .map(|at| user + at);
        let (address, query) = match query.and_then(|at| text.split_at_checked(at)) {
            Some((address, query)) => (address, query.strip_prefix('?').unwrap_or(query)),
            None => (text, ""),
        };
        let mut tls = None;
        let mut given = BTreeSet::new();
        let mut rest = Vec::new();
        for pair in query.split('&') {
            let Some((key, value)) = form_urlencoded::parse(pair.as_bytes()).next() else {
                continue;
            };
            if !given.insert(key.to_string()) {
                return Err(DatabaseUrlError::Twice(key.into_owned()));
            }
            if key != "sslmode" {
                rest.push(pair);
                continue;
            }
            tls = Some(match &*value {
                "disable" => false,
                // libpq's stricter modes are unknown to the driver; certificate and name are always verified.
                "require" | "verify-ca" | "verify-full" => true,
                other => return Err(DatabaseUrlError::SslMode(other.to_owned())),
            });
        }
        let mut config: Config = format!("{address}?{}", rest.join("&")).parse().map_err(
            |error: tokio_postgres::Error| {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                DatabaseUrlError::Invalid(format!("{error}{}", cause.unwrap_or_default()))
            },
        )?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(DatabaseUrlError::Invalid("it names no host".to_owned()));
        }
        let is_open = |key: &str| !given.contains(key);
        if is_open("connect_timeout") {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if is_open("tcp_user_timeout") {
            config.tcp_user_timeout(UNACKNOWLEDGED);
        }
        if is_open("keepalives_idle") {
            config.keepalives_idle(KEEPALIVE_IDLE);
        }
        if is_open("keepalives_interval") {
            config.keepalives_interval(KEEPALIVE_INTERVAL);
        }
        if is_open("keepalives_retries") {
            config.keepalives_retries(KEEPALIVE_RETRIES);
        }
        Ok(Self { config, tls })
    }
}

fn is_here(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse()
            .is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<DatabaseUrl, String> {
        url.parse().map_err(|e: DatabaseUrlError| e.to_string())
    }

    #[test]
    fn tls_is_required_unless_every_server_is_here_or_it_is_switched_off() {
        use SslMode::{Disable, Require};
        for (url, expected, in_clear_to) in [
            ("postgres://a:b@127.0.0.1:5432/d", Disable, None),
            ("postgres://a:b@localhost/d", Disable, None),
            ("postgres://a:b@[::1]/d", Disable, None),
            ("postgres://a:b@/d?host=/run/postgresql", Disable, None),
            ("postgres://a:b@%2Frun%2Fpostgresql/d", Disable, None),
            ("postgres://a:b@localhost/d?sslmode=disable", Disable, None),
            ("postgres://a:b@db.example.org/d", Require, None),
            ("postgresql://a:b@10.0.0.1/d", Require, None),
            (
                "postgres://a:b@localhost/d?connect_timeout=3&sslmode=verify-full",
                Require,
                None,
            ),
            ("postgres://a:b@db/d?sslmode=disable", Disable, Some("db")),
            ("postgres://a:b@db/d?ssl%6Dode=disable", Disable, Some("db")),
            // What is first or last in a URL may be another server than what counts.
            (
                "postgres://a:b@localhost/d?hostaddr=192.0.2.2",
                Require,
                None,
            ),
            (
                "postgres://a:b@localhost/d?hostaddr=192.0.2.2&sslmode=disable",
                Disable,
                Some("192.0.2.2"),
            ),
            (
                "postgres://a:b@127.0.0.1/d?host=192.0.2.2&sslmode=disable",
                Disable,
                Some("192.0.2.2"),
            ),
            (
                "postgres://a:b@192.0.2.2/d?host=/tmp&sslmode=disable",
                Disable,
                Some("192.0.2.2"),
            ),
            (
                "postgres://a:b@127.0.0.1,db:5433/d?sslmode=disable",
                Disable,
                Some("db"),
            ),
            (
                "postgres://localhost/d?application_name=x@db",
                Require,
                None,
            ),
            ("postgres://a:b?c@db/d?sslmode=disable", Disable, Some("db")),
        ] {
            let read = read(url).unwrap_or_else(|e| panic!("{url}: {e}"));
            assert_eq!(read.config(false).get_ssl_mode(), expected, "{url}");
            assert_eq!(read.clear_text_to().as_deref(), in_clear_to, "{url}");
        }
        let here = read("postgres://a:b@localhost/d").unwrap();
        assert_eq!(here.config(true).get_ssl_mode(), Require);
    }

    #[test]
    fn a_server_that_is_gone_is_noticed_unless_the_url_says_when() {
        let usual = read("postgres://a:b@db/d").unwrap().config(false);
        assert_eq!(usual.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
        assert_eq!(usual.get_tcp_user_timeout(), Some(&UNACKNOWLEDGED));
        assert!(usual.get_keepalives());
        assert_eq!(usual.get_keepalives_idle(), KEEPALIVE_IDLE);
        assert_eq!(usual.get_keepalives_interval(), Some(KEEPALIVE_INTERVAL));
        assert_eq!(usual.get_keepalives_retries(), Some(KEEPALIVE_RETRIES));
        let own =
            read("postgres://a:b@db/d?tcp_user_timeout=7&keepalives_idle=8&connect_timeout=9");
        let own = own.unwrap().config(false);
        let seconds = |time: Option<&Duration>| time.map(Duration::as_secs);
        assert_eq!(seconds(own.get_tcp_user_timeout()), Some(7));
        assert_eq!(own.get_keepalives_idle().as_secs(), 8);
        assert_eq!(seconds(own.get_connect_timeout()), Some(9));
    }

    #[test]
    fn what_readers_would_read_differently_is_refused() {
        for (url, expected) in [
            (
                "postgres://a:hunter2@db/d?sslmode=prefer",
                "sslmode `prefer`: write disable or require",
            ),
            (
                "postgres://a:hunter2@db/d?sslmode=allow",
                "sslmode `allow`: write disable or require",
            ),
            (
                "postgres://a:hunter2@db/d?sslmode=require&sslmode=disable",
                "`sslmode` is given twice",
            ),
            (
                "postgres://a:hunter2@db/d?host=x&host=y",
                "`host` is given twice",
            ),
            ("postgres:///d", "it names no host"),
            (
                "host=db password=hunter2",
                "write postgres://USER:PASSWORD@HOST:PORT/DATABASE",
            ),
        ] {
            assert_eq!(read(url).err().as_deref(), Some(expected), "{url}");
        }
        let unknown = read("postgres://a:hunter2@db/d?x=1").err().unwrap();
        assert!(!unknown.contains("hunter2"), "{unknown}");
    }
}
