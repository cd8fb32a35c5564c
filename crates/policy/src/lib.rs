#![doc = include_str!("../README.md")]

pub mod file;
mod stop;

use file::replace;
pub use stop::{StopFile, StopFileError, Stops};

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::CString;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use gha_slurm_domain::{RepositoryFullName, ResourceRequest, SlurmUser};
use nix::unistd::{Group, User, getgrouplist};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// `[policy]`: what is allowed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySettings {
    /// Unix group whose members have opted in. Absent: every user below.
    pub group: Option<String>,
    /// Users with a lower uid are never run as; root never is.
    pub min_uid: u32,
    /// Users that are never run as.
    pub deny_users: Vec<String>,
    /// Partitions that may be named, written as Slurm does. Absent: any.
    pub partitions: Option<Vec<String>>,
    /// Accounts that may be named. Absent: any.
    pub accounts: Option<Vec<String>>,
    /// QOS that may be named. Absent: any.
    pub qos: Option<Vec<String>>,
    /// Container images that profiles may name: in full, or their beginning and `*`. None by default.
    pub containers: Vec<String>,
    /// Which workflow jobs may run, checked on the node before the first step.
    pub builds: BuildPolicy,
    /// What is asked for where a request says nothing.
    #[serde(deserialize_with = "ResourceRequest::from_settings")]
    pub defaults: ResourceRequest,
    /// Most that one launch may ask for.
    pub max: MaxResources,
    /// Most launches pending or running at once.
    pub live: LiveLimits,
    /// File of consents, a line for each: a Slurm user and the numeric id of a repository; `#` begins a remark. Only these
    /// pairs are served. Read at each start of a launch. Absent: what the launcher says about mappings is believed.
    pub consents: Option<PathBuf>,
    /// [File](StopFile) that stops new Slurm jobs. Absent: `stop.toml` in the agent's state folder. Not part of the version: what is
    /// stopped waits, and nothing is refused.
    #[serde(skip_serializing)]
    pub stop_file: Option<PathBuf>,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            group: None,
            min_uid: 1000,
            deny_users: Vec::new(),
            partitions: None,
            accounts: None,
            qos: None,
            containers: Vec::new(),
            builds: BuildPolicy::default(),
            defaults: ResourceRequest::default(),
            max: MaxResources::default(),
            live: LiveLimits::default(),
            consents: None,
            stop_file: None,
        }
    }
}

/// Events that only people who may write to the repository cause (GitHub docs, "Events that trigger workflows"), and
/// `pull_request`, whose workflows get no secrets and about which `forks` decides. Not among them, since strangers cause them
/// or their workflows may run a stranger's code with secrets: `pull_request_target`, `issue_comment`, `issues`,
/// `workflow_run`, `discussion`, `fork`, `watch` and so on.
const USUAL_EVENTS: [&str; 12] = [
    "push",
    "pull_request",
    "merge_group",
    "workflow_dispatch",
    "repository_dispatch",
    "schedule",
    "release",
    "create",
    "delete",
    "deployment",
    "deployment_status",
    "registry_package",
];

/// `[policy.builds]`: which workflow jobs may run. The job-started hook checks it on the node, before the first step: only
/// there it is known which of the class's workflow jobs GitHub gave to the runner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuildPolicy {
    /// Events (`GITHUB_EVENT_NAME`) whose workflow jobs may run.
    pub events: Vec<String>,
    /// Whether the commit may come from another repository than the workflow job, as a fork's pull request does.
    pub forks: bool,
    /// Logins of those for whom workflow jobs may run: who caused the event, and who ran it again. Absent: everybody.
    pub actors: Option<Vec<String>>,
}

impl Default for BuildPolicy {
    fn default() -> Self {
        Self {
            events: USUAL_EVENTS.map(str::to_owned).to_vec(),
            forks: false,
            actors: None,
        }
    }
}

impl BuildPolicy {
    /// As the hook reads it, for a runner of this repository.
    pub fn for_hook(&self, repository_id: i64) -> String {
        let Self {
            events,
            forks,
            actors,
        } = self;
        json!({ "repositoryId": repository_id, "events": events, "forks": forks, "actors": actors })
            .to_string()
    }
}

