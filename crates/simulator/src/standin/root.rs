//! The runner's folder: the one above `bin/Runner.Listener`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::runner_protocol::configuration::{CredentialsKeyFile, Files, RunnerFile};

/// The files that make the folder a configured runner.
const CONFIGURATION: [&str; 3] = [".runner", ".credentials", ".credentials_rsaparams"];

#[derive(Debug, Clone)]
pub(crate) struct Root {
    folder: PathBuf,
}

impl Root {
    /// Above `bin` when it runs as part of a distribution, otherwise the current folder.
    pub(crate) fn of_this_process() -> Result<Self> {
        let executable = std::env::current_exe().context("cannot tell where it runs from")?;
        let bin = executable.parent().filter(|bin| bin.ends_with("bin"));
        let folder = match bin.and_then(Path::parent) {
            Some(folder) if executable.ends_with("Runner.Listener") => folder.to_owned(),
            _ => std::env::current_dir()?,
        };
        Ok(Self { folder })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn is_configured(&self) -> bool {
        self.path(".runner").exists() && self.path(".credentials").exists()
    }

    pub(crate) fn configuration(&self) -> Result<(RunnerFile, CredentialsKeyFile)> {
        let read = |name: &str| {
            std::fs::read_to_string(self.path(name)).with_context(|| format!("cannot read {name}"))
        };
        let runner = serde_json::from_str(&read(".runner")?).context(".runner is broken")?;
        let key = serde_json::from_str(&read(".credentials_rsaparams")?)
            .context(".credentials_rsaparams is broken")?;
        Ok((runner, key))
    }

    /// Writes the configuration; the credentials for the owner alone.
    pub(crate) fn configure(&self, files: &Files) -> Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        for (name, content) in files {
            anyhow::ensure!(
                CONFIGURATION.contains(&name.as_str()),
                "{name:?} is not a file of the configuration"
            );
            let mode = if name == ".runner" { 0o644 } else { 0o600 };
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(mode);
            options
                .open(self.path(name))
                .and_then(|mut file| file.write_all(content.as_bytes()))
                .with_context(|| format!("cannot write {name}"))?;
        }
        Ok(())
    }

    pub(crate) fn forget_configuration(&self) {
        for name in CONFIGURATION {
            // What is not there need not be removed.
            let _ = std::fs::remove_file(self.path(name));
        }
    }
}
