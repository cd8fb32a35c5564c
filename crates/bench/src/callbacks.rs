//! token-broker: launch tokens that come back from the nodes.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use chrono::{TimeDelta, Utc};
use gha_slurm_auth::{KeyFolder, SigningKey};
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
    let installation = around.installation.to_string();
    let github = [
        "--github-url".as_ref(),
        around.backing().github_url.as_ref(),
        "--github-key".as_ref(),
        around.credentials.app_private_key_file.as_os_str(),
        "--installation".as_ref(),
        installation.as_ref(),
    ];
    let floor = FloorProcess::start(around, "floor-callbacks", &github).await?;
    let mut site = Site::new(around, around.backing().database_url)?;
    let signer = SigningKey::read(&KeyFolder::new(&around.credentials.launch_keys))?;
    let mut table = Table {
        title: "token-broker",
        columns: [COLUMNS.as_slice(), &["GitHub calls/request"]].concat(),
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let loads: [(RunnerMode, &str, BuildCall); 3] = [
        (RunnerMode::Jit, "jit", Build::floor_call),
        (
            RunnerMode::Jit,
            "jit, GitHub called by both",
            Build::floor_call_with_github,
        ),
        (RunnerMode::Registration, "registration", Build::floor_call),
    ];
    for (connections, (mode, name, floor_call)) in
        loads.into_iter().flat_map(|load| [(1, load), (16, load)])
    {
        let mut rounds = Vec::new();
        let (mut floor_calls, mut github_calls) = (0, 0);
        let calls = || around.github.state().calls.values().sum::<u64>();
        for _ in 0..effort.rounds {
            let builds = queue(&mut site, &signer, mode, effort.callbacks).await?;
            let run = |address, call: BuildCall| {
                let calls = builds.iter().map(call);
                anyhow::Ok(send(address, connections, calls.collect::<Result<_>>()?))
            };
            around.github.reset_calls();
            let floor = Round::of(floor.process.id(), run(floor.address, floor_call)?).await?;
            floor_calls += calls();
            around.github.reset_calls();
            let service = Round::of(service_id, run(address, Build::call)?).await?;
            github_calls += calls();
            rounds.push((floor, service));
        }
        let requests: u64 = rounds.iter().map(|(_, service)| service.requests()).sum();
        let load = format!(
            "{connections} connection{}, {name}",
            if connections == 1 { "" } else { "s" }
        );
        let [mut floor, mut service] = rows(&load, "token-broker", rounds)?;
        floor.push(format!("{:.3}", floor_calls as f64 / requests as f64));
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

/// What is sent for a launch.
type BuildCall = fn(&Build) -> Result<Call>;

/// A launch that waits for its node's callback.
struct Build {
    repository: RepositoryId,
    /// The repository's.
    name: String,
    launch_token: SecretString,
    slurm_job_id: String,
}

impl Build {
    fn call(&self) -> Result<Call> {
        let authorization = format!("Bearer {}", self.launch_token.expose_secret());
        Ok(Request::post("/gha/runner")
            .header("host", "127.0.0.1")
            .header("authorization", authorization)
            .header("content-type", "application/json")
            .body(self.body()?.into())?)
    }

    fn floor_call(&self) -> Result<Call> {
        self.floor_call_to(format!("/{}", self.repository.0))
    }

    /// With a registration at GitHub between the floor's transactions.
    fn floor_call_with_github(&self) -> Result<Call> {
        let Self {
            repository, name, ..
        } = self;
        self.floor_call_to(format!("/{}/{name}", repository.0))
    }

    fn floor_call_to(&self, path: String) -> Result<Call> {
        Ok(Request::post(path)
            .header("host", "127.0.0.1")
            .header("content-type", "application/json")
            .body(self.body()?.into())?)
    }

    fn body(&self) -> Result<Bytes> {
        let request = RunnerRequest {
            slurm_job_id: self.slurm_job_id.clone(),
            restart_count: 0,
            node: "node1".into(),
        };
        Ok(serde_json::to_vec(&request)?.into())
    }
}

/// Queues workflow jobs in new repositories, each with a submitted launch.
async fn queue(
    site: &mut Site,
    signer: &SigningKey,
    mode: RunnerMode,
    count: u32,
) -> Result<Vec<Build>> {
    let repositories = site.repositories(SLURM_USER).await?;
    let planned = site
        .plan(SLURM_USER, &repositories, count, Utc::now())
        .await?;
    let mut builds = Vec::new();
    for planned in planned {
        builds.push(submitted(site, signer, mode, planned).await?);
    }
    Ok(builds)
}

async fn submitted(
    site: &Site,
    signer: &SigningKey,
    mode: RunnerMode,
    planned: Planned,
) -> Result<Build> {
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
        repository_name: name.clone(),
        repository_id: repository.0,
        labels: LABELS.join(","),
        workflow_id: workflow_job,
        slurm_user: SLURM_USER.parse()?,
        resources: ResourceRequest::default(),
        runner_mode: mode,
    };
    Ok(Build {
        repository,
        name,
        launch_token: signer.sign(&claims)?,
        slurm_job_id: workflow_job.to_string(),
    })
}
