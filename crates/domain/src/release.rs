//! A release of actions/runner in a folder: `gha-slurm runner-update` describes it in a file beside its programs, the agent reads
//! that.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// A release of actions/runner, unpacked in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerRelease {
    /// Such as `2.336.0`.
    pub version: String,
    /// SHA-256 of the archive, in hexadecimal digits.
    pub sha256: String,
    /// When it was built, by the time of `bin/Runner.Listener` in the archive.
    pub built_at: DateTime<Utc>,
    /// When it was installed here.
    pub installed_at: DateTime<Utc>,
}

/// Why a newer release should be looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgeWarning {
    /// The installed version.
    pub version: String,
    /// What to do about it.
    pub text: String,
}

impl RunnerRelease {
    /// Its name, in the folder of the release.
    pub const FILE: &str = ".gha-slurm-release.json";

    /// GitHub serves a version this long after a newer one was published (GitHub docs, "Self-hosted runners reference").
    const SERVED: TimeDelta = TimeDelta::days(30);
    /// A warning comes this long before.
    const NOTICE: TimeDelta = TimeDelta::days(7);

    /// From the day 23 on. When a newer release was published is not known here; it was not before this one was built, so
    /// until the day 30 this one is served. Where the archive has no sensible time, the day of its installation counts.
    pub fn warning(&self, now: DateTime<Utc>) -> Option<AgeWarning> {
        let year_2020 = DateTime::from_timestamp(1_577_836_800, 0)?;
        let sensible = self.built_at > year_2020 && self.built_at <= self.installed_at;
        let since = if sensible {
            self.built_at
        } else {
            self.installed_at
        };
        let age = now - since;
        if age < Self::SERVED - Self::NOTICE {
            return None;
        }
        let may = if age < Self::SERVED {
            "soon"
        } else {
            "already"
        };
        let text = format!(
            "actions/runner {} of {} is {} days old. GitHub serves a version for 30 days after the next one is published, so it \
             may {may} be refused: look at https://github.com/actions/runner/releases and install a newer one with \
             `gha-slurm runner-update`",
            self.version,
            since.date_naive(),
            age.num_days()
        );
        Some(AgeWarning {
            version: self.version.clone(),
            text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_warns_from_day_23_on() {
        let day = |n: i64| DateTime::from_timestamp(1_784_505_600, 0).unwrap() + TimeDelta::days(n);
        let release = RunnerRelease {
            version: "2.336.0".into(),
            sha256: String::new(),
            built_at: day(0),
            installed_at: day(10),
        };
        assert_eq!(release.warning(day(22)), None);
        let soon = release.warning(day(23)).unwrap().text;
        assert!(
            soon.contains("23 days old") && soon.contains("may soon be refused"),
            "{soon}"
        );
        let old = release.warning(day(31)).unwrap().text;
        assert!(old.contains("may already be refused"), "{old}");
        // An archive that was made with all times set to 1970.
        let timeless = RunnerRelease {
            built_at: DateTime::UNIX_EPOCH,
            ..release
        };
        assert_eq!(timeless.warning(day(32)), None);
        assert!(timeless.warning(day(33)).is_some());
    }
}
