//! The files that make a folder a configured runner, and the just-in-time configuration that carries them: base64 of a
//! JSON object from file name to base64 of the content (actions/runner, Runner.cs).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::model::{Repository, Runner};
use crate::world::Addresses;

/// File name to content.
pub(crate) type Files = BTreeMap<String, String>;

/// `.runner`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunnerFile {
    pub(crate) agent_id: i64,
    pub(crate) agent_name: String,
    pub(crate) pool_id: i64,
    pub(crate) pool_name: String,
    pub(crate) ephemeral: bool,
    pub(crate) server_url: String,
    pub(crate) git_hub_url: String,
    pub(crate) work_folder: String,
    pub(crate) use_v2_flow: bool,
    pub(crate) server_url_v2: String,
}

/// `.credentials`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CredentialsFile {
    pub(crate) scheme: String,
    pub(crate) data: CredentialsData,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CredentialsData {
    pub(crate) client_id: String,
    pub(crate) authorization_url: String,
}

/// `.credentials_rsaparams`. The real one is a private RSA key; ours holds a secret instead.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CredentialsKeyFile {
    pub(crate) secret: String,
}

/// The three files of a runner.
pub(crate) fn files(
    runner: &Runner,
    credential: &str,
    repository: &Repository,
    addresses: &Addresses,
) -> Files {
    let server_url = format!("{}/simulator/runner", addresses.api);
    let runner_file = RunnerFile {
        agent_id: runner.id,
        agent_name: runner.name.clone(),
        pool_id: 1,
        pool_name: "Default".to_owned(),
        ephemeral: runner.ephemeral,
        server_url: server_url.clone(),
        git_hub_url: format!("{}/{}", addresses.web, repository.full_name()),
        work_folder: runner.work_folder.clone(),
        use_v2_flow: true,
        server_url_v2: server_url.clone(),
    };
    let credentials = CredentialsFile {
        scheme: "OAuth".to_owned(),
        data: CredentialsData {
            client_id: uuid::Uuid::new_v4().to_string(),
            authorization_url: format!("{server_url}/sessions"),
        },
    };
    let key = CredentialsKeyFile {
        secret: credential.to_owned(),
    };
    Files::from([
        (".runner".to_owned(), text(&runner_file)),
        (".credentials".to_owned(), text(&credentials)),
        (".credentials_rsaparams".to_owned(), text(&key)),
    ])
}

fn text(file: &impl Serialize) -> String {
    // Plain structs of texts and numbers always serialise.
    serde_json::to_string_pretty(file).unwrap_or_default()
}

/// `encoded_jit_config`.
pub(crate) fn encode(files: &Files) -> String {
    let encoded: BTreeMap<&String, String> = files
        .iter()
        .map(|(name, content)| (name, STANDARD.encode(content)))
        .collect();
    STANDARD.encode(serde_json::to_string(&encoded).unwrap_or_default())
}

/// The files of an `encoded_jit_config`.
pub(crate) fn decode(encoded: &str) -> anyhow::Result<Files> {
    let json = STANDARD.decode(encoded.trim())?;
    let encoded: BTreeMap<String, String> = serde_json::from_slice(&json)?;
    encoded
        .into_iter()
        .map(|(name, content)| Ok((name, String::from_utf8(STANDARD.decode(content)?)?)))
        .collect()
}
