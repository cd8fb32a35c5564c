//! Slurm by its own programs: sbatch, squeue, scancel. Every argument is passed as an argument, nothing goes through a
//! shell, and nothing secret is in one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gha_slurm_domain::{LaunchId, ResourceRequest, SlurmJobId, SlurmUser};
use tokio::process::Command;

use crate::api_version::ApiVersion;
use crate::backend::{
    Cancellation, CannotAct, JobUsage, Numbers, OUTPUT, PATH, Queue, Slurm, SlurmUnavailable,
    SubmitError, Survey, comment, output_variable, said,
};
use crate::options::options;
use crate::settings::{RunAs, SbatchSettings};
use crate::spelling::{Names, Spelling};
use crate::submission::Submission;
use crate::{program, rest, sacct, squeue};

/// The programs themselves wait some time for a slurmctld that is away; the launcher waits 30 s for us.
const DEADLINE: Duration = Duration::from_secs(20);
/// Bytes that squeue or sacct may print: a Slurm job takes about 3 kB.
const LISTING: usize = 512 * 1024 * 1024;
/// Administrators seldom change what Slurm shows.
const PRIVACY_GOOD_FOR: Duration = Duration::from_secs(300);

/// Slurm by its own programs.
pub struct SbatchSlurm {
    settings: SbatchSettings,
    /// Of sacct. `None`: not known yet, or not any more.
    printing: Mutex<Option<Printing>>,
    spelling: Spelling,
    /// Whether Slurm shows everybody's Slurm jobs, and when it was asked.
    shows_everybody: Mutex<Option<(bool, Instant)>>,
}

/// How a program of Slurm's is asked to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Printing {
    /// As slurmrestd answers in this version of its API.
    Json(ApiVersion),
    Text,
}

impl SbatchSlurm {
    /// With these settings; fails when a program is missing.
    pub fn new(settings: SbatchSettings) -> anyhow::Result<Self> {
        let missing = missing(&settings.bin);
        anyhow::ensure!(
            missing.is_empty(),
            "sbatch.bin: there is no {}",
            missing.join(", ")
        );
        Ok(Self {
            settings,
            printing: Mutex::new(None),
            spelling: Spelling::default(),
            shows_everybody: Mutex::new(None),
        })
    }

    /// Asks, when it is not known.
    async fn printing(&self) -> Printing {
        let known = *self.printing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known {
            return known;
        }
        // Those that are older take no value.
        let said = self.ask("sacct", &["--json=list"]).await;
        let printing = said.ok().and_then(|said| ApiVersion::of_parsers(&said));
        let printing = printing.map_or(Printing::Text, Printing::Json);
        tracing::info!(?printing, "sacct was asked what it can print");
        self.remember(Some(printing));
        printing
    }

    fn remember(&self, printing: Option<Printing>) {
        *self.printing.lock().unwrap_or_else(PoisonError::into_inner) = printing;
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
            .current_dir("/")
            .kill_on_drop(true);
        // Times are read back from what these print; sbatch hands its environment on to Slurm jobs.
        if matches!(name, "squeue" | "sacct") {
            command.env("SLURM_TIME_FORMAT", squeue::TIME_FORMAT);
        }
        if let Some(conf) = &self.settings.conf {
            command.env("SLURM_CONF", conf);
        }
        command
    }

    /// What a program of Slurm's prints.
    async fn ask(&self, name: &str, words: &[&str]) -> Result<String, SlurmUnavailable> {
        let mut command = self.program(name, None);
        command.args(words);
        let output = self.run(command, "").await?;
        succeeded(name, &output)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether Slurm says that it shows everybody's Slurm jobs (slurm.conf(5), `PrivateData`). An operator sees them even if it does not.
    async fn shows_everybody(&self) -> bool {
        let known = *self
            .shows_everybody
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((shows, at)) = known
            && at.elapsed() < PRIVACY_GOOD_FOR
        {
            return shows;
        }
        let said = self.ask("scontrol", &["show", "config"]).await;
        let shows = said.is_ok_and(|said| !hides_jobs(&said));
        *self
            .shows_everybody
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some((shows, Instant::now()));
        shows
    }

    /// What is asked for, in Slurm's spelling.
    async fn spelt(&self, submission: &Submission) -> Result<ResourceRequest, SlurmUnavailable> {
        let ask = self.names();
        self.spelling.of(&submission.resources, ask).await
    }

    /// Names that Slurm knows; none where there is no sinfo.
    async fn names(&self) -> Result<Names, SlurmUnavailable> {
        let mut names = Names::default();
        if !self.settings.bin.join("sinfo").is_file() {
            return Ok(names);
        }
        let words = ["--all", "--noheader", "--format=%R|%G|%f"];
        let mut command = self.program("sinfo", None);
        command.args(words);
        let output = self.run_for(command, "", LISTING).await?;
        succeeded("sinfo", &output)?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let mut columns = line.splitn(3, '|').map(str::trim);
            let mut column = || columns.next().unwrap_or_default();
            names.add_partition(column());
            names.add_gres(column());
            column().split(',').for_each(|name| names.add_feature(name));
        }
        Ok(names)
    }

