//! `config.sh` and `config.sh remove`.

use anyhow::{Context, Result};
use url::Url;

use crate::runner_protocol::messages::{Registration, Removal};
use crate::standin::arguments::{ConfigureOptions, RemoveOptions};
use crate::standin::client::Client;
use crate::standin::console::{Exit, say};
use crate::standin::root::Root;

pub(crate) async fn configure(root: &Root, options: ConfigureOptions) -> Result<Exit> {
    if root.is_configured() {
        say(
            "Cannot configure the runner because it is already configured. To reconfigure the runner, run 'config.cmd remove' or './config.sh remove' first.",
        );
        return Ok(Exit::Terminated);
    }
    if options.no_default_labels && options.labels.is_empty() {
        say("'--no-default-labels' requires '--labels'");
        return Ok(Exit::Terminated);
    }
    let (Some(url), Some(token)) = (options.url, options.token) else {
        say(
            "Invalid configuration provided for url or token. Terminating unattended configuration.",
        );
        return Ok(Exit::Terminated);
    };
    let mut labels = if options.no_default_labels {
        Vec::new()
    } else {
        let architecture = if cfg!(target_arch = "aarch64") {
            "ARM64"
        } else {
            "X64"
        };
        ["self-hosted", "Linux", architecture]
            .map(str::to_owned)
            .to_vec()
    };
    labels.extend(
        options
            .labels
            .iter()
            .map(|label| label.trim().to_owned())
            .filter(|label| !label.is_empty()),
    );
    let registration = Registration {
        name: options.name.unwrap_or_else(host_name),
        url: url.clone(),
        labels,
        work_folder: options.work,
        ephemeral: options.ephemeral,
        replace: options.replace,
    };
    let client = Client::new(&server_of(&url, options.server_url.as_ref())?)?;
    match client.register(&token, &registration).await {
        Ok(files) => {
            root.configure(&files)?;
            say("\n√ Runner successfully added\n\n# Runner settings\n\n√ Settings Saved.\n");
            Ok(Exit::Success)
        }
        Err(error) if error.code() == "exists" => {
            say("A runner exists with the same name\nA runner exists with the same name.");
            Ok(Exit::Terminated)
        }
        Err(error) => {
            say(&format!("Http response code: {error} from 'POST {url}'"));
            Ok(Exit::Terminated)
        }
    }
}

/// The runner's service of the host that the repository's address names, unless another one is given.
fn server_of(url: &str, given: Option<&Url>) -> Result<String> {
    let url = match given {
        Some(given) => given.clone(),
        None => Url::parse(url).with_context(|| format!("{url:?} is not an address"))?,
    };
    Ok(format!(
        "{}/simulator/runner",
        url.origin().ascii_serialization()
    ))
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "runner".to_owned())
}

pub(crate) async fn remove(root: &Root, options: RemoveOptions) -> Result<Exit> {
    if !root.is_configured() {
        say("Does not exist. Skipping Removing .runner");
        return Ok(Exit::Success);
    }
    if !options.local {
        let (runner, _) = root.configuration()?;
        let Some(token) = options.token else {
            say("A remove token is needed: --token");
            return Ok(Exit::Terminated);
        };
        let removal = Removal {
            runner_id: runner.agent_id,
        };
        if let Err(error) = Client::new(&runner.server_url_v2)?
            .remove(&token, &removal)
            .await
        {
            say(&format!("Failed: Removing runner from the server: {error}"));
            return Ok(Exit::Terminated);
        }
        say("√ Runner removed successfully");
    }
    root.forget_configuration();
    say("√ Removed .credentials\n√ Removed .runner");
    Ok(Exit::Success)
}
