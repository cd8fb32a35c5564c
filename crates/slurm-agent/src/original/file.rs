//! The YAML file of the original program: who runs what, the shared secret, the job template.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use gha_slurm_domain::{RepositoryFullName, SlurmUser};
use gha_slurm_service_kit::settings::check_secret;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::original::template::Template;

/// What the agent keeps of the file. The secret is kept as its hash alone.
pub(crate) struct SiteFile {
    pub(super) secret_hash: [u8; 32],
    /// By [`key`].
    pub(super) repositories: HashMap<String, Repository>,
    pub(super) template: Template,
}

/// A repository that the file names.
pub(super) struct Repository {
    pub(super) url: String,
    pub(super) owner: String,
    pub(super) name: String,
    pub(super) slurm_user: SlurmUser,
    /// Stands for GitHub's numeric id, which the file does not know: negative, so that it is nobody else's.
    pub(super) id: i64,
}

/// The file as it is written. It may say more; that is the original program's affair.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    gha_shared_secret: SecretString,
    repositories: Vec<WrittenRepository>,
    job_template: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRepository {
    #[serde(rename = "gitHubURL")]
    github_url: String,
    slurm_user: String,
}

impl SiteFile {
    /// Reads the file. An error says where, and nothing that is written there. Blocks.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = || format!("original.file: {}", path.display());
        let text = std::fs::read_to_string(path).with_context(shown)?;
        Self::parse(&text).with_context(shown)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let written: Written = match serde_saphyr::from_str(text) {
            Ok(written) => written,
            Err(error) => {
                // The whole message may repeat what is written, the secret among it.
                let words = error.without_snippet().to_string();
                let missing = words
                    .contains("missing field")
                    .then(|| format!(" ({words})"));
                let missing = missing.unwrap_or_default();
                match error.location() {
                    Some(at) => bail!(
                        "line {}, column {}: not what the original program reads{missing}",
                        at.line(),
                        at.column()
                    ),
                    None => bail!("not what the original program reads{missing}"),
                }
            }
        };
        let secret = written.gha_shared_secret.expose_secret();
        check_secret(secret).context("ghaSharedSecret")?;
        let mut repositories = HashMap::new();
        for (number, line) in written.repositories.into_iter().enumerate() {
            let repository = Repository::parse(&line)
                .with_context(|| format!("repositories, number {}", number + 1))?;
            let key = key(&repository.url);
            ensure!(
                repositories.insert(key, repository).is_none(),
                "repositories, number {}: this gitHubURL is there twice",
                number + 1
            );
        }
        Ok(Self {
            secret_hash: Sha256::digest(secret.as_bytes()).into(),
            repositories,
            template: Template::parse(written.job_template)?,
        })
    }

    /// What the file says about a repository, however its URL is spelt.
    pub(super) fn find(&self, github_url: &str) -> Option<&Repository> {
        self.repositories.get(&key(github_url))
    }
}

impl Repository {
    fn parse(line: &WrittenRepository) -> anyhow::Result<Self> {
        let url = trimmed(&line.github_url);
        let (scheme, rest) = url
            .split_once("://")
            .context("gitHubURL: write https://github.com/owner/name")?;
        let (host, full_name) = rest
            .split_once('/')
            .context("gitHubURL: write https://github.com/owner/name")?;
        let harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':');
        ensure!(
            ["https", "http"].contains(&scheme) && !host.is_empty() && host.bytes().all(harmless),
            "gitHubURL: write https://github.com/owner/name"
        );
        let (owner, name) = full_name
            .split_once('/')
            .context("gitHubURL: no repository is named")?;
        let full_name = RepositoryFullName::new(owner, name).context("gitHubURL")?;
        let slurm_user = line.slurm_user.parse().context("slurmUser")?;
        let hash = Sha256::digest(key(url).as_bytes());
        let number = hash
            .iter()
            .take(8)
            .fold(0, |n: u64, byte| (n << 8) | u64::from(*byte));
        Ok(Self {
            owner: full_name.owner().to_owned(),
            name: full_name.name().to_owned(),
            slurm_user,
            id: (number | 1 << 63).cast_signed(),
            url: url.to_owned(),
        })
    }
}

fn trimmed(url: &str) -> &str {
    let url = url.trim().trim_end_matches('/');
    url.strip_suffix(".git").unwrap_or(url)
}

/// Spellings of one repository have one key: GitHub ignores case.
fn key(url: &str) -> String {
    trimmed(url).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is written in [`GOOD`].
    const SECRET: &str = "'hunter2 secret, 7f3a9c5e1d8b2064'";

    const GOOD: &str = "
# The site's.
slurmrestd: http://127.0.0.1:6820
ghaSharedSecret: 'hunter2 secret, 7f3a9c5e1d8b2064'
repositories:
  - gitHubURL: https://github.com/Acme/Widgets.git
    slurmUser: alice
    remark: hers
  - gitHubURL: https://github.example.org:8443/acme/widgets/
    slurmUser: bob
";

    #[test]
    fn repositories_are_found_however_they_are_spelt() {
        let site = SiteFile::parse(GOOD).unwrap();
        for spelling in [
            "https://github.com/acme/widgets",
            "https://github.com/ACME/widgets/",
            " https://GitHub.com/acme/widgets.git ",
        ] {
            let found = site.find(spelling).unwrap();
            assert_eq!(found.slurm_user.as_str(), "alice", "{spelling}");
            assert!(found.id < 0);
        }
        let other = site.find("https://github.example.org:8443/acme/widgets");
        assert_eq!(other.unwrap().slurm_user.as_str(), "bob");
        for unknown in [
            "",
            "acme/widgets",
            "https://github.com/acme/widgets/x",
            "$(reboot)",
        ] {
            assert!(site.find(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_the_secret_is_not() {
        for (from, to, reason) in [
            ("alice", "$(reboot)", "repositories, number 1"),
            ("slurmUser: bob", "slurmuser: bob", "slurmUser"),
            ("/Acme/Widgets.git", "/Acme", "no repository is named"),
            ("https://github.com/Acme", "https://x@y/Acme", "gitHubURL"),
            (SECRET, "['hunter2 secret']", "line 4"),
            (SECRET, "' '", "ghaSharedSecret: must not be empty"),
            (
                SECRET,
                "change-me",
                "ghaSharedSecret: is still a placeholder",
            ),
            (SECRET, "hunter2", "ghaSharedSecret: has fewer than 32"),
            ("repositories:", "repos:", "repositories"),
            (
                "https://github.example.org:8443/acme",
                "https://github.com/acme",
                "twice",
            ),
            ("  - gitHubURL: https://github.com", " {[", "line"),
        ] {
            let error = SiteFile::parse(&GOOD.replace(from, to)).err();
            let text = format!("{:#}", error.unwrap_or_else(|| panic!("{to} is taken")));
            assert!(text.contains(reason), "{to}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
