//! Calls to the cluster's agent from a login node, each with a MUNGE credential that is good for this call alone.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use aws_lc_rs::digest::{SHA256, digest};
use clap::Args;
use gha_slurm_contract::Problem;
use gha_slurm_contract::self_service::{
    AGENT_USER, CREDENTIAL_LIFETIME_S, CredentialPayload, MUNGE_SCHEME,
};
use gha_slurm_service_kit::settings::{Address, Loaded, load_checked};
use reqwest::Method;
use serde::{Deserialize, Serialize};

/// The settings that an administrator writes once for all users of a login node.
const SETTINGS_FILE: &str = "/etc/gha-slurm/client.toml";
/// Long enough for the agent to call repo-mapping, which calls GitHub.
const DEADLINE: Duration = Duration::from_secs(60);

/// How to find the agent.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Settings file with the address of the cluster's agent.
    #[arg(long, value_name = "FILE", default_value = SETTINGS_FILE)]
    settings: PathBuf,
}

/// `/etc/gha-slurm/client.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Accept an `agent_url` without TLS.
    #[serde(default)]
    #[expect(dead_code, reason = "looked at where the settings are read")]
    insecure: bool,
    /// The agent's URL.
    agent_url: Address,
    /// The user that the agent runs as. Only this user can decode the credential.
    #[serde(default = "default_agent_user")]
    agent_user: String,
    /// PEM file of the site's own CA certificates.
    #[serde(default)]
    ca_file: Option<PathBuf>,
    /// Path of the `munge` program.
    #[serde(default = "default_munge")]
    munge: PathBuf,
    /// munged's socket, if it is not MUNGE's default.
    #[serde(default)]
    munge_socket: Option<PathBuf>,
}

impl gha_slurm_service_kit::Settings for Settings {
    const PREFIX: &'static str = "GHA_SLURM_CLIENT";
    const SECRETS: &'static [&'static str] = &[];
}

fn default_agent_user() -> String {
    AGENT_USER.into()
}

fn default_munge() -> PathBuf {
    "/usr/bin/munge".into()
}

/// Calls the agent as the user who runs this command.
pub(crate) struct Client {
    settings: Settings,
    http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(options: &Options) -> anyhow::Result<Self> {
        let file = options.settings.as_path();
        let default_is_absent = file == Path::new(SETTINGS_FILE) && !file.exists();
        let loaded = load_checked((!default_is_absent).then_some(file), std::env::vars())
            .with_context(|| {
                format!(
                    "cannot read the settings in {}; run this command on a login node of a cluster with gha-slurm",
                    file.display()
                )
            })?;
        let Loaded::<Settings> { settings, warnings } = loaded;
        for warning in warnings {
            #[expect(clippy::print_stderr, reason = "the output of a command")]
            {
                eprintln!("warning: {warning}");
            }
        }
        let mut http = reqwest::Client::builder().timeout(DEADLINE);
        if let Some(path) = &settings.ca_file {
            let read = || -> anyhow::Result<_> {
                Ok(reqwest::Certificate::from_pem_bundle(&std::fs::read(
                    path,
                )?)?)
            };
            for certificate in read().with_context(|| format!("ca_file: {}", path.display()))? {
                http = http.add_root_certificate(certificate);
            }
        }
        Ok(Self {
            settings,
            http: http.build()?,
        })
    }

    /// Calls the agent and returns status and body. Fails with the agent's explanation if it refuses.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<(u16, Vec<u8>)> {
        let body = body.map_or(Ok(Vec::new()), serde_json::to_vec)?;
        let credential = self.credential(&CredentialPayload {
            method: method.to_string(),
            path: path.to_owned(),
            body_sha256: hex::encode(digest(&SHA256, &body)),
        })?;
        let agent = self.settings.agent_url.as_str();
        let mut call = self
            .http
            .request(method, format!("{agent}{path}"))
            .header("Authorization", format!("{MUNGE_SCHEME} {credential}"));
        if !body.is_empty() {
            call = call.header("Content-Type", "application/json").body(body);
        }
        let response = call
            .send()
            .await
            .with_context(|| format!("cannot reach the cluster's agent at {agent}"))?;
        let status = response.status();
        let answer = response.bytes().await?.to_vec();
        if status.is_success() {
            return Ok((status.as_u16(), answer));
        }
        match serde_json::from_slice::<Problem>(&answer) {
            Ok(problem) => bail!(in_words(&problem)),
            Err(_) => bail!(
                "{agent} returned HTTP {status}; check that `agent_url` is the address of the cluster's agent"
            ),
        }
    }

    fn credential(&self, payload: &CredentialPayload) -> anyhow::Result<String> {
        let program = &self.settings.munge;
        let mut command = Command::new(program);
        command
            .arg(format!("--restrict-uid={}", self.settings.agent_user))
            .arg(format!("--ttl={CREDENTIAL_LIFETIME_S}"));
        if let Some(socket) = &self.settings.munge_socket {
            command.arg("--socket").arg(socket);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!(
                    "cannot run {}; run this command on a login node of the cluster",
                    program.display()
                )
            })?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&serde_json::to_vec(payload)?)?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("MUNGE issued no credential: {}", why.trim());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// A problem, for people.
fn in_words(problem: &Problem) -> String {
    let mut text = problem.title.clone();
    if let Some(detail) = &problem.detail {
        text.push_str(": ");
        text.push_str(detail);
    }
    for part in &problem.errors {
        text.push_str("\n  ");
        text.push_str(&part.detail);
        if let Some(link) = &part.link {
            text.push_str(": ");
            text.push_str(link);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use gha_slurm_service_kit::settings::load;

    use super::*;

    #[test]
    fn the_sample_is_valid() {
        let sample = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/config/client.toml"
        );
        let settings: Settings = load(Some(Path::new(sample)), []).unwrap();
        assert_eq!(settings.agent_user, AGENT_USER);
    }

    #[test]
    fn a_wrong_key_is_named() {
        let variables = [
            ("GHA_SLURM_CLIENT__AGENT_URL", "https://x"),
            ("GHA_SLURM_CLIENT__AGENT_USR", "x"),
        ];
        let variables = variables.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let error = load::<Settings>(None, variables).unwrap_err().to_string();
        assert!(error.contains("agent_usr"), "{error}");
    }
}
