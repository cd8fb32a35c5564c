//! What a node says of its runner, and whether it may give up waiting.

use actix_web::http::StatusCode;
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::runner::{MAX_LOG_TAIL_BYTES, ProgressPhase, ProgressRequest};
use gha_slurm_domain::Launch;
use gha_slurm_domain::launch::{Context, Happening, Outcome, Phase, Run, State};
use gha_slurm_github::Deletion;
use gha_slurm_service_kit::ApiError;
use gha_slurm_storage::launches::{self, Loaded};

use crate::redemption::{
    Broker, PROGRESS_TOKEN_LENGTH, github_trouble, gone, progress_hash, storage_error,
};

/// Most characters of a node's reason that are kept.
const MAX_REASON: usize = 500;
/// Most characters of a node's name that are kept: as many as a host name has at most.
const MAX_NODE: usize = 255;

/// What a node wrote, as one line that Postgres can store: without control characters, and cut.
fn one_line(text: &str, most: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(most)
        .collect()
}

/// The name of a node as it wrote it.
pub(crate) fn node_name(text: &str) -> String {
    one_line(text, MAX_NODE)
}

/// The end as its node reports it: the reason is one short line.
fn outcome_of(request: &ProgressRequest) -> Outcome {
    let reason = request.reason.as_deref().unwrap_or("no reason given");
    Outcome::NodeReported {
        reason: one_line(reason, MAX_REASON),
        exit_code: request.exit_code,
    }
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
    /// The launch whose runner a progress token belongs to, unless it has been over for long.
    pub(crate) async fn launch_of(&self, progress_token: &str) -> Result<Loaded, ApiError> {
        // Not every word of a stranger is worth a query.
        if progress_token.len() != PROGRESS_TOKEN_LENGTH {
            return Err(unknown_token());
        }
        let mut conn = self.connection().await?;
        let loaded = launches::by_progress_token(&mut conn, &progress_hash(progress_token))
            .await
            .map_err(|e| storage_error(&e))?
            .ok_or_else(unknown_token)?;
        match loaded.launch.over() {
            Some(over) if over.is_closed(self.clock.now()) => Err(gone(over.outcome.explained())),
            _ => Ok(loaded),
        }
    }

    /// `POST /gha/runner/progress` with a progress token.
    pub(crate) async fn progress(
        &self,
        launch: &Launch,
        request: &ProgressRequest,
    ) -> Result<(), ApiError> {
        let phase = match request.phase {
            // The redemption itself has said so; or a newer job script says what means nothing here.
            ProgressPhase::Allocated | ProgressPhase::Unknown => return Ok(()),
            ProgressPhase::Registered => {
                return match launch.state {
                    State::Over(ref over) => Err(gone(over.outcome.explained())),
                    _ => Ok(()),
                };
            }
            ProgressPhase::SetUp => Phase::SetUp {
                node: request.node.as_deref().map(node_name),
            },
            ProgressPhase::Listening => Phase::Listening,
            ProgressPhase::WorkflowJobStarted => Phase::WorkflowJobStarted {
                run: request.run_id.map(|id| Run {
                    id,
                    attempt: request.run_attempt.unwrap_or(1),
                }),
            },
            ProgressPhase::Finished => Phase::Finished {
                outcome: outcome_of(request),
                log_tail: log_tail_of(request),
            },
        };
        let happening = Happening::Progressed {
            phase,
            at: request.at,
        };
        // A report that comes late, or twice, changes nothing and is no error of the node. It takes no lock, either: a launch only moves
        // forward, so what is late now is late then.
        let expected = launch.apply(happening.clone(), Context::default(), self.clock.now());
        if expected.map_or(true, |applied| applied.launch == *launch) {
            return Ok(());
        }
        let applied = self.happen(launch.id, &happening).await?;
        if request.phase == ProgressPhase::Finished && applied.is_ok() {
            let outcome = outcome_of(request).explained();
            tracing::info!(launch = %launch.id, outcome, "a runner is over");
        }
        Ok(())
    }

    /// `POST /gha/runner/progress` with the launch token: before the redemption, or when it failed. It can end only a launch
    /// that never got a runner token.
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
            .detail("The launch token may only report allocated, set_up and finished."));
        }
        if request.phase != ProgressPhase::Finished {
            return Ok(());
        }
        let happening = Happening::EndedBeforeRunner {
            outcome: outcome_of(request),
            log_tail: log_tail_of(request),
            at: request.at,
        };
        let _ = self.happen(claims.sub, &happening).await?;
        Ok(())
    }

    /// `POST /gha/runner/release`: no workflow job came in time. `Ok`: the runner is deleted at GitHub and may stop.
    pub(crate) async fn release(&self, loaded: &Loaded) -> Result<(), ApiError> {
        let launch = &loaded.launch;
        let runner = launch.runner().ok_or_else(unknown_token)?;
        match launch.state {
            State::Busy(..) => return Err(busy()),
            // GitHub does not have it any more.
            State::Over(_) if runner.deregister_at.is_none() => return Ok(()),
            // Also when it has ended: a node reports that before it gives back a registration that was not used up.
            _ => {}
        }
        let scope = self.scope(&loaded.repository).await?;
        match self
            .github
            .deregister(&scope, runner.github_id, &runner.name)
            .await
        {
            Ok(Deletion::Busy) => {
                // While it goes on, its node has to report the workflow job: it may have been cancelled at once.
                if launch.over().is_some() {
                    let refused = Happening::DeregistrationRefused;
                    let _ = self.happen(launch.id, &refused).await?;
                }
                Err(busy())
            }
            // Not found: it has finished its one workflow job, or GitHub removed it. Either way none will come, and a
            // node that saw none start loses nothing.
            Ok(Deletion::Deleted | Deletion::NotFound) => {
                let _ = self.happen(launch.id, &Happening::GaveUpIdle).await?;
                Ok(())
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
        let reason = outcome_of(&finished(&format!("a\nb{}", "c".repeat(9999)), "")).explained();
        assert!(reason.starts_with("abc") && reason.contains("exit code was 2"));
        assert!(reason.len() < MAX_REASON + 100);
    }
}
