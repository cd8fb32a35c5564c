//! The trait of every backend, and what is said in it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use gha_slurm_domain::{LaunchId, SlurmJobId, SlurmState, SlurmUser, Usage};

use crate::submission::Submission;

/// The comment of gha-slurm's Slurm jobs begins with this; the launch follows.
const COMMENT: &str = "gha-slurm:";
/// What a Slurm job finds programs with.
pub(crate) const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A way of speaking to Slurm.
#[async_trait]
pub trait Slurm: Send + Sync {
    /// Submits. Not idempotent: when an earlier submission of this launch may have been accepted, [`find`] it first.
    ///
    /// [`find`]: Slurm::find
    async fn submit(&self, submission: &Submission) -> Result<SlurmJobId, SubmitError>;

    /// Looks for the Slurm job of a launch that was submitted for `user`, pending, running or over. Other users' Slurm jobs with the same
    /// comment are not it, and those that are `known` to be another launch's are not, either.
    async fn find(
        &self,
        launch: LaunchId,
        user: &SlurmUser,
        known: &Numbers,
    ) -> Result<Found, SlurmUnavailable> {
        Ok(self.list(known).await?.job_of(launch, user))
    }

    /// Every Slurm job of gha-slurm that Slurm still has, and how many others there are, in one call: by its number where that is
    /// `known`, otherwise by its comment.
    async fn list(&self, known: &Numbers) -> Result<Queue, SlurmUnavailable>;

    /// Cancels gha-slurm's Slurm jobs that are `wanted` cancelled and not over, after one [`list`](Slurm::list). Returns their
    /// launches.
    async fn cancel(
        &self,
        wanted: &[Cancellation],
        known: &Numbers,
    ) -> Result<Vec<LaunchId>, SlurmUnavailable>;

    /// What accounting has of these Slurm jobs, in one call; also of those that are not over. `None`: there is no accounting
    /// here.
    async fn usage(&self, ids: &[SlurmJobId]) -> Result<Option<Vec<JobUsage>>, SlurmUnavailable>;

    /// What Slurm says of itself, for the self-check.
    async fn survey(&self) -> Result<Survey, SlurmUnavailable>;

    /// A text that changes when that changes on which Slurm's final refusals depend: partitions, nodes' resources and features, accounts
    /// and QOS. Not with what comes and goes, such as the state of a node. Empty: it cannot be seen.
    async fn configuration(&self) -> Result<String, SlurmUnavailable> {
        Ok(String::new())
    }

    /// Whether it can be submitted as `user`: how, or why not. Submits nothing.
    async fn may_act_as(&self, user: &SlurmUser) -> Result<String, CannotAct>;

    /// What [`submit`] would say to Slurm, for people; the launch token is left out.
    ///
    /// [`submit`]: Slurm::submit
    async fn preview(&self, submission: &Submission) -> Result<String, SlurmUnavailable>;

    /// The agent stops.
    async fn stop(&self);
}

/// What Slurm says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Of its programs, or of slurmrestd's API.
    pub version: String,
    /// Names of all partitions.
    pub partitions: Result<Vec<String>, SlurmUnavailable>,
    /// Names of all accounts; `None` where Slurm keeps no accounting.
    pub accounts: Result<Option<Vec<String>>, SlurmUnavailable>,
    /// Names of all QOS; `None` where Slurm keeps no accounting.
    pub qos: Result<Option<Vec<String>>, SlurmUnavailable>,
}

/// A Slurm job whose number Slurm has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// The launch it was submitted for.
    pub launch: LaunchId,
    /// Slurm's number.
    pub id: SlurmJobId,
    /// Who it runs as.
    pub user: SlurmUser,
    /// Slurm's time of its submission is no earlier than this.
    pub earliest: DateTime<Utc>,
    /// And no later, unless it was requeued. `None`: not known.
    pub latest: Option<DateTime<Utc>>,
}

impl Submitted {
    /// Whether a Slurm job of this number that was submitted then is this one. A slurmctld that lost its state gives numbers again.
    /// Where the time is not known, it is taken as right.
    pub fn was_submitted(&self, at: Option<DateTime<Utc>>, requeued: bool) -> bool {
        at.is_none_or(|at| {
            at >= self.earliest && (requeued || self.latest.is_none_or(|latest| at <= latest))
        })
    }
}

/// The Slurm jobs whose numbers are known. A user may change most of their own Slurm jobs: comment, name, account, partition, time limit.
/// Number, user and time of submission stay.
#[derive(Debug, Clone, Default)]
pub struct Numbers(HashMap<String, Submitted>);

