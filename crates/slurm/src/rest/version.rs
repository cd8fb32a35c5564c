//! What differs between the versions of slurmrestd's API: the body of a submission, and the shape of answers.
//!
//! v0.0.36 to v0.0.38 were held against slurmrestd 22.05, whose parsers take other values than its OpenAPI document says;
//! v0.0.40 to v0.0.42 against 24.11, v0.0.42 to v0.0.45 against 26.05. Slurm's programs print the same JSON from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use chrono::{DateTime, Utc};
use gha_slurm_domain::{ResourceRequest, SlurmState};
use nix::unistd::{Uid, User};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::api_version::ApiVersion;
use crate::backend::{
    Numbers, OUTPUT, PATH, Queue, SlurmJob, comment, exit_code, output_variable, said, standing,
};
use crate::options::{Field, options};
use crate::settings::SlurmrestdSettings;
use crate::spelling::Names;
use crate::submission::Submission;

impl ApiVersion {
    /// The body of a submission. `resources`: those of the submission, in Slurm's spelling.
    pub(super) fn submission(
        self,
        submission: &Submission,
        resources: &ResourceRequest,
        settings: &SlurmrestdSettings,
    ) -> Value {
        // Before v0.0.40 slurmrestd reads what sbatch's options say; from then on, the fields of Slurm's own message.
        let is_old = self < Self::V40;
        let mut job = Map::new();
        let mut set = |key: &str, value: Value| {
            job.insert(key.to_owned(), value);
        };
        set("name", json!(submission.name));
        let comment = comment(submission, settings.repository_in_comment);
        set("comment", json!(comment));
        set("current_working_directory", json!("/"));
        set("standard_output", json!(OUTPUT));
        if submission.waits_for_namesakes {
            set("dependency", json!("singleton"));
        }
        let environment = environment(submission, &settings.output_folder);
        if is_old {
            set("environment", environment.into());
            // `requeue: false` changes nothing there.
            let requeue = if settings.requeue {
                "requeue"
            } else {
                "no_requeue"
            };
            set(requeue, json!(true));
        } else {
            let lines = environment.into_iter().map(|(name, value)| {
                let value = value.as_str().unwrap_or_default();
                format!("{name}={value}")
            });
            set("environment", lines.collect());
            set("requeue", json!(settings.requeue));
            set("kill_warning_signal", json!("TERM"));
            set("kill_warning_flags", json!(["BATCH_JOB"]));
            let delay = self.number(settings.signal_before_end_s.into());
            set("kill_warning_delay", delay);
        }
        for option in options(resources) {
            let (key, value) = match option.field {
                Field::Same(key, value) => (key, value),
                Field::Number(key, number) => (key, self.number(number)),
                Field::Changed { before_v40, .. } if self < Self::V40 => before_v40,
                Field::Changed { from_v40, .. } => from_v40,
            };
            set(key, value);
        }
        json!({ "script": submission.script, "job": job })
    }

    fn number(self, number: u64) -> Value {
        if self < Self::V40 {
            json!(number)
        } else {
            json!({ "set": true, "infinite": false, "number": number })
        }
    }
}

/// What the job script gets, and no more.
fn environment(submission: &Submission, output_folder: &Path) -> Map<String, Value> {
    let ours = submission
        .environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone().into()));
    let (output, beginning) = output_variable(&submission.name, output_folder);
    // sbatch would have put its mask here.
    let slurms = [
        ("PATH", PATH),
        ("SLURM_UMASK", "0077"),
        (output, &beginning),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.into()));
    slurms.chain(ours).collect()
}

/// What slurmrestd answers, in any version.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Answer {
    /// What went wrong.
    #[serde(default)]
    errors: Option<Vec<Fault>>,
    /// Of a submission.
    #[serde(default)]
    job_id: Option<Number>,
    /// Of a submission, in some versions; null in v0.0.42.
    #[serde(default)]
    result: Option<SubmissionResult>,
    /// Of a submission: what the site's job_submit plugin says to the user.
    #[serde(default)]
    job_submit_user_msg: Option<String>,
    /// Of a list.
    #[serde(default)]
    pub(super) jobs: Vec<Job>,
    /// Of a list of partitions.
    #[serde(default)]
    partitions: Vec<Partition>,
    /// Of a list of nodes.
    #[serde(default)]
    nodes: Vec<Node>,
    /// Of a list of accounts, from slurmdbd.
    #[serde(default)]
    pub(super) accounts: Vec<Named>,
    /// Of a list of associations, from slurmdbd.
    #[serde(default)]
    associations: Vec<Association>,
    /// Of a list of QOS, from slurmdbd.
    #[serde(default, alias = "QOS")]
    pub(super) qos: Vec<Named>,
}

