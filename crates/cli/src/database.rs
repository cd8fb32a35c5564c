//! The database, for commands that need no service.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use gha_slurm_storage::Database;
use secrecy::SecretString;

const VARIABLE: &str = "DATABASE_URL";

/// Where the database is.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// File with the URL `postgres://user:password@host:port/database`. Default: the variable `DATABASE_URL`.
    #[arg(long, value_name = "FILE")]
    database_url_file: Option<PathBuf>,
    /// PEM file of CA certificates to trust in addition to the system's.
    #[arg(long, value_name = "FILE")]
    database_ca_file: Option<PathBuf>,
}

impl Options {
    /// The database, which is connected to when it is used first.
    pub(crate) fn open(&self) -> anyhow::Result<Database> {
        let url = self.url()?;
        let ca_file = self.database_ca_file.as_deref();
        Ok(Database::new(&url, ca_file, "gha-slurm", 1)?)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the only variable of a command without settings"
    )]
    fn url(&self) -> anyhow::Result<SecretString> {
        let text = match &self.database_url_file {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| path.display().to_string())?
            }
            None => std::env::var(VARIABLE).with_context(|| {
                format!("no database URL; set {VARIABLE} or use --database-url-file FILE")
            })?,
        };
        let text = text.trim();
        if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
            // The URL is not shown: it may contain a password.
            bail!("the database URL must start with postgres:// or postgresql://");
        }
        Ok(SecretString::from(text))
    }
}