impl FromIterator<Submitted> for Numbers {
    /// Of several with one number, only the newest can have it.
    fn from_iter<T: IntoIterator<Item = Submitted>>(jobs: T) -> Self {
        let mut numbers = HashMap::new();
        for job in jobs {
            match numbers.entry(job.id.to_string()) {
                Entry::Vacant(free) => {
                    free.insert(job);
                }
                Entry::Occupied(mut held) if held.get().earliest < job.earliest => {
                    held.insert(job);
                }
                Entry::Occupied(_) => {}
            }
        }
        Self(numbers)
    }
}

impl Numbers {
    /// The launch that a Slurm job of a list is. `None`: it is not gha-slurm's. `submission` is when it was submitted, and whether it
    /// was requeued since; it is read only for known numbers, as most of a list may be foreign.
    pub(crate) fn launch_of(
        &self,
        id: &str,
        user: &str,
        comment: &str,
        submission: impl FnOnce() -> (Option<DateTime<Utc>>, bool),
    ) -> Option<LaunchId> {
        let known = self.0.get(id).filter(|known| {
            let (at, requeued) = submission();
            known.user.as_str() == user && known.was_submitted(at, requeued)
        });
        known
            .map(|known| known.launch)
            .or_else(|| launch_of(comment))
    }
}

/// What a search for the Slurm job of a launch found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This one.
    Job(SlurmJobId),
    /// There is none.
    None,
    /// Slurm may hide the user's Slurm jobs (slurm.conf(5), `PrivateData`): none is known.
    MayBeHidden,
}

impl Found {
    /// The Slurm job, if one was found.
    pub fn job(self) -> Option<SlurmJobId> {
        match self {
            Self::Job(id) => Some(id),
            Self::None | Self::MayBeHidden => None,
        }
    }
}

/// Slurm's queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    /// Ours, with those that are over.
    pub ours: Vec<SlurmJob>,
    /// How many are pending or running that are not gha-slurm's, by user. Of a job array, what waits together counts as one.
    pub others: HashMap<String, u32>,
    /// Slurm is known to show everybody's Slurm jobs. Otherwise `PrivateData=jobs` may hide some (slurm.conf(5)), gha-slurm's among them:
    /// one that no list ever had need not be gone.
    pub shows_everybody: bool,
}

impl Queue {
    /// The Slurm job of a launch that was submitted for `user`.
    pub(crate) fn job_of(self, launch: LaunchId, user: &SlurmUser) -> Found {
        let is_seen = self.shows_everybody
            || self.others.contains_key(user.as_str())
            || self.ours.iter().any(|job| job.is_of(user));
        let mut ours = self.ours.into_iter();
        match ours.find(|job| job.launch == launch && job.is_of(user)) {
            Some(job) => Found::Job(job.id),
            None if is_seen => Found::None,
            None => Found::MayBeHidden,
        }
    }

    /// Those that are wanted cancelled.
    pub(crate) fn wanted_by(mut self, wanted: &[Cancellation]) -> Vec<SlurmJob> {
        self.ours
            .retain(|job| wanted.iter().any(|wanted| wanted.wants(job)));
        self.ours
    }

    /// Counts one that is not gha-slurm's.
    pub(crate) fn add_other(&mut self, user: &str, state: SlurmState) {
        if !state.is_over() {
            *self.others.entry(user.to_owned()).or_default() += 1;
        }
    }
}

/// A Slurm job as Slurm tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlurmJob {
    /// The launch it is.
    pub launch: LaunchId,
    /// Slurm's number.
    pub id: SlurmJobId,
    /// Who it runs as.
    pub user: String,
    /// Where it stands.
    pub state: SlurmState,
    /// Why it is pending, or ended so, in Slurm's word.
    pub reason: Option<String>,
    /// When it started, or is expected to.
    pub starts_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Its nodes, as Slurm writes them.
    pub nodes: Option<String>,
    /// Its exit code, when it is over.
    pub exit_code: Option<i32>,
}

impl SlurmJob {
    /// Whether it runs as this user. Anybody can write a launch's comment into a Slurm job of their own: the comment alone proves nothing.
    pub fn is_of(&self, user: &SlurmUser) -> bool {
        self.user == user.as_str()
    }
}

/// Which Slurm jobs to cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancellation {
    /// Those of this launch.
    pub launch: LaunchId,
    /// With this number. Both must be right: a slurmctld that lost its state gives numbers again. `None`: it is not known here.
    pub id: Option<SlurmJobId>,
    /// Of this user, for whom it was submitted. `None`: it is not known here.
    pub user: Option<SlurmUser>,
    /// Only while it is pending.
    pub only_pending: bool,
}

