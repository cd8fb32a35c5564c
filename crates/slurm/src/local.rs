//! The local backend: no Slurm, but something that behaves like one where it matters. A submission is a folder, made in
//! one step; a Slurm job is the leader of a session of its own that outlives the agent; it starts once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use gha_slurm_domain::{LaunchId, SlurmJobId, SlurmState, SlurmUser};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::backend::{
    Cancellation, CannotAct, JobUsage, Numbers, Queue, Slurm, SlurmJob, SlurmUnavailable,
    SubmitError, Survey,
};
use crate::process::Leader;
use crate::settings::LocalSettings;
use crate::submission::Submission;

/// The files of a Slurm job's folder.
mod file {
    /// Which launch it is.
    pub(super) const DESCRIPTION: &str = "slurm-job.json";
    /// Its environment with the launch token; gone when it starts.
    pub(super) const ENVIRONMENT: &str = "environment.json";
    /// The job script.
    pub(super) const SCRIPT: &str = "script";
    /// What it prints.
    pub(super) const OUTPUT: &str = "output";
    /// `/proc/<pid>/stat` of its leader: it has started.
    pub(super) const STARTED: &str = "started";
    /// Its exit code, or `unknown`: it is over.
    pub(super) const ENDED: &str = "ended";
}

/// Runs in the Slurm job's folder. A hard link is made once: whoever makes it runs the script, whatever was killed in
/// between, and everybody else is told.
const START: &str = r#"
read -r stat < /proc/$$/stat && printf '%s\n' "$stat" > "starting.$$" || exit 1
ln -T "starting.$$" started 2>/dev/null; made=$?
rm -f "starting.$$"
[ "$made" = 0 ] || exit 75
rm -f environment.json
exec bash "$PWD/script"
"#;
/// What [`file::ENDED`] says of a Slurm job that was cancelled before it started.
const CANCELLED: &str = "cancelled";
/// Exit code of [`START`] when another process runs the script.
const ALREADY_STARTED: i32 = 75;

/// What a Slurm job gets of the agent's environment.
const INHERITED: [&str; 7] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR"];

/// Between SIGTERM and SIGKILL: a runner takes up to 30 s to cancel its workflow job, and the job script cleans up.
const KILL_WAIT: Duration = Duration::from_secs(45);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Serialize, Deserialize)]
struct Description {
    launch: LaunchId,
    name: String,
    slurm_user: String,
}

/// The local backend.
pub struct LocalSlurm {
    inner: Arc<Inner>,
    end_children_on_stop: bool,
}

struct Inner {
    folder: PathBuf,
    cluster: String,
    node: String,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl LocalSlurm {
    /// Opens the backend's `folder`, made when absent: watches what still runs and starts what is pending.
    pub fn open(folder: &Path, cluster: &str, settings: &LocalSettings) -> anyhow::Result<Self> {
        tracing::warn!(
            "slurm.backend = \"local\": no Slurm, no limits, no accounting; everything runs as this user. For demos \
             and tests only"
        );
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let node = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let slots = settings
            .max_running
            .map_or(Semaphore::MAX_PERMITS, |n| n as usize);
        let inner = Arc::new(Inner {
            folder: folder.to_owned(),
            cluster: cluster.to_owned(),
            node: node.trim().to_owned(),
            slots: Arc::new(Semaphore::new(slots)),
            tasks: TaskTracker::new(),
        });
        let mut open: Vec<u64> = inner.ids()?;
        open.retain(|id| !inner.path(*id).join(file::ENDED).exists());
        // What runs keeps its slot; the rest waits in the order it was submitted.
        open.sort_by_key(|id| (!inner.path(*id).join(file::STARTED).exists(), *id));
        for id in open {
            inner.schedule(id);
        }
        Ok(Self {
            inner,
            end_children_on_stop: settings.end_children_on_stop,
        })
    }
}

#[async_trait]
impl Slurm for LocalSlurm {
    async fn submit(&self, submission: &Submission) -> Result<SlurmJobId, SubmitError> {
        let files = [
            (
                file::DESCRIPTION,
                serde_json::to_string(&Description {
                    launch: submission.launch,
                    name: submission.name.clone(),
                    slurm_user: submission.slurm_user.to_string(),
                }),
            ),
            (
                file::ENVIRONMENT,
                serde_json::to_string(&submission.environment),
            ),
            (file::SCRIPT, Ok(submission.script.clone())),
        ];
        let inner = Arc::clone(&self.inner);
        let id = blocking(move || {
            let draft = tempfile::Builder::new()
                .prefix(".draft-")
                .tempdir_in(&inner.folder)?;
            for (name, text) in files {
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(draft.path().join(name))?;
                file.write_all(text?.as_bytes())?;
                file.sync_all()?;
            }
            sync_folder(draft.path())?;
            let id = inner.name(&draft)?;
            sync_folder(&inner.folder)?;
            Ok(id)
        })
        .await?;
        self.inner.schedule(id);
        Ok(slurm_job_id(id)?)
    }

