//! What a Slurm job used, as Slurm's accounting says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What one Slurm job used. The names in brackets are sacct's (sacct(1)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Seconds from its start to its end (`ElapsedRaw`).
    pub elapsed_s: u64,
    /// CPU seconds it had, used or not: elapsed seconds times allocated CPUs (`CPUTimeRAW`).
    pub cpu_allocated_s: u64,
    /// CPU seconds its processes used, rounded (`TotalCPU`). 0 where Slurm gathers none (`JobAcctGatherType`).
    pub cpu_used_s: u64,
    /// Largest resident set of one of its tasks, in bytes (`MaxRSS`), where Slurm gathers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<u64>,
    /// What it had (`AllocTRES`): `cpu`, `mem` (MiB), `node`, `billing`, `gres/gpu`, … Empty if it never started.
    #[serde(default)]
    pub tres: BTreeMap<String, u64>,
}

impl Usage {
    /// GPUs it had, as far as Slurm counts them (`AccountingStorageTRES`). Where only types of them are counted
    /// (`gres/gpu:a100`), their sum.
    pub fn gpus(&self) -> u64 {
        self.tres.get("gres/gpu").copied().unwrap_or_else(|| {
            let typed = self.tres.iter();
            typed
                .filter(|(name, _)| name.starts_with("gres/gpu:"))
                .map(|(_, count)| count)
                .sum()
        })
    }

    /// GPU seconds it had, used or not.
    pub fn gpu_allocated_s(&self) -> u64 {
        self.elapsed_s.saturating_mul(self.gpus())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_counted_once() {
        let with = |tres: &[(&str, u64)]| Usage {
            elapsed_s: 10,
            tres: tres.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect(),
            ..Usage::default()
        };
        assert_eq!(with(&[("cpu", 2)]).gpu_allocated_s(), 0);
        let both = with(&[("gres/gpu", 2), ("gres/gpu:a100", 2)]);
        assert_eq!(both.gpu_allocated_s(), 20);
        let typed = with(&[("gres/gpu:a100", 1), ("gres/gpu:h100", 2)]);
        assert_eq!(typed.gpu_allocated_s(), 30);
    }
}
