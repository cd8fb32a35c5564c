//! The simulator's process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::Parser;
use gha_slurm_simulator::model::Role;
use gha_slurm_simulator::request::NewRepository;
use gha_slurm_simulator::{AppKey, Settings, Simulator};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use url::Url;

/// One stateful GitHub for tests and demos: the REST API the App uses, webhooks, and self-hosted runners.
#[derive(Debug, Parser)]
#[command(name = "gha-slurm-simulator", version)]
struct Arguments {
    /// Where it listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Its address in answers and payloads [default: http:// and `listen`].
    #[arg(long)]
    public_url: Option<Url>,
    /// Where repositories have their pages [default: the public address].
    #[arg(long)]
    web_url: Option<Url>,
    /// The App's numeric id.
    #[arg(long)]
    app_id: u64,
    /// The App's private key in PEM; only its public half is used.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "app_public_key_file",
        conflicts_with = "app_public_key_file"
    )]
    app_private_key_file: Option<PathBuf>,
    /// Makes a key and writes that file when it is not there.
    #[arg(long, requires = "app_private_key_file")]
    create_app_private_key: bool,
    /// The public half of the App's key in PEM.
    #[arg(long, value_name = "FILE")]
    app_public_key_file: Option<PathBuf>,
    /// Where webhooks go; can be set later over the control API.
    #[arg(long, requires = "webhook_secret_file")]
    webhook_url: Option<String>,
    /// The webhook secret; a line break at its end is not part of it.
    #[arg(long, value_name = "FILE")]
    webhook_secret_file: Option<PathBuf>,
    /// Sends webhooks as forms (`payload=`) instead of JSON.
    #[arg(long)]
    webhook_form: bool,
    /// The App's client id [default: made of its numeric id].
    #[arg(long)]
    client_id: Option<String>,
    /// The App's client secret; a line break at its end is not part of it [default: random].
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// An address that people may be sent back to after signing in.
    #[arg(long, value_name = "URL")]
    callback_url: Vec<String>,
    /// A person who can sign in, and their roles (pull, triage, push, maintain, admin) in repositories.
    #[arg(long, value_name = "LOGIN[:OWNER/NAME=ROLE,…]")]
    person: Vec<NewPersonArgument>,
    /// A repository that is there from the start, with the App installed; `:public` at its end makes it public.
    #[arg(long, value_name = "OWNER/NAME[:public]")]
    repository: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    let arguments = Arguments::parse();
    let mut settings = Settings::new(arguments.app_id, app_key(&arguments)?);
    settings.listen = arguments.listen;
    settings.public_url.clone_from(&arguments.public_url);
    settings.web_url.clone_from(&arguments.web_url);
    settings
        .app
        .callback_urls
        .clone_from(&arguments.callback_url);
    if let Some(client_id) = &arguments.client_id {
        settings.app.client_id.clone_from(client_id);
    }
    if let Some(file) = &arguments.client_secret_file {
        settings.app.client_secret = secret(file)?;
    }
    let simulator = Simulator::build(settings)?;
    let handle = simulator.handle();
    // Before the repositories: those of a person are their own.
    for person in &arguments.person {
        handle.create_person(&person.login)?;
    }
    for wanted in &arguments.repository {
        let full_name = wanted.strip_suffix(":public").unwrap_or(wanted);
        handle.create_repository(&NewRepository {
            private: full_name.len() == wanted.len(),
            ..NewRepository::named(full_name)
        })?;
    }
    let repositories = handle.state().repositories;
    for person in &arguments.person {
        for (full_name, role) in &person.roles {
            let repository = repositories
                .iter()
                .find(|known| known.full_name().eq_ignore_ascii_case(full_name))
                .with_context(|| format!("there is no --repository {full_name}"))?;
            handle.set_role(repository.id, &person.login, *role)?;
        }
    }
    if let (Some(url), Some(file)) = (&arguments.webhook_url, &arguments.webhook_secret_file) {
        handle.set_webhook(url, secret(file)?, arguments.webhook_form);
    }
    tracing::info!(address = %simulator.address(), "listening");
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            told_to_stop().await;
            stop.cancel();
        }
    });
    simulator.run_until_stopped(stop).await
}

/// `LOGIN[:OWNER/NAME=ROLE,…]`.
#[derive(Debug, Clone)]
struct NewPersonArgument {
    login: String,
    roles: Vec<(String, Role)>,
}

impl FromStr for NewPersonArgument {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (login, roles) = text.split_once(':').unwrap_or((text, ""));
        let roles = roles.split(',').filter(|role| !role.is_empty());
        let roles = roles.map(|wanted| {
            let (full_name, role) = wanted
                .split_once('=')
                .with_context(|| format!("{wanted:?} is not OWNER/NAME=ROLE"))?;
            Ok((full_name.to_owned(), role.parse()?))
        });
        Ok(Self {
            login: login.to_owned(),
            roles: roles.collect::<Result<_>>()?,
        })
    }
}

/// The secret in a file; a line break at its end is not part of it.
fn secret(file: &Path) -> Result<SecretString> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n'])))
}

fn app_key(arguments: &Arguments) -> Result<AppKey> {
    let Some(file) = arguments
        .app_private_key_file
        .as_ref()
        .or(arguments.app_public_key_file.as_ref())
    else {
        anyhow::bail!("--app-private-key-file or --app-public-key-file is needed");
    };
    if arguments.create_app_private_key && !file.exists() {
        write_private(file, &AppKey::generate_private_pem()?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    AppKey::from_pem(&pem).with_context(|| format!("{} does not serve", file.display()))
}

fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(file)?.write_all(text.as_bytes())
}

async fn told_to_stop() {
    let interrupted = tokio::signal::ctrl_c();
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminated) => {
            tokio::select! {
                _ = interrupted => {}
                _ = terminated.recv() => {}
            }
        }
        Err(_) => {
            let _ = interrupted.await;
        }
    }
}