impl Cancellation {
    fn wants(&self, job: &SlurmJob) -> bool {
        let may_be = if self.only_pending {
            job.state == SlurmState::Pending
        } else {
            !job.state.is_over()
        };
        may_be
            && job.launch == self.launch
            && self.id.as_ref().is_none_or(|id| *id == job.id)
            && self.user.as_ref().is_none_or(|user| job.is_of(user))
    }
}

/// What accounting tells of a Slurm job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobUsage {
    /// Slurm's number.
    pub id: SlurmJobId,
    /// When it was submitted.
    pub submitted_at: Option<DateTime<Utc>>,
    /// How it ended, or that it is not over.
    pub state: SlurmState,
    /// What it used; nothing while it is not over.
    pub usage: Usage,
}

/// Slurm cannot be spoken to right now; a submission may still have been accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SlurmUnavailable(pub String);

/// Why nothing can be submitted as a user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotAct {
    /// Slurm did not say, or a token for this user is refused.
    #[error(transparent)]
    Slurm(#[from] SubmitError),
    /// `sbatch.run_as = "root"` needs root.
    #[error("sbatch.run_as = \"root\", but this process is not root")]
    NotRoot,
    /// There is no rule for this user.
    #[error(
        "sudo does not let this user run {program} as {user} ({reason}): install deploy/sudoers/gha-slurm-munge, and let {user} be \
         in the group that it names"
    )]
    Sudo {
        /// The program that was asked about.
        program: &'static str,
        /// The user.
        user: SlurmUser,
        /// What sudo says.
        reason: String,
    },
    /// The rule is there, but hands the caller's variables to Slurm's programs: whoever has the agent's account runs code as users.
    #[error(
        "sudo keeps {0} of the agent's environment, by which Slurm's programs load foreign plugins as the user: replace the rule by \
         deploy/sudoers/gha-slurm-munge, and look for env_keep and setenv in the rest of sudoers"
    )]
    SudoKeeps(String),
    /// The local backend acts as nobody else.
    #[error("everything runs as the agent's own user")]
    Local,
}

impl From<SlurmUnavailable> for CannotAct {
    fn from(error: SlurmUnavailable) -> Self {
        Self::Slurm(error.into())
    }
}

/// Why there is no Slurm job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Slurm cannot be spoken to right now; it may still have accepted the submission. Try again.
    #[error(transparent)]
    Unavailable(#[from] SlurmUnavailable),
    /// A limit of Slurm's is reached (MaxSubmitJobs, QOS): wait, with Slurm's reason.
    #[error("{0}")]
    Limit(String),
    /// It failed in a way that may pass, or that is not known: try again, with growing pauses. Slurm may still have accepted it.
    #[error("{0}")]
    Failed(String),
    /// Slurm says no, in its own words (a partition that does not exist): it will say so again, until its
    /// [configuration](Slurm::configuration) changes.
    #[error("{0}")]
    Rejected(String),
}

impl SubmitError {
    /// Sorts what Slurm says, by strings of slurm_errno.c. `words`: without what a site's plugins say.
    pub(crate) fn from_slurm(words: &str, shown: String) -> Self {
        const AWAY: [&str; 10] = [
            "Unable to contact slurm controller",
            "Socket timed out",
            "Zero Bytes were transmitted",
            "Connection refused",
            "Connection timed out",
            "Munge encode failed",
            "Invalid authentication credential",
            "Protocol authentication error",
            "temporarily unable to accept job",
            "in standby mode",
        ];
        const LIMITS: [&str; 5] = [
            "Job violates accounting/QOS policy",
            "MaxSubmit",
            "SubmitJobs",
            "job submit limit",
            "Maximum number of jobs",
        ];
        // What depends on the request and on Slurm's configuration alone. Whatever else Slurm, sudo or the host says may pass.
        const FINAL: [&str; 17] = [
            "Invalid partition name specified",
            "No partition specified or system default partition",
            "User's group not permitted to use this partition",
            "Invalid account or account/partition combination specified",
            "Invalid qos specification",
            "Invalid feature specification",
            "Invalid generic resource (gres) specification",
            "Invalid GRES specification",
            "Invalid Trackable RESource (TRES) specification",
            "Requested node configuration is not available",
            "Requested nodes not in this partition",
            "Requested time limit is invalid",
            "More processors requested than permitted",
            "Node count specification invalid",
            "CPU count specification invalid",
            "Memory required by task is not available",
            "Pathname of a file, directory or other parameter too long",
        ];
        // What sbatch prints before it is not the error: a plugin's text, or a remark.
        let error = words.rsplit("submission failed: ").next().unwrap_or(words);
        let says = |text: &str, known: &[&str]| known.iter().any(|known| text.contains(known));
        if says(error, &AWAY) || words.trim().is_empty() {
            SlurmUnavailable(shown).into()
        } else if says(words, &LIMITS) {
            Self::Limit(shown)
        } else if says(error, &FINAL) {
            Self::Rejected(shown)
        } else {
            Self::Failed(shown)
        }
    }
}

