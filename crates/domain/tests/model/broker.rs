//! token-broker: each call of a node is a sequence of steps between which anything may happen, a crash too.

use gha_slurm_domain::admission::for_class;
use gha_slurm_domain::launch::{
    Admission, Caller, Happening, Launch, Rejected, RunnerMode, State, Why,
};
use gha_slurm_domain::naming::runner_name;
use gha_slurm_domain::{ClassId, LaunchId, RunnerId, SlurmJobId};
use uuid::Uuid;

use crate::github::{Deletion, Registration};
use crate::node::{Token, Turned, has_progress_token};
use crate::world::{Luck, Task, World};

pub fn name_of(launch: LaunchId, attempt: u32) -> String {
    runner_name("gha-slurm", "model", launch, attempt)
}

/// Transaction 1, clear earlier registrations, register, transaction 2, answer.
#[derive(Debug, Clone)]
pub struct Redeem {
    number: i64,
    call: u32,
    launch: LaunchId,
    restarts: i32,
    mode: RunnerMode,
    step: Redemption,
}

#[derive(Debug, Clone)]
enum Redemption {
    Begin,
    Clear { attempt: u32, id: Option<i64> },
    Register { attempt: u32 },
    Complete { attempt: u32, id: Option<i64> },
    Delete { id: Option<i64> },
    Answer(Result<Token, Turned>),
}

impl Redeem {
    pub fn new(number: i64, call: u32, launch: LaunchId, restarts: i32, mode: RunnerMode) -> Self {
        Self {
            number,
            call,
            launch,
            restarts,
            mode,
            step: Redemption::Begin,
        }
    }

    /// The broker is killed: a registration that is not stored yet belongs to nobody.
    pub fn crashed(&self, w: &mut World) {
        if let Redemption::Complete { id: Some(id), .. } | Redemption::Delete { id: Some(id) } =
            self.step
            && let Some(runner) = w.github.registrations.get_mut(&id)
        {
            runner.is_orphan = true;
        }
    }

    pub fn step(mut self, w: &mut World, luck: Luck) -> Option<Task> {
        let away = |reason| Redemption::Answer(Err(Turned::Away(reason)));
        self.step = match self.step {
            Redemption::Begin => self.begin(w)?,
            // The node gets no answer, or 503: it calls again.
            Redemption::Clear { .. } | Redemption::Register { .. } if luck == Luck::Trouble => {
                return None;
            }
            Redemption::Clear { attempt, id } => {
                // One whose id is known had cleared those before it.
                let is_busy = if id.is_some() {
                    w.github.delete(id, "") == Deletion::Busy
                } else {
                    let names = (1..attempt).map(|earlier| name_of(self.launch, earlier));
                    let deletions: Vec<_> =
                        names.map(|name| w.github.delete(None, &name)).collect();
                    deletions.contains(&Deletion::Busy)
                };
                if is_busy {
                    away("redeemed_elsewhere")
                } else {
                    Redemption::Register { attempt }
                }
            }
            Redemption::Register { .. } if luck == Luck::Refused => {
                let words = "no such repository".to_owned();
                let _ = w.happen(self.launch, Happening::MintFailed { words });
                away("not_wanted")
            }
            Redemption::Register { attempt } => Redemption::Complete {
                attempt,
                id: self.register(w, attempt),
            },
            Redemption::Complete { attempt, id } => {
                let minted = Happening::Minted {
                    attempt,
                    github_id: id,
                    progress_token_hash: vec![attempt as u8],
                };
                match w.happen(self.launch, minted) {
                    Ok(_) => Redemption::Answer(Ok(Token {
                        attempt,
                        mode: self.mode,
                        name: name_of(self.launch, attempt),
                        is_registered: self.mode == RunnerMode::Jit,
                    })),
                    Err(_) => Redemption::Delete { id },
                }
            }
            Redemption::Delete { id } => {
                if luck == Luck::Trouble {
                    self.crashed(w);
                } else if let Some(id) = id {
                    w.github.delete(Some(id), "");
                }
                away("not_wanted")
            }
            Redemption::Answer(answer) => {
                if luck != Luck::Unanswered {
                    w.answered(self.number, self.call, answer);
                }
                return None;
            }
        };
        Some(Task::Redeem(self))
    }

