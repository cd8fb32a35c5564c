//! `run`: a session, offers, one workflow job after the other (or the only one).

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use crate::model::Conclusion;
use crate::runner_protocol::configuration;
use crate::runner_protocol::messages::{Finished, Session, Work};
use crate::standin::arguments::RunOptions;
use crate::standin::client::{Client, ClientError};
use crate::standin::console::{Exit, VERSION, say, say_with_time};
use crate::standin::root::Root;
use crate::standin::worker;

/// Another listener's session is waited for so long (MessageListener.cs: four minutes).
const CONFLICT: Duration = Duration::from_secs(240);
/// Pause before another try.
const PAUSE: Duration = Duration::from_millis(500);
/// A report is tried for so long before it is given up.
const REPORT: Duration = Duration::from_secs(120);

pub(crate) async fn run(root: &Root, options: RunOptions, stop: CancellationToken) -> Result<Exit> {
    if let Some(code) = options.exit_with {
        return Ok(Exit::Asked(code));
    }
    if let Some(jitconfig) = &options.jitconfig {
        root.configure(&configuration::decode(jitconfig)?)?;
    }
    if !root.is_configured() {
        say("An error occurred: Not configured. Run config.(sh/cmd) to configure the runner.");
        return Ok(Exit::Terminated);
    }
    if options.once {
        say(
            "Warning: '--once' is going to be deprecated in the future, please consider using '--ephemeral' during runner registration.",
        );
    }
    let (runner, key) = root.configuration()?;
    let client = Client::new(&runner.server_url_v2)?;
    let patience = options
        .conflict_seconds
        .map_or(CONFLICT, Duration::from_secs);
    let session = match open_session(&client, &key.secret, patience, &stop).await {
        Ok(session) => session,
        Err(exit) => return Ok(exit),
    };
    say(&format!(
        "\n√ Connected to GitHub\n\nCurrent runner version: '{VERSION}'"
    ));
    say_with_time("Listening for Jobs");
    let listening = Listening {
        root,
        client: &client,
        session: &session,
        once: options.once || runner.ephemeral || returns_result(),
        ephemeral: runner.ephemeral,
        work_folder: &runner.work_folder,
    };
    let exit = listening.listen(&stop).await;
    client.close_session(&session.session_id).await;
    Ok(exit)
}

fn returns_result() -> bool {
    switched_on("ACTIONS_RUNNER_RETURN_JOB_RESULT_FOR_HOSTED")
}

async fn open_session(
    client: &Client,
    secret: &str,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<Session, Exit> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let error = match client.open_session(secret).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        match error.code() {
            "deleted" => {
                say(
                    "Failed to create a session. The runner registration has been deleted from the server, please re-configure. Runner registrations are automatically deleted for runners that have not connected to the service recently.",
                );
                return Err(Exit::Terminated);
            }
            "deprecated" => {
                say(&format!(
                    "An error occurred: Runner version v{VERSION} is deprecated and cannot receive messages."
                ));
                return Err(
                    if switched_on("ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE") {
                        Exit::VersionDeprecated
                    } else {
                        Exit::Terminated
                    },
                );
            }
            "session_conflict" if started.elapsed() >= patience => {
                say("A session for this runner already exists.");
                return Err(Exit::SessionConflict);
            }
            _ if !told => {
                say_with_time(&format!(
                    "Runner connect error: {error}. Retrying until reconnected."
                ));
                told = true;
            }
            _ => {}
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return Err(Exit::Success),
        }
    }
}

struct Listening<'a> {
    root: &'a Root,
    client: &'a Client,
    session: &'a Session,
    /// Ends after one workflow job.
    once: bool,
    ephemeral: bool,
    work_folder: &'a str,
}

impl Listening<'_> {
    async fn listen(&self, stop: &CancellationToken) -> Exit {
        let session_id = &self.session.session_id;
        let mut connected = true;
        loop {
            let offer = tokio::select! {
                offer = self.client.next_offer(session_id) => offer,
                () = stop.cancelled() => return Exit::Success,
            };
            let id = match offer {
                Ok(None) => continue,
                Ok(Some(id)) => id,
                Err(error) if error.code() == "deleted" => {
                    say(
                        "The runner registration has been deleted from the server, please re-configure. Runner registrations are automatically deleted for runners that have not connected to the service recently.",
                    );
                    return Exit::Terminated;
                }
                Err(error) => {
                    if connected {
                        say_with_time(&format!(
                            "Runner connect error: {error}. Retrying until reconnected."
                        ));
                    }
                    connected = false;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            if !connected {
                say_with_time("Runner reconnected.");
                connected = true;
            }
            let work = match self.client.acquire(session_id, id).await {
                Ok(work) => work,
                Err(ClientError::Refused(_)) => {
                    // As the real one does: listens on, although the service may have forgotten it (#4617).
                    say("Skipping message Job. Job message not found.");
                    continue;
                }
                Err(ClientError::Unreachable(_)) => continue,
            };
            let conclusion = self.work(&work, stop).await;
            if self.once || stop.is_cancelled() {
                if self.ephemeral {
                    self.root.forget_configuration();
                }
                return if returns_result() {
                    Exit::JobResult(result_code(conclusion))
                } else {
                    Exit::Success
                };
            }
        }
    }

    async fn work(&self, work: &Work, stop: &CancellationToken) -> Conclusion {
        say_with_time(&format!("Running job: {}", work.name));
        let cancelled = CancellationToken::new();
        let outcome = {
            let renewing = self.renew(work.workflow_job_id, &cancelled);
            let working = worker::run(
                self.root,
                self.session,
                self.work_folder,
                work,
                &cancelled,
                stop,
            );
            tokio::pin!(working);
            tokio::select! {
                outcome = &mut working => outcome,
                () = renewing => working.await,
            }
        };
        let finished = outcome.unwrap_or_else(|error| Finished {
            conclusion: Conclusion::Failure,
            steps: Vec::new(),
            output: format!("the worker failed: {error:#}"),
        });
        let conclusion = finished.conclusion;
        self.report(work.workflow_job_id, &finished).await;
        say_with_time(&format!(
            "Job {} completed with result: {}",
            work.name,
            result_name(conclusion)
        ));
        conclusion
    }

    /// Signs of life until the workflow job is cancelled.
    async fn renew(&self, id: i64, cancelled: &CancellationToken) {
        loop {
            match self.client.renew(&self.session.session_id, id).await {
                Ok(true) => return cancelled.cancel(),
                Ok(false) => {}
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn report(&self, id: i64, finished: &Finished) {
        let started = Instant::now();
        let session_id = &self.session.session_id;
        while let Err(error) = self.client.finish(session_id, id, finished).await {
            if matches!(error, ClientError::Refused(_)) || started.elapsed() > REPORT {
                say_with_time(&format!("Job completion was not accepted: {error}"));
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Names of TaskResult.
fn result_name(conclusion: Conclusion) -> &'static str {
    match conclusion {
        Conclusion::Success => "Succeeded",
        Conclusion::Failure => "Failed",
        Conclusion::Cancelled => "Canceled",
        Conclusion::Skipped => "Skipped",
    }
}

/// Numbers of TaskResult.
fn result_code(conclusion: Conclusion) -> u8 {
    match conclusion {
        Conclusion::Success => 0,
        Conclusion::Failure => 2,
        Conclusion::Cancelled => 3,
        Conclusion::Skipped => 4,
    }
}

/// Whether the environment variable is `1` or `true`.
fn switched_on(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| {
        value
            .to_str()
            .is_some_and(|text| text == "1" || text.eq_ignore_ascii_case("true"))
    })
}