/// Characters of Slurm's words that are kept.
const MOST_WORDS: usize = 1000;

/// Everything that Slurm says, for people: each line once, without the name of the program, on one line of at most 1000 characters. A
/// refusal's reason may be in its first line, such as the name of a limit or the text of a site's job_submit plugin, and the last line is
/// the error's name.
pub(crate) fn said<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
    let mut words: Vec<&str> = Vec::new();
    for line in lines.into_iter().flat_map(str::lines) {
        let mut line = line.trim();
        for prefix in [
            "sbatch: ",
            "squeue: ",
            "scancel: ",
            "sacct: ",
            "sinfo: ",
            "sacctmgr: ",
        ] {
            line = line.strip_prefix(prefix).unwrap_or(line);
        }
        for prefix in ["error: ", "fatal: "] {
            line = line.strip_prefix(prefix).unwrap_or(line);
        }
        if !line.is_empty() && !words.iter().any(|word| word.contains(line)) {
            words.push(line);
        }
    }
    let words = words.join("; ");
    let harmless = words.chars().filter(|c| !c.is_control());
    harmless.take(MOST_WORDS).collect()
}

/// The comment of gha-slurm's Slurm jobs; with the repository, for people, if that is wanted.
pub(crate) fn comment(submission: &Submission, with_repository: bool) -> String {
    let mut comment = format!("{COMMENT}{}", submission.launch);
    if with_repository {
        comment.push(' ');
        let harmless = submission.repository.chars().filter(char::is_ascii_graphic);
        comment.extend(harmless.take(200));
    }
    comment
}

/// The launch that a comment names.
fn launch_of(comment: &str) -> Option<LaunchId> {
    let rest = comment.strip_prefix(COMMENT)?;
    rest.split(' ').next()?.parse().ok()
}

/// What Slurm is told to do with what a job script prints. Slurm shows everybody the path of an output file, and opens it, links and
/// all, when the Slurm job starts: whoever creates it first decides where the output goes. The job script opens its own file.
pub(crate) const OUTPUT: &str = "/dev/null";

/// The environment variable with the beginning of the path of a job script's own output file. What follows is random, as mktemp(1)
/// makes it: see [`is_output_file`].
pub(crate) fn output_variable(name: &str, folder: &Path) -> (&'static str, String) {
    let beginning = folder.join(name).to_string_lossy().into_owned();
    ("GHA_SLURM_OUTPUT", beginning)
}

