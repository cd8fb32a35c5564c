//! What the crate `fuzz` calls.

use gha_slurm_domain::ResourceRequest;
use secrecy::ExposeSecret;

use crate::original::request::OriginalRequest;
use crate::self_service::munge::Decoded;

/// What is kept of a start by the original contract.
pub struct Original {
    /// Of the launch token.
    pub token: String,
    /// Comma-separated.
    pub labels: String,
    /// Base URL of token-broker.
    pub token_url: String,
    /// Name of the runner.
    pub runner_name: Option<String>,
    /// What Slurm is asked for.
    pub resources: ResourceRequest,
}

/// The body of a start by the original contract. `None`: it is refused.
pub fn original_request(body: &[u8]) -> Option<Original> {
    let asked = OriginalRequest::parse(body).ok()?;
    let _ = asked.launch();
    Some(Original {
        token: asked.launcher_token.expose_secret().to_owned(),
        labels: asked.labels,
        token_url: asked.token_url,
        runner_name: asked.runner_name,
        resources: asked.resources,
    })
}

/// Whose credential it is, by what unmunge prints: host, uid, and the uid that alone may decode it. `None`: it is not understood.
pub fn munge_credential(printed: &[u8]) -> Option<(String, u32, Option<u32>)> {
    let decoded = Decoded::read(printed)?;
    Some((decoded.host, decoded.uid, decoded.restricted_to))
}
