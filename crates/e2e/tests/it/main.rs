//! Every service as a process of its own, over real RabbitMQ and Postgres, with a simulated GitHub.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod attacks;
mod collector;
mod crashes;
mod deliveries;
mod faults;
mod flood;
mod ghosts;
mod mapping;
mod outbound;
mod quotas;
mod races;
mod real_slurm;
mod reconciler;
mod servers;
mod stack;
mod way;
mod workflow_code;
mod zone;