    /// `None`: 503, the node calls again.
    fn begin(&self, w: &mut World) -> Option<Redemption> {
        let away = |reason| Redemption::Answer(Err(Turned::Away(reason)));
        let Some(launch) = w.db.launches.get(&self.launch) else {
            return Some(away("not_wanted"));
        };
        let admission = admission(w, launch);
        let existing = launch.runner();
        let attempt = existing.map_or(1, |runner| runner.mint_attempt + 1);
        let id = existing.and_then(|runner| runner.github_id);
        let happening = Happening::CalledBack {
            caller: Caller {
                slurm_job: SlurmJobId::try_from(self.number.to_string()).ok(),
                restart_count: self.restarts,
                node: None,
            },
            mode: self.mode,
            admission,
            runner: RunnerId(Uuid::from_u128(u128::from(self.call))),
            name: name_of(self.launch, attempt),
        };
        Some(match w.happen(self.launch, happening) {
            Ok(applied) if applied.turned_away().is_some() => away("not_wanted"),
            Ok(_) if attempt > 1 => Redemption::Clear { attempt, id },
            Ok(_) => Redemption::Register { attempt },
            Err(Rejected::Gone(_) | Rejected::Late) => away("not_wanted"),
            Err(Rejected::Conflict(_)) => away("redeemed_elsewhere"),
            Err(Rejected::TooSoon { wait, .. }) => {
                w.told_to_wait(self.number, self.call, wait);
                return None;
            }
            Err(Rejected::NotStarted(_)) => return None,
        })
    }

    fn register(&self, w: &mut World, attempt: u32) -> Option<i64> {
        let launch = w.db.launches.get(&self.launch)?;
        if self.mode == RunnerMode::Registration {
            return None;
        }
        let registration = Registration {
            name: name_of(self.launch, attempt),
            launch: self.launch,
            repository: launch.repository.0,
            labels: w.db.classes.get(&launch.class)?.labels,
            is_online: false,
            job: None,
            seen_at: w.now,
            is_orphan: false,
        };
        Some(w.github.register(registration))
    }
}

fn admission(w: &World, launch: &Launch) -> Admission {
    Admission {
        refusal: refusal(w, launch.class),
        demand: w.db.classes.get(&launch.class).map_or(0, |c| c.demand),
        redeemed: redeemed(w, launch),
    }
}

/// Why a class may not have runners now.
pub fn refusal(w: &World, class: ClassId) -> Option<Why> {
    let class = w.db.classes.get(&class)?;
    for_class(
        w.standings.get(&class.repository)?,
        &class.user.parse().ok()?,
        None,
    )
}

/// Launches of the class that were given a runner token and have no workflow job yet.
pub fn redeemed(w: &World, of: &Launch) -> usize {
    let launches = w.db.launches.values();
    launches
        .filter(|launch| launch.class == of.class && launch.is_redeemed_supply())
        .count()
}

/// A node that saw no workflow job gives its registration back.
#[derive(Debug, Clone)]
pub struct Release {
    number: i64,
    call: u32,
    launch: LaunchId,
    attempt: u32,
    is_deleted: bool,
}

impl Release {
    pub fn new(number: i64, call: u32, launch: LaunchId, attempt: u32) -> Self {
        Self {
            number,
            call,
            launch,
            attempt,
            is_deleted: false,
        }
    }

    pub fn step(mut self, w: &mut World, luck: Luck) -> Option<Task> {
        if self.is_deleted {
            let _ = w.happen(self.launch, Happening::GaveUpIdle);
            if luck != Luck::Unanswered {
                w.answered(self.number, self.call, Err(Turned::Released));
            }
            return None;
        }
        let launch = w.db.launches.get(&self.launch)?;
        // 401, 409, or 503: it keeps running, and asks again.
        if !has_progress_token(launch, self.attempt)
            || matches!(launch.state, State::Busy(..))
            || luck == Luck::Trouble
        {
            return None;
        }
        let id = launch.runner().and_then(|runner| runner.github_id);
        let name = name_of(self.launch, self.attempt);
        self.is_deleted = w.github.delete(id, &name) != Deletion::Busy;
        self.is_deleted.then_some(Task::Release(self))
    }
}
