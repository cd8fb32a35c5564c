//! What must hold after every step, and once events are quiet.

use gha_slurm_domain::admission::admit;
use gha_slurm_domain::launch::{Attribution, MOST_ATTEMPTS, Outcome, State};
use gha_slurm_domain::{ClassId, Launch, LaunchState, SlurmState, WorkflowJobState};

use crate::broker::redeemed;
use crate::slurm::LIMIT;
use crate::world::World;

impl World {
    /// What is wrong with a change of a launch.
    pub fn problem_of_change(&self, before: &Launch, after: &Launch) -> Option<String> {
        let id = before.id.0.as_u128();
        let (from, to) = (before.state.stage(), after.state.stage());
        let is_repeated = (from, to) == (LaunchState::Registered, LaunchState::Redeeming);
        if to < from && !is_repeated {
            return Some(format!("launch {id} goes back from {from:?} to {to:?}"));
        }
        if let (State::Over(before), State::Over(after)) = (&before.state, &after.state)
            && before.outcome != after.outcome
        {
            return Some(format!("launch {id} is over, and ends once more"));
        }
        let is_withdrawn = |launch: &Launch| {
            launch
                .over()
                .is_some_and(|over| matches!(over.outcome, Outcome::Withdrawn { .. }))
        };
        if is_withdrawn(after) && !is_withdrawn(before) && self.github.is_busy(before.id) {
            return Some(format!(
                "launch {id} is withdrawn although its runner has work"
            ));
        }
        if after
            .over()
            .is_some_and(|over| over.outcome.explained().is_empty())
        {
            return Some(format!("launch {id} is over without words for it"));
        }
        let known = before.slurm.id.as_ref();
        if known.is_some() && known != after.slurm.id.as_ref() {
            return Some(format!("launch {id} has a second Slurm job"));
        }
        let attempts = after.runner().map_or(0, |runner| runner.mint_attempt);
        if attempts > MOST_ATTEMPTS {
            return Some(format!("launch {id} is redeemed {attempts} times"));
        }
        let first = before.runner().is_none() && to == LaunchState::Redeeming;
        let demand = self
            .db
            .classes
            .get(&before.class)
            .map_or(0, |class| class.demand);
        if first && redeemed(self, before) >= demand {
            return Some(format!("launch {id} redeems although nothing waits for it"));
        }
        None
    }

    /// What is wrong with planning so many launches more. Whatever may have, or get, one of the queued workflow jobs counts.
    pub fn problem_of_plan(&self, id: ClassId, new: usize) -> Option<String> {
        let demand = self.db.classes.get(&id).map_or(0, |class| class.demand);
        let launches = self
            .db
            .launches
            .values()
            .filter(|launch| launch.class == id);
        let open = launches.filter(|launch| match launch.work() {
            Some(work) => work.attribution == Attribution::Unknown,
            None => launch.over().is_none(),
        });
        let open = open.count();
        (open + new > demand)
            .then(|| format!("class {id}: {demand} wanted, {open} there, {new} more planned"))
    }

    /// What is wrong with the sums.
    pub fn problem_of_counts(&self) -> Option<String> {
        if self.slurm.active() > LIMIT {
            return Some("more Slurm jobs than the limit".to_owned());
        }
        for (id, class) in &self.db.classes {
            let launches = self.db.launches.values();
            let supply = launches
                .filter(|launch| launch.class == *id && launch.is_supply())
                .count();
            let demand = self.db.queued(*id).len();
            if (supply, demand) != (class.supply, class.demand) {
                return Some(format!(
                    "class {id}: counted supply {} and demand {}, really {supply} and {demand}",
                    class.supply, class.demand
                ));
            }
        }
        let mut launches: Vec<_> = self.slurm.jobs.values().map(|job| job.launch).collect();
        launches.sort_unstable();
        let jobs = launches.len();
        launches.dedup();
        if launches.len() < jobs {
            return Some("a launch has two Slurm jobs".to_owned());
        }
        let online = self
            .github
            .registrations
            .values()
            .filter(|runner| runner.is_online);
        let mut online: Vec<_> = online.map(|runner| runner.launch).collect();
        online.sort_unstable();
        let runners = online.len();
        online.dedup();
        (online.len() < runners).then(|| "a launch has two runners".to_owned())
    }