/// `[policy.max]`: most of each resource in one launch. Absent: no limit but Slurm's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaxResources {
    /// CPUs per task.
    pub cpus: Option<u32>,
    /// MiB of memory per node; also the memory of a request without one.
    pub memory_mib: Option<u64>,
    /// Minutes; also the time limit of a request without one.
    pub time_minutes: Option<u32>,
    /// Nodes.
    pub nodes: Option<u32>,
    /// GPUs per node.
    pub gpus: Option<u32>,
    /// Whether whole nodes may be asked for, however large they are. Absent: only where `cpus`, `memory_mib` and `gpus` are.
    pub exclusive: Option<bool>,
}

/// `[policy.live]`: most launches that are pending or running at once; what exceeds it waits. Absent: no limit but Slurm's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LiveLimits {
    /// Of one Slurm user.
    pub per_user: Option<u32>,
    /// Slurm jobs of one Slurm user, including those that they submitted themselves, at which gha-slurm's wait. Keep it below Slurm's own
    /// limit (`MaxSubmitJobs`) by as many as must stay free for the person.
    pub per_user_with_own: Option<u32>,
    /// Of one repository.
    pub per_repository: Option<u32>,
    /// Of all.
    pub total: Option<u32>,
}

/// How many launches are pending or running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Live {
    /// Of the user.
    pub of_user: u32,
    /// Slurm jobs of the user that are not gha-slurm's, as of the last list.
    pub of_users_own: u32,
    /// Of the repository.
    pub of_repository: u32,
    /// Of all.
    pub total: u32,
}

/// Why a launch is not started. The texts are for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRefusal {
    /// Never, as long as the policy stays.
    #[error("{0}")]
    Never(String),
    /// A limit is reached: not before something ends.
    #[error("{0}")]
    Wait(String),
    /// The system does not know a user, or not as a member of the group. Its directory may be away, and administrators add users without a
    /// change of the policy.
    #[error("{0}")]
    Unknown(String),
    /// Not before an administrator says so.
    #[error("{0}")]
    Stopped(String),
}

/// A constraint may count nodes (sbatch(1), `--constraint`, "Multiple Counts"), which `--nodes` then does not bound.
fn one_node_each(
    constraint: Option<String>,
    most_nodes: Option<u32>,
) -> Result<Option<String>, PolicyRefusal> {
    let counts = constraint.as_ref().is_some_and(|text| text.contains('*'));
    if counts && most_nodes.is_some() {
        return Err(never(
            "the constraint counts nodes (`*`), which is not allowed where policy.max.nodes is set",
        ));
    }
    Ok(constraint)
}

fn never(text: impl Into<String>) -> PolicyRefusal {
    PolicyRefusal::Never(text.into())
}

impl PolicySettings {
    /// Another text whenever something else is allowed. Blocks: reads the file of consents.
    ///
    /// The launcher asks again for what was refused when this changes, so an upgrade of the agent must not change it: only settings
    /// that differ from their defaults count, each by its path, and the hash is the same in every version of Rust.
    pub fn version(&self) -> String {
        let mut settings = BTreeMap::new();
        let defaults = serde_json::to_value(Self::default()).unwrap_or_default();
        let written = serde_json::to_value(self).unwrap_or_default();
        differences(String::new(), written, &defaults, &mut settings);
        let mut hash = Sha256::new();
        for (path, value) in settings {
            hash.update(format!("{path} = {value}\n"));
        }
        let text = self.consents.as_ref().map(std::fs::read_to_string);
        let text = text.and_then(Result::ok).unwrap_or_default();
        for (user, repository_id) in consents(&text).into_iter().collect::<BTreeSet<_>>() {
            hash.update(format!("consent {user} {repository_id}\n"));
        }
        let digest = hash.finalize();
        let first: Vec<String> = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
        first.concat()
    }

