//! The database, for commands that need no service.

use std::path::PathBuf;

use clap::Args;
use gha_slurm_storage::Database;

use crate::secret_url::SecretUrl;

const URL: SecretUrl = SecretUrl {
    what: "database URL",
    variable: "DATABASE_URL",
    option: "--database-url-file",
    schemes: ["postgres://", "postgresql://"],
};

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
        let url = URL.read(self.database_url_file.as_deref())?;
        let ca_file = self.database_ca_file.as_deref();
        Ok(Database::new(&url, ca_file, "gha-slurm", 1)?)
    }
}