    async fn run(&self, command: Command, input: &str) -> Result<Output, SlurmUnavailable> {
        self.run_for(command, input, program::SHORT).await
    }

    /// Runs a program that may print `most` bytes.
    async fn run_for(
        &self,
        mut command: Command,
        input: &str,
        most: usize,
    ) -> Result<Output, SlurmUnavailable> {
        let name = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        program::answer(&mut command, input, DEADLINE, most)
            .await
            .map_err(|error| SlurmUnavailable(format!("{name}: {error}")))
    }
}

#[async_trait]
impl Slurm for SbatchSlurm {
    async fn submit(&self, submission: &Submission) -> Result<SlurmJobId, SubmitError> {
        let user = submission.slurm_user.as_str();
        let resources = self.spelt(submission).await?;
        let mut command = self.program("sbatch", Some(user));
        command.args(arguments(submission, &resources, &self.settings));
        if self.settings.run_as == RunAs::Root {
            // Its group would be root's.
            let group = group_of(user).await?;
            command.arg(format!("--gid={group}"));
        }
        // sbatch hands its environment on.
        for (name, value) in &submission.environment {
            command.env(name, value);
        }
        let (name, value) = output_variable(&submission.name, &self.settings.output_folder);
        command.env(name, value);
        let output = self.run(command, &submission.script).await?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(SubmitError::from_slurm(&errors, words(&errors)));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        // `--parsable`: the number, and the cluster after a semicolon where there are several.
        let id = said.trim().split(';').next().unwrap_or_default();
        id.parse()
            .map_err(|_| SlurmUnavailable(format!("sbatch answered {:?}", said.trim())).into())
    }

    async fn list(&self, known: &Numbers) -> Result<Queue, SlurmUnavailable> {
        let separator = squeue::Separator::new();
        let mut command = self.program("squeue", None);
        command.env("SQUEUE_FORMAT2", separator.format());
        command.args(["--all", "--noheader", "--states=all"]);
        let output = self.run_for(command, "", LISTING).await?;
        succeeded("squeue", &output)?;
        Ok(Queue {
            shows_everybody: self.shows_everybody().await,
            ..separator.read(&String::from_utf8_lossy(&output.stdout), known)
        })
    }

    async fn cancel(
        &self,
        wanted: &[Cancellation],
        known: &Numbers,
    ) -> Result<Vec<LaunchId>, SlurmUnavailable> {
        let ours = self.list(known).await?.wanted_by(wanted);
        for job in &ours {
            let mut command = self.program("scancel", Some(&job.user));
            command.arg(job.id.as_str());
            let output = self.run(command, "").await?;
            let errors = String::from_utf8_lossy(&output.stderr);
            let over = errors.contains("Invalid job id") || errors.contains("already completing");
            if !output.status.success() && !over {
                return Err(SlurmUnavailable(words(&errors)));
            }
        }
        Ok(ours.into_iter().map(|job| job.launch).collect())
    }

    async fn usage(&self, ids: &[SlurmJobId]) -> Result<Option<Vec<JobUsage>>, SlurmUnavailable> {
        if !self.settings.bin.join("sacct").is_file() {
            return Ok(None);
        }
        let ids: Vec<&str> = ids.iter().map(SlurmJobId::as_str).collect();
        let mut command = self.program("sacct", None);
        command.arg("--allusers");
        command.arg(format!("--jobs={}", ids.join(",")));
        let printing = self.printing().await;
        match printing {
            Printing::Json(version) => command.arg(format!("--json={}", version.as_str())),
            Printing::Text => command
                .args(["--noheader", "--parsable2", "--noconvert"])
                .arg(format!("--format={}", sacct::COLUMNS)),
        };
        let output = self.run_for(command, "", LISTING).await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.contains("accounting storage is disabled") {
            return Ok(None);
        }
        if let Err(failure) = succeeded("sacct", &output) {
            // It may come back as another version.
            self.remember(None);
            return Err(failure);
        }
        match printing {
            Printing::Json(_) => {
                let read = rest::read_usages(output.stdout).await;
                if let Err(why) = &read {
                    tracing::warn!(%why, "sacct's JSON is of no use here; its text is, from now on");
                    self.remember(Some(Printing::Text));
                }
                read.map(Some)
            }
            Printing::Text => {
                let listing = String::from_utf8_lossy(&output.stdout);
                Ok(Some(sacct::usages(&listing)))
            }
        }
    }

