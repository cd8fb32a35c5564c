//! A model of everything around the domain's decisions. The planner, the transitions of launches and workflow jobs, and admission
//! are the real ones; GitHub, Slurm, nodes, webhooks, Postgres and the services' loops are small models. A schedule is a list of
//! actions made from a seed; `invariants` says what must hold after each, and once everything is quiet.
//!
//! `MODEL_SCHEDULES=1000000 MODEL_SEED=7 cargo test -p gha-slurm-domain --test model` tries other schedules, and more.
#![expect(
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::option_option,
    clippy::large_enum_variant,
    reason = "one crate of tests, all of it private"
)]

mod broker;
mod database;
mod github;
mod invariants;
mod launcher;
mod node;
mod planning;
mod quiet;
mod slurm;
mod stories;
mod story;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

const SCHEDULES: u64 = 100_000;

#[expect(clippy::disallowed_methods, reason = "a knob of a test, not a setting")]
fn knob(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not `{text}`"))
    })
}

#[test]
fn every_schedule_comes_to_rest_as_it_shall() {
    let first = knob("MODEL_SEED", 1) << 32;
    let schedules = knob("MODEL_SCHEDULES", SCHEDULES);
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(u64::MAX);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= schedules || failed.load(Ordering::Relaxed) != u64::MAX {
                return;
            }
            if story::problem(&story::schedule(first + number)).is_some() {
                failed.fetch_min(number, Ordering::Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner();
    if failed != u64::MAX {
        let story = story::told(&story::shrunk(story::schedule(first + failed)));
        panic!("schedule {failed} of {schedules} goes wrong:\n\n{story}");
    }
}