    /// Whether the Slurm user may be run as, as the system knows them. Blocks: asks NSS.
    pub fn check_user(&self, name: &str) -> Result<(), PolicyRefusal> {
        let failed = |e: &dyn std::fmt::Display| {
            PolicyRefusal::Unknown(format!("the user {name} cannot be looked up: {e}"))
        };
        let user = User::from_name(name)
            .map_err(|e| failed(&e))?
            .ok_or_else(|| {
                PolicyRefusal::Unknown(format!("there is no user {name} on this cluster"))
            })?;
        if self.deny_users.iter().any(|denied| denied == name) {
            return Err(never(format!("{name} is not to be run as here")));
        }
        // NSS may ignore case, or know aliases. Slurm's queue has the name, which is compared with this one.
        if user.name != name {
            return Err(never(format!(
                "the user {name} is called {} on this cluster: map the repository to that name",
                user.name
            )));
        }
        let uid = user.uid.as_raw();
        if uid == 0 || uid < self.min_uid {
            return Err(never(format!(
                "{name} has the uid {uid}; only users from {} on are run as",
                self.min_uid.max(1)
            )));
        }
        let Some(group) = &self.group else {
            return Ok(());
        };
        let wanted = Group::from_name(group)
            .map_err(|e| failed(&e))?
            .ok_or_else(|| PolicyRefusal::Unknown(format!("there is no group {group}")))?;
        let name = CString::new(name).map_err(|e| failed(&e))?;
        let groups = getgrouplist(&name, user.gid).map_err(|e| failed(&e))?;
        if groups.contains(&wanted.gid) {
            Ok(())
        } else {
            Err(PolicyRefusal::Unknown(format!(
                "{} has not opted in: members of the group {group} have",
                user.name
            )))
        }
    }

    /// What may be submitted for a request: with defaults, in Slurm's spelling, within limits.
    pub fn check_resources(
        &self,
        asked: &ResourceRequest,
    ) -> Result<ResourceRequest, PolicyRefusal> {
        // Taken apart without `..`, here and below: a new resource does not compile before this names it, and says what bounds it.
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
            container,
        } = self.defaults.clone().overlaid_with(asked.clone());
        let MaxResources {
            cpus: most_cpus,
            memory_mib: most_memory_mib,
            time_minutes: most_minutes,
            nodes: most_nodes,
            gpus: most_gpus,
            exclusive: whole_nodes,
        } = self.max;
        let gpus = gres.as_deref().map(count_gpus).transpose()?;
        at_most(
            "GPUs",
            gpus.filter(|gpus| *gpus > 0),
            most_gpus.map(u64::from),
        )?;
        let unlimited = most_cpus.is_none() && most_memory_mib.is_none() && most_gpus.is_none();
        if exclusive && !whole_nodes.unwrap_or(unlimited) {
            return Err(never(
                "whole nodes (exclusive) may be larger than the site allows; it can allow them by policy.max.exclusive",
            ));
        }
        if let Some(container) = &container {
            self.check_container(container)?;
        }
        Ok(ResourceRequest {
            cpus: at_most("CPUs", cpus, most_cpus)?,
            memory_mib: at_most(
                "MiB of memory",
                memory_mib.or(most_memory_mib),
                most_memory_mib,
            )?,
            time_minutes: at_most("minutes", time_minutes.or(most_minutes), most_minutes)?,
            gres: name("GRES", gres)?,
            partition: each_allowed("partition", partition, self.partitions.as_deref())?,
            account: allowed("account", account, self.accounts.as_deref())?,
            qos: allowed("QOS", qos, self.qos.as_deref())?,
            // Slurm itself says who may use which of these.
            constraint: name("constraint", one_node_each(constraint, most_nodes)?)?,
            reservation: name("reservation", reservation)?,
            nodes: at_most("nodes", nodes, most_nodes)?,
            exclusive,
            container,
        })
    }

    fn check_container(&self, container: &str) -> Result<(), PolicyRefusal> {
        let known = self
            .containers
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => container.starts_with(beginning),
                None => container == pattern,
            });
        // `--option`, a way out of a folder that is allowed, or more than one line or word.
        let odd = container.starts_with('-')
            || container.split('/').any(|part| part == "..")
            || container.contains(|c: char| c.is_control() || c.is_whitespace());
        if known && !odd {
            return Ok(());
        }
        Err(never(format!(
            "the container {container:?} is not one of those that may be used (policy.containers)"
        )))
    }

    /// Whether one more launch of `user` and `repository` (its URL) may be pending or running.
    pub fn check_live(
        &self,
        live: Live,
        user: &SlurmUser,
        repository: &str,
    ) -> Result<(), PolicyRefusal> {
        let LiveLimits {
            per_user,
            per_user_with_own,
            per_repository,
            total,
        } = self.live;
        let full = |have: u32, most: Option<u32>, whose: String| match most {
            Some(most) if have >= most => Err(PolicyRefusal::Wait(format!(
                "{whose} has {have} launches, the most that the site allows at once"
            ))),
            _ => Ok(()),
        };
        full(live.of_user, per_user, user.to_string())?;
        let with_own = live.of_user.saturating_add(live.of_users_own);
        if let Some(most) = per_user_with_own.filter(|most| with_own >= *most) {
            return Err(PolicyRefusal::Wait(format!(
                "{user} has {} launches and {} Slurm jobs of their own; from {most} on the site keeps the rest for the person",
                live.of_user, live.of_users_own
            )));
        }
        full(live.of_repository, per_repository, repository.to_owned())?;
        full(live.total, total, "gha-slurm".into())
    }

    /// Whether the cluster itself knows that the user lets the repository spend their account; `repository` is its name, for
    /// people. Blocks: reads a file.
    pub fn check_consent(
        &self,
        user: &SlurmUser,
        repository_id: i64,
        repository: &str,
    ) -> Result<(), PolicyRefusal> {
        let Some(file) = &self.consents else {
            return Ok(());
        };
        let text = std::fs::read_to_string(file).map_err(|e| {
            PolicyRefusal::Unknown(format!("policy.consents: {}: {e}", file.display()))
        })?;
        if consents(&text).contains(&(user.as_str(), repository_id)) {
            Ok(())
        } else {
            Err(never(format!(
                "{user} has not consented to {repository} (repository {repository_id}) on this cluster"
            )))
        }
    }
}

