//! `gha-slurm repos`: whose account a repository may spend, from a login node.

use std::fmt::Write as _;

use clap::Subcommand;
use gha_slurm_contract::mapping::{MappingState, RepositoryEntry, UserRepository};
use gha_slurm_contract::self_service::RepositoryRemoval;
use reqwest::Method;

use crate::client::{Client, Options};

const PATH: &str = "/config/repos";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show your repositories, and what waits for an administrator.
    List {
        #[command(flatten)]
        options: Options,
    },
    /// Let workflow jobs of a repository spend your launch.
    Add {
        #[command(flatten)]
        options: Options,
        /// `owner/name`, or its URL.
        repository: String,
        /// Slurm account to charge; yours by default.
        #[arg(long)]
        account: Option<String>,
        /// Slurm QOS.
        #[arg(long)]
        qos: Option<String>,
    },
    /// Stop that. What is pending for it is cancelled.
    Remove {
        #[command(flatten)]
        options: Options,
        /// `owner/name`, or its URL.
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
                MappingState::Mapped => format!("{} may spend your launch.\n", added.url),
                MappingState::Waiting => format!(
                    "{} waits for an administrator: they have to see that you may administer it at GitHub.\n",
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
            Ok(format!("{repository} may not spend your launch.\n"))
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
