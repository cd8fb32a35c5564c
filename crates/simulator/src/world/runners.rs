//! Registrations of runners and their sessions.

use chrono::TimeDelta;
use uuid::Uuid;

use super::{Ids, Now, Registration, Session, World, tokens};
use crate::model::{Runner, RunnerLabel};

/// A runner is seen as online for so long after it was last heard of while it neither listens nor works.
const HEARD_RECENTLY: TimeDelta = TimeDelta::seconds(30);

/// How a runner is to be registered.
#[derive(Debug)]
pub(crate) struct NewRunner {
    pub(crate) name: String,
    pub(crate) repository_id: i64,
    pub(crate) labels: Vec<String>,
    pub(crate) work_folder: String,
    pub(crate) ephemeral: bool,
    pub(crate) just_in_time: bool,
}

/// Why a runner could not be registered or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunnerRefusal {
    /// The name is taken.
    Exists,
    /// It has a workflow job.
    Busy,
    /// There is no such runner.
    Unknown,
}

/// Why a runner gets no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionRefusal {
    /// The registration was deleted.
    Deleted,
    /// Another listener has one.
    Conflict,
    /// Its version is too old.
    Deprecated,
}

impl Registration {
    fn is_online(&self, now: Now) -> bool {
        self.session.as_ref().is_some_and(|session| {
            session.polls > 0
                || self.facts.workflow_job_id.is_some()
                || now - session.heard_at < HEARD_RECENTLY
        })
    }

    /// Waits for a workflow job at this moment.
    pub(crate) fn is_listening(&self) -> bool {
        !self.ghost
            && self.facts.workflow_job_id.is_none()
            && self
                .session
                .as_ref()
                .is_some_and(|session| session.polls > 0)
    }

    fn seen(&self, now: Now) -> Runner {
        Runner {
            online: self.is_online(now),
            listening: self.is_listening(),
            ..self.facts.clone()
        }
    }
}

impl World {
    /// Registered runners by id, as GitHub shows them.
    pub(crate) fn runners(&self, now: Now) -> Vec<Runner> {
        self.runners
            .values()
            .filter(|runner| !runner.ghost)
            .map(|runner| runner.seen(now))
            .collect()
    }

    pub(crate) fn runner(&self, repository_id: i64, id: i64, now: Now) -> Option<Runner> {
        self.runners
            .get(&id)
            .filter(|runner| !runner.ghost && runner.facts.repository_id == repository_id)
            .map(|runner| runner.seen(now))
    }

    /// Gives the runner and its credential.
    pub(crate) fn register(
        &mut self,
        new: NewRunner,
        replace: bool,
        now: Now,
    ) -> Result<(Runner, String), RunnerRefusal> {
        let name = (new.repository_id, new.name.to_ascii_lowercase());
        let holder = self
            .runner_names
            .get(&name)
            .and_then(|id| self.runners.get(id))
            .filter(|runner| !runner.ghost)
            .map(|runner| runner.facts.id);
        match holder {
            Some(_) if !replace => return Err(RunnerRefusal::Exists),
            Some(id) => self.delete_runner(new.repository_id, id)?,
            None => {}
        }
        let labels = self.labels(&new.labels);
        let facts = Runner {
            id: Ids::next(&mut self.ids.passing),
            name: new.name,
            repository_id: new.repository_id,
            os: "unknown".to_owned(),
            labels,
            ephemeral: new.ephemeral,
            just_in_time: new.just_in_time,
            version: None,
            work_folder: new.work_folder,
            online: false,
            listening: false,
            workflow_job_id: None,
            created_at: now,
        };
        let credential = tokens::noise(64);
        self.runner_names.insert(name, facts.id);
        self.runners.insert(
            facts.id,
            Registration {
                facts: facts.clone(),
                credential: credential.clone(),
                session: None,
                ghost: false,
            },
        );
        Ok((facts, credential))
    }

