//! Submissions through launcher and agent beside bare ones, to one private Slurm in the same run.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use gha_slurm_test_support::{
    BackingServices, Deployment, PrivateSlurm, SLURM_USERS, Service, SlurmBackend, try_wait_until,
};
use tokio_postgres::NoTls;

use crate::bare::Bare;
use crate::ingest::Deliveries;
use crate::load::{Target, closed_loop};
use crate::report::{Table, median};
use crate::site::{Repository, Site};
use crate::surroundings::{DEPLOYMENT, Surroundings};

/// As many calls as the launcher has under way at once.
const SUBMITTERS: usize = 16;
const USER: &str = SLURM_USERS[0];
/// From the start of agent and launcher until the launches are due: the one first looks at Slurm, the other compares its repositories with
/// GitHub's.
const SETTLING: TimeDelta = TimeDelta::seconds(10);
/// For what has to happen at all.
const DEADLINE: Duration = Duration::from_secs(120);

/// How much is submitted.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Effort {
    /// Submissions of each stretch.
    #[arg(long, default_value_t = 300)]
    submissions: u32,
    /// Webhooks of each stretch, one after the other.
    #[arg(long, default_value_t = 40)]
    webhooks: u32,
    /// How often each stretch is repeated, bare and through the services in turn; the middle one is shown.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// One round of one backend.
struct Round {
    /// One submission after the other, as a loop in a script makes them.
    loop_rate: f64,
    /// As many at once as the launcher has under way.
    bare_rate: f64,
    rate: f64,
    bare_p50_ms: f64,
    p50_ms: f64,
    p90_ms: f64,
}

