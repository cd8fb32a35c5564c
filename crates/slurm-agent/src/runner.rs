//! What the job script gets to know about containers and the proxy out of the cluster, and the age of the runner's release.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gha_slurm_domain::Clock;
use gha_slurm_domain::release::RunnerRelease;
use gha_slurm_service_kit::Periodic;
use gha_slurm_service_kit::settings::words;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Between two looks at the release's age.
const LOOK_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// `[runner.apptainer]`: runners in a profile's container.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApptainerSettings {
    /// Its program, as the nodes know it.
    pub program: String,
    /// What is seen inside besides the work directory and the release: `source[:target[:options]]` as of `--bind`.
    #[serde(deserialize_with = "binds")]
    pub binds: Vec<String>,
}

impl Default for ApptainerSettings {
    fn default() -> Self {
        Self {
            program: "apptainer".into(),
            binds: Vec::new(),
        }
    }
}

impl ApptainerSettings {
    /// For the job script.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            ("GHA_SLURM_APPTAINER", self.program.clone()),
            ("GHA_SLURM_APPTAINER_BINDS", self.binds.join("\n")),
        ]
        .into_iter()
    }
}

/// `[runner.podman]`: `container:`, `services:` and `uses: docker://…` of workflow jobs, by rootless Podman.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PodmanSettings {
    /// Its program, as the nodes know it.
    pub program: String,
    /// What each call of it begins with: options of `podman` itself, as for its storage.
    #[serde(deserialize_with = "lines")]
    pub arguments: Vec<String>,
    /// What every container sees of the node besides the work folders: `source[:target[:options]]` as of `--volume`.
    #[serde(deserialize_with = "binds")]
    pub volumes: Vec<String>,
}

impl Default for PodmanSettings {
    fn default() -> Self {
        Self {
            program: "podman".into(),
            // As Podman would choose by itself, had it not been given a folder.
            arguments: vec!["--storage-driver=overlay".into()],
            volumes: Vec::new(),
        }
    }
}

/// The container hook that calls Podman; its head documents it.
const PODMAN_HOOK: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-container-hook.js"
));

impl PodmanSettings {
    /// For the job script.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, String)> {
        [
            ("GHA_SLURM_PODMAN", json!(self).to_string()),
            ("GHA_SLURM_PODMAN_HOOK", PODMAN_HOOK.to_owned()),
        ]
        .into_iter()
    }
}

/// `[runner.network]`: how nodes reach token-broker and GitHub. For the job script, the runner, and the steps it runs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSettings {
    /// Proxy for `https://`. What it says of a user and a password, steps can read.
    #[serde(deserialize_with = "proxy")]
    pub https_proxy: Option<SecretString>,
    /// Proxy for `http://`.
    #[serde(deserialize_with = "proxy")]
    pub http_proxy: Option<SecretString>,
    /// Hosts that are reached without a proxy, separated by commas; names, no addresses (GitHub docs, "Using a proxy server").
    pub no_proxy: Option<String>,
    /// Certificates (PEM) to trust besides the node's own, as the nodes see them.
    pub ca_file: Option<PathBuf>,
}

impl NetworkSettings {
    /// For the job script.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, String)> {
        let secret =
            |text: &Option<SecretString>| text.as_ref().map(|t| t.expose_secret().to_owned());
        [
            ("GHA_SLURM_HTTPS_PROXY", secret(&self.https_proxy)),
            ("GHA_SLURM_HTTP_PROXY", secret(&self.http_proxy)),
            ("GHA_SLURM_NO_PROXY", self.no_proxy.clone()),
            (
                "GHA_SLURM_CA_FILE",
                self.ca_file
                    .as_ref()
                    .map(|file| file.to_string_lossy().into_owned()),
            ),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

fn proxy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    let text = String::deserialize(deserializer)?;
    // The error must not show it.
    let host = reqwest::Url::parse(&text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|host| !host.is_empty())
    });
    match host {
        Some(_) => Ok(Some(SecretString::from(text))),
        None => Err(serde::de::Error::custom(
            "must be http://host:port or https://host:port, with user:password@ before the host where the proxy wants that",
        )),
    }
}

/// GitHub.com: the web and API hosts, and the Actions service
/// (<https://docs.github.com/en/actions/reference/runners/self-hosted-runners>, "Communication").
pub(crate) fn default_github_hosts() -> Vec<String> {
    [
        "github.com",
        "*.github.com",
        "*.actions.githubusercontent.com",
    ]
    .map(str::to_owned)
    .into()
}

