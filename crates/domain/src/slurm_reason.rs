//! Why Slurm lets a Slurm job wait, for people: Slurm's words of one table, <https://slurm.schedmd.com/job_reason_codes.html>
//! (squeue(1), "JOB REASON CODES"). A word of a newer Slurm that the table lacks is shown as it is.

/// What a reason of Slurm's means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlurmReason {
    /// Why the Slurm job waits, as the end of a sentence that begins with "Slurm: ".
    pub words: &'static str,
    /// What the person can do; empty where waiting is all there is.
    pub remedy: &'static str,
    /// It cannot start unless somebody changes the request, the limits or the partition.
    pub can_never_start: bool,
}

const fn waits(words: &'static str) -> SlurmReason {
    held(words, "")
}

const fn held(words: &'static str, remedy: &'static str) -> SlurmReason {
    SlurmReason {
        words,
        remedy,
        can_never_start: false,
    }
}

const fn never(words: &'static str, remedy: &'static str) -> SlurmReason {
    SlurmReason {
        words,
        remedy,
        can_never_start: true,
    }
}

const FEWER: &str = "Change the labels of `runs-on` so that they ask for less, or name another partition; then run the workflow again.";
const UNAVAILABLE: &str =
    "nodes that it needs are down, drained or reserved, for maintenance perhaps";
const ASK: &str = "Ask the administrators of the cluster.";

/// By the whole word.
const BY_WORD: &[(&str, SlurmReason)] = &[
    ("None", waits("it has not been looked at yet")),
    (
        "Priority",
        waits("others with a higher priority come first"),
    ),
    (
        "Resources",
        waits("it is next, once enough CPUs, memory, GPUs or nodes are free"),
    ),
    (
        "Dependency",
        waits("it starts after another Slurm job has ended"),
    ),
    (
        "DependencyNeverSatisfied",
        never("what it was to wait for has failed", ASK),
    ),
    ("BeginTime", waits("it may not start before its begin time")),
    (
        "Cleaning",
        waits("it is started again once its last attempt is cleaned up"),
    ),
    ("Prolog", waits("its node is being prepared")),
    ("Licenses", waits("it waits for a licence")),
    (
        "Reservation",
        waits("it waits for its reservation to begin"),
    ),
    (
        "ReservationDeleted",
        never("its reservation was deleted", ASK),
    ),
    (
        "InvalidReservation",
        never("its reservation is not valid", ASK),
    ),
    (
        "PartitionDown",
        held("its partition accepts nothing at the moment", ASK),
    ),
    (
        "PartitionInactive",
        held("its partition starts nothing at the moment", ASK),
    ),
    ("NodeDown", held("a node that it needs is down", ASK)),
    ("NodesNotAvail", held(UNAVAILABLE, ASK)),
    (
        "PartitionConfig",
        never("it asks for more than its partition has or allows", FEWER),
    ),
    (
        "PartitionNodeLimit",
        never(
            "it asks for more nodes than its partition allows, or for too few",
            FEWER,
        ),
    ),
    (
        "PartitionTimeLimit",
        never("it asks for more time than its partition allows", FEWER),
    ),
    (
        "BadConstraints",
        never("no node has what its constraint asks for", FEWER),
    ),
    (
        "AccountNotAllowed",
        never("its account may not use this partition", ASK),
    ),
    (
        "QOSNotAllowed",
        never(
            "its QOS may not be used with this account or partition",
            ASK,
        ),
    ),
    (
        "InvalidAccount",
        never("its account is not valid for this user", ASK),
    ),
    (
        "InvalidQOS",
        never("its QOS is not valid for this user", ASK),
    ),
    (
        "AccountingPolicy",
        held("a limit of its account or QOS stops it", ASK),
    ),
    (
        "JobHeldUser",
        held(
            "somebody of its Slurm user holds it",
            "Release it on a login node: scontrol release NUMBER.",
        ),
    ),
    (
        "JobHeldAdmin",
        held("an administrator of the cluster holds it", ASK),
    ),
    (
        "JobLaunchFailure",
        held("its node could not start it, and Slurm holds it", ASK),
    ),
    (
        "launch failed requeued held",
        held("its node could not start it, and Slurm holds it", ASK),
    ),
    ("SystemFailure", held("Slurm failed", ASK)),
    ("MaxBBLimit", waits("a limit of burst buffers is reached")),
    (
        "JobArrayTaskLimit",
        waits("as many of its array run as may"),
    ),
    ("InactiveLimit", held("it was inactive for too long", ASK)),
    ("QOSJobLimit", waits("as many of its QOS run as may")),
    (
        "QOSResourceLimit",
        waits("its QOS has as much in use as it may"),
    ),
    (
        "QOSTimeLimit",
        waits("its QOS has used as much time as it may"),
    ),
    (
        "QOSUsageThreshold",
        never("the use of its QOS is below its threshold", ASK),
    ),
    (
        "MinCpuNotSatisfied",
        never("it asks for fewer CPUs than it must", FEWER),
    ),
];

