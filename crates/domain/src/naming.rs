//! Names derived from ids, so that a name can be recomputed and never collides with somebody else's.

use crate::ids::LaunchId;

/// Longest runner name GitHub accepts.
pub const MAX_RUNNER_NAME_LENGTH: usize = 64;

/// Whether a text can serve as the deployment's prefix of runner and Slurm job names: 1 to 24 lower-case letters,
/// digits and hyphens, starting with a letter.
pub fn is_valid_prefix(prefix: &str) -> bool {
    (1..=24).contains(&prefix.len())
        && prefix.starts_with(|c: char| c.is_ascii_lowercase())
        && prefix
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Characters of a runner name that a launch's short id and the number of its registration attempt take: `-`, 16 digits, `-999`.
const ID_LENGTH: usize = 21;

/// How many characters prefix and deployment may have together, so that every runner name that [`runner_name`] makes of them is one
/// that GitHub accepts: a hyphen is between them.
pub const MAX_PREFIX_AND_DEPLOYMENT_LENGTH: usize = MAX_RUNNER_NAME_LENGTH - ID_LENGTH - 1;

/// Whether a text can be a name that [`runner_name`] makes: letters, digits and hyphens. It becomes the name of a Slurm job
/// and of a file.
pub fn is_valid_runner_name(name: &str) -> bool {
    (1..=MAX_RUNNER_NAME_LENGTH).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A name of Slurm's (partition, account, QOS, feature): nothing in it means something to a shell or to Slurm's own syntax.
pub fn slurm_name(value: &str) -> Result<String, InvalidSlurmName> {
    let fine = (1..=64).contains(&value.len())
        && value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fine {
        Ok(value.to_owned())
    } else {
        Err(InvalidSlurmName)
    }
}

/// A text that cannot be a name of Slurm's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the value must be 1 to 64 letters, digits, hyphens, underscores and dots, and start with a letter or digit"
)]
pub struct InvalidSlurmName;

/// The names of a launch's runner in every registration attempt up to `attempt`, from the one that it has now: the newest first.
pub fn names_of_attempts(name: &str, attempt: u32) -> Vec<String> {
    let first = name
        .strip_suffix(&format!("-{attempt}"))
        .filter(|_| attempt > 1)
        .unwrap_or(name);
    (1..=attempt.max(1))
        .rev()
        .map(|n| match n {
            1 => first.to_owned(),
            n => format!("{first}-{n}"),
        })
        .collect()
}

/// The unique name of a launch's runner: prefix, deployment, short id and, from the second registration attempt
/// on, the attempt (a name GitHub may still hold is never used twice).
pub fn runner_name(prefix: &str, deployment: &str, launch: LaunchId, mint_attempt: u32) -> String {
    let simple = launch.0.simple().to_string();
    // The tail of a version 7 UUID is random; its head is the time.
    let short = simple.get(16..).unwrap_or(&simple);
    if mint_attempt <= 1 {
        format!("{prefix}-{deployment}-{short}")
    } else {
        format!("{prefix}-{deployment}-{short}-{mint_attempt}")
    }
}

/// The first name of a launch's runner, of which `name` is one that [`runner_name`] makes for this deployment. `None`: it is somebody
/// else's, however alike it looks.
pub fn first_name_of_own<'n>(prefix: &str, deployment: &str, name: &'n str) -> Option<&'n str> {
    let rest = name.strip_prefix(&format!("{prefix}-{deployment}-"))?;
    let (short, attempt) = match rest.split_once('-') {
        Some((short, attempt)) => (short, Some(attempt)),
        None => (rest, None),
    };
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if short.len() != 16 || !short.bytes().all(is_digit) {
        return None;
    }
    let Some(attempt) = attempt else {
        return Some(name);
    };
    let number: u32 = attempt.parse().ok()?;
    let is_attempt = (2..1000).contains(&number) && number.to_string() == attempt;
    name.strip_suffix(attempt)?
        .strip_suffix('-')
        .filter(|_| is_attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_runners_are_told_from_those_that_look_alike() {
        fn of(name: &str) -> Option<&str> {
            first_name_of_own("gha-slurm", "demo", name)
        }
        let id: LaunchId = "0192f0c1-2345-7000-8123-456789abcdef".parse().unwrap();
        let first = runner_name("gha-slurm", "demo", id, 1);
        for attempt in [1, 2, 8, 999] {
            let name = runner_name("gha-slurm", "demo", id, attempt);
            assert_eq!(of(&name), Some(first.as_str()), "{name}");
        }
        for others in [
            "gha-slurm-demo",
            "gha-slurm-demo-",
            "gha-slurm-demo-1",
            "gha-slurm-demo-8123456789abcde",
            "gha-slurm-demo-8123456789abcdef0",
            "gha-slurm-demo-8123456789ABCDEF",
            "gha-slurm-demo-8123456789abcdef-",
            "gha-slurm-demo-8123456789abcdef-1",
            "gha-slurm-demo-8123456789abcdef-02",
            "gha-slurm-demo-8123456789abcdef-+2",
            "gha-slurm-demo-8123456789abcdef-old",
            "gha-slurm-demo-8123456789abcdef-2-3",
            "gha-slurm-demo-8123456789abcdef-8123456789abcdef",
            "gha-slurm-demo2-8123456789abcdef",
            "gha-slurm-demo-prod-8123456789abcdef",
            "my-gha-slurm-demo-8123456789abcdef",
            "Gha-slurm-demo-8123456789abcdef",
        ] {
            assert_eq!(of(others), None, "{others}");
        }
    }

    #[test]
    fn names_are_unique_short_and_stable() {
        let id: LaunchId = "0192f0c1-2345-7000-8123-456789abcdef".parse().unwrap();
        assert_eq!(
            runner_name("gha-slurm", "demo", id, 1),
            "gha-slurm-demo-8123456789abcdef"
        );
        assert_eq!(
            runner_name("gha-slurm", "demo", id, 2),
            "gha-slurm-demo-8123456789abcdef-2"
        );
        let rest = MAX_PREFIX_AND_DEPLOYMENT_LENGTH - 24;
        let longest = runner_name(&"p".repeat(24), &"d".repeat(rest), id, 999);
        assert!(is_valid_runner_name(&longest));
        assert_eq!(longest.len(), MAX_RUNNER_NAME_LENGTH);
        for hostile in ["", "../x", "a b", "-x", "a\nb", &"a".repeat(65)] {
            assert!(!is_valid_runner_name(hostile), "{hostile:?}");
        }
    }
}
