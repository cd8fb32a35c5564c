//! Newtypes for every identifier: parsed once at the edge, trusted inside.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not a valid identifier; says what was wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not {wanted}")]
pub struct InvalidId {
    /// What was given, shortened to 100 characters.
    pub value: String,
    /// What is allowed, as a phrase that follows "is not".
    pub wanted: &'static str,
}

impl InvalidId {
    fn new(value: &str, wanted: &'static str) -> Self {
        Self {
            value: value.chars().take(100).collect(),
            wanted,
        }
    }
}

macro_rules! numeric_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub i64);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

numeric_id! {
    /// GitHub's numeric id of a workflow job (`workflow_job.id`).
    WorkflowJobId
}
numeric_id! {
    /// GitHub's numeric id of a repository; survives renames, unlike its name.
    RepositoryId
}
numeric_id! {
    /// GitHub's numeric id of an installation of the App.
    InstallationId
}

numeric_id! {
    /// Identifier of a runner class.
    ClassId
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(text).map(Self).map_err(|_| InvalidId::new(text, "a UUID"))
            }
        }
    };
}

uuid_id! {
    /// gha-slurm's identifier of one launch (one Slurm job of gha-slurm); also the idempotency key of its submission.
    LaunchId
}
uuid_id! {
    /// Our identifier of one runner registration.
    RunnerId
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $wanted:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId::new(text, $wanted))
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// A Slurm user: an account as the cluster's systems know it, at most 64 characters. Directories such as Active Directory have names with
    /// capitals, dots, `@` and a leading digit. Not digits alone: programs take those for a uid.
    SlurmUser, "a Unix user name (1 to 64 letters, digits, `_`, `-`, `.` and `@`, starting with a letter, a digit or `_`, and not only digits)",
    |t| t.len() <= 64
        && t.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && t.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@'))
        && !t.bytes().all(|b| b.is_ascii_digit())
}
text_id! {
    /// A Slurm job id as Slurm prints it: digits, for one cluster.
    SlurmJobId, "a Slurm job id (digits)",
    |t| !t.is_empty() && t.len() <= 20 && t.bytes().all(|b| b.is_ascii_digit())
}

/// `owner/name` of a repository. Display only: identity is [`RepositoryId`]. Compared ignoring case, as GitHub does.
#[derive(Debug, Clone, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryFullName {
    owner: String,
    name: String,
}

impl RepositoryFullName {
    const WANTED: &'static str =
        "a repository: write `owner/name` or `https://github.com/owner/name`";

    /// Builds the name from its two parts.
    pub fn new(owner: &str, name: &str) -> Result<Self, InvalidId> {
        // GitHub: logins are letters, digits and single hyphens (enterprise-managed ones add `_`), at most 39
        // characters plus a suffix; repository names add `.` and `_`, at most 100.
        let owner_ok = !owner.is_empty()
            && owner.len() <= 64
            && !owner.starts_with('-')
            && owner
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let name_ok = !name.is_empty()
            && name.len() <= 100
            && name != "."
            && name != ".."
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if owner_ok && name_ok {
            Ok(Self {
                owner: owner.to_owned(),
                name: name.to_owned(),
            })
        } else {
            Err(InvalidId::new(&format!("{owner}/{name}"), Self::WANTED))
        }
    }

    /// Parses `owner/name`, or a URL of the GitHub at `web_url` (for example `https://github.com`), with or without
    /// a trailing slash or `.git`.
    pub fn parse(text: &str, web_url: &str) -> Result<Self, InvalidId> {
        let trimmed = text.trim();
        let web = web_url.trim_end_matches('/');
        let path = match trimmed.get(..web.len()) {
            Some(head) if head.eq_ignore_ascii_case(web) => trimmed
                .get(web.len()..)
                .and_then(|rest| rest.strip_prefix('/'))
                .ok_or_else(|| InvalidId::new(text, Self::WANTED))?,
            _ => trimmed,
        };
        let path = path.strip_suffix('/').unwrap_or(path);
        let path = path.strip_suffix(".git").unwrap_or(path);
        let (owner, name) = path
            .split_once('/')
            .ok_or_else(|| InvalidId::new(text, Self::WANTED))?;
        Self::new(owner, name).map_err(|_| InvalidId::new(text, Self::WANTED))
    }

    /// Parses `owner/name`, or a URL of a repository at any GitHub, for programs that do not know which is theirs.
    pub fn parse_any(text: &str) -> Result<Self, InvalidId> {
        let path = match text.trim().split_once("://") {
            Some((_, rest)) => rest.split_once('/').unwrap_or_default().1,
            None => text,
        };
        Self::parse(path, "https://github.com")
    }

    /// The account the repository belongs to.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The repository's name within its owner.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for RepositoryFullName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl PartialEq for RepositoryFullName {
    fn eq(&self, other: &Self) -> bool {
        self.owner.eq_ignore_ascii_case(&other.owner) && self.name.eq_ignore_ascii_case(&other.name)
    }
}

impl TryFrom<String> for RepositoryFullName {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text, "https://github.com")
    }
}

impl From<RepositoryFullName> for String {
    fn from(name: RepositoryFullName) -> String {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repository_spellings_collapse() {
        let web = "https://github.com";
        let wanted = RepositoryFullName::new("acme", "widgets").unwrap();
        for text in [
            "acme/widgets",
            "ACME/Widgets",
            " https://github.com/acme/widgets ",
            "https://github.com/acme/widgets/",
            "https://GitHub.com/acme/widgets.git",
        ] {
            assert_eq!(
                RepositoryFullName::parse(text, web),
                Ok(wanted.clone()),
                "{text}"
            );
            assert_eq!(
                RepositoryFullName::parse_any(text),
                Ok(wanted.clone()),
                "{text}"
            );
        }
        let elsewhere = RepositoryFullName::parse_any("https://github.example/acme/widgets");
        assert_eq!(elsewhere, Ok(wanted));
    }

    #[test]
    fn hostile_repository_names_are_refused() {
        for text in [
            "",
            "/",
            "acme",
            "acme/",
            "/widgets",
            "a/b/c",
            "a/..",
            "../etc/passwd",
            "a/$(reboot)",
            "a/b\nc",
            "a/'b'",
            "https://evil.example/a/b",
            "https://github.com.evil/a/b",
            "https://github.com/a",
            "https://github.com",
        ] {
            assert!(
                RepositoryFullName::parse(text, "https://github.com").is_err(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn hostile_users_are_refused() {
        for text in [
            "",
            "-rf",
            "a b",
            "a;b",
            "../x",
            "a\n",
            "0",
            "4711",
            "@corp",
            ".x",
            "a@b:c",
            "CORP\\jane",
            &"x".repeat(65),
        ] {
            assert!(text.parse::<SlurmUser>().is_err(), "{text:?}");
        }
        for text in [
            "jane.doe-2",
            "Jane.Doe@corp.example.org",
            "0abc",
            "DOE",
            "_x",
        ] {
            assert!(text.parse::<SlurmUser>().is_ok(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(text in "\\PC{0,80}") {
            if let Ok(name) = RepositoryFullName::parse(&text, "https://github.com") {
                let again = RepositoryFullName::parse(&name.to_string(), "https://github.com");
                prop_assert_eq!(again, Ok(name));
            }
        }
    }
}
