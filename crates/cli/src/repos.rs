//! `gha-slurm repos`: a user's repositories, from a login node.

use std::fmt::Write as _;

use clap::Subcommand;
use gha_slurm_contract::mapping::{MappingState, RepositoryEntry, UserRepository};
use gha_slurm_contract::self_service::RepositoryRemoval;
use reqwest::Method;

use crate::client::{Client, Options};

const PATH: &str = "/config/repos";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List your repositories, and those that wait for an administrator.
    List {
        #[command(flatten)]
        options: Options,
    },
    /// Charge a repository's workflow jobs to your account, once an administrator agrees.
    Add {
        #[command(flatten)]
        options: Options,
        /// `owner/name` or URL of the repository.
        repository: String,
        /// Slurm account to charge. Default: your default account.
        #[arg(long)]
        account: Option<String>,
        /// Slurm QOS. Default: the site's.
        #[arg(long)]
        qos: Option<String>,
    },
    /// Stop running workflow jobs of a repository. Cancels its pending runners.
    Remove {
        #[command(flatten)]
        options: Options,
        /// `owner/name` or URL of the repository.
        repository: String,
    },
}

pub(crate) async fn run(command: Command) -> anyhow::Result<String> {
    match command {
        Command::List { options } => list(&options).await,
        Command::Add {
            options,
            repository,
            account,
            qos,
        } => {
            let entry = RepositoryEntry {
                repository,
                account,
                qos,
            };
            let client = Client::new(&options)?;
            let (_, answer) = client.call(Method::POST, PATH, Some(&entry)).await?;
            let added: UserRepository = serde_json::from_slice(&answer)?;
            Ok(match added.state {
                MappingState::Mapped => format!(
                    "Workflow jobs of {} are now charged to your account.\n",
                    added.url
                ),
                MappingState::Waiting => format!(
                    "{} waits for an administrator, who checks that you administer the repository on GitHub.\n",
                    added.url
                ),
            })
        }
        Command::Remove {
            options,
            repository,
        } => {
            let removal = RepositoryRemoval {
                repository: repository.clone(),
            };
            let client = Client::new(&options)?;
            client.call(Method::DELETE, PATH, Some(&removal)).await?;
            Ok(format!(
                "Removed {repository}. Its workflow jobs are no longer charged to your account.\n"
            ))
        }
    }
}

async fn list(options: &Options) -> anyhow::Result<String> {
    let client = Client::new(options)?;
    let (_, answer) = client.call(Method::GET, PATH, None::<&()>).await?;
    let list: Vec<UserRepository> = serde_json::from_slice(&answer)?;
    if list.is_empty() {
        return Ok(
            "You have no repositories. Add one with `gha-slurm repos add owner/name`.\n".into(),
        );
    }
    let mut text = String::new();
    for repository in list {
        write!(text, "{}", repository.url)?;
        for (key, value) in [("account", &repository.account), ("qos", &repository.qos)] {
            if let Some(value) = value {
                write!(text, "  {key}={value}")?;
            }
        }
        if repository.state == MappingState::Waiting {
            text.push_str("  (waits for an administrator)");
        }
        text.push('\n');
    }
    Ok(text)
}