/// By how they begin, where none is in the table above: limits, of which Slurm has some eighty (resource, and whose limit).
const FAMILIES: &[(&str, SlurmReason)] = &[
    ("ReqNodeNotAvail", held(UNAVAILABLE, ASK)),
    ("Nodes required for job are DOWN", held(UNAVAILABLE, ASK)),
    ("MaxSubmit", waits("as many as may wait are waiting")),
    (
        "QOSMin",
        never("it asks for less than its QOS demands", FEWER),
    ),
    (
        "QOSGrp",
        waits("all together, those of its QOS have as much in use as they may"),
    ),
    (
        "QOSMax",
        waits("its QOS lets this user have no more in use"),
    ),
    (
        "AssocGrp",
        waits("all together, those of its account have as much in use as they may"),
    ),
    (
        "AssocMax",
        waits("its account lets this user have no more in use"),
    ),
    ("Assoc", waits("a limit of its account is reached")),
    ("QOS", waits("a limit of its QOS is reached")),
    ("BurstBuffer", waits("its burst buffer is being prepared")),
];

impl SlurmReason {
    /// What Slurm's word means. `None`: the table does not have it.
    pub fn of_word(word: &str) -> Option<Self> {
        let word = word.trim();
        if let Some((_, reason)) = BY_WORD.iter().find(|(known, _)| *known == word) {
            return Some(*reason);
        }
        // A limit of one Slurm job alone does not pass when others end.
        let is_limit = word.starts_with("QOS") || word.starts_with("Assoc");
        let of_one = word.contains("PerJob") || word.contains("MaxWall");
        if is_limit && of_one {
            return Some(never(
                "it asks for more than its account or QOS allows one Slurm job",
                FEWER,
            ));
        }
        let mut families = FAMILIES.iter();
        families
            .find(|(family, _)| word.starts_with(family))
            .map(|(_, reason)| *reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_never_starts() {
        let can_never_start = |word| SlurmReason::of_word(word).map(|r| r.can_never_start);
        for word in [
            "Priority",
            "Resources",
            "AssocGrpGRES",
            "QOSMaxJobsPerUserLimit",
            "QOSGrpCpuLimit",
            "ReqNodeNotAvail, UnavailableNodes:n[1-3]",
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "JobHeldAdmin",
        ] {
            assert_eq!(can_never_start(word), Some(false), "{word}");
        }
        for word in [
            "PartitionConfig",
            "PartitionTimeLimit",
            "QOSMaxCpuPerJobLimit",
            "AssocMaxWallDurationPerJobLimit",
            "QOSMaxWallDurationPerJobLimit",
            "QOSMinGRES",
            "BadConstraints",
        ] {
            assert_eq!(can_never_start(word), Some(true), "{word}");
        }
        assert_eq!(can_never_start("SomethingNewer"), None);
    }

    /// What can never start without a change says which change.
    #[test]
    fn what_never_starts_has_a_remedy() {
        for (word, reason) in BY_WORD.iter().chain(FAMILIES) {
            assert!(
                !reason.can_never_start || !reason.remedy.is_empty(),
                "{word}"
            );
            assert!(!reason.words.ends_with('.'), "{word}");
        }
    }
}