/// What a list of things with names is made of.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

/// A partition, with all that limits who may ask for what.
#[derive(Debug, Deserialize)]
struct Partition {
    name: String,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// What a node has, for its names.
#[derive(Debug, Deserialize)]
struct Node {
    #[serde(default)]
    cpus: Option<u64>,
    #[serde(default)]
    real_memory: Option<u64>,
    #[serde(default)]
    gres: Option<String>,
    /// With commas; from v0.0.40 on a list.
    #[serde(default)]
    features: Option<Words>,
    #[serde(default)]
    partitions: Vec<String>,
}

impl Node {
    fn features(&self) -> &[String] {
        match &self.features {
            Some(Words::One(list)) => std::slice::from_ref(list),
            Some(Words::Several(lists)) => lists,
            Some(Words::Other(_)) | None => &[],
        }
    }
}

/// Who may charge what, where.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Association {
    account: Option<String>,
    user: Option<String>,
    partition: Option<String>,
}

#[derive(Debug, Deserialize)]
struct SubmissionResult {
    #[serde(default)]
    job_id: Option<Number>,
    #[serde(default)]
    job_submit_user_msg: Option<String>,
}

/// An error in an answer.
#[derive(Debug, Deserialize)]
pub(super) struct Fault {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default, alias = "error_number")]
    error_code: Option<i64>,
}

/// `5`, or `{"set": true, "infinite": false, "number": 5}`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Number {
    Plain(u64),
    Of { set: bool, number: u64 },
    Other(IgnoredAny),
}

impl Number {
    pub(super) fn value(&self) -> Option<u64> {
        match self {
            Self::Plain(number) | Self::Of { set: true, number } => Some(*number),
            Self::Of { set: false, .. } | Self::Other(_) => None,
        }
    }
}

/// `"RUNNING"`, or `["RUNNING", "COMPLETING"]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Words {
    One(String),
    Several(Vec<String>),
    Other(IgnoredAny),
}

impl Words {
    /// What squeue shows: a flag goes before the state it is added to, unless only a newer Slurm has that flag.
    pub(super) fn shown(&self) -> &str {
        match self {
            Self::One(word) => word,
            Self::Several(words) => {
                let mut known = words.iter().rev();
                let known = known.find(|word| SlurmState::of_word(word).is_some());
                known.or(words.last()).map_or("", String::as_str)
            }
            Self::Other(_) => "",
        }
    }
}

/// A status as of wait(2), or its parts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Exit {
    Parts {
        return_code: Number,
        #[serde(default)]
        signal: Option<ExitSignal>,
    },
    Status(Number),
}

#[derive(Debug, Deserialize)]
struct ExitSignal {
    #[serde(default, alias = "signal_id")]
    id: Option<Number>,
}

impl Exit {
    fn code(&self) -> Option<i32> {
        match self {
            Self::Status(status) => Some(exit_code(status.value()?.try_into().ok()?)),
            Self::Parts {
                return_code,
                signal,
            } => {
                let signal = signal.as_ref().and_then(|s| s.id.as_ref()?.value());
                match signal.filter(|s| *s > 0) {
                    Some(signal) => i32::try_from(signal)
                        .ok()
                        .and_then(|signal| signal.checked_add(128)),
                    None => return_code.value()?.try_into().ok(),
                }
            }
        }
    }
}

/// A Slurm job of a list, anybody's.
#[derive(Debug, Deserialize)]
pub(super) struct Job {
    #[serde(default, rename = "job_id")]
    id: Option<Number>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    user_name: Option<String>,
    #[serde(default)]
    user_id: Option<Number>,
    #[serde(default, rename = "job_state")]
    state: Option<Words>,
    #[serde(default)]
    state_reason: Option<String>,
    #[serde(default)]
    submit_time: Option<Number>,
    #[serde(default)]
    restart_cnt: Option<Number>,
    #[serde(default)]
    start_time: Option<Number>,
    #[serde(default)]
    end_time: Option<Number>,
    #[serde(default)]
    nodes: Option<String>,
    #[serde(default)]
    exit_code: Option<Exit>,
}

