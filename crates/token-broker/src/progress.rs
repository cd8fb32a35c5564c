//! What a node says of its runner, and whether it may give up waiting.

use actix_web::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::runner::{MAX_LOG_TAIL_BYTES, ProgressPhase, ProgressRequest};
use gha_slurm_domain::{LaunchId, RepositoryId, RunnerState};
use gha_slurm_github::Deletion;
use gha_slurm_service_kit::ApiError;
use gha_slurm_storage::runners::{self, Ending, Runner};
use gha_slurm_storage::timeline::{self, Entry};
use gha_slurm_storage::{AsyncConnection, StorageError, repositories};

use crate::redemption::{Broker, github_trouble, gone, progress_hash, storage_error};

/// Most characters of a node's reason that are kept.
const MAX_REASON: usize = 500;
/// A node that says that its runner has ended gives an unused registration back next; otherwise the launcher does, after this.
const GIVES_BACK_WITHIN: TimeDelta = TimeDelta::minutes(1);

/// A time-line entry for the phases that have no state of their own.
fn set_up_entry(runner: &Runner, node: Option<&str>, now: DateTime<Utc>) -> Entry {
    let place = node.map(|n| format!(" on {n}")).unwrap_or_default();
    Entry::launch(
        now,
        LaunchId(runner.launch_id),
        "set_up",
        format!("runner {} is being set up{place}", runner.name),
    )
}

fn reason_of(request: &ProgressRequest) -> String {
    let reason = request.reason.as_deref().unwrap_or("no reason given");
    let mut text: String = reason
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_REASON)
        .collect();
    if let Some(code) = request.exit_code.filter(|code| *code != 0) {
        text = format!("{text} (the runner's exit code was {code})");
    }
    text
}

/// The last [`MAX_LOG_TAIL_BYTES`], from a whole character on.
fn log_tail_of(request: &ProgressRequest) -> Option<String> {
    let tail = request.log_tail.as_deref()?;
    let from = tail.len().saturating_sub(MAX_LOG_TAIL_BYTES);
    let from = (from..=tail.len()).find(|i| tail.is_char_boundary(*i))?;
    tail.get(from..).map(str::to_owned)
}

fn unknown_token() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "progress_token_invalid",
        "The progress token is not known",
    )
    .detail("It belongs to no runner of this deployment, or a newer redemption replaced it.")
    .header("WWW-Authenticate", "Bearer")
}

fn busy() -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        "runner_busy",
        "The runner has a workflow job",
    )
    .detail("GitHub gave it a workflow job: keep it running.")
}

impl Broker {
    /// The runner a progress token belongs to.
    pub(crate) async fn runner_of(
        &self,
        progress_token: &str,
    ) -> Result<(Runner, RepositoryId), ApiError> {
        let mut conn = self.connection().await?;
        runners::by_progress_token(&mut conn, &progress_hash(progress_token))
            .await
            .map_err(|e| storage_error(&e))?
            .ok_or_else(unknown_token)
    }

    /// `POST /gha/runner/progress` with a progress token.
    pub(crate) async fn progress(
        &self,
        runner: &Runner,
        scope: RepositoryId,
        request: &ProgressRequest,
    ) -> Result<(), ApiError> {
        let now = Utc::now();
        let mut conn = self.connection().await?;
        let stored = match request.phase {
            // The redemption itself has said so; or a newer job script says what means nothing here.
            ProgressPhase::Allocated | ProgressPhase::Unknown => Ok(()),
            ProgressPhase::SetUp => {
                timeline::append(
                    &mut conn,
                    &[set_up_entry(runner, request.node.as_deref(), now)],
                )
                .await
            }
            ProgressPhase::Registered => {
                return match runner.state() {
                    Ok(RunnerState::Ended) => Err(gone("it was withdrawn meanwhile")),
                    Ok(_) => Ok(()),
                    Err(error) => Err(storage_error(&error)),
                };
            }
            ProgressPhase::Listening => runners::listening(&mut conn, runner, now).await,
            ProgressPhase::WorkflowJobStarted => {
                let run = request.run_id.zip(request.run_attempt.or(Some(1)));
                runners::busy(&mut conn, runner, run, now).await
            }
            ProgressPhase::Finished => {
                let reason = reason_of(request);
                let ending = Ending {
                    log_tail: log_tail_of(request),
                    release_at: Some(now + GIVES_BACK_WITHIN),
                    ..Ending::because(&reason)
                };
                conn.transaction::<_, StorageError, _>(async |conn| {
                    runners::end(conn, scope, runner, &ending, now).await
                })
                .await
            }
        };
        stored.map_err(|e| storage_error(&e))
    }