/// Deserialises hosts of GitHub: a list, or a text with blanks between.
pub(crate) fn github_hosts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    let hosts = words(deserializer)?;
    if hosts.is_empty() {
        return Err(serde::de::Error::custom("name at least one host"));
    }
    for entry in &hosts {
        let host = entry.strip_prefix("http://").unwrap_or(entry);
        let name = host.strip_prefix("*.").unwrap_or(host);
        let is_name = name.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
        // All of `*.com` is nobody's GitHub.
        if !is_name || (name != host && !name.contains('.')) {
            return Err(serde::de::Error::custom(format!(
                "{entry:?}: must be a host such as github.example.org, or *.github.example.org for its subdomains, without a port; \
                 http:// before it allows plain HTTP"
            )));
        }
    }
    Ok(hosts)
}

/// Texts that the job script can tell apart.
fn lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let lines = Vec::<String>::deserialize(deserializer)?;
    match lines.iter().find(|line| line.contains(char::is_control)) {
        None => Ok(lines),
        Some(line) => Err(serde::de::Error::custom(format!(
            "{line:?}: must have no line break or the like"
        ))),
    }
}

fn binds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let binds = Vec::<String>::deserialize(deserializer)?;
    match binds
        .iter()
        .find(|bind| !bind.starts_with('/') || bind.contains(|c: char| c.is_control()))
    {
        None => Ok(binds),
        Some(bind) => Err(serde::de::Error::custom(format!(
            "{bind:?}: must be source[:target[:options]] with the full path of a source"
        ))),
    }
}

/// Deserialises the path of a script that the runner calls.
pub(crate) fn hook<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    let known = path
        .extension()
        .is_some_and(|end| end == "js" || end == "sh");
    if known && path.is_absolute() {
        Ok(Some(path))
    } else {
        // The runner chooses by the ending what runs it.
        Err(serde::de::Error::custom(
            "must be the full path of a .js or .sh file",
        ))
    }
}

/// Warns while the release in `folder` is near the age at which GitHub may refuse it. Nothing is known about a release that
/// `gha-slurm runner-update` did not install, or that this host does not see.
pub(crate) async fn watch_release(
    folder: PathBuf,
    clock: Clock,
    periodic: &Periodic,
    stop: CancellationToken,
) {
    let look = || async {
        let folder = folder.clone();
        let release = tokio::task::spawn_blocking(move || release_in(&folder)).await?;
        if let Some(warning) = release.and_then(|release| release.warning(clock.now())) {
            tracing::warn!(runner.version = warning.version, "{}", warning.text);
        }
        Ok::<_, tokio::task::JoinError>(())
    };
    periodic
        .every("runner release", LOOK_AGAIN)
        .run(stop, look)
        .await;
}

fn release_in(folder: &Path) -> Option<RunnerRelease> {
    let text = std::fs::read_to_string(folder.join(RunnerRelease::FILE)).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_proxy_is_refused_and_a_right_one_not_shown() {
        let parsed = |text: &str| serde_json::from_str::<NetworkSettings>(text);
        let error = parsed(r#"{"https_proxy": "alice:hunter2@proxy"}"#)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("http://host:port") && !error.contains("hunter2"),
            "{error}"
        );
        let settings =
            parsed(r#"{"https_proxy": "http://alice:hunter2@proxy:3128", "no_proxy": "a,b"}"#)
                .unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
        let environment: Vec<_> = settings.environment().collect();
        assert_eq!(
            environment,
            [
                (
                    "GHA_SLURM_HTTPS_PROXY",
                    "http://alice:hunter2@proxy:3128".to_owned()
                ),
                ("GHA_SLURM_NO_PROXY", "a,b".to_owned())
            ]
        );
    }

    #[test]
    fn hosts_of_github_are_names() {
        #[derive(Debug, Deserialize)]
        struct Section {
            #[serde(deserialize_with = "github_hosts")]
            github_hosts: Vec<String>,
        }
        let parsed = |hosts: serde_json::Value| {
            serde_json::from_value::<Section>(json!({ "github_hosts": hosts }))
                .map(|section| section.github_hosts)
                .map_err(|error| error.to_string())
        };
        let given = default_github_hosts();
        assert_eq!(parsed(json!(given)).unwrap(), given);
        let hosts = ["ghes.example.org", "http://127.0.0.1"];
        assert_eq!(parsed(json!(hosts.join(" "))).unwrap(), hosts);
        for wrong in [
            "*",
            "*.com",
            "*.*.org",
            "https://x.org",
            "x.org:443",
            "x.org/",
            "a b",
            "",
            "*evil.org",
        ] {
            let error = parsed(json!([wrong])).unwrap_err();
            assert!(error.contains("must be a host"), "{wrong}: {error}");
        }
        assert!(parsed(json!([])).unwrap_err().contains("at least one"));
    }

    #[test]
    fn binds_are_full_paths() {
        let parsed = |text: &str| serde_json::from_str::<ApptainerSettings>(text);
        assert!(parsed(r#"{"binds": ["/software:/software:ro", "/scratch"]}"#).is_ok());
        for wrong in [r#"{"binds": ["software"]}"#, r#"{"binds": ["/a\n/b"]}"#] {
            assert!(parsed(wrong).unwrap_err().to_string().contains("full path"));
        }
    }
}
