//! Slurm by its own programs: sbatch, squeue, scancel. Every argument is passed as an argument, nothing goes through a
//! shell, and nothing secret is in one.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Local, NaiveDateTime, TimeZone, Utc};
use gha_slurm_domain::{AllocationId, ResourceRequest, SlurmJobId, SlurmState};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::settings::{RunAs, SbatchSettings};
use crate::slurm::{
    PATH, Slurm, SlurmJob, SlurmUnavailable, SubmitError, allocation_of, comment, exit_code,
    output_file, reason,
};
use crate::submission::Submission;

/// The programs themselves wait some time for a slurmctld that is away; the launcher waits 30 s for us.
const DEADLINE: Duration = Duration::from_secs(20);
/// Between the columns of squeue. No value of Slurm's contains it.
const SEPARATOR: char = '\u{1f}';
/// What squeue is asked for, and how wide: it cuts what is wider (squeue(1), `--Format`).
const COLUMNS: [(&str, u16); 9] = [
    ("JobID", 20),
    ("State", 30),
    ("Reason", 200),
    ("StartTime", 30),
    ("EndTime", 30),
    ("NodeList", 2000),
    ("Comment", 400),
    ("UserName", 64),
    ("exit_code", 20),
];

/// Slurm by its own programs.
pub struct SbatchSlurm {
    settings: SbatchSettings,
}

impl SbatchSlurm {
    /// With these settings.
    pub fn new(settings: SbatchSettings) -> Self {
        Self { settings }
    }

    /// A program of Slurm's, with nothing of our environment but what Slurm needs.
    fn program(&self, name: &str, as_user: Option<&str>) -> Command {
        let path = self.settings.bin.join(name);
        let mut command = match (self.settings.run_as, as_user) {
            (RunAs::Sudo, Some(user)) => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "-u", user, "--"]).arg(path);
                sudo
            }
            _ => Command::new(path),
        };
        command
            .env_clear()
            .env("PATH", PATH)
            // Times are read back from what is printed.
            .env("SLURM_TIME_FORMAT", "standard")
            .current_dir("/")
            .kill_on_drop(true);
        if let Some(conf) = &self.settings.conf {
            command.env("SLURM_CONF", conf);
        }
        command
    }

    async fn run(&self, mut command: Command, input: &str) -> Result<Output, SlurmUnavailable> {
        let name = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let trouble = |error: &dyn std::fmt::Display| SlurmUnavailable(format!("{name}: {error}"));
        let work = async {
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // One that ends early says why on standard error.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        tokio::time::timeout(DEADLINE, work)
            .await
            .map_err(|_| trouble(&format!("no answer within {} s", DEADLINE.as_secs())))?
            .map_err(|error| trouble(&error))
    }
}

#[async_trait]
impl Slurm for SbatchSlurm {
    async fn submit(&self, submission: &Submission) -> Result<SlurmJobId, SubmitError> {
        let user = submission.slurm_user.as_str();
        let mut command = self.program("sbatch", Some(user));
        command.args(arguments(submission, &self.settings));
        if self.settings.run_as == RunAs::Root {
            // Its group would be root's.
            let group = group_of(user).await?;
            command.arg(format!("--gid={group}"));
        }
        // sbatch hands its environment on, and its file mode mask, which is that of the output file.
        for (name, value) in &submission.environment {
            command.env(name, value);
        }
        let output = self.run(command, &submission.script).await?;
        if !output.status.success() {
            return Err(why(&String::from_utf8_lossy(&output.stderr)));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        // `--parsable`: the number, and the cluster after a semicolon where there are several.
        let id = said.trim().split(';').next().unwrap_or_default();
        id.parse()
            .map_err(|_| SlurmUnavailable(format!("sbatch answered {:?}", said.trim())).into())
    }

    async fn find(&self, allocation: AllocationId) -> Result<Option<SlurmJobId>, SlurmUnavailable> {
        let found = self.list().await?;
        Ok(found
            .into_iter()
            .find(|job| job.allocation == allocation)
            .map(|job| job.id))
    }

    async fn list(&self) -> Result<Vec<SlurmJob>, SlurmUnavailable> {
        let mut command = self.program("squeue", None);
        let format: Vec<String> = COLUMNS
            .iter()
            .map(|(column, width)| format!("{column}:{width}{SEPARATOR}"))
            .collect();
        command.args(["--all", "--noheader", "--states=all"]);
        command.arg(format!("--Format={}", format.join(",")));
        let output = self.run(command, "").await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(SlurmUnavailable(last_line(&errors)));
        }
        let listing = String::from_utf8_lossy(&output.stdout);
        Ok(listing.lines().filter_map(slurm_job).collect())
    }