    /// `POST /gha/runner/progress` with the launch token: before the redemption, or when it failed. It can end only what
    /// never got a runner token.
    pub(crate) async fn progress_before_redemption(
        &self,
        claims: &LaunchClaims,
        request: &ProgressRequest,
    ) -> Result<(), ApiError> {
        if matches!(
            request.phase,
            ProgressPhase::Registered
                | ProgressPhase::Listening
                | ProgressPhase::WorkflowJobStarted
        ) {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "progress_token_needed",
                "This needs the progress token",
            )
            .detail("The launch token may only say allocated, set_up and finished."));
        }
        if request.phase != ProgressPhase::Finished {
            return Ok(());
        }
        let reason = reason_of(request);
        let ending = Ending {
            log_tail: log_tail_of(request),
            ..Ending::because(&reason)
        };
        let (launch, now) = (claims.sub, Utc::now());
        let mut conn = self.connection().await?;
        conn.transaction::<_, StorageError, _>(async |conn| {
            match runners::by_launch(conn, launch).await? {
                None => runners::launch_ended(conn, launch, &ending, now).await,
                Some((runner, scope)) if runner.state()? == RunnerState::Redeeming => {
                    runners::end(conn, scope, &runner, &ending, now).await
                }
                Some(_) => Ok(()),
            }
        })
        .await
        .map_err(|e| storage_error(&e))
    }

    /// `POST /gha/runner/release`: no workflow job came in time. `Ok`: the runner is deleted at GitHub and may stop.
    pub(crate) async fn release(&self, progress_token: &str) -> Result<(), ApiError> {
        let (runner, scope_id) = self.runner_of(progress_token).await?;
        if runner.busy_at.is_some() || runner.workflow_job_id.is_some() {
            return match runner.state() {
                // It has done its one workflow job.
                Ok(RunnerState::Ended) => Ok(()),
                Ok(_) => Err(busy()),
                Err(error) => Err(storage_error(&error)),
            };
        }
        // Also when it has ended: a node says so before it gives back a registration that was not used up.
        let repository = {
            let mut conn = self.connection().await?;
            repositories::find(&mut conn, scope_id)
                .await
                .map_err(|e| storage_error(&e))?
                .ok_or_else(unknown_token)?
        };
        let scope = self.scope(&repository).await?;
        let (id, name) = (runner.github_runner_id, &runner.name);
        match self.github.deregister(&scope, id, name).await {
            Ok(Deletion::Busy) => Err(busy()),
            // Not found: it has finished its one workflow job, or GitHub removed it. Either way none will come, and a
            // node that saw none start loses nothing.
            Ok(Deletion::Deleted | Deletion::NotFound) => {
                let ending = Ending::because("idle: no workflow job came in time");
                let mut conn = self.connection().await?;
                conn.transaction::<_, StorageError, _>(async |conn| {
                    runners::end(conn, scope_id, &runner, &ending, Utc::now()).await?;
                    runners::release_again(conn, &runner, None).await
                })
                .await
                .map_err(|e| storage_error(&e))
            }
            Err(error) => Err(github_trouble(&error).unwrap_or_else(|| ApiError::internal(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(reason: &str, tail: &str) -> ProgressRequest {
        ProgressRequest {
            phase: ProgressPhase::Finished,
            at: None,
            reason: Some(reason.into()),
            node: None,
            run_id: None,
            run_attempt: None,
            exit_code: Some(2),
            log_tail: Some(tail.into()),
        }
    }

    #[test]
    fn a_long_tail_is_cut_at_a_character() {
        let tail = "ä".repeat(MAX_LOG_TAIL_BYTES);
        let kept = log_tail_of(&finished("x", &format!("{tail}z"))).unwrap();
        assert!(kept.len() <= MAX_LOG_TAIL_BYTES && kept.len() >= MAX_LOG_TAIL_BYTES - 1);
        assert!(kept.ends_with("äz"));
    }

    #[test]
    fn reasons_are_one_short_line() {
        let reason = reason_of(&finished(&format!("a\nb{}", "c".repeat(9999)), ""));
        assert!(reason.starts_with("abc") && reason.contains("exit code was 2"));
        assert!(reason.len() < MAX_REASON + 100);
    }
}
