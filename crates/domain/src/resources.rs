//! What a runner class asks Slurm for. A new resource is one entry of the table below: its field, its label and the label's
//! line in docs/workflows.md (`cargo xtask schemas` writes it) follow from that entry. The policy and the options for Slurm take a
//! [`ResourceRequest`] apart without `..`, so that they do not compile until they name a new field.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::naming::{InvalidSlurmName, slurm_name};

/// A label that asks for a resource: `slurm-<name>-<value>`, or `slurm-<name>` alone.
#[derive(Debug, Clone, Copy)]
pub struct ResourceLabel {
    /// What it begins with; the value follows a last `-`. Without one, the label is exactly this.
    pub prefix: &'static str,
    /// How it is written, in Markdown.
    pub form: &'static str,
    /// What it asks for, in Markdown.
    pub asks_for: &'static str,
    /// A label that is valid.
    pub example: &'static str,
    read: fn(&str) -> Result<ResourceRequest, InvalidValue>,
}

impl ResourceLabel {
    /// What `label` asks for, or what is wrong with its value. `None`: it is another label.
    pub fn read(&self, label: &str) -> Option<Result<ResourceRequest, InvalidValue>> {
        let value = label.strip_prefix(self.prefix)?;
        (self.prefix.ends_with('-') || value.is_empty()).then(|| (self.read)(value))
    }
}

/// Some of the values of a [`ResourceRequest`].
trait Value {
    fn is_absent(&self) -> bool;
    /// `other` where it is there.
    fn overlaid_with(self, other: Self) -> Self;
}

impl<T> Value for Option<T> {
    fn is_absent(&self) -> bool {
        self.is_none()
    }

    fn overlaid_with(self, other: Self) -> Self {
        other.or(self)
    }
}

impl Value for bool {
    fn is_absent(&self) -> bool {
        !*self
    }

    fn overlaid_with(self, other: Self) -> Self {
        other || self
    }
}