impl PolicySettings {
    /// Writes down, where there is a file of consents, that a user consents to a repository; its name is a remark for people. Blocks: writes
    /// a file. What people wrote beside it stays.
    pub fn record_consent(
        &self,
        user: &SlurmUser,
        repository_id: i64,
        repository: &RepositoryFullName,
        now: DateTime<Utc>,
    ) -> std::io::Result<()> {
        self.change_consents(|lines| {
            let pair = (user.as_str(), repository_id);
            if !lines.iter().any(|line| consents(line).contains(&pair)) {
                let now = now.format("%F");
                lines.push(format!(
                    "{user} {repository_id} # {repository} by the user, {now}"
                ));
            }
        })
    }

    /// Takes a user's consents to a repository out: those whose remark has its name, and the one of this id, if an id is known. Returns
    /// whether there was one. Blocks: writes a file.
    pub fn withdraw_consent(
        &self,
        user: &SlurmUser,
        repository: &RepositoryFullName,
        repository_id: Option<i64>,
    ) -> std::io::Result<bool> {
        let name = repository.to_string();
        let is_withdrawn = |line: &str| {
            let (_, remark) = line.split_once('#').unwrap_or_default();
            let is_named = remark
                .split_whitespace()
                .any(|word| word.eq_ignore_ascii_case(&name));
            consents(line)
                .iter()
                .any(|(of, id)| *of == user.as_str() && (is_named || Some(*id) == repository_id))
        };
        let mut was_there = false;
        self.change_consents(|lines| {
            let before = lines.len();
            lines.retain(|line| !is_withdrawn(line));
            was_there = lines.len() < before;
        })?;
        Ok(was_there)
    }

    fn change_consents(&self, change: impl FnOnce(&mut Vec<String>)) -> std::io::Result<()> {
        // One at a time: each reads the file and writes it anew.
        static TURN: Mutex<()> = Mutex::new(());
        let Some(file) = &self.consents else {
            return Ok(());
        };
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match std::fs::read_to_string(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            text => text.unwrap_or_default(),
        };
        let before: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut lines = before.clone();
        change(&mut lines);
        if lines == before {
            return Ok(());
        }
        replace(file, &(lines.join("\n") + "\n"), 0o600)
    }
}

