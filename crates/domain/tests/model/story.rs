//! Schedules: made from a seed, replayed, shrunk, and told.

use crate::world::{Action, Kind, WEIGHTS, World};

/// Actions of a schedule.
const SHORTEST: u64 = 10;
const LONGEST: u64 = 120;

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>): one seed, one schedule.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The schedule of a seed.
pub fn schedule(seed: u64) -> Vec<Action> {
    let mut random = Random(seed);
    let all: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let length = SHORTEST + random.next() % (LONGEST - SHORTEST);
    let mut action = || {
        let mut at = (random.next() % u64::from(all)) as u32;
        let kind = WEIGHTS.iter().find_map(|(kind, weight)| {
            let is_it = at < *weight;
            at = at.wrapping_sub(*weight);
            is_it.then_some(*kind)
        });
        Action(kind.unwrap_or(Kind::Step), (random.next() >> 32) as u8)
    };
    (0..length).map(|_| action()).collect()
}

fn run(actions: &[Action], is_told: bool) -> World {
    let mut world = World::new(is_told);
    for action in actions {
        world.perform(*action);
        if world.problem.is_some() {
            return world;
        }
    }
    world.come_to_rest();
    world
}

/// What goes wrong in a schedule.
pub fn problem(actions: &[Action]) -> Option<String> {
    run(actions, false).problem
}

/// A schedule that fails, with all removed that it fails without. Delta debugging: halves first, then smaller pieces.
pub fn shrunk(mut actions: Vec<Action>) -> Vec<Action> {
    let mut piece = actions.len() / 2;
    while piece > 0 {
        let mut from = 0;
        let mut has_shrunk = false;
        while from < actions.len() {
            let mut fewer = actions.clone();
            fewer.drain(from..(from + piece).min(actions.len()));
            if problem(&fewer).is_some() {
                actions = fewer;
                has_shrunk = true;
            } else {
                from += piece;
            }
        }
        if !has_shrunk || piece > 1 {
            piece /= 2;
        }
    }
    for index in 0..actions.len() {
        for pick in 0..4 {
            let mut simpler = actions.clone();
            if let Some(action) = simpler.get_mut(index).filter(|action| action.1 > pick) {
                action.1 = pick;
                if problem(&simpler).is_some() {
                    actions = simpler;
                    break;
                }
            }
        }
    }
    actions
}

/// A schedule that fails, for people: one line for each step, then what is wrong, then the schedule as code.
pub fn told(actions: &[Action]) -> String {
    let world = run(actions, true);
    let problem = world.problem.clone().unwrap_or_default();
    let code: Vec<String> = actions
        .iter()
        .map(|Action(kind, pick)| format!("Action({kind:?}, {pick})"))
        .collect();
    format!(
        "{}\n\nWrong: {problem}\n\n[{}]",
        world.story().join("\n"),
        code.join(", ")
    )
}

/// Fails with the story if the schedule goes wrong.
pub fn holds(actions: &[Action]) {
    assert!(problem(actions).is_none(), "{}", told(actions));
}