    async fn survey(&self) -> Result<Survey, SlurmUnavailable> {
        let version = self.ask("sbatch", &["--version"]).await?;
        let partitions = self.ask("sinfo", &["--all", "--noheader", "--format=%R"]);
        let names = |what: &'static str, column: &'static str| async move {
            let words = ["--noheader", "--parsable2", "list", what, column];
            match self.ask("sacctmgr", &words).await {
                Ok(said) => Ok(Some(lines(&said))),
                // "Only 'accounting_storage/slurmdbd' is supported."
                Err(error) if error.0.contains("accounting_storage") => Ok(None),
                Err(error) => Err(error),
            }
        };
        Ok(Survey {
            version: version.trim().to_owned(),
            partitions: partitions.await.map(|said| lines(&said)),
            accounts: names("account", "format=account").await,
            qos: names("qos", "format=name").await,
        })
    }

    async fn configuration(&self) -> Result<String, SlurmUnavailable> {
        let mut parts = Vec::new();
        // Partition, whether it is up, time limit, size of Slurm jobs, groups; CPUs, memory, GRES and features of its nodes.
        let nodes = ["--all", "--noheader", "--format=%R|%a|%l|%s|%g|%c|%m|%G|%f"];
        let associations = [
            "--noheader",
            "--parsable2",
            "list",
            "associations",
            "format=account,user,partition,qos",
        ];
        for (name, words) in [("sinfo", &nodes[..]), ("sacctmgr", &associations)] {
            if !self.settings.bin.join(name).is_file() {
                continue;
            }
            let mut command = self.program(name, None);
            command.args(words);
            let output = self.run_for(command, "", LISTING).await?;
            // "Only 'accounting_storage/slurmdbd' is supported."
            let errors = String::from_utf8_lossy(&output.stderr);
            if name != "sacctmgr" || !errors.contains("accounting_storage") {
                succeeded(name, &output)?;
            }
            parts.extend(lines(&String::from_utf8_lossy(&output.stdout)));
        }
        Ok(parts.join("\n"))
    }

    async fn may_act_as(&self, user: &SlurmUser) -> Result<String, CannotAct> {
        if self.settings.run_as == RunAs::Root {
            return if rustix::process::geteuid().is_root() {
                Ok("the agent is root".into())
            } else {
                Err(CannotAct::NotRoot)
            };
        }
        for name in ["sbatch", "scancel"] {
            // sudo(8): with `-l` and a command it says whether that is allowed, and runs nothing.
            let mut command = Command::new("sudo");
            command
                .args(["-n", "-l", "-u", user.as_str(), "--"])
                .arg(self.settings.bin.join(name))
                .env_clear()
                .env("PATH", PATH)
                .kill_on_drop(true);
            let output = self.run(command, "").await?;
            if !output.status.success() {
                let errors = String::from_utf8_lossy(&output.stderr);
                return Err(CannotAct::Sudo {
                    program: name,
                    user: user.clone(),
                    reason: words(&errors),
                });
            }
        }
        let mut command = Command::new("sudo");
        command
            .args(["-n", "-l"])
            .env_clear()
            .env("PATH", PATH)
            .kill_on_drop(true);
        let listed = self.run(command, "").await?;
        match kept(&String::from_utf8_lossy(&listed.stdout)) {
            Some(kept) => Err(CannotAct::SudoKeeps(kept)),
            None => Ok("by sudo: sbatch and scancel".into()),
        }
    }

    async fn preview(&self, submission: &Submission) -> Result<String, SlurmUnavailable> {
        // Where Slurm does not answer, as it is asked for.
        let spelt = self.spelt(submission).await;
        let resources = spelt.unwrap_or_else(|_| submission.resources.clone());
        let mut command = self.program("sbatch", Some(submission.slurm_user.as_str()));
        command.args(arguments(submission, &resources, &self.settings));
        let command = command.as_std();
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        Ok(format!(
            "{}\nstandard input: the job script, {} bytes\n{}",
            words.join("\n  "),
            submission.script.len(),
            submission.shown_environment()
        ))
    }

    async fn stop(&self) {}
}

/// Without those that are empty, each once.
fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(str::to_owned)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
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