    /// Once events are quiet, while the cluster is full and no build ends: each class has as many launches as queued workflow
    /// jobs, and what is not wanted waits nowhere.
    pub fn problem_while_full(&self) -> Option<String> {
        for (id, class) in &self.db.classes {
            let jobs = self.github.jobs.values().filter(|job| {
                let standing = self.standings.get(&job.repository);
                let mapping = standing.map(|standing| admit(standing, None));
                job.state == WorkflowJobState::Queued
                    && (job.repository, job.labels) == (class.repository, class.labels)
                    && matches!(mapping, Some(Ok(mapping)) if mapping.user.as_str() == class.user)
            });
            let demand = jobs.count();
            if demand != class.demand {
                return Some(format!(
                    "class {id}: {} workflow jobs are known, {demand} queued",
                    class.demand
                ));
            }
            if class.supply > demand {
                return Some(format!(
                    "class {id}: {demand} wanted, supply {}: surplus",
                    class.supply
                ));
            }
            if class.supply < demand && !self.is_stopped(class) {
                return Some(format!(
                    "class {id}: {demand} wanted, supply {}",
                    class.supply
                ));
            }
        }
        for (number, job) in &self.slurm.jobs {
            let over = self.db.launches.get(&job.launch).and_then(Launch::over);
            // One that Slurm requeued is turned away when it starts again.
            if job.state == SlurmState::Pending && job.restarts == 0 && over.is_some() {
                return Some(format!(
                    "Slurm job {number} waits although launch {} is over: {over:?}",
                    job.launch.0.as_u128()
                ));
            }
        }
        self.github.registrations.values().find_map(|runner| {
            let launch = self.db.launches.get(&runner.launch)?;
            let is_surplus = launch.over().is_some() && runner.job.is_none() && !runner.is_orphan;
            is_surplus.then(|| {
                format!(
                    "runner {} is registered although its launch is over",
                    runner.name
                )
            })
        })
    }

    fn is_stopped(&self, class: &crate::database::Class) -> bool {
        class.failures.are_too_many(&self.limits) && class.stopped.is_some()
    }

    /// Once the cluster has run what it can: everything queued has run, and nothing is left over.
    pub fn problem_at_the_end(&self) -> Option<String> {
        for (id, job) in &self.github.jobs {
            let standing = self.standings.get(&job.repository);
            let user = match standing.map(|standing| admit(standing, None)) {
                Some(Ok(mapping)) => mapping.user,
                _ => continue,
            };
            let mut classes = self.db.classes.values();
            let class = classes.find(|class| {
                (class.repository, class.labels) == (job.repository, job.labels)
                    && class.user == user.as_str()
            });
            let is_stopped = class.is_some_and(|class| self.is_stopped(class));
            if job.state == WorkflowJobState::Queued && !is_stopped {
                return Some(format!("workflow job {id} starves"));
            }
        }
        if let Some((number, _)) = self.slurm.jobs.iter().find(|(_, job)| !job.state.is_over()) {
            return Some(format!("Slurm job {number} is left over"));
        }
        if let Some(runner) = self
            .github
            .registrations
            .values()
            .find(|runner| !runner.is_orphan)
        {
            return Some(format!("runner {} is left over", runner.name));
        }
        let mut launches = self.db.launches.values();
        let left = launches.find(|launch| launch.over().is_none() || launch.is_supply())?;
        Some(format!(
            "launch {} is left over: {:?}",
            left.id.0.as_u128(),
            left.state
        ))
    }
}
