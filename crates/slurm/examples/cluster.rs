//! Asks a cluster for its version, its partitions and its queue. Submits and cancels nothing. Arguments: `sbatch FOLDER`, with the
//! folder of Slurm's programs, or `slurmrestd URL USER`.
#![expect(clippy::print_stdout, reason = "an example")]

use std::collections::BTreeMap;

use anyhow::bail;
use gha_slurm_domain::Clock;
use gha_slurm_slurm::settings::{RunAs, SbatchSettings, SlurmrestdSettings};
use gha_slurm_slurm::{Numbers, RestSlurm, SbatchSlurm, Slurm};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let slurm: Box<dyn Slurm> = match words.as_slice() {
        ["sbatch", folder] => Box::new(SbatchSlurm::new(SbatchSettings {
            // Only a submission would act as somebody.
            run_as: RunAs::Sudo,
            bin: folder.into(),
            ..SbatchSettings::default()
        })?),
        ["slurmrestd", url, user] => {
            let settings: SlurmrestdSettings = serde_json::from_value(
                json!({ "url": url, "service_user": user, "tokens": "scontrol" }),
            )?;
            Box::new(RestSlurm::new(settings, Clock::system())?)
        }
        _ => bail!("give `sbatch FOLDER` or `slurmrestd URL USER`"),
    };
    let survey = slurm.survey().await?;
    println!("{}", survey.version);
    println!("partitions: {}", survey.partitions?.join(", "));
    let queue = slurm.list(&Numbers::default()).await?;
    for job in &queue.ours {
        println!(
            "{} of {}: launch {}, {:?}",
            job.id, job.user, job.launch, job.state
        );
    }
    let others: BTreeMap<_, _> = queue.others.iter().collect();
    for (user, number) in others {
        println!("{number} other Slurm jobs of {user}");
    }
    println!("Slurm jobs of gha-slurm: {}", queue.ours.len());
    Ok(())
}