/// sbatch's arguments. `resources`: those of the submission, in Slurm's spelling.
fn arguments(
    submission: &Submission,
    resources: &ResourceRequest,
    settings: &SbatchSettings,
) -> Vec<String> {
    let comment = comment(submission, settings.repository_in_comment);
    let mut arguments = vec![
        "--parsable".to_owned(),
        format!("--job-name={}", submission.name),
        format!("--comment={comment}"),
        format!("--output={OUTPUT}"),
        "--chdir=/".to_owned(),
        // Ours, and nothing of a login shell's: that may hang where the home is not there.
        "--export=ALL".to_owned(),
        // The agent's limits are not the Slurm job's (slurm.conf(5), `PropagateResourceLimits`).
        "--propagate=NONE".to_owned(),
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
    if submission.waits_for_namesakes {
        arguments.push("--dependency=singleton".to_owned());
    }
    arguments.extend(options(resources).map(|option| option.argument));
    arguments
}

/// It ended well; or what it says.
fn succeeded(name: &str, output: &Output) -> Result<(), SlurmUnavailable> {
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(SlurmUnavailable(format!("{name}: {}", words(&errors))))
}

/// What a program that failed says on standard error.
fn words(errors: &str) -> String {
    let words = said([errors]);
    if words.is_empty() {
        "it failed without a word".to_owned()
    } else {
        words
    }
}

/// The variables for Slurm's programs that sudo keeps, as of what `sudo -l` prints of Defaults; or `setenv`, which keeps what the caller
/// names.
fn kept(listing: &str) -> Option<String> {
    let defaults = listing.split(" may run the following").next()?;
    // What stands before an assignment is replaced by it.
    let from = defaults.rfind("env_keep=").unwrap_or(0);
    let variables = defaults
        .get(from..)?
        .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '*' | '!')));
    let slurms = |word: &&str| {
        let prefixes = ["SLURM", "SBATCH", "SCANCEL", "SPANK", "PMI", "MUNGE"];
        *word == "*" || prefixes.iter().any(|prefix| word.starts_with(prefix))
    };
    let last = |flag: &str| {
        let words = defaults.split([',', '\n']).map(str::trim);
        let mut flags = words.filter(|word| word.trim_start_matches('!') == flag);
        flags.next_back()
    };
    let setenv = last("setenv").filter(|word| *word == "setenv");
    let no_reset = last("env_reset").filter(|word| *word == "!env_reset");
    let flags = setenv.into_iter().chain(no_reset);
    let kept: Vec<&str> = variables.filter(slurms).chain(flags).collect();
    (!kept.is_empty()).then(|| kept.join(", "))
}

/// Whether `scontrol show config` says that Slurm jobs are hidden from other users, or does not say.
fn hides_jobs(config: &str) -> bool {
    let lines = config.lines().filter_map(|line| line.split_once('='));
    let mut values = lines.filter(|(key, _)| key.trim() == "PrivateData");
    let value = values.next().map(|(_, value)| value);
    value.is_none_or(|list| {
        list.split(',')
            .any(|what| matches!(what.trim(), "jobs" | "all"))
    })
}

/// Whether the programs are there.
fn missing(bin: &Path) -> Vec<String> {
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
    fn whether_slurm_hides_slurm_jobs_is_read() {
        for (config, hides) in [
            ("PrivateData             = none\nPriorityType = x\n", false),
            ("PrivateData             = accounts,usage\n", false),
            ("PrivateData             = accounts,jobs\n", true),
            ("", true),
        ] {
            assert_eq!(hides_jobs(config), hides, "{config}");
        }
    }

    #[test]
    fn what_sudo_keeps_for_slurms_programs_is_found() {
        let of = |defaults: &str| {
            let rule =
                "may run the following commands on h:\n    (%gha-slurm) NOPASSWD: /usr/bin/sbatch";
            kept(&format!(
                "Matching Defaults entries for a on h:\n    {defaults}\n\nUser a {rule}"
            ))
        };
        let ours = "!requiretty, !setenv, env_reset, env_keep=\"GHA_SLURM_* TRACEPARENT\"";
        assert_eq!(of(ours), None);
        assert_eq!(of(&format!("env_keep+=SLURM_CONF, setenv, {ours}")), None);
        for (defaults, found) in [
            (
                "env_keep+=\"GHA_SLURM_* TRACEPARENT SLURM_CONF\"",
                "SLURM_CONF",
            ),
            (
                "env_keep+=GHA_SLURM_*\\ TRACEPARENT\\ SLURM_CONF",
                "SLURM_CONF",
            ),
            ("env_reset, env_keep+=\"SLURM_*\"", "SLURM_*"),
            ("env_keep=\"*\"", "*"),
            ("env_reset, setenv", "setenv"),
            ("!env_reset", "!env_reset"),
        ] {
            assert_eq!(of(defaults).as_deref(), Some(found), "{defaults}");
        }
    }
}