/// The settings in `value` that are not as in `defaults`, by their paths.
fn differences(path: String, value: Value, defaults: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let default = defaults.get(&key).unwrap_or(&Value::Null);
                differences(format!("{path}.{key}"), value, default, found);
            }
        }
        value if value != *defaults => {
            found.insert(path, value);
        }
        _ => {}
    }
}

/// The pairs of a file of consents; lines that are none count for nothing.
pub fn consents(text: &str) -> HashSet<(&str, i64)> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next()?;
            let (user, repository) = line.trim().split_once(char::is_whitespace)?;
            Some((user, repository.trim().parse().ok()?))
        })
        .collect()
}

/// No name of Slurm's has a control character, and none of them can be an argument with a NUL in it.
fn name(what: &str, value: Option<String>) -> Result<Option<String>, PolicyRefusal> {
    match value {
        Some(text) if text.contains(char::is_control) => {
            Err(never(format!("{text:?} is not the name of a {what}")))
        }
        value => Ok(value),
    }
}

/// The value as the list writes it; labels come without capital letters.
fn allowed(
    what: &str,
    value: Option<String>,
    list: Option<&[String]>,
) -> Result<Option<String>, PolicyRefusal> {
    let value = name(what, value)?;
    let (Some(value), Some(list)) = (&value, list) else {
        return Ok(value);
    };
    let listed = list.iter().find(|known| known.eq_ignore_ascii_case(value));
    listed.cloned().map(Some).ok_or_else(|| {
        never(format!(
            "the {what} {value} is not one of those that may be used: {}",
            list.join(", ")
        ))
    })
}

/// As [`allowed`], of a list with commas: Slurm takes whichever is free first (sbatch(1), `--partition`).
fn each_allowed(
    what: &str,
    value: Option<String>,
    list: Option<&[String]>,
) -> Result<Option<String>, PolicyRefusal> {
    let Some(value) = value else {
        return Ok(None);
    };
    let mut names = Vec::new();
    for one in value.split(',') {
        names.extend(allowed(what, Some(one.to_owned()), list)?);
    }
    Ok(Some(names.join(",")))
}

/// What is asked for, if it is within the limit. Zero is not: for Slurm, zero memory is all of it, and zero time no limit (sbatch(1),
/// `--mem`, `--time`).
fn at_most<N: Copy + PartialOrd + Display + From<u8>>(
    what: &str,
    asked: Option<N>,
    most: Option<N>,
) -> Result<Option<N>, PolicyRefusal> {
    match (asked, most) {
        (Some(asked), Some(_)) if asked == N::from(0) => {
            Err(never(format!("0 {what} cannot be asked for")))
        }
        (Some(asked), Some(most)) if asked > most => Err(never(format!(
            "{asked} {what} are more than the {most} that the site allows"
        ))),
        _ => Ok(asked),
    }
}

/// GPUs of a list of generic resources, such as `gpu:a100:2,shard:1`, as Slurm reads it (sbatch(1), `--gres` and
/// `--tres-per-node`): `name[[:type]:count]`, perhaps after `gres:` or `gres/`, the count perhaps with a unit. Shards and MPS are parts of
/// one. A list that cannot be read is refused, because Slurm might read it in another way.
fn count_gpus(gres: &str) -> Result<u64, PolicyRefusal> {
    let unreadable = || {
        never(format!(
            "the GRES {gres:?} cannot be read: write gpu:TYPE:2 or gpu:2"
        ))
    };
    let mut gpus: u64 = 0;
    for one in gres.split(',') {
        let one = one.trim().to_ascii_lowercase();
        let one = ["gres/", "gres:"]
            .iter()
            .find_map(|prefix| one.strip_prefix(prefix))
            .unwrap_or(&one);
        let parts: Vec<&str> = one.split([':', '=']).collect();
        let (name, count) = match parts.as_slice() {
            [name] => (name, 1),
            // A type without a number is one of it.
            [name, last] => (name, count(last).unwrap_or(1)),
            [name, _, last] => (name, count(last).ok_or_else(unreadable)?),
            _ => return Err(unreadable()),
        };
        let word = |text: &&str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if !parts.iter().all(word) {
            return Err(unreadable());
        }
        gpus = gpus.saturating_add(match *name {
            "gpu" => count,
            "shard" | "mps" => 1,
            _ => 0,
        });
    }
    Ok(gpus)
}

