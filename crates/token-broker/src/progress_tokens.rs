//! How often one address may send progress tokens that nobody has: each costs a query, since only the database knows.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, ResponseError};
use gha_slurm_service_kit::{ApiError, Strangers};
use gha_slurm_storage::launches::Loaded;
use moka::sync::Cache;

use crate::redemption::{Broker, progress_hash};

/// Most unknown progress tokens of one address in ten seconds. All nodes of a cluster may share an address, and one of them sends an
/// unknown token when a newer redemption has replaced its own.
const UNKNOWN_AT_MOST: u32 = 100;
/// Hashes of known tokens that are remembered, of 32 bytes each; with more, the least used are forgotten.
const KNOWN: u64 = 50_000;

/// Tells known progress tokens from unknown ones, as far as possible before the database is asked.
#[derive(Clone)]
pub(crate) struct ProgressTokens {
    unknown: Strangers,
    /// Hashes of tokens that this process issued or has found in the database. Whatever else comes from their address, they are
    /// looked up.
    known: Cache<Vec<u8>, ()>,
}

impl Default for ProgressTokens {
    fn default() -> Self {
        Self {
            unknown: Strangers::at_most(UNKNOWN_AT_MOST),
            known: Cache::new(KNOWN),
        }
    }
}

impl ProgressTokens {
    /// A progress token is issued.
    pub(crate) fn issued(&self, token: &str) {
        self.known.insert(progress_hash(token), ());
    }

    /// The launch whose runner a progress token belongs to, unless it has been over for long. 401: it is unknown; 429: so were too many
    /// others of this address.
    pub(crate) async fn launch_of(
        &self,
        request: &HttpRequest,
        broker: &Broker,
        token: &str,
    ) -> Result<Loaded, ApiError> {
        let hash = progress_hash(token);
        if !self.known.contains_key(&hash) {
            self.unknown.check(request)?;
        }
        let token = token.to_owned();
        let found = broker
            .to_the_end(|broker| async move { broker.launch_of(&token).await })
            .await;
        match &found {
            Ok(_) => self.known.insert(hash, ()),
            Err(error) if error.status_code() == StatusCode::UNAUTHORIZED => {
                self.unknown.count(request);
            }
            Err(_) => {}
        }
        found
    }
}
