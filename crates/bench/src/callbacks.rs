//! token-broker: launch tokens that come back from the nodes.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use chrono::{TimeDelta, Utc};
use gha_slurm_auth::{KeyFolder, Signer};
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::launch::{AUDIENCE_AGENT, AUDIENCE_BROKER};
use gha_slurm_contract::runner::{RunnerMode, RunnerRequest};
use gha_slurm_domain::{
    AllocationId, InstallationId, LabelSet, RepositoryId, ResourceRequest, WorkflowJobId,
};
use gha_slurm_simulator::request::{NewInstallation, NewRepository};
use gha_slurm_storage::allocations::{self, NewAllocation};
use gha_slurm_storage::workflow_jobs::{self, WorkflowJob};
use gha_slurm_storage::{AsyncConnection, AsyncPgConnection, Database, mappings, repositories};
use gha_slurm_test_support::free_port;
use http::{Request, StatusCode};
use hyper::body::Bytes;
use secrecy::{ExposeSecret, SecretString};

use crate::Effort;
use crate::floor::FloorProcess;
use crate::load::{Call, Target, closed_loop};
use crate::report::Table;
use crate::rounds::{COLUMNS, Round, rows};
use crate::surroundings::{CLUSTER, DEPLOYMENT, Surroundings, loopback};

const OWNER: &str = "acme";
const LABELS: [&str; 2] = ["self-hosted", "slurm"];
/// Callbacks of one repository come one after the other under its lock.
const REPOSITORIES: i64 = 16;

pub(crate) async fn measure(around: &Surroundings, effort: &Effort) -> Result<Table> {
    let port = free_port();
    let mut service = around.token_broker(port);
    service.start().await?;
    let service_id = service.id().context("token-broker runs")?;
    let floor = FloorProcess::start(around, "floor-callbacks", &[]).await?;
    let mut site = Site::new(around)?;
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
            let builds = site.queue(effort.callbacks).await?;
            let run = |address, call: fn(&Build, RunnerMode) -> Result<Call>| {
                let calls = builds.iter().map(|build| call(build, mode));
                anyhow::Ok(send(address, connections, calls.collect::<Result<_>>()?))
            };
            let floor =
                Round::of(floor.process.id(), run(floor.address, Build::floor_call)?).await?;
            around.github.reset_calls();
            let address = loopback(port).parse()?;
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
    service.stop();
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

/// An allocation that waits for its node's callback.
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

/// What a launcher would have written.
struct Site {
    database: Database,
    github: gha_slurm_simulator::Handle,
    installation: InstallationId,
    signer: Arc<Signer>,
    workflow_jobs: i64,
    repositories: i64,
}

impl Site {
    fn new(around: &Surroundings) -> Result<Self> {
        let url = SecretString::from(around.database_url());
        let installation = around
            .github
            .create_installation(NewInstallation::on(OWNER))?;
        Ok(Self {
            database: Database::new(&url, "bench", 1)?,
            github: around.github.clone(),
            installation: InstallationId(installation.id),
            signer: Arc::new(Signer::load(&KeyFolder::new(around.keys()))?),
            workflow_jobs: 0,
            repositories: 0,
        })
    }

    /// Queues workflow jobs in [`REPOSITORIES`] new repositories, each with a submitted allocation.
    async fn queue(&mut self, count: u32) -> Result<Vec<Build>> {
        let mut names = Vec::new();
        for _ in 0..REPOSITORIES {
            self.repositories += 1;
            let name = format!("widgets-{}", self.repositories);
            let new = NewRepository::named(&format!("{OWNER}/{name}"));
            let made = self.github.create_repository(&new)?;
            names.push((RepositoryId(made.id), name));
        }
        let first = self.workflow_jobs + 1;
        self.workflow_jobs += i64::from(count);
        let ids = first..=self.workflow_jobs;
        let (installation, signer) = (self.installation, Arc::clone(&self.signer));
        let mut conn = self.database.connection().await?;
        conn.transaction::<_, anyhow::Error, _>(async |conn| {
            write(conn, installation, &names, ids, &signer).await
        })
        .await
    }
}

async fn write(
    conn: &mut AsyncPgConnection,
    installation: InstallationId,
    names: &[(RepositoryId, String)],
    workflow_job_ids: std::ops::RangeInclusive<i64>,
    signer: &Signer,
) -> Result<Vec<Build>> {
    let now = Utc::now();
    let user = "alice".parse()?;
    let labels: LabelSet = LABELS.into_iter().collect();
    let mut classes = Vec::new();
    for (id, name) in names {
        let (installation, private) = (Some(installation), Some(true));
        repositories::upsert(conn, *id, installation, OWNER, name, private, now).await?;
    }
    let entries: Vec<mappings::Entry> = names.iter().map(|(id, _)| (*id).into()).collect();
    mappings::replace(conn, &user, &entries, None, now).await?;
    for (id, name) in names {
        let resources = ResourceRequest::default();
        let class = workflow_jobs::ensure_class(conn, *id, &user, &labels, &resources).await?;
        classes.push((*id, name, class));
    }
    let mut builds = Vec::new();
    for (id, (repository, name, class)) in workflow_job_ids.zip(classes.iter().cycle()) {
        let waiting = WorkflowJob {
            id,
            repository_id: repository.0,
            installation_id: Some(installation.0),
            run_id: id,
            run_attempt: 1,
            name: "build".into(),
            workflow_name: None,
            html_url: None,
            head_branch: None,
            labels: LABELS.map(str::to_owned).to_vec(),
            state: "queued".into(),
            conclusion: None,
            verdict: "ours".into(),
            reason: None,
            class_id: Some(class.0),
            runner_name: None,
            queued_at: Some(now),
            started_at: None,
            completed_at: None,
            traceparent: None,
            updated_at: now,
        };
        workflow_jobs::save(conn, &waiting).await?;
        let allocation = AllocationId(uuid::Uuid::now_v7());
        let new = NewAllocation {
            id: allocation,
            class: *class,
            repository: *repository,
            cause: WorkflowJobId(id),
            not_before: now,
            verify_demand: false,
            traceparent: None,
        };
        allocations::plan(conn, &[new], now).await?;
        let expires = now + TimeDelta::hours(25);
        allocations::submitted(conn, allocation, CLUSTER, None, expires, now).await?;
        let claims = LaunchClaims {
            iss: DEPLOYMENT.into(),
            aud: vec![AUDIENCE_AGENT.into(), AUDIENCE_BROKER.into()],
            sub: allocation,
            jti: uuid::Uuid::new_v4(),
            iat: now.timestamp(),
            nbf: now.timestamp() - 120,
            exp: expires.timestamp(),
            runner_name: "runner".into(),
            cluster: CLUSTER.into(),
            token_url: "http://127.0.0.1".into(),
            owner: OWNER.into(),
            repository_name: (*name).clone(),
            repository_url: format!("https://github.com/{OWNER}/{name}"),
            repository_id: repository.0,
            labels: LABELS.join(","),
            workflow_id: id,
            slurm_user: user.clone(),
            resources: ResourceRequest::default(),
        };
        builds.push(Build {
            repository: *repository,
            launch_token: signer.sign(&claims)?,
            slurm_job_id: id.to_string(),
        });
    }
    Ok(builds)
}