/// A count of generic resources: a number and perhaps a unit (Slurm's `suffix_mult`). Slurm multiplies without looking whether the
/// product fits; here it is as large as can be.
fn count(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match text.get(digits.len()..)? {
        "" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "p" | "pib" => 1 << 50,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "pb" => 1_000_000_000_000_000,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    Some(number.saturating_mul(factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> PolicySettings {
        PolicySettings {
            partitions: Some(vec!["Main".into(), "gpu".into()]),
            defaults: ResourceRequest {
                partition: Some("Main".into()),
                ..Default::default()
            },
            max: MaxResources {
                cpus: Some(8),
                time_minutes: Some(60),
                gpus: Some(2),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn refused(asked: &ResourceRequest) -> String {
        policy().check_resources(asked).unwrap_err().to_string()
    }

    #[test]
    fn a_consent_is_of_one_user_and_repository_and_ends_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("consents");
        std::fs::write(&file, "bob 42 # acme/widgets by hand\nalice 7 # by hand\n").unwrap();
        let policy = PolicySettings {
            consents: Some(file.clone()),
            ..Default::default()
        };
        let alice: SlurmUser = "alice".parse().unwrap();
        let named = |name| RepositoryFullName::new("acme", name).unwrap();
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        for _ in 0..2 {
            policy
                .record_consent(&alice, 42, &named("widgets"), now)
                .unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            written,
            "bob 42 # acme/widgets by hand\nalice 7 # by hand\nalice 42 # acme/widgets by the user, 2027-01-15\n"
        );
        // Whatever another service says about ids, what the user names is withdrawn.
        assert!(
            policy
                .withdraw_consent(&alice, &named("Widgets"), None)
                .unwrap()
        );
        assert!(
            !policy
                .withdraw_consent(&alice, &named("widgets"), Some(42))
                .unwrap()
        );
        assert!(
            policy
                .withdraw_consent(&alice, &named("gadgets"), Some(7))
                .unwrap()
        );
        let left = std::fs::read_to_string(&file).unwrap();
        assert_eq!(left, "bob 42 # acme/widgets by hand\n");
    }

    /// `--constraint=fast*2` gave two nodes where one was allowed.
    #[test]
    fn a_constraint_does_not_count_nodes_where_nodes_are_bounded() {
        let asked = |constraint: &str| ResourceRequest {
            constraint: Some(constraint.into()),
            ..Default::default()
        };
        let mut bounded = policy();
        bounded.max.nodes = Some(1);
        for counting in ["fast*2", "[fast*2]", "[(a|b)*1&c*3]"] {
            let refused = bounded.check_resources(&asked(counting)).unwrap_err();
            assert!(
                refused.to_string().contains("policy.max.nodes"),
                "{counting}"
            );
            assert!(policy().check_resources(&asked(counting)).is_ok());
        }
        assert!(
            bounded
                .check_resources(&asked("haswell&[rack1|rack2]"))
                .is_ok()
        );
    }

    #[test]
    fn resources_are_completed_spelt_and_bounded() {
        let granted = policy().check_resources(&ResourceRequest::default());
        let granted = granted.unwrap();
        assert_eq!(
            (granted.partition.as_deref(), granted.time_minutes),
            (Some("Main"), Some(60))
        );
        let asked = ResourceRequest {
            partition: Some("main".into()),
            cpus: Some(8),
            gres: Some("gpu:a100:2".into()),
            ..Default::default()
        };
        let granted = policy().check_resources(&asked).unwrap();
        assert_eq!(granted.partition.as_deref(), Some("Main"));
        let text = refused(&ResourceRequest {
            partition: Some("secret".into()),
            ..Default::default()
        });
        assert!(
            text.contains("secret") && text.contains("Main, gpu"),
            "{text}"
        );
        let text = refused(&ResourceRequest {
            cpus: Some(9),
            ..Default::default()
        });
        assert!(text.contains('9') && text.contains('8'), "{text}");
        let text = refused(&ResourceRequest {
            gres: Some("gpu:1,gpu:a100:2".into()),
            ..Default::default()
        });
        assert!(text.contains("3 GPUs"), "{text}");
    }

    /// A launch token can ask for what no label can.
    #[test]
    fn the_maximum_is_one() {
        let policy = PolicySettings {
            max: MaxResources {
                memory_mib: Some(4096),
                nodes: Some(4),
                ..policy().max
            },
            ..policy()
        };
        let check = |asked: ResourceRequest| policy.check_resources(&asked);
        let with = |change: fn(&mut ResourceRequest)| {
            let mut asked = ResourceRequest::default();
            change(&mut asked);
            asked
        };
        let gres = |list: &str| ResourceRequest {
            gres: Some(list.into()),
            ..Default::default()
        };
        // What is missing would be what Slurm gives: perhaps all of a node.
        let granted = check(ResourceRequest::default()).unwrap();
        assert_eq!(
            (granted.memory_mib, granted.time_minutes),
            (Some(4096), Some(60))
        );
        for (asked, reason) in [
            (with(|asked| asked.memory_mib = Some(0)), "0 MiB of memory"),
            (with(|asked| asked.time_minutes = Some(0)), "0 minutes"),
            (with(|asked| asked.cpus = Some(0)), "0 CPUs"),
            (with(|asked| asked.nodes = Some(0)), "0 nodes"),
            (with(|asked| asked.exclusive = true), "policy.max.exclusive"),
            (gres("gres:gpu:3"), "3 GPUs"),
            (gres("gres/gpu:a100:3"), "3 GPUs"),
            (gres("gres/gpu=3"), "3 GPUs"),
            (gres("GPU:3"), "3 GPUs"),
            (gres("gpu:1k"), "1024 GPUs"),
            (gres("gpu:a100,gpu:2"), "3 GPUs"),
            (gres("mps:50,shard:1,gpu"), "3 GPUs"),
            (gres("gpu:a:b:1"), "cannot be read"),
            (gres("gpu:a100:many"), "cannot be read"),
            (gres("gpu:1 --exclusive"), "cannot be read"),
            (
                with(|asked| asked.partition = Some("main,secret".into())),
                "secret",
            ),
        ] {
            let error = check(asked.clone()).unwrap_err().to_string();
            assert!(error.contains(reason), "{asked:?}: {error}");
        }
        let both = check(with(|asked| asked.partition = Some("main,GPU".into()))).unwrap();
        assert_eq!(both.partition.as_deref(), Some("Main,gpu"));
        check(gres("license:9,gpu:2")).unwrap();
    }

    #[test]
    fn whole_nodes_are_allowed_where_nothing_limits_them_or_the_site_says_so() {
        let asked = ResourceRequest {
            exclusive: true,
            ..Default::default()
        };
        let check = |max: MaxResources| {
            let policy = PolicySettings {
                max,
                ..Default::default()
            };
            policy.check_resources(&asked).is_ok()
        };
        let limited = MaxResources {
            cpus: Some(2),
            ..Default::default()
        };
        for (max, allowed) in [
            (MaxResources::default(), true),
            (
                MaxResources {
                    time_minutes: Some(60),
                    nodes: Some(1),
                    ..Default::default()
                },
                true,
            ),
            (limited.clone(), false),
            (
                MaxResources {
                    exclusive: Some(true),
                    ..limited
                },
                true,
            ),
            (
                MaxResources {
                    exclusive: Some(false),
                    ..Default::default()
                },
                false,
            ),
        ] {
            assert_eq!(check(max.clone()), allowed, "{max:?}");
        }
    }

    #[test]
    fn containers_are_those_of_the_list() {
        let policy = PolicySettings {
            containers: vec!["/images/*".into(), "docker://ghcr.io/acme/ci:1".into()],
            ..Default::default()
        };
        let check = |policy: &PolicySettings, container: &str| {
            policy.check_resources(&ResourceRequest {
                container: Some(container.into()),
                ..Default::default()
            })
        };
        for container in ["/images/ci.sif", "docker://ghcr.io/acme/ci:1"] {
            let granted = check(&policy, container).unwrap();
            assert_eq!(granted.container.as_deref(), Some(container));
            let none = check(&PolicySettings::default(), container).unwrap_err();
            assert!(none.to_string().contains("policy.containers"), "{none}");
        }
        for container in [
            "/images/../tmp/mine.sif",
            "docker://ghcr.io/acme/ci:2",
            "--writable",
            "/images/a\n/b",
            "/images/a --bind /",
        ] {
            assert!(check(&policy, container).is_err(), "{container}");
        }
    }

    #[test]
    fn users_are_looked_up() {
        let policy = PolicySettings {
            min_uid: 1,
            deny_users: vec!["mail".into()],
            ..Default::default()
        };
        assert_eq!(policy.check_user("games"), Ok(()));
        for (name, reason) in [
            ("root", "uid 0"),
            ("mail", "not to be run as"),
            ("no-such-user", "no user"),
        ] {
            let text = policy.check_user(name).unwrap_err().to_string();
            assert!(text.contains(reason), "{text}");
        }
        let usual = PolicySettings::default();
        assert!(usual.check_user("games").is_err(), "a uid below 1000");
        let grouped = |group: &str| PolicySettings {
            group: Some(group.into()),
            ..policy.clone()
        };
        assert_eq!(grouped("games").check_user("games"), Ok(()));
        assert!(matches!(
            grouped("tty").check_user("games"),
            Err(PolicyRefusal::Unknown(text)) if text.contains("opted in")
        ));
        assert!(matches!(
            grouped("no-such-group").check_user("games"),
            Err(PolicyRefusal::Unknown(_))
        ));
    }

    #[test]
    fn another_policy_has_another_version() {
        let consents = tempfile::NamedTempFile::new().unwrap();
        let with = |cpus| PolicySettings {
            max: MaxResources {
                cpus: Some(cpus),
                ..Default::default()
            },
            consents: Some(consents.path().into()),
            ..policy()
        };
        let version = with(8).version();
        assert_eq!(with(8).version(), version);
        assert_ne!(with(9).version(), version);
        std::fs::write(consents.path(), "alice 1\n").unwrap();
        let consented = with(8).version();
        assert_ne!(consented, version);
        std::fs::write(consents.path(), "# the same\nalice 1 # since May\n").unwrap();
        assert_eq!(with(8).version(), consented);
    }

    /// An upgrade that changes one of these makes the launcher ask again for everything that was ever refused.
    #[test]
    fn the_version_of_a_policy_never_changes() {
        assert_eq!(
            PolicySettings::default().version(),
            "e3b0c44298fc1c149afbf4c8996fb924"
        );
        assert_eq!(policy().version(), "530732289fca6b231e5b46622bee81a2");
        let full = PolicySettings {
            group: Some("gha".into()),
            deny_users: vec!["mail".into()],
            builds: BuildPolicy {
                forks: true,
                ..Default::default()
            },
            live: LiveLimits {
                per_user: Some(4),
                ..Default::default()
            },
            ..policy()
        };
        assert_eq!(full.version(), "0dd3f49b5c2c9c6b31c578b5a8623e90");
    }

    #[test]
    fn a_setting_that_a_newer_agent_adds_changes_the_version_only_where_it_is_used() {
        let of = |written: Value, defaults: &Value| {
            let mut found = BTreeMap::new();
            differences(String::new(), written, defaults, &mut found);
            found
        };
        let before = of(
            json!({ "max": { "cpus": 8 } }),
            &json!({ "max": { "cpus": null } }),
        );
        let defaults = json!({ "max": { "cpus": null, "licenses": null }, "days": ["mon"] });
        let unused = json!({ "max": { "cpus": 8, "licenses": null }, "days": ["mon"] });
        assert_eq!(of(unused, &defaults), before);
        let used = json!({ "max": { "cpus": 8, "licenses": 1 }, "days": ["mon"] });
        assert_ne!(of(used, &defaults), before);
    }

    #[test]
    fn consents_are_pairs() {
        let text = "alice 17 # acme/widgets\n\n# bob 17\nbob x\ncarol\t18\n";
        assert_eq!(
            consents(text),
            HashSet::from([("alice", 17), ("carol", 18)])
        );
    }
}
