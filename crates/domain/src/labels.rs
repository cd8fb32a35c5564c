//! Which workflow jobs are for this cluster, and what their labels ask for.
//!
//! GitHub gives a workflow job to a runner that has *all* its labels, ignoring case (GitHub docs, "Using self-hosted
//! runners in a workflow"). So we take a workflow job only if we know every one of its labels, and only if at least
//! one of them selects us: `runs-on: [self-hosted]` alone may be meant for somebody else's runner.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::bounded::is_cut_label;
use crate::resources::{InvalidValue, RESOURCE_LABELS, ResourceRequest, WrittenResources};

/// Longest label GitHub accepts.
pub const MAX_LABEL_LENGTH: usize = 256;
/// Most labels GitHub accepts for a runner (REST: generate-jitconfig, `labels` 1..100).
pub const MAX_LABELS: usize = 100;
/// What a label that names the cluster begins with.
const CLUSTER_LABEL: &str = "slurm-cluster-";

/// Labels as GitHub compares them: lower case, without duplicates, sorted.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct LabelSet(BTreeSet<String>);

impl LabelSet {
    /// The labels, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a runner with our labels may be given a workflow job with these.
    pub fn serves(&self, wanted: &LabelSet) -> bool {
        wanted.0.is_subset(&self.0)
    }

    /// The labels as a list, sorted.
    pub fn to_vec(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }
}

impl<S: AsRef<str>> FromIterator<S> for LabelSet {
    fn from_iter<I: IntoIterator<Item = S>>(labels: I) -> Self {
        Self(
            labels
                .into_iter()
                .map(|l| l.as_ref().trim().to_lowercase())
                .collect(),
        )
    }
}

impl From<Vec<String>> for LabelSet {
    fn from(labels: Vec<String>) -> Self {
        labels.into_iter().collect()
    }
}

impl From<LabelSet> for Vec<String> {
    fn from(labels: LabelSet) -> Self {
        labels.0.into_iter().collect()
    }
}

impl fmt::Display for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for label in &self.0 {
            if !first {
                f.write_str(",")?;
            }
            f.write_str(label)?;
            first = false;
        }
        Ok(())
    }
}

/// `[labels]` of the launcher's settings: which workflow jobs are for this cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelSettings {
    /// Labels every runner has and none of which selects us.
    pub base: Vec<String>,
    /// Labels that select us, each with what it asks Slurm for.
    #[serde(deserialize_with = "profiles_from_settings")]
    pub profiles: BTreeMap<String, ResourceRequest>,
    /// What is asked for where labels say nothing.
    #[serde(deserialize_with = "ResourceRequest::from_settings")]
    pub defaults: ResourceRequest,
}

fn profiles_from_settings<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, ResourceRequest>, D::Error> {
    let written = BTreeMap::<String, WrittenResources>::deserialize(deserializer)?;
    let profiles = written.into_iter();
    Ok(profiles.map(|(label, asks)| (label, asks.into())).collect())
}

impl Default for LabelSettings {
    fn default() -> Self {
        Self {
            base: ["self-hosted", "linux", "x64"].map(str::to_owned).to_vec(),
            profiles: BTreeMap::from([("slurm".to_owned(), ResourceRequest::default())]),
            defaults: ResourceRequest::default(),
        }
    }
}

impl LabelSettings {
    /// As workflow jobs are held against it; `cluster` is what `slurm-cluster-…` may name.
    pub fn policy(&self, cluster: &str) -> LabelPolicy {
        LabelPolicy::new(
            self.base.iter().collect(),
            self.profiles.clone(),
            self.defaults.clone(),
            cluster,
        )
    }
}

/// What the site's settings say about labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabelPolicy {
    base: LabelSet,
    profiles: BTreeMap<String, ResourceRequest>,
    default_resources: ResourceRequest,
    cluster: String,
}

/// What a workflow job asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// What its labels ask for, by themselves and by their profile.
    pub by_labels: ResourceRequest,
    /// What the launcher's settings ask for where labels say nothing.
    pub defaults: ResourceRequest,
}

impl Asked {
    /// Both.
    #[must_use]
    pub fn with_defaults(self) -> ResourceRequest {
        self.defaults.overlaid_with(self.by_labels)
    }
}

/// Why a workflow job is not for this cluster. The text is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// `runs-on` by group arrives without labels; an empty list must never match.
    #[error("it names no label (a `runs-on: group` workflow job carries none)")]
    NoLabels,
    /// A label that neither the base labels, nor a profile, nor a parameter explains.
    #[error("label `{0}` is not served here")]
    UnknownLabel(String),
    /// All labels are base labels: nothing selects us.
    #[error("no label selects Slurm; add one of: {0}")]
    NothingSelectsUs(String),
    /// A parameter label whose value is wrong.
    #[error("label `{label}`: {problem}")]
    BadParameter {
        /// The label as written, lower case.
        label: String,
        /// What is wrong and what is allowed.
        problem: InvalidValue,
    },
    /// Two labels ask for different things.
    #[error("labels `{0}` and `{1}` contradict each other")]
    Contradiction(String, String),
}