pub(crate) async fn measure(around: &Surroundings, effort: &Effort) -> Result<Vec<Table>> {
    let slurm = PrivateSlurm::start(1).await?;
    // Submissions are what is measured: nothing runs on the two cores beside them.
    slurm
        .run("scontrol", &["update", "partitionname=main", "state=down"])
        .await?;
    let mut rates = Table {
        title: "Submissions",
        columns: vec![
            "",
            "submissions/s",
            "of the bare loop",
            "of 16 bare at once",
        ],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let mut latencies = Table {
        title: "From webhook to Slurm job id",
        columns: vec!["one at a time", "p50 ms", "p90 ms", "added at p50, ms"],
        rows: Vec::new(),
        notes: Vec::new(),
    };
    for slurm_backend in [SlurmBackend::Sbatch, SlurmBackend::Slurmrestd] {
        let backend = slurm_backend.as_str();
        let mut rounds = Vec::new();
        for number in 0..effort.rounds {
            let name = format!("{backend}_{number}");
            rounds.push(round(around, &slurm, slurm_backend, &name, effort).await?);
        }
        let of = |key: fn(&Round) -> f64| -> Result<f64> {
            median(rounds.iter().map(key).collect(), |v| *v).context("no round")
        };
        let ratio = |key: fn(&Round) -> f64| -> Result<String> {
            let ratios: Vec<f64> = rounds.iter().map(|r| r.rate / key(r)).collect();
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            let middle = median(ratios, |v| *v).context("no round")?;
            Ok(format!("{middle:.2} ({least:.2} to {most:.2})"))
        };
        let bare = [
            ("bare loop", of(|r| r.loop_rate)?),
            ("bare, 16 at once", of(|r| r.bare_rate)?),
        ];
        for (what, rate) in bare {
            rates.rows.push(vec![
                format!("{backend}: {what}"),
                format!("{rate:.0}"),
                String::new(),
                String::new(),
            ]);
        }
        rates.rows.push(vec![
            format!("{backend}: launcher and agent"),
            format!("{:.0}", of(|r| r.rate)?),
            ratio(|r| r.loop_rate)?,
            ratio(|r| r.bare_rate)?,
        ]);
        latencies.rows.push(vec![
            format!("{backend}: bare call"),
            format!("{:.1}", of(|r| r.bare_p50_ms)?),
            String::new(),
            String::new(),
        ]);
        latencies.rows.push(vec![
            format!("{backend}: webhook to Slurm job id"),
            format!("{:.1}", of(|r| r.p50_ms)?),
            format!("{:.1}", of(|r| r.p90_ms)?),
            format!("{:.1}", of(|r| r.p50_ms - r.bare_p50_ms)?),
        ]);
    }
    Ok(vec![rates, latencies])
}

async fn round(
    around: &Surroundings,
    slurm: &PrivateSlurm,
    backend: SlurmBackend,
    name: &str,
    effort: &Effort,
) -> Result<Round> {
    let (bare_ms, mut ms) = latencies(around, slurm, backend, name, effort.webhooks).await?;
    ms.sort_by(f64::total_cmp);
    let p90_ms = ms.get(ms.len() * 9 / 10).copied().unwrap_or_default();
    let name = format!("{name}_rates");
    let (loop_rate, bare_rate, rate) =
        rates(around, slurm, backend, &name, effort.submissions).await?;
    Ok(Round {
        loop_rate,
        bare_rate,
        rate,
        bare_p50_ms: median(bare_ms, |v| *v).context("no webhook")?,
        p50_ms: median(ms, |v| *v).context("no webhook")?,
        p90_ms,
    })
}

/// Milliseconds of `webhooks` bare calls, and from as many webhooks to the numbers of their Slurm jobs, in turn.
async fn latencies(
    around: &Surroundings,
    slurm: &PrivateSlurm,
    backend: SlurmBackend,
    name: &str,
    webhooks: u32,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let Stretch {
        mut deployment,
        bare,
        mut site,
        repositories,
        stored,
    } = Stretch::begin(around, slurm, backend, name).await?;
    for service in [Service::Agent, Service::Launcher, Service::WebhookIngest] {
        deployment.service_mut(service).start().await?;
    }
    let target = Target {
        address: deployment.address(Service::WebhookIngest).parse()?,
        expected: http::StatusCode::ACCEPTED,
    };
    let secret = around.credentials.webhook_secret()?.into();
    let (mut bare_ms, mut ms) = (Vec::new(), Vec::new());
    // The first of each opens connections, and fetches tokens.
    for number in 0..=webhooks {
        let repository = repositories
            .get(number as usize % repositories.len())
            .context("a repository")?;
        let id = site.queue(repository)?.id;
        let queued = Deliveries::queued(repository, id, &secret)?;
        let sent = Utc::now();
        closed_loop(&target, 1, queued.first(1)).await?;
        let submitted = stored.submitted_at(id).await?;
        let single = bare.submit(1, 1).await?;
        if number > 0 {
            let since = submitted - sent;
            ms.push(since.num_microseconds().unwrap_or_default() as f64 / 1000.0);
            bare_ms.push(single.millis(0.5));
        }
    }
    deployment.stop()?;
    Ok((bare_ms, ms))
}

/// Submissions per second: bare ones in a loop, bare ones at once, and those of launcher and agent.
async fn rates(
    around: &Surroundings,
    slurm: &PrivateSlurm,
    backend: SlurmBackend,
    name: &str,
    count: u32,
) -> Result<(f64, f64, f64)> {
    let Stretch {
        mut deployment,
        bare,
        mut site,
        repositories,
        stored,
    } = Stretch::begin(around, slurm, backend, name).await?;
    clear(slurm).await?;
    let loop_rate = bare.submit(1, count.into()).await?.per_second;
    expect(slurm, count).await?;
    clear(slurm).await?;
    let bare_rate = bare.submit(SUBMITTERS, count.into()).await?.per_second;
    expect(slurm, count).await?;
    clear(slurm).await?;
    let due = Utc::now() + SETTLING;
    let planned = site.plan(USER, &repositories, count, due).await?;
    let ids: Vec<i64> = planned.iter().map(|p| p.workflow_job).collect();
    for service in [Service::Agent, Service::Launcher] {
        deployment.service_mut(service).start().await?;
    }
    let rate = stored.rate(&ids).await?;
    deployment.service_mut(Service::Launcher).stop();
    expect(slurm, count).await?;
    deployment.stop()?;
    clear(slurm).await?;
    Ok((loop_rate, bare_rate, rate))
}

/// A deployment with a database of its own, so that nothing of an earlier stretch is in the way, and what is measured beside it.
struct Stretch {
    deployment: Deployment,
    bare: Bare,
    site: Site,
    repositories: Vec<Repository>,
    stored: Stored,
}

impl Stretch {
    async fn begin(
        around: &Surroundings,
        slurm: &PrivateSlurm,
        backend: SlurmBackend,
        name: &str,
    ) -> Result<Self> {
        let database_url = around.new_database(name).await?;
        let folder = around.folder().join(name);
        std::fs::create_dir(&folder)?;
        let backing = BackingServices {
            database_url: &database_url,
            ..around.backing()
        };
        let deployment = Deployment::builder(DEPLOYMENT)
            .slurm(slurm, backend)
            .build(&folder, &around.credentials, &backing)?;
        let output = deployment.output_folder().display().to_string();
        let bare = match backend {
            SlurmBackend::Sbatch => Bare::sbatch(slurm, &output),
            SlurmBackend::Slurmrestd => Bare::slurmrestd(slurm, &output).await?,
        };
        let site = Site::new(around, &database_url)?;
        Ok(Self {
            deployment,
            bare,
            repositories: site.repositories(USER).await?,
            site,
            stored: Stored::open(&database_url).await?,
        })
    }
}

/// Cancels everything, so that the next stretch starts with the same queue.
async fn clear(slurm: &PrivateSlurm) -> Result<()> {
    slurm.run("scancel", &["--user", USER]).await?;
    Ok(())
}

/// Each was submitted once.
async fn expect(slurm: &PrivateSlurm, count: u32) -> Result<()> {
    let queue = slurm.run("squeue", &["--noheader", "--format=%i"]).await?;
    let pending = queue.lines().count();
    ensure!(pending == count as usize, "{pending} Slurm jobs of {count}");
    Ok(())
}

/// What the launcher has written down.
struct Stored(tokio_postgres::Client);

impl Stored {
    async fn open(url: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        Ok(Self(client))
    }

    /// When the launcher had the Slurm job's number.
    async fn submitted_at(&self, workflow_job: i64) -> Result<DateTime<Utc>> {
        let sql = "SELECT (extract(epoch FROM submitted_at) * 1e6)::BIGINT FROM launches
                   WHERE workflow_job_id = $1 AND slurm_job_id IS NOT NULL";
        let micros: i64 = try_wait_until("a workflow job is submitted", DEADLINE, || async {
            let row = self.0.query_opt(sql, &[&workflow_job]).await;
            row.map_err(|e| e.to_string())?
                .map(|row| row.get(0))
                .ok_or_else(|| "not yet".to_owned())
        })
        .await?;
        DateTime::from_timestamp_micros(micros).context("a time")
    }

    /// Submissions per second, from the first answer of the agent to the last.
    async fn rate(&self, workflow_jobs: &[i64]) -> Result<f64> {
        let count = workflow_jobs.len();
        let sql =
            "SELECT count(*), extract(epoch FROM max(submitted_at) - min(submitted_at))::FLOAT8
                   FROM launches
                   WHERE workflow_job_id = ANY($1) AND slurm_job_id IS NOT NULL";
        let seconds: f64 = try_wait_until("everything is submitted", DEADLINE, || async {
            let row = self.0.query_one(sql, &[&workflow_jobs]).await;
            let row = row.map_err(|e| e.to_string())?;
            let submitted: i64 = row.get(0);
            if submitted as usize == count {
                Ok(row.get(1))
            } else {
                Err(format!("{submitted} of {count}"))
            }
        })
        .await?;
        Ok((count - 1) as f64 / seconds)
    }
}
