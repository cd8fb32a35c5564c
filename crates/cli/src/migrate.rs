//! `gha-slurm migrate`: migrates the database.

use clap::Args;

use crate::database;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    database: database::Options,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<String> {
    arguments.database.open()?.migrate().await?;
    Ok("The database has this version's schema.\n".to_owned())
}