impl NotOurs {
    /// Its labels are meant for this cluster, and one of them is wrong: no other runner will take it.
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::NoLabels | Self::UnknownLabel(_) | Self::NothingSelectsUs(_) => false,
            Self::BadParameter { problem, .. } => !matches!(problem, InvalidValue::OtherCluster(_)),
            Self::Contradiction(..) => true,
        }
    }
}

impl LabelPolicy {
    /// Builds the policy. `base` are labels every runner has and none of which selects us (self-hosted, linux, x64);
    /// `profiles` are labels that select us and say which resources; `cluster` is what `slurm-cluster-…` may name.
    pub fn new(
        base: LabelSet,
        profiles: BTreeMap<String, ResourceRequest>,
        default_resources: ResourceRequest,
        cluster: &str,
    ) -> Self {
        let profiles = profiles
            .into_iter()
            .map(|(label, resources)| (label.trim().to_lowercase(), resources))
            .collect();
        Self {
            base,
            profiles,
            default_resources,
            cluster: cluster.to_lowercase(),
        }
    }

    /// Labels that every runner of gha-slurm gets besides those its workflow jobs ask for.
    pub fn base(&self) -> &LabelSet {
        &self.base
    }

    /// Decides whether a workflow job with these labels is for this cluster and what it asks for.
    pub fn classify<S: AsRef<str>>(&self, labels: &[S]) -> Result<Asked, NotOurs> {
        let wanted: LabelSet = labels.iter().collect();
        if wanted.is_empty() {
            return Err(NotOurs::NoLabels);
        }
        let mut of_profile = ResourceRequest::default();
        let mut profile: Option<&str> = None;
        let mut parameters: BTreeMap<&'static str, String> = BTreeMap::new();
        let mut asked = ResourceRequest::default();
        let mut mistake: Option<NotOurs> = None;
        for label in wanted.iter() {
            if is_cut_label(label) {
                return Err(NotOurs::UnknownLabel(label.to_owned()));
            }
            if let Some((name, known)) = self.profiles.get_key_value(label) {
                if let Some(other) = profile {
                    let both = (other.to_owned(), label.to_owned());
                    mistake.get_or_insert(NotOurs::Contradiction(both.0, both.1));
                }
                profile = Some(name);
                of_profile = known.clone();
            } else if self.base.0.contains(label) {
                // known, selects nothing
            } else if let Some((name, asks)) = parameter(label, &self.cluster) {
                if let Some(other) = parameters.insert(name, label.to_owned()) {
                    mistake.get_or_insert(NotOurs::Contradiction(other, label.to_owned()));
                }
                match asks {
                    Ok(asks) => asked = asked.overlaid_with(asks),
                    Err(problem) => {
                        let label = label.chars().take(MAX_LABEL_LENGTH).collect();
                        let is_other_cluster = matches!(problem, InvalidValue::OtherCluster(_));
                        let bad = NotOurs::BadParameter { label, problem };
                        if is_other_cluster {
                            return Err(bad);
                        }
                        mistake.get_or_insert(bad);
                    }
                }
            } else {
                return Err(NotOurs::UnknownLabel(
                    label.chars().take(MAX_LABEL_LENGTH).collect(),
                ));
            }
        }
        // After the loop: where another label is not served here, the workflow job is none of this cluster's mistakes.
        if let Some(mistake) = mistake {
            return Err(mistake);
        }
        if profile.is_none() && parameters.is_empty() {
            let mut ways: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
            ways.push("slurm-cpus-N");
            return Err(NotOurs::NothingSelectsUs(ways.join(", ")));
        }
        Ok(Asked {
            by_labels: of_profile.overlaid_with(asked),
            defaults: self.default_resources.clone(),
        })
    }
}