    async fn cancel(&self, ids: &[SlurmJobId]) -> Result<(), SlurmUnavailable> {
        let wanted = |job: &SlurmJob| ids.contains(&job.id) && !job.state.is_over();
        for job in self.list().await?.into_iter().filter(wanted) {
            let mut command = self.program("scancel", Some(&job.user));
            command.arg(job.id.as_str());
            let output = self.run(command, "").await?;
            let errors = String::from_utf8_lossy(&output.stderr);
            let over = errors.contains("Invalid job id") || errors.contains("already completing");
            if !output.status.success() && !over {
                return Err(SlurmUnavailable(last_line(&errors)));
            }
        }
        Ok(())
    }

    async fn stop(&self) {}
}

/// The user's own group, as the system knows it.
async fn group_of(user: &str) -> Result<u32, SlurmUnavailable> {
    let name = user.to_owned();
    let found = tokio::task::spawn_blocking(move || nix::unistd::User::from_name(&name)).await;
    match found {
        Ok(Ok(Some(user))) => Ok(user.gid.as_raw()),
        Ok(Ok(None)) => Err(SlurmUnavailable(format!("there is no user {user}"))),
        Ok(Err(e)) => Err(SlurmUnavailable(format!("the group of {user}: {e}"))),
        Err(e) => Err(SlurmUnavailable(e.to_string())),
    }
}

/// sbatch's arguments.
fn arguments(submission: &Submission, settings: &SbatchSettings) -> Vec<String> {
    let comment = comment(submission, settings.repository_in_comment);
    let output = output_file(submission, &settings.output_folder);
    let mut arguments = vec![
        "--parsable".to_owned(),
        format!("--job-name={}", submission.name),
        format!("--comment={comment}"),
        format!("--output={}", output.display()),
        "--open-mode=append".to_owned(),
        "--chdir=/".to_owned(),
        // Ours, and nothing of a login shell's: that may hang where the home is not there.
        "--export=ALL".to_owned(),
        format!("--signal=B:TERM@{}", settings.signal_before_end_s),
    ];
    if settings.run_as == RunAs::Root {
        arguments.push(format!("--uid={}", submission.slurm_user));
    }
    arguments.push(
        if settings.requeue {
            "--requeue"
        } else {
            "--no-requeue"
        }
        .to_owned(),
    );
    let ResourceRequest {
        cpus,
        memory_mib,
        time_minutes,
        gres,
        partition,
        account,
        qos,
        constraint,
        reservation,
        nodes,
        exclusive,
        // The job script's affair.
        container: _,
    } = &submission.resources;
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            arguments.push(format!("--{name}={value}"));
        }
    };
    option("cpus-per-task", cpus.map(|n| n.to_string()));
    option("mem", memory_mib.map(|n| format!("{n}M")));
    option("time", time_minutes.map(|n| n.to_string()));
    option("gres", gres.clone());
    option("partition", partition.clone());
    option("account", account.clone());
    option("qos", qos.clone());
    option("constraint", constraint.clone());
    option("reservation", reservation.clone());
    option("nodes", nodes.map(|n| n.to_string()));
    if *exclusive {
        arguments.push("--exclusive".to_owned());
    }
    arguments
}

