//! `gha-slurm retry`: a fresh chance for what was refused or failed too often. Straight against the database, as `panic` does.

use anyhow::bail;
use clap::Args;
use gha_slurm_domain::RepositoryFullName;
use gha_slurm_storage::{AsyncPgConnection, versions};

use crate::database;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    database: database::Options,
    /// `owner/name`: only this repository. Default: all.
    #[arg(value_name = "REPOSITORY", value_parser = RepositoryFullName::parse_any)]
    repository: Option<RepositoryFullName>,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<String> {
    let database = arguments.database.open()?;
    let only = arguments.repository.as_ref();
    let tried = database
        .transaction("try again", async |conn: &mut AsyncPgConnection| {
            versions::retry(conn, only).await
        })
        .await?;
    let names: Vec<String> = tried.iter().map(ToString::to_string).collect();
    match (names.as_slice(), only) {
        ([], Some(only)) => bail!("nothing of {only} is refused or has failed while it waits"),
        ([], None) => Ok("Nothing that waits is refused or has failed.\n".to_owned()),
        (names, _) => Ok(format!(
            "The launcher tries again what waits of: {}\n",
            names.join(", ")
        )),
    }
}
