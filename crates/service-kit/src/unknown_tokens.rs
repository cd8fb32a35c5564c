//! Limits how often one address may send unknown tokens: each costs a query, since only the database knows which exist.

use actix_web::HttpRequest;
use moka::sync::Cache;

use crate::problem::ApiError;
use crate::strangers::Strangers;

/// Most unknown tokens of one address in ten seconds. Many may share an address, and one of them has a token that is no longer known.
const UNKNOWN_AT_MOST: u32 = 100;
/// Hashes of known tokens that are remembered, of 32 bytes each; with more, the least used are forgotten.
const KNOWN: u64 = 50_000;

/// Tells known tokens from unknown ones, as far as possible before the database is asked.
#[derive(Clone)]
pub struct UnknownTokens {
    unknown: Strangers,
    /// Hashes of tokens that this process issued or has found in the database. Whatever else comes from their address, they are
    /// looked up.
    known: Cache<Vec<u8>, ()>,
}

impl Default for UnknownTokens {
    fn default() -> Self {
        Self {
            unknown: Strangers::at_most(UNKNOWN_AT_MOST),
            known: Cache::new(KNOWN),
        }
    }
}

impl UnknownTokens {
    /// 429 for a token that is not known to be one, if too many unknown ones came from its address.
    pub fn check(&self, request: &HttpRequest, hash: &[u8]) -> Result<(), ApiError> {
        if self.known.contains_key(hash) {
            return Ok(());
        }
        self.unknown.check(request)
    }

    /// The token with this hash was issued, or found.
    pub fn found(&self, hash: Vec<u8>) {
        self.known.insert(hash, ());
    }

    /// A token is unknown.
    pub fn count(&self, request: &HttpRequest) {
        self.unknown.count(request);
    }
}