/// A label that carries a value: what tells it from others, and what it asks for or what is wrong with its value. `None`: not
/// such a label.
fn parameter(
    label: &str,
    cluster: &str,
) -> Option<(&'static str, Result<ResourceRequest, InvalidValue>)> {
    if let Some(named) = label.strip_prefix(CLUSTER_LABEL) {
        let asks = if named == cluster {
            Ok(ResourceRequest::default())
        } else {
            Err(InvalidValue::OtherCluster(cluster.to_owned()))
        };
        return Some((CLUSTER_LABEL, asks));
    }
    RESOURCE_LABELS
        .iter()
        .find_map(|known| Some((known.prefix, known.read(label)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn classify<S: AsRef<str>>(labels: &[S]) -> Result<ResourceRequest, NotOurs> {
        policy().classify(labels).map(Asked::with_defaults)
    }

    fn policy() -> LabelPolicy {
        LabelPolicy::new(
            ["self-hosted", "linux", "x64"].into_iter().collect(),
            BTreeMap::from([
                ("slurm".to_owned(), ResourceRequest::default()),
                (
                    "Slurm-Big".to_owned(),
                    ResourceRequest {
                        cpus: Some(32),
                        ..Default::default()
                    },
                ),
            ]),
            ResourceRequest {
                cpus: Some(1),
                memory_mib: Some(2048),
                ..Default::default()
            },
            "Main",
        )
    }

    #[test]
    fn every_label_must_be_known_and_one_must_select_us() {
        assert_eq!(classify::<&str>(&[]), Err(NotOurs::NoLabels));
        assert!(matches!(
            classify(&["self-hosted", "Linux"]),
            Err(NotOurs::NothingSelectsUs(_))
        ));
        assert_eq!(
            classify(&["self-hosted", "slurm", "windows"]),
            Err(NotOurs::UnknownLabel("windows".into()))
        );
        assert_eq!(
            classify(&["ubuntu-latest"]),
            Err(NotOurs::UnknownLabel("ubuntu-latest".into()))
        );
        let r = classify(&["Self-Hosted", "SLURM", "X64"]).unwrap();
        assert_eq!((r.cpus, r.memory_mib), (Some(1), Some(2048)));
    }

    #[test]
    fn profiles_and_parameters_say_which_resources() {
        assert_eq!(classify(&["slurm-big"]).unwrap().cpus, Some(32));
        let r = classify(&[
            "slurm-big",
            "slurm-cpus-8",
            "slurm-mem-32g",
            "slurm-time-4h",
        ])
        .unwrap();
        assert_eq!(
            (r.cpus, r.memory_mib, r.time_minutes),
            (Some(8), Some(32 * 1024), Some(240))
        );
        let r = classify(&[
            "slurm-gpus-A100-2",
            "slurm-partition-gpu",
            "slurm-account-phys_01",
            "slurm-qos-long",
            "slurm-constraint-ib",
            "slurm-nodes-2",
            "slurm-exclusive",
            "slurm-cluster-main",
        ])
        .unwrap();
        assert_eq!(
            r,
            ResourceRequest {
                cpus: Some(1),
                memory_mib: Some(2048),
                gres: Some("gpu:a100:2".into()),
                partition: Some("gpu".into()),
                account: Some("phys_01".into()),
                qos: Some("long".into()),
                constraint: Some("ib".into()),
                nodes: Some(2),
                exclusive: true,
                ..Default::default()
            }
        );
        let gpus = classify(&["slurm-gpus-4"]).unwrap().gres;
        assert_eq!(gpus.as_deref(), Some("gpu:4"));
        assert!(matches!(
            classify(&["slurm", "slurm-big"]),
            Err(NotOurs::Contradiction(..))
        ));
        assert!(matches!(
            classify(&["slurm-cpus-8", "slurm-cpus-9"]),
            Err(NotOurs::Contradiction(..))
        ));
    }

    #[test]
    fn a_wrong_value_names_the_label_and_what_is_allowed() {
        let error = classify(&["slurm-cpus-0"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "label `slurm-cpus-0`: the value must be a whole number from 1 to 4096"
        );
        for label in [
            "slurm-cpus-",
            "slurm-cpus--1",
            "slurm-cpus-$(reboot)",
            "slurm-mem-5",
            "slurm-mem-gg",
            "slurm-time-4x",
            "slurm-mem-99999999g",
            "slurm-gpus-",
            "slurm-gpus-a100",
            "slurm-gpus-a;b-2",
            "slurm-partition-",
            "slurm-partition--x",
            "slurm-partition-a b",
            "slurm-account-../x",
            "slurm-qos-$(reboot)",
            "slurm-constraint-a|b",
            "slurm-nodes-0",
            "slurm-cluster-elsewhere",
        ] {
            assert!(
                matches!(classify(&[label]), Err(NotOurs::BadParameter { .. })),
                "{label}"
            );
        }
    }

    proptest! {
        /// What a label asks Slurm for is made of harmless characters only, whatever the label.
        #[test]
        fn nothing_hostile_reaches_slurm(prefix in proptest::sample::select(RESOURCE_LABELS), value in "\\PC{0,80}") {
            if let Ok(r) = classify(&[format!("{}{value}", prefix.prefix)]) {
                let fields = serde_json::to_value(&r).unwrap();
                for text in fields.as_object().unwrap().values().filter_map(|field| field.as_str()) {
                    prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)), "{text}");
                    prop_assert!(!text.starts_with('-') && text.len() <= 90);
                }
            }
        }

        #[test]
        fn case_and_order_never_matter(mut labels in proptest::collection::vec(
            prop_oneof!["self-hosted", "linux", "slurm", "slurm-big", "slurm-cpus-[0-9]{1,3}", "\\PC{0,12}"], 0..6)) {
            let one = classify(&labels);
            labels.reverse();
            let shouted: Vec<String> = labels.iter().map(|l| if l.is_ascii() { l.to_uppercase() } else { l.clone() }).collect();
            prop_assert_eq!(one.is_ok(), classify(&shouted).is_ok());
        }

        #[test]
        fn a_runner_serves_exactly_supersets(a in proptest::collection::vec("[a-c]", 0..4), b in proptest::collection::vec("[a-c]", 0..4)) {
            let (a, b): (LabelSet, LabelSet) = (a.into_iter().collect(), b.into_iter().collect());
            prop_assert_eq!(a.serves(&b), b.iter().all(|l| a.iter().any(|x| x == l)));
        }
    }
}
