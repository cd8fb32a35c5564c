//! `gha-slurm migrate`: brings the database to this version's schema, and the roles of the services to their rights.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use gha_slurm_storage::Role;
use secrecy::SecretString;

use crate::database;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    database: database::Options,
    /// Folder with a password for each role, in a file of its name (`gha_slurm_launcher`, …): the services then log in as the roles
    /// themselves. Without it, logins are yours to make, as members of the roles.
    #[arg(long, value_name = "FOLDER")]
    role_passwords: Option<PathBuf>,
    /// Print the statements that create the roles, for an administrator of the server, and do nothing else.
    #[arg(long)]
    print_roles: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<String> {
    if arguments.print_roles {
        return Ok(Role::ALL.iter().map(|role| role.create() + "\n").collect());
    }
    let passwords = match &arguments.role_passwords {
        Some(folder) => role_passwords(folder)?,
        None => Vec::new(),
    };
    let warnings = arguments.database.open()?.migrate(passwords).await?;
    let warnings = warnings
        .into_iter()
        .map(|warning| format!("Warning: {warning}\n"));
    let done =
        "The database has this version's schema, and the roles of the services their rights.\n";
    Ok(warnings.chain([done.to_owned()]).collect())
}

fn role_passwords(folder: &Path) -> anyhow::Result<Vec<(Role, SecretString)>> {
    let read = |role: Role| {
        let path = folder.join(role.name());
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        if text.is_empty() {
            bail!("{}: there is no password in it", path.display());
        }
        Ok((role, SecretString::from(text)))
    };
    Role::ALL.into_iter().map(read).collect()
}