    /// Nobody can change a Slurm job here.
    async fn list(&self, _: &Numbers) -> Result<Queue, SlurmUnavailable> {
        let inner = Arc::clone(&self.inner);
        let found = blocking(move || {
            let ids = inner.ids()?.into_iter();
            ids.map(|id| Ok((id, inner.description(id)?, inner.standing(id))))
                .collect::<io::Result<Vec<_>>>()
        })
        .await?;
        let ours = found
            .into_iter()
            .map(|(id, description, standing)| {
                let (state, exit_code) = standing;
                let started = state != SlurmState::Pending;
                Ok(SlurmJob {
                    launch: description.launch,
                    id: slurm_job_id(id)?,
                    user: description.slurm_user,
                    state,
                    reason: (!started).then(|| "Resources".to_owned()),
                    starts_at: self.inner.written_at(id, file::STARTED),
                    ended_at: self.inner.written_at(id, file::ENDED),
                    nodes: started.then(|| self.inner.node.clone()),
                    exit_code,
                })
            })
            .collect::<Result<_, SlurmUnavailable>>()?;
        Ok(Queue {
            ours,
            shows_everybody: true,
            ..Queue::default()
        })
    }

    async fn cancel(
        &self,
        wanted: &[Cancellation],
        known: &Numbers,
    ) -> Result<Vec<LaunchId>, SlurmUnavailable> {
        let ours = self.list(known).await?.wanted_by(wanted);
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            for id in ours.iter().filter_map(|job| job.id.as_str().parse().ok()) {
                inner.cancel(id)?;
            }
            Ok(ours.into_iter().map(|job| job.launch).collect())
        })
        .await
    }

    async fn usage(&self, _: &[SlurmJobId]) -> Result<Option<Vec<JobUsage>>, SlurmUnavailable> {
        Ok(None)
    }

    async fn survey(&self) -> Result<Survey, SlurmUnavailable> {
        Ok(Survey {
            version: "no Slurm".into(),
            partitions: Ok(Vec::new()),
            accounts: Ok(None),
            qos: Ok(None),
        })
    }

    async fn may_act_as(&self, _: &SlurmUser) -> Result<String, CannotAct> {
        Err(CannotAct::Local)
    }

    async fn preview(&self, submission: &Submission) -> Result<String, SlurmUnavailable> {
        Ok(format!(
            "bash, beside the agent: the job script, {} bytes\n{}",
            submission.script.len(),
            submission.shown_environment()
        ))
    }

    async fn stop(&self) {
        // What is pending stays so.
        self.inner.slots.close();
        if !self.end_children_on_stop {
            return;
        }
        self.inner.tasks.close();
        let ended = self.inner.tasks.wait();
        let end = async {
            let asked = tokio::time::Instant::now();
            let mut terminated = BTreeSet::new();
            loop {
                let killing = asked.elapsed() >= KILL_WAIT;
                for (id, leader) in self.inner.running() {
                    if killing {
                        leader.signal_session(Signal::KILL);
                    } else if terminated.insert(id) {
                        leader.signal_session(Signal::TERM);
                    }
                }
                // One may be about to start.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::select! { () = ended => {}, () = end => {} }
    }
}

impl Inner {
    fn path(&self, id: u64) -> PathBuf {
        self.folder.join(id.to_string())
    }

    fn ids(&self) -> io::Result<Vec<u64>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            // Drafts are no numbers.
            if let Some(id) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn description(&self, id: u64) -> io::Result<Description> {
        let bytes = fs::read(self.path(id).join(file::DESCRIPTION))?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Assigns a draft the next free number: the moment of submission.
    fn name(&self, draft: &tempfile::TempDir) -> io::Result<u64> {
        let mut id = self.ids()?.last().copied().unwrap_or(0);
        loop {
            id += 1;
            match fs::rename(draft.path(), self.path(id)) {
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists
                    ) => {}
                result => return result.map(|()| id),
            }
        }
    }

    fn schedule(self: &Arc<Self>, id: u64) {
        let inner = Arc::clone(self);
        // Now, if there is one: tasks do not begin in the order in which they are spawned.
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        self.tasks.spawn(async move {
            let slot = match slot {
                Ok(slot) => Ok(slot),
                Err(_) => Arc::clone(&inner.slots).acquire_owned().await,
            };
            let Ok(_slot) = slot else { return };
            match inner.run(id).await {
                Ok(code) => {
                    let code = code.map_or_else(|| "unknown".to_owned(), |c| c.to_string());
                    tracing::info!(slurm.job_id = id, exit_code = code, "a Slurm job is over");
                    let ended = inner.path(id).join(file::ENDED);
                    // A cancelled one has its end already.
                    if !ended.exists()
                        && let Err(error) = fs::write(ended, code)
                    {
                        tracing::error!(slurm.job_id = id, %error, "its end cannot be recorded");
                    }
                }
                Err(error) => {
                    tracing::error!(
                        slurm.job_id = id,
                        "a Slurm job cannot be started: {error:#}"
                    );
                }
            }
        });
    }

    /// Starts a Slurm job, unless it was started before, and waits for its end.
    async fn run(&self, id: u64) -> anyhow::Result<Option<i32>> {
        if self.path(id).join(file::ENDED).exists() {
            return Ok(None);
        }
        if self.leader(id).is_none() {
            let mut child = self.command(id)?.spawn().context("setsid")?;
            tracing::info!(slurm.job_id = id, "a Slurm job starts");
            let code = child.wait().await?.code();
            if code != Some(ALREADY_STARTED) {
                return Ok(code);
            }
        }
        // Not our child: its end is looked for.
        while self.leader(id).is_some_and(Leader::is_alive) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(None)
    }

    fn leader(&self, id: u64) -> Option<Leader> {
        Leader::parse(&fs::read_to_string(self.path(id).join(file::STARTED)).ok()?)
    }

    fn command(&self, id: u64) -> anyhow::Result<Command> {
        let folder = self.path(id);
        let description = self.description(id)?;
        let environment: BTreeMap<String, String> = match fs::read(folder.join(file::ENVIRONMENT)) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            // Somebody else started it: ours will find that out.
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(folder.join(file::OUTPUT))?;
        let errors: File = output.try_clone()?;
        let number = id.to_string();
        let mut command = Command::new("setsid");
        command
            .args(["bash", "-c", START])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .env_clear()
            .envs(
                INHERITED
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .envs(environment)
            .env("SLURM_JOB_ID", &number)
            .env("SLURM_JOBID", &number)
            .env("SLURM_JOB_NAME", description.name)
            .env("SLURM_JOB_USER", description.slurm_user)
            .env("SLURM_JOB_NODELIST", &self.node)
            .env("SLURM_CLUSTER_NAME", &self.cluster)
            .env("SLURM_RESTART_COUNT", "0")
            .env("SLURM_SUBMIT_DIR", &folder)
            .env("SLURMD_NODENAME", &self.node);
        Ok(command)
    }

    /// Where a Slurm job stands, and its exit code.
    fn standing(&self, id: u64) -> (SlurmState, Option<i32>) {
        match fs::read_to_string(self.path(id).join(file::ENDED)) {
            Ok(text) if text == CANCELLED => (SlurmState::Cancelled, None),
            Ok(text) => match text.trim().parse::<i32>().ok() {
                None | Some(0) => (SlurmState::Completed, text.trim().parse().ok()),
                code => (SlurmState::Failed, code),
            },
            Err(_) if self.leader(id).is_some() => (SlurmState::Running, None),
            Err(_) => (SlurmState::Pending, None),
        }
    }

    fn written_at(&self, id: u64, name: &str) -> Option<DateTime<Utc>> {
        let written = fs::metadata(self.path(id).join(name))
            .ok()?
            .modified()
            .ok()?;
        Some(written.into())
    }

    /// As scancel: what has not started never will; what runs is told to end.
    fn cancel(&self, id: u64) -> io::Result<()> {
        let path = self.path(id);
        let ended = path.join(file::ENDED);
        if !path.exists() || ended.exists() {
            return Ok(());
        }
        let never = path.join("cancelling");
        fs::write(&never, "")?;
        // Whoever makes this link runs the script: now nobody does.
        match fs::hard_link(&never, path.join(file::STARTED)) {
            Ok(()) => fs::write(ended, CANCELLED),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if let Some(leader) = self.leader(id) {
                    leader.signal_session(Signal::TERM);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn running(&self) -> impl Iterator<Item = (u64, Leader)> {
        let ids = self.ids().unwrap_or_default().into_iter();
        ids.filter(|id| !self.path(*id).join(file::ENDED).exists())
            .filter_map(|id| Some((id, self.leader(id)?)))
            .filter(|(_, leader)| leader.is_alive())
    }
}

/// Makes the names in a folder survive a power cut.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn slurm_job_id(id: u64) -> Result<SlurmJobId, SlurmUnavailable> {
    id.to_string()
        .parse()
        .map_err(|e| SlurmUnavailable(format!("{e}")))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SlurmUnavailable> {
    let unavailable = |e: &dyn std::fmt::Display| SlurmUnavailable(format!("local: {e}"));
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| unavailable(&e))?
        .map_err(|e| unavailable(&e))
}
