//! The samples of settings in `deploy/config`.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use gha_slurm_auth::KeyFolder;
use tempfile::TempDir;

use crate::certificates::TestCa;

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config");
/// Folders that samples name, and what a test has in place of them: one folder.
const FOLDERS: [&str; 3] = [
    "/etc/gha-slurm",
    "/var/spool/slurm/statesave",
    "/usr/share/gha-slurm",
];

const DATABASE_URL: &str = "postgres://gha_slurm:pw@127.0.0.1:5432/gha_slurm\n";

/// A copy of a sample whose site did what the sample asks for: the files that it names exist.
pub struct Sample {
    folder: TempDir,
    path: PathBuf,
}

impl Sample {
    /// The sample of this name.
    pub fn filled(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let of = |name: &str| folder.path().join(name);
        for (name, text) in [
            ("launcher-database-url", DATABASE_URL.to_owned()),
            ("repo-mapping-database-url", DATABASE_URL.to_owned()),
            ("token-broker-database-url", DATABASE_URL.to_owned()),
            (
                "amqp-url",
                "amqp://gha_slurm:pw@127.0.0.1:5672/%2f\n".to_owned(),
            ),
            ("webhook-secret", uuid::Uuid::new_v4().simple().to_string()),
            (
                "administrator-tokens",
                uuid::Uuid::new_v4().simple().to_string(),
            ),
            ("service-token", uuid::Uuid::new_v4().simple().to_string()),
            ("service-tokens", uuid::Uuid::new_v4().simple().to_string()),
            ("jwt_hs256.key", uuid::Uuid::new_v4().simple().to_string()),
            ("app.pem", app_private_key()),
        ] {
            fs::write(of(name), text).expect("a file");
            fs::set_permissions(of(name), fs::Permissions::from_mode(0o600)).expect("a mode");
        }
        for name in ["keys", "public-keys", "agent-keys"] {
            KeyFolder::new(of(name)).generate(1).expect("a key");
        }
        fs::create_dir(of("web")).expect("a folder");
        fs::write(of("web/index.html"), "page").expect("a file");
        fs::create_dir(of("tls")).expect("a folder");
        let ca = TestCa::new(&of("tls"), "ca");
        for name in ["certificate", "agent", "launcher"] {
            ca.issue(name, &[]);
        }
        // One pair has another name for its key.
        fs::rename(of("tls/certificate.key.pem"), of("tls/key.pem")).expect("a key");
        for name in ["agents-ca.pem", "launchers-ca.pem", "../ca.pem"] {
            fs::copy(of("tls/ca.pem"), of("tls").join(name)).expect("a file");
        }
        let mut text = fs::read_to_string(format!("{SAMPLES}/{name}")).expect("the sample");
        for site in FOLDERS {
            text = text.replace(site, folder.path().to_str().expect("a path"));
        }
        let path = of("settings.toml");
        fs::write(&path, text).expect("a file");
        Self { folder, path }
    }

    /// Takes the settings between the lines that begin with `from` and `to` out of their comments.
    #[must_use]
    pub fn uncommented(self, from: &str, to: &str) -> Self {
        let (mut between, mut found) = (false, false);
        let mut copy = String::new();
        for line in self.text().lines() {
            between = (between || line.starts_with(from)) && !line.starts_with(to);
            found |= between;
            let line = line.strip_prefix("# ").filter(|_| between).unwrap_or(line);
            writeln!(copy, "{line}").expect("a line");
        }
        assert!(found, "the sample has no line `{from}`");
        self.with(|_| copy)
    }

    /// Changes its text.
    #[must_use]
    pub fn with(self, change: impl FnOnce(String) -> String) -> Self {
        fs::write(&self.path, change(self.text())).expect("a file");
        self
    }

    /// Its text.
    pub fn text(&self) -> String {
        fs::read_to_string(&self.path).expect("the copy")
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// A file that it names, without the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// As GitHub makes them.
fn app_private_key() -> String {
    let made = Command::new("openssl")
        .args(["genrsa", "-traditional", "2048"])
        .output();
    let made = made.expect("openssl");
    assert!(made.status.success(), "openssl genrsa");
    String::from_utf8(made.stdout).expect("PEM")
}