/// One line of squeue. `None`: not a Slurm job of ours.
fn slurm_job(line: &str) -> Option<SlurmJob> {
    let columns: Vec<&str> = line.split(SEPARATOR).map(str::trim).collect();
    let [
        id,
        state,
        reason_word,
        starts,
        ends,
        nodes,
        comment,
        user,
        wait_status,
        ..,
    ] = columns.as_slice()
    else {
        return None;
    };
    let allocation = allocation_of(comment)?;
    let state = SlurmState::from_slurm(state);
    Some(SlurmJob {
        allocation,
        id: id.parse().ok()?,
        user: (*user).to_owned(),
        state,
        reason: reason(reason_word, state),
        starts_at: time(starts),
        ended_at: time(ends).filter(|_| state.is_over()),
        nodes: Some((*nodes).to_owned()).filter(|n| !n.is_empty() && n != "(null)"),
        exit_code: wait_status
            .parse()
            .ok()
            .map(exit_code)
            .filter(|_| state.is_over()),
    })
}

/// `2026-11-24T13:58:22`, in this machine's time zone; `N/A` when Slurm does not know.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S").ok()?;
    Some(Local.from_local_datetime(&local).earliest()?.to_utc())
}

/// Sorts what sbatch says on standard error.
fn why(errors: &str) -> SubmitError {
    SubmitError::from_slurm(errors, last_line(errors))
}

/// The last line, without the program's own name, at most 300 characters.
fn last_line(errors: &str) -> String {
    let line = errors.lines().rev().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or("it failed without a word").trim();
    let line = line.rsplit("error: ").next().unwrap_or(line);
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Whether the programs are there.
pub(crate) fn missing(bin: &Path) -> Vec<String> {
    ["sbatch", "squeue", "scancel"]
        .into_iter()
        .map(|name| bin.join(name))
        .filter(|path| !path.is_file())
        .map(|path| path.display().to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sbatch_says_is_sorted() {
        let of = |text: &str| why(&format!("sbatch: error: {text}\n"));
        assert_eq!(
            of("Batch job submission failed: Invalid partition name specified"),
            SubmitError::Rejected(
                "Batch job submission failed: Invalid partition name specified".into()
            )
        );
        assert!(matches!(
            of("Batch job submission failed: Unable to contact slurm controller (connect failure)"),
            SubmitError::Unavailable(_)
        ));
        assert!(matches!(
            of(
                "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
            ),
            SubmitError::Limit(_)
        ));
        assert!(matches!(why(""), SubmitError::Unavailable(_)));
    }

    #[test]
    fn a_line_of_squeue_is_read() {
        let line = |comment: &str, state: &str| {
            [
                "17", state, "Priority", "N/A", "N/A", "", comment, "alice", "0", "",
            ]
            .join(&SEPARATOR.to_string())
        };
        let ours = "gha-slurm:0192f0c1-2345-7000-8123-456789abcdef acme/widgets";
        let job = slurm_job(&line(ours, "PENDING")).unwrap();
        assert_eq!(
            (job.state, job.reason.as_deref(), job.exit_code, job.nodes),
            (SlurmState::Pending, Some("Priority"), None, None)
        );
        let failed = line(ours, "FAILED").replace("\u{1f}0\u{1f}", "\u{1f}768\u{1f}");
        assert_eq!(slurm_job(&failed).unwrap().exit_code, Some(3));
        assert_eq!(slurm_job(&line("(null)", "RUNNING")), None);
        assert_eq!(slurm_job(&line("gha-slurm:nonsense", "RUNNING")), None);
        assert_eq!(slurm_job("garbage"), None);
        assert_eq!(time("N/A"), None);
        assert!(time("2026-11-24T13:58:22").is_some());
    }
}