macro_rules! resources {
    ($(
        $(#[$attribute:meta])*
        $field:ident: $type:ty
        $(, label $prefix:literal ($form:literal, $asks_for:literal, $example:literal) $read:expr)?;
    )*) => {
        /// Resources of one launch. Absent means "the site's default". Part of the runner class: two workflow jobs share
        /// runners only if they ask for the same. Where a newer launcher knows more resources, an agent ignores those.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct ResourceRequest {
            $(
                $(#[$attribute])*
                #[serde(skip_serializing_if = "Value::is_absent")]
                pub $field: $type,
            )*
        }

        /// The labels that ask for a resource.
        pub const RESOURCE_LABELS: &[ResourceLabel] = &[$($(
            ResourceLabel {
                prefix: $prefix,
                form: $form,
                asks_for: $asks_for,
                example: $example,
                read: |value| {
                    let read: fn(&str) -> Result<$type, InvalidValue> = $read;
                    let $field = read(value)?;
                    Ok(ResourceRequest { $field, ..ResourceRequest::default() })
                },
            },
        )?)*];

        /// The same, as people write it.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub(crate) struct WrittenResources {
            $($(#[$attribute])* $field: $type,)*
        }

        impl From<WrittenResources> for ResourceRequest {
            fn from(written: WrittenResources) -> Self {
                Self { $($field: written.$field),* }
            }
        }

        impl ResourceRequest {
            /// `other`'s values where it has one, otherwise those of `self`.
            #[must_use]
            pub fn overlaid_with(self, other: Self) -> Self {
                Self { $($field: self.$field.overlaid_with(other.$field)),* }
            }
        }
    };
}

resources! {
    /// CPUs per task (`sbatch --cpus-per-task`).
    cpus: Option<u32>,
        label "slurm-cpus-" ("`slurm-cpus-N`", "N CPUs", "slurm-cpus-8")
        |value| whole(value, 1, 4096).map(Some);
    /// Memory per node in MiB (`sbatch --mem`).
    memory_mib: Option<u64>,
        label "slurm-mem-" ("`slurm-mem-N` and `m`, `g` or `t`", "memory of a node", "slurm-mem-32g")
        |value| quantity(value, &[("m", 1), ("g", 1024), ("t", 1024 * 1024)], 1 << 20, "slurm-mem-32g").map(Some);
    /// Time limit in minutes (`sbatch --time`).
    time_minutes: Option<u32>,
        label "slurm-time-" ("`slurm-time-N` and `m`, `h` or `d`", "time limit", "slurm-time-4h")
        |value| quantity(value, &[("m", 1), ("h", 60), ("d", 24 * 60)], 100_000, "slurm-time-4h").map(Some);
    /// Generic resources, for example `gpu:a100:2` (`sbatch --gres`).
    gres: Option<String>,
        label "slurm-gpus-" ("`slurm-gpus-N`, `slurm-gpus-TYPE-N`", "GPUs of a node", "slurm-gpus-a100-2")
        |value| gpus(value).map(Some);
    /// Nodes (`sbatch --nodes`).
    nodes: Option<u32>,
        label "slurm-nodes-" ("`slurm-nodes-N`", "N nodes", "slurm-nodes-2")
        |value| whole(value, 1, 10_000).map(Some);
    /// Whole nodes (`sbatch --exclusive`).
    #[serde(default)]
    exclusive: bool,
        label "slurm-exclusive" ("`slurm-exclusive`", "whole nodes", "slurm-exclusive")
        |_| Ok(true);
    /// Partition (`sbatch --partition`).
    partition: Option<String>,
        label "slurm-partition-" ("`slurm-partition-X`", "Slurm's partition X", "slurm-partition-gpu")
        |value| Ok(Some(slurm_name(value)?));
    /// Account charged (`sbatch --account`).
    account: Option<String>,
        label "slurm-account-" ("`slurm-account-X`", "Slurm's account X", "slurm-account-physics")
        |value| Ok(Some(slurm_name(value)?));
    /// Quality of service (`sbatch --qos`).
    qos: Option<String>,
        label "slurm-qos-" ("`slurm-qos-X`", "Slurm's QOS X", "slurm-qos-long")
        |value| Ok(Some(slurm_name(value)?));
    /// Node features (`sbatch --constraint`).
    constraint: Option<String>,
        label "slurm-constraint-" ("`slurm-constraint-X`", "nodes with the feature X", "slurm-constraint-infiniband")
        |value| Ok(Some(slurm_name(value)?));
    /// Reservation (`sbatch --reservation`).
    reservation: Option<String>;
    /// Image that the runner runs in, for example `/images/ci.sif`. No label names one: it is a profile's.
    container: Option<String>;
}

impl ResourceRequest {
    /// Deserialises what people write in settings: a key that is not known is an error.
    pub fn from_settings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WrittenResources::deserialize(deserializer).map(Self::from)
    }
}

/// `a100-2` as `gpu:a100:2`, `2` as `gpu:2`.
fn gpus(value: &str) -> Result<String, InvalidValue> {
    let (kind, count) = match value.rsplit_once('-') {
        Some((kind, count)) => (format!(":{}", slurm_name(kind)?), count),
        None => (String::new(), value),
    };
    Ok(format!("gpu{kind}:{}", whole::<u32>(count, 1, 1024)?))
}

/// Why the value of a label is wrong. The text is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// Not a name that Slurm can have.
    #[error(transparent)]
    Name(#[from] InvalidSlurmName),
    /// Not a whole number, or out of range.
    #[error("the value must be a whole number from {low} to {high}")]
    Number {
        /// Least allowed value.
        low: u64,
        /// Greatest allowed value.
        high: u64,
    },
    /// No known unit at the end.
    #[error("write a number and {}, as in {example}", one_of(.units))]
    Unit {
        /// The known units.
        units: [&'static str; 3],
        /// A label that is right.
        example: &'static str,
    },
    /// More than can be written down.
    #[error("{0} is too much")]
    TooMuch(String),
    /// `slurm-cluster-…` names another cluster.
    #[error("the cluster is called {0}")]
    OtherCluster(String),
}

fn one_of([a, b, c]: &[&str; 3]) -> String {
    format!("{a}, {b} or {c}")
}

/// A number with a unit, in units of 1.
fn quantity<N: TryFrom<u64>>(
    value: &str,
    units: &[(&'static str, u64); 3],
    high: u64,
    example: &'static str,
) -> Result<N, InvalidValue> {
    let found = units
        .iter()
        .find_map(|(unit, factor)| Some((value.strip_suffix(unit)?, factor)));
    let Some((digits, factor)) = found else {
        let units = units.map(|(unit, _)| unit);
        return Err(InvalidValue::Unit { units, example });
    };
    let number = whole::<u64>(digits, 1, high)? * factor;
    N::try_from(number).map_err(|_| InvalidValue::TooMuch(value.to_owned()))
}

fn whole<N: TryFrom<u64>>(digits: &str, low: u64, high: u64) -> Result<N, InvalidValue> {
    let canonical =
        !digits.is_empty() && digits.len() <= 9 && digits.bytes().all(|b| b.is_ascii_digit());
    let number = digits.parse::<u64>().ok();
    let number = number.filter(|n| canonical && (low..=high).contains(n));
    number
        .and_then(|n| N::try_from(n).ok())
        .ok_or(InvalidValue::Number { low, high })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_label_is_found_by_its_prefix_and_has_a_valid_example() {
        let mut prefixes = HashSet::new();
        for label in RESOURCE_LABELS {
            assert!(prefixes.insert(label.prefix), "{}", label.prefix);
            let found: Vec<_> = RESOURCE_LABELS
                .iter()
                .filter_map(|other| other.read(label.example))
                .collect();
            assert_eq!(found.len(), 1, "{}", label.example);
            let asks = found[0].as_ref().unwrap();
            let fields = serde_json::to_value(asks).unwrap();
            assert_eq!(fields.as_object().unwrap().len(), 1, "{}", label.example);
        }
        for other in ["slurm-exclusive-x", "slurm-cpus", "slurm"] {
            let found = RESOURCE_LABELS.iter().find_map(|label| label.read(other));
            assert_eq!(found, None, "{other}");
        }
    }

    #[test]
    fn settings_are_strict_and_messages_are_not() {
        let newer = r#"{"cpus": 2, "licenses": "matlab"}"#;
        let read: ResourceRequest = serde_json::from_str(newer).unwrap();
        assert_eq!(read.cpus, Some(2));
        let mut written = serde_json::Deserializer::from_str(newer);
        let error = ResourceRequest::from_settings(&mut written).unwrap_err();
        assert!(error.to_string().contains("licenses"), "{error}");
        let mut written = serde_json::Deserializer::from_str(r#"{"cpus": 2}"#);
        assert_eq!(
            ResourceRequest::from_settings(&mut written).unwrap(),
            ResourceRequest {
                cpus: Some(2),
                ..Default::default()
            }
        );
    }

    #[test]
    fn what_is_asked_for_goes_over_what_is_usual() {
        let usual = ResourceRequest {
            cpus: Some(1),
            exclusive: true,
            qos: Some("normal".into()),
            ..Default::default()
        };
        let asked = ResourceRequest {
            cpus: Some(8),
            gres: Some("gpu:1".into()),
            ..Default::default()
        };
        let both = ResourceRequest {
            cpus: Some(8),
            exclusive: true,
            gres: Some("gpu:1".into()),
            qos: Some("normal".into()),
            ..Default::default()
        };
        assert_eq!(usual.overlaid_with(asked), both);
        let text = serde_json::to_string(&both).unwrap();
        assert_eq!(
            text,
            r#"{"cpus":8,"gres":"gpu:1","exclusive":true,"qos":"normal"}"#
        );
    }
}
