//! What a runner class asks Slurm for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Resources of one launch. Absent means "the site's default". Part of the runner class: two workflow jobs share
/// runners only if they ask for the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceRequest {
    /// CPUs per task (`sbatch --cpus-per-task`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory per node in MiB (`sbatch --mem`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Time limit in minutes (`sbatch --time`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_minutes: Option<u32>,
    /// Generic resources, for example `gpu:a100:2` (`sbatch --gres`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gres: Option<String>,
    /// Partition (`sbatch --partition`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// Account charged (`sbatch --account`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Quality of service (`sbatch --qos`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<String>,
    /// Node features (`sbatch --constraint`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraint: Option<String>,
    /// Reservation (`sbatch --reservation`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<String>,
    /// Nodes (`sbatch --nodes`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// Whole nodes (`sbatch --exclusive`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
    /// Image that the runner runs in, for example `/images/ci.sif`. No label names one: it is a profile's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

impl ResourceRequest {
    /// `other`'s values where it has one, else ours.
    #[must_use]
    pub fn overlaid_with(self, other: Self) -> Self {
        Self {
            cpus: other.cpus.or(self.cpus),
            memory_mib: other.memory_mib.or(self.memory_mib),
            time_minutes: other.time_minutes.or(self.time_minutes),
            gres: other.gres.or(self.gres),
            partition: other.partition.or(self.partition),
            account: other.account.or(self.account),
            qos: other.qos.or(self.qos),
            constraint: other.constraint.or(self.constraint),
            reservation: other.reservation.or(self.reservation),
            nodes: other.nodes.or(self.nodes),
            exclusive: other.exclusive || self.exclusive,
            container: other.container.or(self.container),
        }
    }
}
