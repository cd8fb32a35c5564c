//! Addresses of other programs, and which of them may be called without TLS.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer};
use url::{Host, Url};

use crate::database::{DatabaseUrl, is_database_url};
use crate::secret;

/// A setting that is an HTTP address: `https://HOST`, with port and path where needed, without a slash at its end. That it may be
/// `http://` beyond this machine only where the settings say `insecure = true` is checked for every text of the settings, of this
/// type or not, when they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(String);

/// A text that is no address. It does not repeat the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Another scheme, or no host.
    #[error("write https://HOST or https://HOST:PORT, with a path where needed")]
    NotHttp,
    /// `https://user:password@HOST` would be in logs.
    #[error("must not hold a user or a password")]
    Credentials,
    /// Paths are put behind it.
    #[error("must not hold `?` or `#`")]
    Query,
}

impl Address {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text.trim()).map_err(|_| AddressError::NotHttp)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AddressError::NotHttp);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(AddressError::Query);
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl Deref for Address {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The address of another machine that is called without TLS: `http://`, `amqp://`, or `postgres://` with `sslmode=disable`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unprotected {
    scheme: String,
    host: String,
}

impl Unprotected {
    /// What `text` says, if it is such an address.
    pub(crate) fn of(text: &str) -> Option<Self> {
        if is_database_url(text) {
            let host = text.parse::<DatabaseUrl>().ok()?.clear_text_to()?;
            let scheme = "postgres".to_owned();
            return Some(Self { scheme, host });
        }
        let url = Url::parse(text).ok()?;
        let plain = matches!(url.scheme(), "http" | "amqp");
        let host = url.host_str().filter(|host| !host.is_empty())?;
        (plain && !is_loopback(host)).then(|| Self {
            scheme: url.scheme().to_owned(),
            host: host.to_owned(),
        })
    }
}

impl fmt::Display for Unprotected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host } = self;
        write!(
            f,
            "{scheme}://{host} is called without TLS: whoever is on the way can read and change what is sent, keys and tokens included"
        )
    }
}

impl Unprotected {
    /// How to have TLS there.
    pub(crate) fn remedy(&self) -> &'static str {
        match self.scheme.as_str() {
            "http" => "https://",
            "amqp" => "amqps://",
            _ => "?sslmode=require",
        }
    }
}

/// Whether this host is the machine itself. Schemes that the URL standard does not know keep an IPv4 address as a name.
fn is_loopback(host: &str) -> bool {
    match Host::parse(host) {
        Ok(Host::Ipv4(address)) => address.is_loopback(),
        Ok(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        // RFC 6761, section 6.3.
        Ok(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Err(_) => false,
    }
}

/// What of an address is still a placeholder.
pub(crate) fn placeholder(text: &str) -> Option<&'static str> {
    let (host, password) = if is_database_url(text) {
        (None, text.parse::<DatabaseUrl>().ok()?.password())
    } else {
        let url = Url::parse(text).ok()?;
        let host = url.host_str().map(str::to_owned);
        (host, url.password().map(str::to_owned))
    };
    if password.is_some_and(|password| secret::is_placeholder(&password)) {
        return Some("the password in it is still a placeholder");
    }
    host.is_some_and(|host| secret::is_placeholder_host(&host))
        .then_some("the host in it is still a placeholder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_addresses_are_addresses() {
        for (text, expected) in [
            ("https://a.example", Ok("https://a.example")),
            (
                "https://a.example:8443/base/",
                Ok("https://a.example:8443/base"),
            ),
            ("http://127.0.0.1:5011/", Ok("http://127.0.0.1:5011")),
            ("HTTPS://A.example", Ok("https://a.example")),
            ("a.example:8443", Err(AddressError::NotHttp)),
            ("a.example", Err(AddressError::NotHttp)),
            ("ftp://a.example", Err(AddressError::NotHttp)),
            ("https://", Err(AddressError::NotHttp)),
            ("", Err(AddressError::NotHttp)),
            (
                "https://u:hunter2@a.example",
                Err(AddressError::Credentials),
            ),
            ("https://a.example/?x=1", Err(AddressError::Query)),
        ] {
            let read = text.parse::<Address>();
            assert_eq!(
                read.as_ref().map(Address::as_str).map_err(|e| *e),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn beyond_this_machine_tls_is_needed() {
        for text in [
            "http://broker.example.org/.well-known/jwks.json",
            "HTTP://broker",
            "http://10.0.0.5:5012",
            "http://[fd00::1]",
            "http://localhost.example.org",
            "http://127.0.0.1.example.org",
            "http://u:p@127.0.0.1@evil.example",
            "http://0.0.0.0:1",
            "amqp://u:p@rabbitmq:5672/%2f",
            "amqp://u:p@10.0.0.1",
            "postgres://u:p@db/d?sslmode=disable",
            "postgresql://u:p@10.0.0.1:5432/d?connect_timeout=3&sslmode=disable",
            "postgres://u:p@192.0.2.2/d?host=/tmp&sslmode=disable",
            "postgres://u:p@localhost/d?hostaddr=192.0.2.2&sslmode=disable",
        ] {
            assert!(Unprotected::of(text).is_some(), "{text}");
        }
        for text in [
            "https://broker.example.org",
            "http://127.0.0.1:5011",
            "http://127.1.2.3",
            "http://[::1]:1/x",
            "http://[::ffff:127.0.0.1]",
            "http://localhost:1",
            "http://a.localhost",
            "amqp://u:p@127.0.0.1:5672/%2f",
            "amqp://u:p@localhost",
            "amqps://u:p@rabbitmq",
            "postgres://u:p@db/d",
            "postgres://u:p@db/d?sslmode=require",
            "postgres://u:p@127.0.0.1/d?sslmode=disable",
            "postgres://u:p@[::1]/d?sslmode=disable",
            "postgres:///d?host=/run/postgresql&sslmode=disable",
            "postgres://u:p@localhost/d?hostaddr=192.0.2.2",
            "10.0.0.5:5012",
            "/etc/gha-slurm/http",
            "text",
        ] {
            assert_eq!(Unprotected::of(text), None, "{text}");
        }
    }

    #[test]
    fn placeholders_are_found_in_host_and_password() {
        for text in [
            "https://replace-me.example.org",
            "https://REPLACE_ME:8443/x",
            "amqps://u:p4ss@change-me/%2f",
            "amqps://u:change-me@rabbit",
            "postgres://u:change-me@db/d",
        ] {
            assert!(placeholder(text).is_some(), "{text}");
        }
        for text in [
            "https://broker.example.org",
            "https://test.example",
            "https://www.openssl.org",
            "amqps://u:p4ss@rabbit",
            "postgres://u:p4ss@db/d",
            "text",
        ] {
            assert_eq!(placeholder(text), None, "{text}");
        }
    }
}
