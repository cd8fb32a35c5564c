//! `gha-slurm dead-letters`: events that the launcher could not handle.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use gha_slurm_amqp::Broker;
use gha_slurm_amqp::dead_letters::{self, DeadLetter};
use gha_slurm_contract::Event;
use gha_slurm_contract::event::EventPayload;

use crate::secret_url::SecretUrl;

const URL: SecretUrl = SecretUrl {
    what: "URL of RabbitMQ",
    variable: "AMQP_URL",
    option: "--amqp-url-file",
    schemes: ["amqp://", "amqps://"],
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show them, with the reason. They stay.
    List {
        #[command(flatten)]
        broker: Options,
        /// The oldest so many.
        #[arg(long, value_name = "COUNT", default_value = "100")]
        most: u32,
    },
    /// Have the launcher handle them again. Handling an event twice changes nothing.
    Replay {
        #[command(flatten)]
        broker: Options,
        /// GUIDs of the deliveries to put back.
        #[arg(value_name = "DELIVERY", required_unless_present = "all")]
        deliveries: Vec<String>,
        /// Put back all of them.
        #[arg(long, conflicts_with = "deliveries")]
        all: bool,
    },
}

/// Where RabbitMQ is.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// File with the URL `amqps://user:password@host:port/vhost`, as `amqp.url` of the launcher. Default: the variable `AMQP_URL`.
    #[arg(long, value_name = "FILE")]
    amqp_url_file: Option<PathBuf>,
    /// PEM file of CA certificates to trust in addition to the system's.
    #[arg(long, value_name = "FILE")]
    amqp_ca_file: Option<PathBuf>,
}

impl Options {
    fn broker(&self) -> anyhow::Result<Broker> {
        let url = URL.read(self.amqp_url_file.as_deref())?;
        Ok(Broker::new(url, self.amqp_ca_file.as_deref())?)
    }
}

pub(crate) async fn run(command: Command) -> anyhow::Result<String> {
    match command {
        Command::List { broker, most } => {
            let (letters, all) = dead_letters::list(&broker.broker()?, most).await?;
            Ok(listed(&letters, all))
        }
        Command::Replay {
            broker,
            deliveries,
            all,
        } => {
            let is_named = |letter: &DeadLetter| {
                let delivery = letter.delivery.as_ref();
                delivery.is_some_and(|delivery| deliveries.contains(delivery))
            };
            let is_wanted = |letter: &DeadLetter| all || is_named(letter);
            let count = dead_letters::replay(&broker.broker()?, is_wanted).await?;
            if count == 0 && !all {
                bail!("none of the dead letters has such a delivery");
            }
            Ok(format!(
                "Put back: {count}. See the launcher's log, and `gha-slurm dead-letters list`.\n"
            ))
        }
    }
}

fn listed(letters: &[DeadLetter], all: u32) -> String {
    if letters.is_empty() {
        return "There are no dead letters.\n".to_owned();
    }
    let mut text = String::new();
    for letter in letters {
        let delivery = letter.delivery.as_deref().unwrap_or("no delivery");
        let what = match &letter.event {
            Ok(event) => about(event),
            Err(error) => format!("cannot be read: {error}"),
        };
        let _ = writeln!(text, "{delivery}  {}", one_line(&what));
        let _ = writeln!(text, "    {}", one_line(&letter.reason));
    }
    let shown = letters.len();
    if shown < all as usize {
        let _ = writeln!(text, "{shown} of {all}; --most COUNT shows more.");
    }
    text
}

/// Strangers choose names and labels: their control characters do not reach a terminal.
fn one_line(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(shown).collect()
}

fn about(event: &Event) -> String {
    let received = event.received_at.format("%F %H:%M:%S UTC");
    let name = event.name();
    let what = match &event.payload {
        EventPayload::WorkflowJob(job) => format!(
            "{} {}/{} workflow job {}",
            job.action, job.repository.owner, job.repository.name, job.workflow_job.id
        ),
        EventPayload::Installation(installation) => {
            format!("{} {}", installation.action, installation.installation_id)
        }
        EventPayload::InstallationRepositories(changed) => {
            format!("{} {}", changed.action, changed.installation_id)
        }
        EventPayload::GithubAppAuthorization(authorization) => {
            format!("{} {}", authorization.action, authorization.user)
        }
    };
    format!("{received}  {name} {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_shown_without_what_moves_a_cursor() {
        let letter = DeadLetter {
            delivery: Some("72d3162e".to_owned()),
            reason: "it can never be stored:\n\u{1b}[2Jno".to_owned(),
            event: serde_json::from_str("{}"),
        };
        let text = listed(&[letter], 5);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("72d3162e  cannot be read: missing field"));
        assert_eq!(lines[1], "    it can never be stored:  [2Jno");
        assert_eq!(lines[2], "1 of 5; --most COUNT shows more.");
        assert_eq!(listed(&[], 0), "There are no dead letters.\n");
    }
}
