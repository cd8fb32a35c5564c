//! How many connections one address has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client_address::{TrustedProxies, counted_as};

/// Connections by address, an IPv6 network of 64 bits as one. Those of trusted proxies, who have many clients, are not counted.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    per_address: usize,
    proxies: TrustedProxies,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection; dropped with it.
#[derive(Debug)]
pub(crate) struct Place(Option<(IpAddr, Places)>);

impl Places {
    pub(crate) fn new(per_address: usize, proxies: TrustedProxies) -> Self {
        Self {
            per_address,
            proxies,
            taken: Arc::default(),
        }
    }

    /// `None`: the address has as many as it may have.
    pub(crate) fn take(&self, peer: IpAddr) -> Option<Place> {
        let peer = peer.to_canonical();
        if self.proxies.contain(peer) {
            return Some(Place(None));
        }
        let address = counted_as(peer);
        let mut taken = self.taken();
        let count = taken.entry(address).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        Some(Place(Some((address, self.clone()))))
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((address, places)) = self.0.take() else {
            return;
        };
        let mut taken = places.taken();
        if let Some(count) = taken.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_and_gets_them_back() {
        let places = Places::new(2, TrustedProxies::default());
        let take = |address: &str| places.take(address.parse().unwrap());
        let first = take("203.0.113.7").unwrap();
        let second = take("::ffff:203.0.113.7").unwrap();
        assert!(take("203.0.113.7").is_none());
        let other = take("203.0.113.8").unwrap();
        drop(first);
        let third = take("203.0.113.7").unwrap();
        assert!(take("203.0.113.7").is_none());
        drop((second, third, other));
        assert!(places.taken().is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_proxies_have_as_many_as_they_like() {
        let places = Places::new(1, TrustedProxies::default());
        let take = |address: &str| places.take(address.parse().unwrap());
        let _one = take("2001:db8:1:2::1").unwrap();
        assert!(take("2001:db8:1:2:3::9").is_none());
        assert!(take("2001:db8:1:3::1").is_some());
        let proxies: Vec<_> = (0..9).map(|_| take("127.0.0.1").unwrap()).collect();
        assert_eq!(proxies.len(), 9);
    }
}