/// Whether a file in the output folder may be that of a Slurm job of this name: `<name>.<random>.log`. Anybody may create such a file;
/// only its owner tells whose it is.
pub fn is_output_file(file: &str, name: &str) -> bool {
    let random = file
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.strip_suffix(".log"));
    random.is_some_and(|random| {
        !random.is_empty() && random.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

/// The state that Slurm's word is for, and why the Slurm job is pending or ended so. One that was cancelled while it was pending still
/// has the reason of that, which is left out. Of a state that only a newer Slurm has, its word is all that can be shown.
pub(crate) fn standing(word: &str, reason: &str) -> (SlurmState, Option<String>) {
    let state = SlurmState::from_slurm(word);
    let reason = match state {
        SlurmState::Running if SlurmState::of_word(word).is_none() => word,
        SlurmState::Running | SlurmState::Completed | SlurmState::Cancelled => "",
        _ => reason,
    };
    let told = !matches!(reason, "" | "None" | "(null)");
    (state, told.then(|| reason.to_owned()))
}

/// The exit code in a status as of wait(2), as a shell says it: 128 and the signal for one that was ended by a signal.
pub(crate) fn exit_code(wait_status: u32) -> i32 {
    match wait_status & 0x7f {
        0 => ((wait_status >> 8) & 0xff).cast_signed(),
        signal => (128 + signal).cast_signed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_final_is_final() {
        let sort = |words: &str| match SubmitError::from_slurm(words, String::new()) {
            SubmitError::Unavailable(_) => "away",
            SubmitError::Limit(_) => "limit",
            SubmitError::Failed(_) => "failed",
            SubmitError::Rejected(_) => "rejected",
        };
        let of_sbatch = |words: &str| {
            sort(&format!(
                "sbatch: error: Batch job submission failed: {words}\n"
            ))
        };
        for (words, sorted) in [
            ("Invalid partition name specified", "rejected"),
            ("Requested node configuration is not available", "rejected"),
            (
                "Unable to contact slurm controller (connect failure)",
                "away",
            ),
            (
                "Controller is in standby mode, try a different controller",
                "away",
            ),
            ("Slurm backup controller in standby mode", "away"),
            (
                "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
                "limit",
            ),
            ("I/O error writing script/environment to file", "failed"),
            (
                "Required partition not available (inactive or drain)",
                "failed",
            ),
            (
                "Requested partition configuration not available now",
                "failed",
            ),
            (
                "Required node not available (down, drained or reserved)",
                "failed",
            ),
            ("Access/permission denied", "failed"),
            ("Invalid user id", "failed"),
            ("Unspecified error", "failed"),
            ("Something that only a newer Slurm says", "failed"),
        ] {
            assert_eq!(of_sbatch(words), sorted, "{words}");
            // slurmrestd has the bare words.
            assert_eq!(sort(words), sorted, "{words}");
        }
        for words in [
            "sbatch: fatal: Unable to process configuration file",
            "sudo: PAM account management error: Authentication service cannot retrieve authentication info",
            "sudo: unknown user alice",
            "sudo: a password is required",
            "sbatch: error: Invalid feature specification is our poet's word\n\
             sbatch: error: Batch job submission failed: Unspecified error",
        ] {
            assert_eq!(sort(words), "failed", "{words}");
        }
        assert_eq!(sort(" \n"), "away");
    }

    #[test]
    fn all_that_slurm_says_is_kept_on_one_line() {
        let errors = "sbatch: error: Ask for at most 8 CPUs\u{1b}[2J,\nor write to hpc@example.org\n\
                      sbatch: error: QOSMaxSubmitJobPerUserLimit\n\n\
                      sbatch: error: Batch job submission failed: Job violates accounting/QOS policy\n\
                      sbatch: error: QOSMaxSubmitJobPerUserLimit\n";
        assert_eq!(
            said([errors]),
            "Ask for at most 8 CPUs[2J,; or write to hpc@example.org; QOSMaxSubmitJobPerUserLimit; \
             Batch job submission failed: Job violates accounting/QOS policy"
        );
        assert_eq!(said(["x".repeat(5000).as_str()]).len(), MOST_WORDS);
        assert_eq!(said(["", " \n"]), "");
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn launch(id: u128) -> LaunchId {
        LaunchId(uuid::Uuid::from_u128(id))
    }

    fn submitted(id: u128, earliest: i64) -> Submitted {
        Submitted {
            launch: launch(id),
            id: "17".parse().unwrap(),
            user: "alice".parse().unwrap(),
            earliest: at(earliest),
            latest: Some(at(earliest + 60)),
        }
    }

    #[test]
    fn a_known_number_decides_whatever_the_comment_says() {
        let known: Numbers = [submitted(1, 1000)].into_iter().collect();
        let of = |id: &str, user: &str, comment: &str, time: i64, requeued: bool| {
            known.launch_of(id, user, comment, || (Some(at(time)), requeued))
        };
        let other = format!("{COMMENT}{}", launch(2));
        for comment in ["", "hidden", "(null)", &other] {
            assert_eq!(of("17", "alice", comment, 1010, false), Some(launch(1)));
        }
        // A requeue changes the time of submission, and is in the user's hands.
        assert_eq!(of("17", "alice", "hidden", 9000, true), Some(launch(1)));
        let unknown = known.launch_of("17", "alice", "hidden", || (None, false));
        assert_eq!(unknown, Some(launch(1)));
        // The number was given again: to somebody else, or later, or it had another one before.
        for (user, time) in [("bob", 1010), ("alice", 9000), ("alice", 999)] {
            assert_eq!(of("17", user, "", time, false), None);
            assert_eq!(of("17", user, &other, time, false), Some(launch(2)));
        }
        assert_eq!(of("18", "alice", "", 1010, false), None);
        assert_eq!(of("18", "alice", &other, 1010, false), Some(launch(2)));
    }

    #[test]
    fn the_newest_holds_a_number() {
        for jobs in [
            [submitted(1, 1000), submitted(2, 1030)],
            [submitted(2, 1030), submitted(1, 1000)],
        ] {
            let known: Numbers = jobs.into_iter().collect();
            let of = known.launch_of("17", "alice", "", || (Some(at(1040)), false));
            assert_eq!(of, Some(launch(2)));
        }
    }
}
