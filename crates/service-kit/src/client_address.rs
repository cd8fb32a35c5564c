//! Who is at the other end of a connection, as far as proxies can be believed.

use std::net::{IpAddr, Ipv6Addr};

use actix_web::HttpRequest;
use actix_web::http::header::HeaderValue;
use actix_web::web::Data;
use ipnet::IpNet;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Networks and single addresses: in settings a list, or one text with commas.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the address is in one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&address))
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = gha_slurm_settings::texts(deserializer, |text| {
            text.split(',').map(str::to_owned).collect()
        })?;
        let networks = texts
            .iter()
            .map(|text| text.trim())
            .filter(|text| !text.is_empty());
        networks
            .map(|text| {
                text.parse()
                    .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                    .map_err(|_| {
                        D::Error::custom(format!(
                            "`{text}`: write a network, such as 192.0.2.0/24 or 2001:db8::/32, or an address"
                        ))
                    })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// `http.trusted_proxies`: whose `X-Forwarded-For` is believed. This host's own, unless the settings say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct TrustedProxies(Networks);

impl Default for TrustedProxies {
    fn default() -> Self {
        let loopback = ["127.0.0.0/8", "::1/128"];
        Self(Networks(
            loopback.iter().filter_map(|net| net.parse().ok()).collect(),
        ))
    }
}

impl TrustedProxies {
    /// Nobody: every address counts as itself.
    pub(crate) fn none() -> Self {
        Self(Networks::default())
    }

    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        self.0.contain(address)
    }

    /// The client of a connection from `peer` that carried these `X-Forwarded-For` values, in order. Each proxy appends whom it was
    /// called by, so the last address that is no trusted proxy is the client; what stands before it is the client's own claim, and need
    /// not even be text. `None`: a trusted proxy does not say.
    fn client<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        let peer = peer.to_canonical();
        if !self.0.contain(peer) {
            return Some(peer);
        }
        let address = |part: &[u8]| {
            let text = std::str::from_utf8(part).ok()?;
            Some(text.trim().parse::<IpAddr>().ok()?.to_canonical())
        };
        let last = forwarded
            .flat_map(|value| value.split(|byte| *byte == b','))
            .rev()
            .map(address)
            .find(|address| address.is_none_or(|address| !self.0.contain(address)))?;
        // What is no address is counted as the proxy.
        Some(last.unwrap_or(peer))
    }
}

/// Whether a proxy that is not trusted says for whom it calls: its clients are counted as one.
pub(crate) fn unheard_proxy(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip().to_canonical();
    let trusted = request.app_data::<Data<TrustedProxies>>()?;
    let forwards = request.headers().contains_key("x-forwarded-for");
    (forwards && !trusted.0.contain(peer)).then_some(peer)
}

/// The client's address; `None` where a trusted proxy does not say.
pub fn client_address(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    let trusted = request.app_data::<Data<TrustedProxies>>()?;
    let forwarded: Vec<&[u8]> = request
        .headers()
        .get_all("x-forwarded-for")
        .map(HeaderValue::as_bytes)
        .collect();
    trusted.client(peer, forwarded.into_iter())
}

/// What one stranger has at their disposal: an IPv4 address, or a /64 of IPv6.
pub(crate) fn counted_as(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> Option<String> {
        let proxies: TrustedProxies =
            serde_json::from_str("\"127.0.0.0/8, 10.1.0.0/16,fd00::/8\"").unwrap();
        proxies
            .client(
                peer.parse().unwrap(),
                forwarded.iter().map(|text| text.as_bytes()),
            )
            .map(|address| address.to_string())
    }

    #[test]
    fn only_proxies_are_believed() {
        for (peer, forwarded, expected) in [
            // Whoever calls without a proxy says nothing that counts.
            ("203.0.113.7", &["198.51.100.1"][..], Some("203.0.113.7")),
            ("::ffff:203.0.113.7", &[], Some("203.0.113.7")),
            ("127.0.0.1", &["203.0.113.7"], Some("203.0.113.7")),
            // What the client wrote stands first.
            (
                "127.0.0.1",
                &["198.51.100.1, 203.0.113.7"],
                Some("203.0.113.7"),
            ),
            (
                "127.0.0.1",
                &["198.51.100.1", "203.0.113.7"],
                Some("203.0.113.7"),
            ),
            (
                "10.1.2.3",
                &["198.51.100.1, 203.0.113.7, 10.1.9.9"],
                Some("203.0.113.7"),
            ),
            ("fd00::1", &["2001:db8::5"], Some("2001:db8::5")),
            // Not known.
            ("127.0.0.1", &[], None),
            ("127.0.0.1", &["127.0.0.1"], None),
            ("127.0.0.1", &["203.0.113.7, unknown"], Some("127.0.0.1")),
        ] {
            assert_eq!(
                client(peer, forwarded).as_deref(),
                expected,
                "{peer} {forwarded:?}"
            );
        }
    }

    #[test]
    fn nobody_hides_behind_bytes_that_are_no_text() {
        let proxies = TrustedProxies::default();
        let said: [&[u8]; 2] = [b"\xff", b"\xff, 203.0.113.7"];
        for forwarded in [&said[..], &said[1..]] {
            let client = proxies.client("127.0.0.1".parse().unwrap(), forwarded.iter().copied());
            assert_eq!(client, Some("203.0.113.7".parse().unwrap()));
        }
    }

    #[test]
    fn networks_are_a_list_or_a_text() {
        let read = |json: &str| serde_json::from_str::<Networks>(json);
        let networks = read(r#"["192.30.252.0/22", "203.0.113.7"]"#).unwrap();
        assert_eq!(read(r#""192.30.252.0/22, 203.0.113.7""#).unwrap(), networks);
        for (address, within) in [
            ("192.30.255.9", true),
            ("203.0.113.7", true),
            ("203.0.113.8", false),
        ] {
            assert_eq!(
                networks.contain(address.parse().unwrap()),
                within,
                "{address}"
            );
        }
        assert!(read("[]").unwrap().is_empty());
        let error = read(r#"["192.30.252.0/33"]"#).unwrap_err().to_string();
        assert!(
            error.contains("`192.30.252.0/33`: write a network"),
            "{error}"
        );
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let counted = |address: &str| counted_as(address.parse().unwrap()).to_string();
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("203.0.113.7"), "203.0.113.7");
    }
}
