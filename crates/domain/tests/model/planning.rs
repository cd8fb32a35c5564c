//! The launcher's decisions: what GitHub says of a workflow job, which class it belongs to, and the planner's plan carried out.

use chrono::{DateTime, Utc};
use gha_slurm_domain::admission::{NotAdmitted, admit};
use gha_slurm_domain::launch::{Attribution, Happening, NewLaunch, Why};
use gha_slurm_domain::planner::{ClassView, SURPLUS_ORDER, plan};
use gha_slurm_domain::workflow_job::{Decision, Heard, WorkflowJobFacts};
use gha_slurm_domain::{
    ClassId, Launch, LaunchId, LaunchState, RepositoryId, WorkflowJob, WorkflowJobId,
    WorkflowJobState,
};
use uuid::Uuid;

use crate::broker::refusal;
use crate::github::LABELS;
use crate::tell;
use crate::world::{USERS, World};

/// Whether the launch token expires before `deadline` while the launch still waits to start.
pub fn is_expiring(launch: &Launch, deadline: DateTime<Utc>) -> bool {
    LaunchState::PENDING.contains(&launch.state.stage())
        && launch
            .slurm
            .token_expires_at
            .is_some_and(|at| at <= deadline)
}

impl World {
    /// Records what GitHub says, and plans the classes that it touches: one transaction.
    pub fn learn(&mut self, repository: i64, facts: WorkflowJobFacts, state: WorkflowJobState) {
        let id = WorkflowJobId(facts.id);
        let heard = Heard {
            facts,
            state,
            repository: RepositoryId(repository),
            installation: None,
            traceparent: None,
        };
        let known = self.db.jobs.get(&id);
        let learned = WorkflowJob::learn(known, heard, self.now);
        let problem = known
            .filter(|known| known.state > learned.job.state)
            .map(|known| {
                format!(
                    "workflow job {id} goes back from {} to {}",
                    known.state.as_str(),
                    learned.job.state.as_str()
                )
            });
        let is_changed = known != Some(&learned.job);
        self.wrong(problem);
        let class = learned.job.class;
        if is_changed {
            self.changes += 1;
            self.db.save_job(learned.job);
        }
        if learned.is_doubtful {
            self.db.questions.insert(id, self.now);
        }
        if let Some(runner) = learned.runner {
            self.attribute(&runner, id);
        }
        self.decide_and_plan(id, class);
    }

    fn attribute(&mut self, runner: &str, job: WorkflowJobId) {
        let launch = self.db.launches.values().find(|launch| {
            let is_named = launch.runner().is_some_and(|known| known.name == runner);
            let is_open = !matches!(
                launch.work().map(|work| work.attribution),
                Some(Attribution::Job(_))
            );
            is_named && is_open
        });
        if let Some(launch) = launch.map(|launch| launch.id) {
            let _ = self.happen(launch, Happening::Attributed(job));
        }
    }

    /// Decides about a workflow job and plans its class, and the one it was in before.
    pub fn decide_and_plan(&mut self, id: WorkflowJobId, before: Option<ClassId>) {
        if let Some(fresh) = self.decide(id)
            && let Some(class) = self.db.classes.get_mut(&fresh)
        {
            class.failures.one_more_attempt(&self.limits);
        }
        let now_in = self.db.jobs.get(&id).and_then(|job| job.class);
        if let Some(class) = now_in {
            self.plan_class(class);
        }
        if let Some(class) = before.filter(|class| now_in != Some(*class)) {
            self.plan_class(class);
        }
    }

    /// Returns the class that the workflow job newly belongs to.
    fn decide(&mut self, id: WorkflowJobId) -> Option<ClassId> {
        let job = self.db.jobs.get(&id).filter(|job| job.is_open())?;
        let repository = job.repository.0;
        let words = &job.facts.labels;
        let (labels, _) = LABELS
            .iter()
            .find(|(_, known)| words.iter().eq(known.iter()))?;
        let decision = match admit(self.standings.get(&repository)?, None) {
            Ok(mapping) => {
                let user = USERS.iter().find(|user| **user == mapping.user.as_str())?;
                Decision::Ours(self.db.ensure_class(repository, user, *labels))
            }
            Err(reason @ NotAdmitted::Unmapped) => Decision::WaitingForMapping(reason.to_string()),
            Err(reason) => Decision::Refused(reason.to_string()),
        };
        let (job, _) = self.db.jobs.get(&id)?.decided(decision, self.now)?;
        let class = job.class;
        self.db.save_job(job);
        class
    }

