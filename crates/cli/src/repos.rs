//! `gha-slurm repos`: a user's repositories, from a login node.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use gha_slurm_contract::mapping::{MappingState, RepositoryIdentity, UserRepository};
use gha_slurm_contract::self_service::{RepositoryConfirmation, RepositoryRemoval};
use gha_slurm_domain::RepositoryFullName;
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
        /// Slurm account to charge. Labels cannot name another. Default: your default account, or the one that labels name.
        #[arg(long)]
        account: Option<String>,
        /// Slurm QOS. Labels cannot name another. Default: the site's, or the one that labels name.
        #[arg(long)]
        qos: Option<String>,
        /// GitHub's numeric id of the repository, as `gh api repos/OWNER/NAME --jq .id` prints it. Confirms the repository without a question.
        #[arg(long, value_name = "ID", conflicts_with = "yes")]
        id: Option<i64>,
        /// Confirm whichever repository the site's services find under the name, without a question.
        #[arg(long)]
        yes: bool,
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
            id,
            yes,
        } => {
            let name = RepositoryFullName::parse_any(&repository)?;
            let client = Client::new(&options)?;
            let id = match id {
                Some(id) => id,
                None => confirmed(&client, &name, yes).await?,
            };
            let confirmation = RepositoryConfirmation {
                repository: name.to_string(),
                repository_id: Some(id),
                account,
                qos,
            };
            let (_, answer) = client.call(Method::POST, PATH, Some(&confirmation)).await?;
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

/// The id that the site's services find under the name, once the user has confirmed it.
async fn confirmed(client: &Client, name: &RepositoryFullName, yes: bool) -> anyhow::Result<i64> {
    let path = format!("{PATH}/identity?repository={name}");
    let (_, answer) = client.call(Method::GET, &path, None::<&()>).await?;
    let RepositoryIdentity { id, url } = serde_json::from_slice(&answer)?;
    let found = RepositoryFullName::parse_any(&url)
        .with_context(|| format!("the services answered with {url:?}"))?;
    ensure!(
        found == *name,
        "the services found {found} under the name {name}; if the repository was renamed, use its new name"
    );
    if yes {
        return Ok(id);
    }
    let mut terminal = std::io::stderr();
    if !std::io::stdin().is_terminal() {
        bail!(
            "confirm the repository: {name} has the id {id}, as the site's services found; use --id {id} once you have checked that, or --yes"
        );
    }
    write!(
        terminal,
        "{url} has the id {id}, as the site's services found.\n\
         To check the id yourself: gh api repos/{name} --jq .id\n\
         Run workflow jobs of repository {id} ({name}) as your Slurm user? [y/N] "
    )?;
    terminal.flush()?;
    let mut said = String::new();
    std::io::stdin().read_line(&mut said)?;
    ensure!(
        matches!(said.trim().to_ascii_lowercase().as_str(), "y" | "yes"),
        "not confirmed; nothing was changed"
    );
    Ok(id)
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