impl Job {
    /// Where it stands.
    fn state(&self) -> SlurmState {
        SlurmState::from_slurm(self.state.as_ref().map_or("", Words::shown))
    }

    /// As a Slurm job of `user`. `None`: not one of gha-slurm's.
    fn ours(&self, user: &str, known: &Numbers) -> Option<SlurmJob> {
        let id = self.id.as_ref()?.value()?.to_string();
        let comment = self.comment.as_deref().unwrap_or_default();
        let launch = known.launch_of(&id, user, comment, || {
            let restarts = self.restart_cnt.as_ref().and_then(Number::value);
            let requeued = restarts.is_some_and(|restarts| restarts > 0);
            (time(self.submit_time.as_ref()), requeued)
        })?;
        let (state, reason) = standing(
            self.state.as_ref()?.shown(),
            self.state_reason.as_deref().unwrap_or_default(),
        );
        Some(SlurmJob {
            launch,
            id: id.parse().ok()?,
            user: user.to_owned(),
            state,
            reason,
            starts_at: time(self.start_time.as_ref()),
            ended_at: time(self.end_time.as_ref()).filter(|_| state.is_over()),
            nodes: self.nodes.clone().filter(|nodes| !nodes.is_empty()),
            exit_code: self
                .exit_code
                .as_ref()
                .and_then(Exit::code)
                .filter(|_| state.is_over()),
        })
    }
}

/// The queue that these Slurm jobs are. Blocks: may ask NSS.
pub(super) fn queue(jobs: &[Job], known: &Numbers) -> Queue {
    let mut queue = Queue::default();
    for job in jobs {
        // Of nobody that is known, it is nobody's launch.
        let Ok(user) = owner(job) else { continue };
        match job.ours(&user, known) {
            Some(ours) => queue.ours.push(ours),
            None => queue.add_other(&user, job.state()),
        }
    }
    queue
}

/// Who a Slurm job is. v0.0.36 tells the uid alone. Blocks: asks NSS.
fn owner(job: &Job) -> anyhow::Result<String> {
    if let Some(name) = job.user_name.as_deref().filter(|name| !name.is_empty()) {
        return Ok(name.to_owned());
    }
    let uid = job.user_id.as_ref().and_then(Number::value);
    let uid = uid.context("a Slurm job without a user")?.try_into()?;
    let user = User::from_uid(Uid::from_raw(uid))?;
    Ok(user
        .with_context(|| format!("there is no user with the uid {uid}"))?
        .name)
}

/// Seconds since 1970; 0 when Slurm does not know.
pub(super) fn time(seconds: Option<&Number>) -> Option<DateTime<Utc>> {
    let seconds = seconds?.value().filter(|s| *s > 0)?;
    DateTime::from_timestamp(seconds.try_into().ok()?, 0)
}

/// `SLURM_PROTOCOL_SOCKET_ZERO_BYTES_SENT`: slurmctld hangs up on a token it does not accept.
const ZERO_BYTES: i64 = 5005;
/// What a list says of every failure.
const UNSPECIFIED: i64 = -1;

impl Answer {
    /// The number of the Slurm job that a submission became.
    pub(super) fn submitted(&self) -> Option<u64> {
        let of = |id: Option<&Number>| id.and_then(Number::value).filter(|id| *id > 0);
        of(self.job_id.as_ref()).or_else(|| of(self.result.as_ref()?.job_id.as_ref()))
    }

    /// The names in a list of nodes.
    pub(super) fn names(&self) -> Names {
        let mut names = Names::default();
        for node in &self.nodes {
            node.partitions
                .iter()
                .for_each(|name| names.add_partition(name));
            names.add_gres(node.gres.as_deref().unwrap_or_default());
            let features = node.features().iter().flat_map(|list| list.split(','));
            features.for_each(|name| names.add_feature(name));
        }
        names
    }

    /// The names in a list of partitions.
    pub(super) fn into_partitions(self) -> Vec<Named> {
        let partitions = self.partitions.into_iter();
        partitions
            .map(|Partition { name, .. }| Named { name })
            .collect()
    }

    /// A list of partitions, a line for each.
    pub(super) fn lines_of_partitions(&self) -> BTreeSet<String> {
        let partitions = self.partitions.iter();
        let lines = partitions.map(|Partition { name, rest }| format!("{name}|{}", json!(rest)));
        lines.collect()
    }

