//! Postgres: rows, and one way to change a launch (lock the scope, load, apply, save, carry the effects out). A call of `happen`
//! is a transaction: nothing comes between.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use gha_slurm_domain::launch::{Applied, Context, Effect, Happening, Rejected};
use gha_slurm_domain::runner_class::Failures;
use gha_slurm_domain::{ClassId, Launch, LaunchId, LaunchState, WorkflowJob, WorkflowJobId};

use crate::github::Labels;
use crate::tell;
use crate::world::World;

/// A runner class.
#[derive(Debug)]
pub struct Class {
    pub repository: i64,
    pub user: &'static str,
    pub labels: Labels,
    pub failures: Failures,
    /// Counted as rows change, as the database does.
    pub demand: usize,
    pub supply: usize,
    /// Why nothing is launched.
    pub stopped: Option<String>,
}

#[derive(Debug, Default)]
pub struct Database {
    pub launches: BTreeMap<LaunchId, Launch>,
    pub jobs: BTreeMap<WorkflowJobId, WorkflowJob>,
    pub classes: BTreeMap<ClassId, Class>,
    /// Classes to plan again.
    pub replan: BTreeSet<ClassId>,
    /// Workflow jobs to ask GitHub about, and when.
    pub questions: BTreeMap<WorkflowJobId, DateTime<Utc>>,
}

impl Database {
    /// The class with these properties, made if it is new.
    pub fn ensure_class(&mut self, repository: i64, user: &'static str, labels: Labels) -> ClassId {
        let known = self.classes.iter().find(|(_, class)| {
            (class.repository, class.user, class.labels) == (repository, user, labels)
        });
        if let Some((id, _)) = known {
            return *id;
        }
        let id = ClassId(self.classes.len() as i64 + 1);
        let class = Class {
            repository,
            user,
            labels,
            failures: Failures::default(),
            demand: 0,
            supply: 0,
            stopped: None,
        };
        self.classes.insert(id, class);
        id
    }

    pub fn save_job(&mut self, job: WorkflowJob) {
        let id = job.id();
        if let Some(class) = job.class.filter(|_| job.is_demand())
            && let Some(class) = self.classes.get_mut(&class)
        {
            class.demand += 1;
        }
        let before = self.jobs.insert(id, job);
        if let Some(class) = before
            .filter(WorkflowJob::is_demand)
            .and_then(|job| job.class)
            && let Some(class) = self.classes.get_mut(&class)
        {
            class.demand = class.demand.wrapping_sub(1);
        }
    }

    pub fn save_launch(&mut self, launch: Launch) {
        let (id, class, is_supply) = (launch.id, launch.class, launch.is_supply());
        let was_supply = self
            .launches
            .insert(id, launch)
            .is_some_and(|before| before.is_supply());
        if let Some(class) = self.classes.get_mut(&class) {
            class.supply = class
                .supply
                .wrapping_add(is_supply.into())
                .wrapping_sub(was_supply.into());
        }
    }

    /// Queued workflow jobs of a class, oldest first.
    pub fn queued(&self, class: ClassId) -> Vec<WorkflowJobId> {
        let jobs = self.jobs.values();
        jobs.filter(|job| job.class == Some(class) && job.is_demand())
            .map(WorkflowJob::id)
            .collect()
    }

    /// The oldest planned launch of a class that a limit delays.
    pub fn oldest_limited(&self, class: ClassId) -> Option<&Launch> {
        let launches = self.launches.values();
        launches
            .filter(|launch| launch.class == class && launch.submission.is_limited)
            .filter(|launch| launch.state.stage() == LaunchState::Planned)
            .min_by_key(|launch| (launch.planned_at, launch.id))
    }
}

impl World {
    /// Something happens to a launch, in a transaction.
    pub fn happen(&mut self, id: LaunchId, happening: Happening) -> Result<Applied, Rejected> {
        let Some(before) = self.db.launches.get(&id) else {
            return Err(Rejected::Late);
        };
        let class = before.class;
        let demand = self.db.classes.get(&class).map_or(0, |class| class.demand);
        let words = self.is_told().then(|| format!("{happening:?}"));
        let context = Context { demand };
        let result = before.apply(happening, context, self.now);
        let problem = result
            .as_ref()
            .ok()
            .and_then(|applied| self.problem_of_change(before, &applied.launch));
        // That a submission is tried once more is no change.
        let is_change = result.as_ref().is_ok_and(|applied| {
            let after = &applied.launch;
            after.state != before.state || after.slurm != before.slurm
        });
        if let Some(words) = words {
            let word = words.split([' ', '(']).next().unwrap_or_default();
            let outcome = match &result {
                Ok(applied) => applied.launch.state.stage().as_str(),
                Err(_) => "rejected",
            };
            tell!(self, "    launch {}: {word} → {outcome}", id.0.as_u128());
        }
        let applied = result?;
        self.changes += u64::from(is_change);
        self.wrong(problem);
        self.db.save_launch(applied.launch.clone());
        for effect in &applied.effects {
            self.carry_out(class, applied.launch.planned_at, effect);
        }
        Ok(applied)
    }

    fn carry_out(&mut self, id: ClassId, planned_at: DateTime<Utc>, effect: &Effect) {
        let now = self.now;
        let Some(class) = self.db.classes.get_mut(&id) else {
            return;
        };
        match effect {
            Effect::Timeline(_) => {}
            Effect::Replan => {
                self.db.replan.insert(id);
            }
            Effect::ClassFailed(words) => class.failures.failed(words, now),
            Effect::ClassLost(words) => class.failures.lost(planned_at, words, now),
            Effect::ClassRefused(words) => class.failures.refused(words, now),
            Effect::ClassWorks => class.failures.forgive(),
            Effect::TryNextOfClass => {
                let next = self.db.oldest_limited(id).map(|launch| launch.id);
                if let Some(next) = next {
                    let _ = self.happen(next, Happening::MayTryAgain);
                }
            }
        }
    }
}