    /// Mapping, standing or policy changed: all open workflow jobs are decided again, and what failed gets a fresh chance.
    pub fn decide_scope(&mut self, repository: i64) {
        for class in self
            .db
            .classes
            .values_mut()
            .filter(|class| class.repository == repository)
        {
            class.failures.forgive();
        }
        let jobs = self
            .db
            .jobs
            .values()
            .filter(|job| job.repository.0 == repository && job.is_open());
        let jobs: Vec<_> = jobs.map(|job| (job.id(), job.class)).collect();
        for (id, class) in jobs {
            self.decide_and_plan(id, class);
        }
        let classes = self
            .db
            .classes
            .iter()
            .filter(|(_, class)| class.repository == repository);
        for class in classes.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.plan_class(class);
        }
    }

    fn supply_in(&self, class: ClassId, states: &[LaunchState]) -> Vec<&Launch> {
        let launches = self.db.launches.values();
        let mut supply: Vec<&Launch> = launches
            .filter(|launch| launch.class == class && launch.is_supply())
            .filter(|launch| states.contains(&launch.state.stage()))
            .collect();
        supply.sort_by_key(|launch| std::cmp::Reverse((launch.planned_at, launch.id)));
        supply
    }

    /// Plans a class and carries the plan out.
    pub fn plan_class(&mut self, id: ClassId) {
        let deadline = self.now + self.limits.token_margin;
        let Some(class) = self.db.classes.get(&id) else {
            return;
        };
        let pending = self.supply_in(id, &LaunchState::PENDING);
        let expiring = pending
            .iter()
            .filter(|launch| is_expiring(launch, deadline));
        let view = ClassView {
            demand: class.demand,
            supply: class.supply,
            expiring: expiring.map(|launch| launch.id).collect(),
            failures: class.failures.clone(),
            stop: None,
        };
        let plan = plan(&view, &self.limits, self.now);
        for launch in &plan.expired {
            let _ = self.happen(*launch, Happening::NotWanted(Why::TokenExpiring));
        }
        self.do_without(id, plan.surplus);
        if let Some(class) = self.db.classes.get_mut(&id) {
            class.stopped = plan.stopped;
        }
        let queued = self.db.queued(id);
        let counted = self
            .db
            .launches
            .values()
            .filter(|launch| launch.is_supply());
        let causes: Vec<WorkflowJobId> = counted.map(|launch| launch.cause).collect();
        let (again, first): (Vec<_>, Vec<_>) =
            queued.into_iter().partition(|id| causes.contains(id));
        if plan.launch > 0 {
            let problem = self.problem_of_plan(id, plan.launch);
            self.wrong(problem);
        }
        for cause in first.into_iter().chain(again).take(plan.launch) {
            let new = NewLaunch {
                id: LaunchId(Uuid::from_u128(self.db.launches.len() as u128 + 1)),
                class: id,
                repository: RepositoryId(
                    self.db.classes.get(&id).map_or(0, |class| class.repository),
                ),
                cause,
                traceparent: None,
                not_before: plan.not_before.unwrap_or(self.now),
                verify_demand: plan.verify_demand,
            };
            tell!(
                self,
                "    launch {}: planned for class {id}",
                new.id.0.as_u128()
            );
            self.changes += 1;
            self.db.save_launch(Launch::planned(new, self.now));
        }
    }

    /// Withdraws surplus, and marks for deregistration what may have work by now; unmarks the others.
    fn do_without(&mut self, class: ClassId, mut surplus: usize) {
        let why = refusal(self, class).unwrap_or(Why::NoDemand);
        for states in SURPLUS_ORDER {
            let launches: Vec<LaunchId> =
                self.supply_in(class, states).iter().map(|l| l.id).collect();
            for launch in launches {
                let is_idle = states.contains(&LaunchState::Listening);
                let happening = match (is_idle, surplus > 0) {
                    (true, true) => Happening::ReleaseWanted(why.clone()),
                    (true, false) => Happening::ReleaseNotWanted,
                    (false, true) => Happening::NotWanted(why.clone()),
                    (false, false) => continue,
                };
                surplus = surplus.saturating_sub(1);
                let _ = self.happen(launch, happening);
            }
        }
    }
}
