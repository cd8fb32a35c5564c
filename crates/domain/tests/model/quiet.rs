//! Quiet: nothing fails any more, every loop gets its turn, and time passes.

use chrono::TimeDelta;
use gha_slurm_domain::{SlurmState, WorkflowJobId, WorkflowJobState};

use crate::launcher::{Ask, Because, Cancel, Compare, Deregister, Submit, Watch};
use crate::slurm::NODES;
use crate::tell;
use crate::world::{Luck, REPOSITORIES, Task, World};

/// While nothing changes, this much time passes. Together more than each deadline and backoff.
const PAUSES_S: [i64; 8] = [1, 10, 60, 130, 300, 600, 1200, 1900];
/// The pause from which GitHub is asked for its list.
const LISTS_FROM: usize = 4;
/// More rounds than any schedule needs: what still changes then never comes to rest.
const MOST_ROUNDS: usize = 600;

/// Whether the cluster starts Slurm jobs and builds end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    Full,
    Free,
}

impl World {
    /// Lets everything come to rest, and checks what must hold then.
    pub fn come_to_rest(&mut self) {
        self.slurm.refuses = false;
        for repository in REPOSITORIES {
            self.decide_scope(repository);
        }
        for cluster in [Cluster::Full, Cluster::Free] {
            tell!(
                self,
                "Quiet: nothing fails any more. The cluster: {cluster:?}"
            );
            self.settle(cluster);
            let problem = match cluster {
                Cluster::Full => self.problem_while_full(),
                Cluster::Free => self.problem_at_the_end(),
            };
            self.wrong(problem);
        }
    }

    fn settle(&mut self, cluster: Cluster) {
        let mut pauses = 0;
        for _ in 0..MOST_ROUNDS {
            if self.problem.is_some() {
                return;
            }
            let before = self.changes;
            self.round(cluster);
            if pauses >= LISTS_FROM {
                for repository in REPOSITORIES {
                    self.tasks
                        .push(Task::Compare(Compare::begin(self, repository)));
                }
                self.finish_tasks();
            }
            let problem = self.problem_of_counts();
            self.wrong(problem);
            if self.changes != before {
                pauses = 0;
                continue;
            }
            let Some(pause) = PAUSES_S.get(pauses) else {
                return;
            };
            pauses += 1;
            self.passes(TimeDelta::seconds(*pause));
        }
        self.wrong(Some("it never comes to rest".to_owned()));
    }

    fn finish_tasks(&mut self) {
        while !self.tasks.is_empty() {
            for task in std::mem::take(&mut self.tasks) {
                self.now += TimeDelta::milliseconds(1);
                let next = self.step(task, Luck::Fine);
                self.tasks.extend(next);
            }
        }
    }

    /// Everybody's turn, once.
    fn round(&mut self, cluster: Cluster) {
        self.now += TimeDelta::milliseconds(1);
        for webhook in std::mem::take(&mut self.github.webhooks) {
            let heard =
                WorkflowJobState::from_webhook(webhook.action.as_str(), &webhook.facts.status);
            self.learn(webhook.repository, webhook.facts, heard);
        }
        for message in std::mem::take(&mut self.messages) {
            self.deliver(message);
        }
        self.finish_tasks();
        self.sweep();
        self.loops();
        self.finish_tasks();
        self.outside(cluster);
    }

    fn loops(&mut self) {
        for launch in self.to_submit() {
            // One that a limit delays keeps the younger ones of its class waiting.
            if self.to_submit().contains(&launch) {
                let task = Submit::begin(self, launch);
                self.tasks.extend(task);
                self.finish_tasks();
            }
        }
        let cancels = self
            .to_cancel()
            .into_iter()
            .map(|id| Task::Cancel(Cancel::new(id)));
        self.tasks.extend(cancels);
        for (due, because) in [
            (self.to_deregister(), Because::Marked),
            (self.silent(), Because::Silent),
        ] {
            let launches = due.iter().filter_map(|id| self.db.launches.get(id));
            let tasks: Vec<Task> = launches
                .filter_map(|launch| Deregister::begin(launch, because))
                .collect();
            self.tasks.extend(tasks);
            self.finish_tasks();
        }
        for launch in self.unattributed() {
            self.look_for_workflow_job(launch);
        }
        let questions: Vec<WorkflowJobId> = self.db.questions.keys().copied().collect();
        for id in questions {
            self.tasks.push(Task::Ask(Ask::new(self, id)));
        }
        self.tasks.push(Task::Watch(Watch::begin(self)));
    }

    /// GitHub, Slurm and nodes go on.
    fn outside(&mut self, cluster: Cluster) {
        let runners = self.github.registrations.iter();
        let lost = runners.filter(|(_, runner)| runner.job.is_some() && !runner.is_online);
        for runner in lost.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.changes += 1;
            self.github.complete(runner);
        }
        while let Some((runner, job)) = self.github.matches().first().copied() {
            self.changes += 1;
            self.assigned(runner, job);
        }
        if cluster == Cluster::Free {
            let running = self.slurm.in_state(SlurmState::Running).len();
            let pending = self.slurm.in_state(SlurmState::Pending);
            for number in pending.into_iter().take(NODES.saturating_sub(running)) {
                self.changes += 1;
                self.start(number);
            }
        }
        for number in self.slurm.in_state(SlurmState::Running) {
            let launch = self.slurm.jobs.get(&number).map(|job| job.launch);
            let is_busy = launch.is_some_and(|launch| self.github.is_busy(launch));
            if self.can_step(number) && !(is_busy && cluster == Cluster::Full) {
                self.changes += 1;
                self.node_steps(number);
            }
        }
        let freed = self.slurm.freed;
        if self.freed_known != freed {
            self.freed_known = freed;
            self.try_limited();
        }
    }
}