    /// One entry per label, ignoring case; `self-hosted`, systems and architectures are the runner's own.
    fn labels(&mut self, names: &[String]) -> Vec<RunnerLabel> {
        const OWN: [&str; 8] = [
            "self-hosted",
            "linux",
            "macos",
            "windows",
            "x64",
            "x86",
            "arm",
            "arm64",
        ];
        let mut labels: Vec<RunnerLabel> = Vec::new();
        for name in names {
            let lower = name.to_ascii_lowercase();
            if labels.iter().any(|l| l.name.eq_ignore_ascii_case(name)) {
                continue;
            }
            let ids = &mut self.ids;
            let id = *self
                .label_ids
                .entry(lower.clone())
                .or_insert_with(|| Ids::next(&mut ids.label));
            let kind = if OWN.contains(&lower.as_str()) {
                "read-only"
            } else {
                "custom"
            };
            labels.push(RunnerLabel {
                id,
                name: name.clone(),
                kind: kind.to_owned(),
            });
        }
        labels
    }

    pub(crate) fn delete_runner(
        &mut self,
        repository_id: i64,
        id: i64,
    ) -> Result<(), RunnerRefusal> {
        let runner = self
            .runners
            .get(&id)
            .filter(|runner| !runner.ghost && runner.facts.repository_id == repository_id)
            .ok_or(RunnerRefusal::Unknown)?;
        if runner.facts.workflow_job_id.is_some() {
            return Err(RunnerRefusal::Busy);
        }
        self.forget_runner(id);
        Ok(())
    }

    pub(crate) fn open_session(
        &mut self,
        credential: &str,
        version: &str,
        os: &str,
        now: Now,
    ) -> Result<(String, Runner), SessionRefusal> {
        if self.runners_deprecated {
            return Err(SessionRefusal::Deprecated);
        }
        let runner = self
            .runners
            .values_mut()
            .find(|runner| runner.credential == credential && !runner.ghost)
            .ok_or(SessionRefusal::Deleted)?;
        if runner.session.is_some() && runner.is_online(now) {
            return Err(SessionRefusal::Conflict);
        }
        let id = Uuid::new_v4().to_string();
        runner.session = Some(Session {
            id: id.clone(),
            polls: 0,
            heard_at: now,
            idle_since: now,
        });
        runner.facts.version = Some(version.to_owned());
        os.clone_into(&mut runner.facts.os);
        Ok((id, runner.seen(now)))
    }

    pub(crate) fn close_session(&mut self, session_id: &str) {
        if let Some(runner) = self.with_session(session_id) {
            runner.session = None;
        }
    }

    pub(crate) fn with_session(&mut self, session_id: &str) -> Option<&mut Registration> {
        self.runners.values_mut().find(|runner| {
            runner
                .session
                .as_ref()
                .is_some_and(|session| session.id == session_id)
        })
    }

    /// A long poll opened (+1) or ended (-1).
    pub(crate) fn count_poll(&mut self, session_id: &str, opened: bool, now: Now) {
        if let Some(session) = self
            .with_session(session_id)
            .and_then(|runner| runner.session.as_mut())
        {
            session.polls = if opened {
                session.polls + 1
            } else {
                session.polls.saturating_sub(1)
            };
            session.heard_at = now;
        }
    }

    fn forget_runner(&mut self, id: i64) {
        let Some(runner) = self.runners.remove(&id) else {
            return;
        };
        let Runner {
            repository_id,
            name,
            ..
        } = runner.facts;
        let name = (repository_id, name.to_ascii_lowercase());
        // A ghost's name may have been taken since.
        if self.runner_names.get(&name) == Some(&id) {
            self.runner_names.remove(&name);
        }
    }

    /// A runner that is done with a workflow job: an ephemeral one is deleted, another listens again.
    pub(crate) fn free_runner(&mut self, id: i64, now: Now) {
        let Some(runner) = self.runners.get_mut(&id) else {
            return;
        };
        if runner.facts.ephemeral {
            self.forget_runner(id);
            return;
        }
        runner.facts.workflow_job_id = None;
        if let Some(session) = runner.session.as_mut() {
            session.idle_since = now;
            session.heard_at = now;
        }
    }
}
