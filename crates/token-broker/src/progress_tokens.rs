//! The launches that progress tokens belong to.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, ResponseError};
use gha_slurm_service_kit::{ApiError, UnknownTokens};
use gha_slurm_storage::launches::Loaded;

use crate::redemption::{Broker, progress_hash};

/// Looks progress tokens up, but not however many unknown ones of an address.
#[derive(Clone, Default)]
pub(crate) struct ProgressTokens(UnknownTokens);

impl ProgressTokens {
    /// A progress token is issued.
    pub(crate) fn issued(&self, token: &str) {
        self.0.found(progress_hash(token));
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
        self.0.check(request, &hash)?;
        let token = token.to_owned();
        let found = broker
            .to_the_end(|broker| async move { broker.launch_of(&token).await })
            .await;
        match &found {
            Ok(_) => self.0.found(hash),
            Err(error) if error.status_code() == StatusCode::UNAUTHORIZED => {
                self.0.count(request);
            }
            Err(_) => {}
        }
        found
    }
}
