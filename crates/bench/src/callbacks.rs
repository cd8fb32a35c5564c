//! token-broker: launch tokens that come back from the nodes.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use chrono::{TimeDelta, Utc};
use gha_slurm_auth::{KeyFolder, Signer};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::launch_token::{AUDIENCE_AGENT, AUDIENCE_BROKER};
use gha_slurm_contract::runner::{RunnerMode, RunnerRequest};
use gha_slurm_domain::{RepositoryId, ResourceRequest};
use gha_slurm_test_support::seed::Seed;
use gha_slurm_test_support::{CLUSTER, Service};
use http::{Request, StatusCode};
use hyper::body::Bytes;
use secrecy::{ExposeSecret, SecretString};

use crate::floor::FloorProcess;
use crate::load::{Call, Target, closed_loop};
use crate::report::Table;
use crate::rounds::{COLUMNS, Effort, Round, rows};
use crate::site::{LABELS, OWNER, Planned, Site};
use crate::surroundings::{DEPLOYMENT, Surroundings};

const SLURM_USER: &str = "alice";

pub(crate) async fn measure(around: &Surroundings, effort: &Effort) -> Result<Table> {
    let mut deployment = around.deployment()?;
    let address: SocketAddr = deployment.address(Service::TokenBroker).parse()?;
    let service = deployment.service_mut(Service::TokenBroker);
    service.start().await?;
    let service_id = service.id().context("token-broker runs")?;
    let floor = FloorProcess::start(around, "floor-callbacks", &[]).await?;
    let mut site = Site::new(around, around.backing().database_url)?;
    let signer = Signer::load(&KeyFolder::new(&around.credentials.launch_keys))?;
    let mut table = Table {
        title: "token-broker",
        columns: [COLUMNS.as_slice(), &["GitHub calls/request"]].concat(),
        rows: Vec::new(),
        notes: Vec::new(),
    };
    for (connections, mode) in [
        (1, RunnerMode::Jit),
        (16, RunnerMode::Jit),
        (1, RunnerMode::Registration),
        (16, RunnerMode::Registration),
    ] {
        let mut rounds = Vec::new();
        let mut github_calls = 0;
        for _ in 0..effort.rounds {
            let builds = queue(&mut site, &signer, effort.callbacks).await?;
            let run = |address, call: fn(&Build, RunnerMode) -> Result<Call>| {
                let calls = builds.iter().map(|build| call(build, mode));
                anyhow::Ok(send(address, connections, calls.collect::<Result<_>>()?))
            };
            let floor =
                Round::of(floor.process.id(), run(floor.address, Build::floor_call)?).await?;
            around.github.reset_calls();
            let service = Round::of(service_id, run(address, Build::call)?).await?;
            github_calls += around.github.state().calls.values().sum::<u64>();
            rounds.push((floor, service));
        }
        let requests: u64 = rounds.iter().map(|(_, service)| service.requests()).sum();
        let load = format!(
            "{connections} connection{}, {}",
            if connections == 1 { "" } else { "s" },
            mode.as_str()
        );
        let [mut floor, mut service] = rows(&load, "token-broker", rounds)?;
        floor.push("0".into());
        service.push(format!("{:.3}", github_calls as f64 / requests as f64));
        table.rows.extend([floor, service]);
    }
    deployment.stop()?;
    Ok(table)
}

/// Sends each call once.
async fn send(
    address: SocketAddr,
    connections: usize,
    calls: Vec<Call>,
) -> Result<crate::load::Measured> {
    let target = Target {
        address,
        expected: StatusCode::OK,
    };
    closed_loop(&target, connections, move |number| {
        calls.get(usize::try_from(number).ok()?).cloned()
    })
    .await
}

/// A launch that waits for its node's callback.
struct Build {
    repository: RepositoryId,
    launch_token: SecretString,
    slurm_job_id: String,
}

impl Build {
    fn call(&self, mode: RunnerMode) -> Result<Call> {
        let authorization = format!("Bearer {}", self.launch_token.expose_secret());
        Ok(Request::post("/gha/runner")
            .header("host", "127.0.0.1")
            .header("authorization", authorization)
            .header("content-type", "application/json")
            .body(self.body(mode)?.into())?)
    }

    fn floor_call(&self, mode: RunnerMode) -> Result<Call> {
        Ok(Request::post(format!("/{}", self.repository.0))
            .header("host", "127.0.0.1")
            .header("content-type", "application/json")
            .body(self.body(mode)?.into())?)
    }

    fn body(&self, mode: RunnerMode) -> Result<Bytes> {
        let request = RunnerRequest {
            slurm_job_id: self.slurm_job_id.clone(),
            restart_count: 0,
            node: "node1".into(),
            mode,
        };
        Ok(serde_json::to_vec(&request)?.into())
    }
}

/// Queues workflow jobs in new repositories, each with a submitted launch.
async fn queue(site: &mut Site, signer: &Signer, count: u32) -> Result<Vec<Build>> {
    let repositories = site.repositories(SLURM_USER).await?;
    let planned = site.plan(SLURM_USER, &repositories, count).await?;
    let mut builds = Vec::new();
    for planned in planned {
        builds.push(submitted(site, signer, planned).await?);
    }
    Ok(builds)
}

async fn submitted(site: &Site, signer: &Signer, planned: Planned) -> Result<Build> {
    let Planned {
        workflow_job,
        launch,
        repository: (repository, name),
    } = planned;
    let now = Utc::now();
    let expires = now + TimeDelta::hours(25);
    let seed = Seed {
        database: &site.database,
        repository,
        user: SLURM_USER.parse()?,
    };
    seed.submitted(launch, None, now).await;
    let claims = LaunchClaims {
        iss: DEPLOYMENT.into(),
        aud: vec![AUDIENCE_AGENT.into(), AUDIENCE_BROKER.into()],
        sub: launch,
        jti: uuid::Uuid::new_v4(),
        iat: now.timestamp(),
        nbf: now.timestamp() - 120,
        exp: expires.timestamp(),
        runner_name: "runner".into(),
        cluster: CLUSTER.into(),
        launcher: None,
        token_url: "http://127.0.0.1".into(),
        owner: OWNER.into(),
        repository_url: format!("https://github.com/{OWNER}/{name}"),
        repository_name: name,
        repository_id: repository.0,
        labels: LABELS.join(","),
        workflow_id: workflow_job,
        slurm_user: SLURM_USER.parse()?,
        resources: ResourceRequest::default(),
    };
    Ok(Build {
        repository,
        launch_token: signer.sign(&claims)?,
        slurm_job_id: workflow_job.to_string(),
    })
}
