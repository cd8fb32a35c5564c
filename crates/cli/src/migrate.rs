//! `gha-slurm migrate`: migrates the database.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use secrecy::SecretString;

const VARIABLE: &str = "DATABASE_URL";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// File with the URL `postgres://user:password@host:port/database`. Default: the variable `DATABASE_URL`.
    #[arg(long, value_name = "FILE")]
    database_url_file: Option<PathBuf>,
    /// PEM file of CA certificates to trust in addition to the system's.
    #[arg(long, value_name = "FILE")]
    database_ca_file: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<String> {
    let ca_file = arguments.database_ca_file.clone();
    let url = database_url(arguments)?;
    let database = gha_slurm_storage::Database::new(&url, ca_file.as_deref(), "gha-slurm", 1)?;
    database.migrate().await?;
    Ok("The database has this version's schema.\n".to_owned())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the only variable of a command without settings"
)]
fn database_url(arguments: Arguments) -> anyhow::Result<SecretString> {
    let text = match arguments.database_url_file {
        Some(path) => std::fs::read_to_string(&path).with_context(|| path.display().to_string())?,
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