    /// What a list of nodes says about what can be asked for, a line for each kind of node.
    pub(super) fn kinds_of_nodes(&self) -> BTreeSet<String> {
        let nodes = self.nodes.iter();
        let kinds = nodes.map(|node| {
            let (partitions, features) = (node.partitions.join(","), node.features().join(","));
            let gres = node.gres.as_deref().unwrap_or_default();
            let (cpus, memory) = (node.cpus.unwrap_or(0), node.real_memory.unwrap_or(0));
            format!("{partitions}|{cpus}|{memory}|{gres}|{features}")
        });
        kinds.collect()
    }

    /// A list of associations, from slurmdbd, a line for each.
    pub(super) fn lines_of_associations(&self) -> BTreeSet<String> {
        let each = self.associations.iter();
        let lines = each.map(|of| {
            let columns = [&of.account, &of.user, &of.partition];
            columns
                .map(|text| text.as_deref().unwrap_or_default())
                .join("|")
        });
        lines.collect()
    }

    /// Whether the token may be what is wrong. Slurm 22.05 does not say so: it is one of several reasons of a 500.
    pub(super) fn may_be_the_token(&self, status: u16) -> bool {
        let faults = self.faults();
        match status {
            401 | 511 => true,
            500 => {
                faults.iter().any(|fault| fault.code() == ZERO_BYTES)
                    || faults.iter().all(|fault| fault.code() == UNSPECIFIED)
            }
            _ => false,
        }
    }

    /// What went wrong, in Slurm's words; what the site's job_submit plugin says comes first.
    pub(super) fn words(&self) -> String {
        let result = self.result.as_ref();
        let plugins = [
            self.job_submit_user_msg.as_deref(),
            result.and_then(|result| result.job_submit_user_msg.as_deref()),
        ];
        let plugins = plugins.into_iter().flatten();
        said(plugins.chain(texts(self.faults())))
    }

    /// The same without the plugin's.
    pub(super) fn own_words(&self) -> String {
        said(texts(self.faults()))
    }

    fn faults(&self) -> &[Fault] {
        self.errors.as_deref().unwrap_or_default()
    }
}

impl Fault {
    pub(super) fn code(&self) -> i64 {
        self.error_code.unwrap_or(UNSPECIFIED)
    }

    pub(super) fn words(&self) -> String {
        said(texts(std::slice::from_ref(self)))
    }
}

fn texts(faults: &[Fault]) -> impl Iterator<Item = &str> {
    let texts = faults
        .iter()
        .flat_map(|fault| [&fault.error, &fault.description]);
    texts.filter_map(|text| text.as_deref())
}

/// An answer of slurmrestd 24.11.5, see slurm-agent's `rest_recorded`.
#[cfg(test)]
pub(super) fn recorded<A: serde::de::DeserializeOwned>(version: ApiVersion, name: &str) -> A {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/recorded");
    let text = std::fs::read(format!("{folder}/{}/{name}.json", version.as_str())).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[cfg(test)]
mod tests {
    use gha_slurm_domain::{LaunchId, ResourceRequest};

    use super::*;

    fn submission() -> Submission {
        Submission {
            launch: LaunchId(uuid::Uuid::from_u128(1)),
            name: "r1".into(),
            repository: "acme/widgets".into(),
            slurm_user: "alice".parse().unwrap(),
            resources: ResourceRequest {
                cpus: Some(2),
                memory_mib: Some(100),
                time_minutes: Some(30),
                gres: Some("gpu:2,shard:1".into()),
                constraint: Some("avx".into()),
                nodes: Some(1),
                exclusive: true,
                ..ResourceRequest::default()
            },
            script: "#!/bin/bash\n".into(),
            waits_for_namesakes: true,
            environment: BTreeMap::from([("GHA_SLURM_LAUNCH", "a=b\nc".to_owned())]),
        }
    }

    fn settings() -> SlurmrestdSettings {
        serde_json::from_value(json!({ "service_user": "gha", "tokens": "scontrol" })).unwrap()
    }

    #[test]
    fn each_version_is_spoken_to_in_its_own_way() {
        let submission = submission();
        let body = |version: ApiVersion| {
            version.submission(&submission, &submission.resources, &settings())
        };
        let common = json!({
            "name": "r1",
            "comment": "gha-slurm:00000000-0000-0000-0000-000000000001",
            "current_working_directory": "/",
            "standard_output": "/dev/null",
            "dependency": "singleton",
            "cpus_per_task": 2,
            "constraints": "avx",
            "nodes": "1",
        });
        let with = |more: Value| {
            let mut job = common.as_object().unwrap().clone();
            job.extend(more.as_object().unwrap().clone());
            json!({ "script": "#!/bin/bash\n", "job": job })
        };
        let old = with(json!({
            "environment": {
                "PATH": PATH, "SLURM_UMASK": "0077", "GHA_SLURM_LAUNCH": "a=b\nc",
                "GHA_SLURM_OUTPUT": "/tmp/r1",
            },
            "no_requeue": true,
            "memory_per_node": 100,
            "time_limit": 30,
            "gres": "gpu:2,shard:1",
            "exclusive": "exclusive",
        }));
        for version in [ApiVersion::V36, ApiVersion::V37, ApiVersion::V38] {
            assert_eq!(body(version), old, "{version:?}");
        }
        let number = |n: u64| json!({ "set": true, "infinite": false, "number": n });
        let new = with(json!({
            "environment": [
                "GHA_SLURM_LAUNCH=a=b\nc", "GHA_SLURM_OUTPUT=/tmp/r1", format!("PATH={PATH}"), "SLURM_UMASK=0077",
            ],
            "requeue": false,
            "kill_warning_signal": "TERM",
            "kill_warning_flags": ["BATCH_JOB"],
            "kill_warning_delay": number(120),
            "memory_per_node": number(100),
            "time_limit": number(30),
            "tres_per_node": "gres/gpu:2,gres/shard:1",
            "shared": ["none"],
        }));
        for version in [ApiVersion::V40, ApiVersion::V41, ApiVersion::V42] {
            assert_eq!(body(version), new, "{version:?}");
        }
    }

    #[test]
    fn the_newest_shape_that_both_know_is_chosen() {
        let of = ApiVersion::of_parsers;
        let listed = "data_parser/v0.0.42\ndata_parser/v0.0.99\ndata_parser/v0.0.41\n";
        assert_eq!(of(listed), Some(ApiVersion::V42));
        assert_eq!(of("data_parser/v0.0.39\n"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let answer = |errors: Value| -> Answer {
            serde_json::from_value(json!({ "errors": errors })).unwrap()
        };
        let zero =
            json!([{ "error_code": 5005, "error": "Zero Bytes were transmitted or received" }]);
        assert!(answer(zero).may_be_the_token(500));
        // Lists of v0.0.36, and of v0.0.37 and later.
        assert!(answer(json!([])).may_be_the_token(500));
        let unspecified = json!([{ "error_number": -1, "error": "Unspecified error", "description": "Failed while looking for jobs" }]);
        assert!(answer(unspecified.clone()).may_be_the_token(500));
        assert!(!answer(unspecified).may_be_the_token(400));
        assert!(answer(Value::Null).may_be_the_token(511));
        let partition =
            answer(json!([{ "error_code": 2000, "error": "Invalid partition name specified" }]));
        assert!(!partition.may_be_the_token(500));
        assert_eq!(partition.words(), "Invalid partition name specified");
        let twice = json!([{ "error": "a", "description": "b: a" }, { "error": "a" }]);
        assert_eq!(answer(twice).words(), "a; b: a");
    }

    #[test]
    fn slurm_jobs_of_all_versions_are_read() {
        let comment = "gha-slurm:0192f0c1-2345-7000-8123-456789abcdef acme/widgets";
        let job = |value: Value| {
            let jobs = [serde_json::from_value::<Job>(value).unwrap()];
            queue(&jobs, &Numbers::default()).ours.pop()
        };
        let old = json!({
            "job_id": 7, "comment": comment, "user_name": "alice", "job_state": "FAILED",
            "state_reason": "NonZeroExitCode", "start_time": 1_795_530_918, "end_time": 1_795_530_919,
            "nodes": "n1", "exit_code": 768, "array_task_id": null,
        });
        let number = |n: u64| json!({ "set": true, "infinite": false, "number": n });
        let new = json!({
            "job_id": 7, "comment": comment, "user_name": "alice", "job_state": ["FAILED"],
            "state_reason": "NonZeroExitCode", "start_time": number(1_795_530_918),
            "end_time": number(1_795_530_919), "nodes": "n1",
            "exit_code": { "status": ["ERROR"], "return_code": number(3),
                "signal": { "id": { "set": false, "infinite": false, "number": 0 }, "name": "" } },
        });
        let read = job(old).unwrap();
        assert_eq!(Some(&read), job(new).as_ref());
        assert_eq!((read.state, read.exit_code), (SlurmState::Failed, Some(3)));
        let killed = json!({
            "job_id": 7, "comment": comment, "user_name": "alice", "job_state": ["FAILED"],
            "exit_code": { "return_code": number(0), "signal": { "id": number(9) } },
        });
        assert_eq!(job(killed).unwrap().exit_code, Some(137));
        let state = |words: Value| {
            job(json!({ "job_id": 7, "comment": comment, "user_name": "alice", "job_state": words }))
                .unwrap()
                .state
        };
        assert_eq!(
            state(json!(["RUNNING", "CONFIGURING"])),
            SlurmState::Pending
        );
        assert_eq!(
            state(json!(["COMPLETED", "COMPLETING"])),
            SlurmState::Running
        );
        assert_eq!(
            job(
                json!({ "job_id": 7, "comment": "", "user_name": "alice", "job_state": "RUNNING" })
            ),
            None
        );
        assert_eq!(job(json!({ "job_id": 7, "job_state": "RUNNING" })), None);
        let nobodys = json!({ "job_id": 7, "comment": comment, "job_state": "RUNNING" });
        assert_eq!(job(nobodys), None, "whose it is must be known");
    }

    #[test]
    fn what_slurmrestd_24_11_says_is_read() {
        for version in [ApiVersion::V40, ApiVersion::V41, ApiVersion::V42] {
            let of = |name| recorded::<Answer>(version, name);
            assert_eq!(of("submitted").submitted(), Some(17));
            assert_eq!(of("cancelled").words(), "");
            assert!(of("bad-token").may_be_the_token(511));
            let refused = of("invalid-partition");
            assert!(!refused.may_be_the_token(500));
            let words = refused.words();
            assert!(
                words.starts_with("Invalid partition name specified"),
                "{words}"
            );
            assert_eq!(refused.submitted(), None);

            let mut jobs = of("jobs").jobs;
            let pending = jobs
                .iter_mut()
                .find(|job| job.state() == SlurmState::Pending);
            pending.unwrap().comment = Some(format!("gha-slurm:{}", uuid::Uuid::nil()));
            let queue = queue(&jobs, &Numbers::default());
            assert_eq!(queue.others, [("news".to_owned(), 1)].into());
            let told: Vec<_> = queue
                .ours
                .iter()
                .map(|job| {
                    let times = (job.starts_at.is_some(), job.ended_at.is_some());
                    (
                        job.id.as_str(),
                        job.state,
                        job.reason.as_deref(),
                        job.nodes.as_deref(),
                        job.exit_code,
                        times,
                    )
                })
                .collect();
            let (failed, n1) = (SlurmState::Failed, Some("n1"));
            assert_eq!(
                told,
                [
                    (
                        "14",
                        failed,
                        Some("NonZeroExitCode"),
                        n1,
                        Some(3),
                        (true, true)
                    ),
                    (
                        "15",
                        failed,
                        Some("RaisedSignal"),
                        n1,
                        Some(137),
                        (true, true)
                    ),
                    ("16", SlurmState::Running, None, n1, None, (true, false)),
                    (
                        "17",
                        SlurmState::Pending,
                        Some("Resources"),
                        None,
                        None,
                        (true, false)
                    ),
                ]
            );
            assert!(queue.ours.iter().all(|job| job.user == "games"));
        }
    }

    #[test]
    fn what_a_job_submit_plugin_says_is_among_the_words() {
        let words = |value: Value| serde_json::from_value::<Answer>(value).unwrap().words();
        let faults = json!([{ "error": "Unspecified error", "description": "Batch job submission failed", "error_number": -1 }]);
        let expected = "Name your project; Unspecified error; Batch job submission failed";
        for answer in [
            json!({ "job_submit_user_msg": "Name your project\n", "errors": faults }),
            json!({ "result": { "job_submit_user_msg": "Name your project" }, "errors": faults }),
        ] {
            assert_eq!(words(answer), expected);
        }
    }

    #[test]
    fn the_number_of_a_new_slurm_job_is_found() {
        let submitted = |value: Value| serde_json::from_value::<Answer>(value).unwrap().submitted();
        assert_eq!(submitted(json!({ "job_id": 7, "errors": [] })), Some(7));
        assert_eq!(submitted(json!({ "job_id": 7, "result": null })), Some(7));
        assert_eq!(submitted(json!({ "result": { "job_id": 7 } })), Some(7));
        assert_eq!(submitted(json!({ "job_id": 0, "errors": [] })), None);
    }
}
