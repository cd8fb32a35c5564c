//! What an administrator wants to know before the first build: a line for each thing the agent needs, with what to do where it
//! is not there. Logged at start, and printed by `--doctor`.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gha_slurm_domain::SlurmUser;
use nix::unistd::{Group, User};
use rustix::fs::Access;

use crate::keys::Verifier;
use crate::settings::Settings;
use gha_slurm_policy::{StopFile, consents};
use gha_slurm_slurm::settings::{Backend, RunAs};
use gha_slurm_slurm::{Numbers, Slurm, SlurmUnavailable, Survey, program};

/// The runner says its version at once.
const RUNNER_DEADLINE: Duration = Duration::from_secs(10);
/// Most names that a line lists.
const SHOWN_NAMES: usize = 12;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It may do; or it cannot be seen from here.
    Warning,
    /// Builds will fail or wait.
    Problem,
}

impl Level {
    /// As printed, here and by the node check.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is about: a setting, where there is one.
    pub about: String,
    /// What was found, and what to do.
    pub text: String,
}

impl Finding {
    pub(crate) fn ok(about: &str, text: impl Into<String>) -> Self {
        Self::new(Level::Ok, about, text)
    }

    pub(crate) fn warning(about: &str, text: impl Into<String>) -> Self {
        Self::new(Level::Warning, about, text)
    }

    pub(crate) fn problem(about: &str, text: impl Into<String>) -> Self {
        Self::new(Level::Problem, about, text)
    }

    pub(crate) fn new(level: Level, about: &str, text: impl Into<String>) -> Self {
        Self {
            level,
            about: about.to_owned(),
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<8} {}: {}",
            self.level.as_str(),
            self.about,
            self.text
        )
    }
}

/// Looks at everything. `slurm`: `None` for the local backend, which is none. `user`: who is tried to act as, a member of `policy.group` when absent. Takes seconds where Slurm does
/// not answer.
pub async fn self_check(
    settings: &Settings,
    slurm: Option<&dyn Slurm>,
    user: Option<&SlurmUser>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(slurm) = slurm {
        findings.extend(check_slurm(settings, slurm).await);
        findings.extend(check_users(settings, slurm, user).await);
    } else {
        findings.push(Finding::warning(
            "slurm.backend",
            "\"local\" is for demos: no Slurm, no limits, everything runs as the agent's own user",
        ));
    }
    let of_files = settings.clone();
    match tokio::task::spawn_blocking(move || check_files(&of_files)).await {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(Finding::problem("self-check", error.to_string())),
    }
    findings.push(check_runner(&settings.runner.folder).await);
    findings
}

async fn check_slurm(settings: &Settings, slurm: &dyn Slurm) -> Vec<Finding> {
    let away = |error: &SlurmUnavailable| {
        Finding::problem("slurm", format!("{error}: {}", hint(&error.0)))
    };
    let mut findings = Vec::new();
    let survey = match slurm.survey().await {
        Ok(survey) => survey,
        Err(error) => return vec![away(&error)],
    };
    findings.push(Finding::ok("slurm", survey.version.clone()));
    match slurm.list(&Numbers::default()).await {
        Ok(_) => findings.push(Finding::ok("authentication", "the queue is listed")),
        Err(error) => {
            findings.push(away(&error));
            return findings;
        }
    }
    findings.extend(check_names(settings, survey));
    findings
}

/// Partitions, accounts and QOS: those of Slurm, and whether those that the policy names are among them.
fn check_names(settings: &Settings, survey: Survey) -> Vec<Finding> {
    let policy = &settings.policy;
    let defaults = &policy.defaults;
    let partitions = survey.partitions.map(Some);
    let lists = [
        (
            "partitions",
            partitions,
            &policy.partitions,
            &defaults.partition,
        ),
        (
            "accounts",
            survey.accounts,
            &policy.accounts,
            &defaults.account,
        ),
        ("qos", survey.qos, &policy.qos, &defaults.qos),
    ];
    let no_accounting = match settings.slurm.backend {
        Backend::Slurmrestd => {
            "none: no accounting here, or slurmrestd runs without its slurmdb part"
        }
        Backend::Sbatch | Backend::Local => "none: Slurm keeps no accounting here",
    };
    let mut findings = Vec::new();
    for (what, known, allowed, default) in lists {
        let named = allowed.iter().flatten().chain(default);
        let about = format!("policy.{what}");
        match known {
            Ok(Some(known)) => {
                findings.push(match known.len() {
                    0 => Finding::problem(what, "Slurm has none"),
                    _ => Finding::ok(what, listed(&known)),
                });
                for name in named {
                    if !known.iter().any(|k| k.eq_ignore_ascii_case(name)) {
                        findings.push(Finding::problem(
                            &about,
                            format!("Slurm has no {name}; it has {}", listed(&known)),
                        ));
                    }
                }
            }
            Ok(None) => {
                findings.push(Finding::ok(what, no_accounting));
                for name in named {
                    findings.push(Finding::warning(
                        &about,
                        format!("whether there is a {name} cannot be seen"),
                    ));
                }
            }
            Err(error) => findings.push(Finding::warning(what, error.to_string())),
        }
    }
    findings
}

fn listed(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(SHOWN_NAMES).map(String::as_str).collect();
    match names.len().saturating_sub(SHOWN_NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What to look at when Slurm says this.
fn hint(words: &str) -> &'static str {
    let says = |known: &[&str]| known.iter().any(|text| words.contains(text));
    if says(&[
        "unge",
        "authentication credential",
        "Protocol authentication",
    ]) {
        "look whether munged runs here, with the cluster's key"
    } else if says(&["token", "Zero Bytes"]) {
        "look at slurmrestd.tokens, and at what its source says"
    } else if says(&["config", "slurm.conf"]) {
        "tell where slurm.conf is: sbatch.conf"
    } else {
        "look whether Slurm runs and can be reached from here"
    }
}

async fn check_users(
    settings: &Settings,
    slurm: &dyn Slurm,
    user: Option<&SlurmUser>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let sudo = settings.slurm.backend == Backend::Sbatch && settings.sbatch.run_as == RunAs::Sudo;
    if sudo && rustix::process::geteuid().is_root() {
        findings.push(Finding::warning(
            "sbatch.run_as",
            "root may do everything by sudo: check as the agent's user (sudo -u gha-slurm-munge gha-slurm doctor …)",
        ));
    }
    findings.extend(check_conf(
        settings,
        std::env::var_os("SLURM_CONF").is_some(),
    ));
    let of_group = settings.clone();
    let found = tokio::task::spawn_blocking(move || check_group(&of_group)).await;
    let mut member = None;
    match found {
        Ok((finding, of_group)) => {
            findings.push(finding);
            member = of_group;
        }
        Err(error) => findings.push(Finding::problem("policy.group", error.to_string())),
    }
    let Some(user) = user.or(member.as_ref()) else {
        findings.push(Finding::warning(
            "acting as users",
            "not tried: name somebody who has opted in (--node USER)",
        ));
        return findings;
    };
    findings.push(match slurm.may_act_as(user).await {
        Ok(how) => Finding::ok("acting as users", format!("as {user}: {how}")),
        Err(why) => Finding::problem("acting as users", why.to_string()),
    });
    findings
}

/// Whether Slurm's programs get the slurm.conf that the site means. `variable`: the agent's own environment has SLURM_CONF.
fn check_conf(settings: &Settings, variable: bool) -> Option<Finding> {
    const ABOUT: &str = "sbatch.conf";
    if settings.slurm.backend != Backend::Sbatch {
        return None;
    }
    let wrappers = "sudo drops SLURM_CONF: if slurm.conf is not where Slurm looks for it, let sbatch.bin be a folder of wrappers \
                    (deploy/sudoers/gha-slurm-wrapper)";
    match (settings.sbatch.run_as, &settings.sbatch.conf) {
        // A site that has them may set it for itself.
        (RunAs::Sudo, Some(_)) => Some(Finding::warning(
            ABOUT,
            format!("set, but not for sbatch and scancel; {wrappers}"),
        )),
        (RunAs::Sudo, None) if variable => Some(Finding::warning(
            ABOUT,
            format!("the agent's environment has SLURM_CONF, which no program gets; {wrappers}"),
        )),
        (RunAs::Root, None) if variable => Some(Finding::warning(
            ABOUT,
            "the agent's environment has SLURM_CONF, which no program gets: set sbatch.conf",
        )),
        _ => None,
    }
}

/// The group of those who have opted in, and one of them. Blocks: asks NSS.
fn check_group(settings: &Settings) -> (Finding, Option<SlurmUser>) {
    const ABOUT: &str = "policy.group";
    let Some(group) = &settings.policy.group else {
        let finding = match &settings.policy.consents {
            Some(_) => Finding::warning(
                ABOUT,
                "not set: the pairs of policy.consents alone say who may be run as",
            ),
            None => Finding::problem(
                ABOUT,
                format!(
                    "neither policy.group nor policy.consents is set: whoever holds a launch-token key can run Slurm jobs as every user \
                     with a uid of at least {}; set policy.group = \"gha-slurm\"",
                    settings.policy.min_uid.max(1)
                ),
            ),
        };
        return (finding, None);
    };
    match Group::from_name(group) {
        Err(error) => (Finding::problem(ABOUT, format!("{group}: {error}")), None),
        Ok(None) => {
            let text = format!(
                "there is no group {group}, so every launch waits: groupadd {group}, and add those who opt in"
            );
            (Finding::problem(ABOUT, text), None)
        }
        Ok(Some(found)) => {
            let allowed = |name: &&String| settings.policy.check_user(name).is_ok();
            let member = found.mem.iter().find(allowed);
            let text = format!("{group}, {} members listed", found.mem.len());
            (
                Finding::ok(ABOUT, text),
                member.and_then(|name| name.parse().ok()),
            )
        }
    }
}

/// The public keys of launch tokens. Not at start: they are read then anyway, and again until that works.
pub(crate) async fn check_keys(settings: &Settings) -> Finding {
    let verifier = match Verifier::new(settings.keys.clone(), &settings.deployment.name) {
        Ok(verifier) => verifier,
        Err(error) => return Finding::problem("keys", format!("{error:#}")),
    };
    match verifier.refresh().await {
        Ok(()) => Finding::ok("keys", "public keys of launch tokens are there"),
        Err(error) => {
            Finding::problem("keys", format!("{error}: launch tokens cannot be verified"))
        }
    }
}

/// Files and folders on this machine.
fn check_files(settings: &Settings) -> Vec<Finding> {
    const SCRIPT: &str = "runner.job_script";
    const CONSENTS: &str = "policy.consents";
    const ORIGINAL: &str = "original.file";
    let mut findings = vec![check_state(&settings.state.folder)];
    findings.extend(check_stops(&settings.stop_file()));
    if let Some(folder) = settings.output_folder() {
        findings.push(check_output(folder, settings.policy.group.as_deref()));
    }
    findings.push(match &settings.runner.job_script {
        None => Finding::ok(SCRIPT, "ours"),
        Some(path) => match read_file(path) {
            Ok(text) if text.starts_with("#!") && !text.contains("GHA_SLURM_OUTPUT") => {
                let text = format!(
                    "{}: it does not open GHA_SLURM_OUTPUT, so what it prints is lost; see docs/slurm.md",
                    path.display()
                );
                Finding::warning(SCRIPT, text)
            }
            Ok(text) if text.starts_with("#!") => Finding::ok(SCRIPT, path.display().to_string()),
            Ok(_) => Finding::problem(
                SCRIPT,
                format!("{}: Slurm wants it to begin with #!", path.display()),
            ),
            Err(error) => Finding::problem(SCRIPT, format!("{}: {error}", path.display())),
        },
    });
    if let Some(path) = &settings.policy.consents {
        findings.push(match read_file(path) {
            Ok(text) => {
                let number = consents(&text).len();
                Finding::ok(CONSENTS, format!("{}, {number} pairs", path.display()))
            }
            Err(error) => Finding::problem(CONSENTS, format!("{}: {error}", path.display())),
        });
    }
    if let Some(original) = &settings.original {
        let shown = original.file.display();
        findings.push(match std::fs::metadata(&original.file) {
            Ok(data) if data.mode() & 0o077 != 0 => {
                let mode = data.mode() & 0o7777;
                let text =
                    format!("{shown} has mode {mode:04o} and holds a secret: chmod 600 {shown}");
                Finding::warning(ORIGINAL, text)
            }
            Ok(_) => Finding::warning(
                ORIGINAL,
                format!("{shown}: the original contract is on, which is weaker than launch tokens"),
            ),
            Err(error) => Finding::problem(ORIGINAL, format!("{shown}: {error}")),
        });
    }
    findings
}

/// What an administrator has stopped.
fn check_stops(file: &StopFile) -> Vec<Finding> {
    const ABOUT: &str = "policy.stop_file";
    let shown = file.path().display();
    let stops = match file.read() {
        Ok(stops) => stops,
        Err(error) => {
            let text =
                format!("{error}: no Slurm job is started before this file is fixed or removed");
            return vec![Finding::problem(ABOUT, text)];
        }
    };
    if stops.is_empty() {
        return vec![Finding::ok(ABOUT, format!("{shown}: nothing is stopped"))];
    }
    let remark = |user: &SlurmUser| match User::from_name(user.as_str()) {
        Ok(None) => " (there is no such user)",
        _ => "",
    };
    let lines = stops.lines(remark).into_iter();
    lines
        .map(|line| Finding::warning(ABOUT, format!("{shown}: {line}")))
        .collect()
}

/// A pipe would be emptied, and might never end.
fn read_file(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.is_file() {
        std::fs::read_to_string(path)
    } else {
        Err(std::io::Error::other("not a regular file"))
    }
}

fn check_state(folder: &Path) -> Finding {
    const ABOUT: &str = "state.folder";
    let shown = folder.display();
    // The agent makes it when it is not there.
    let existing = folder.ancestors().find(|path| path.exists());
    let writable = existing
        .is_some_and(|path| rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok());
    if writable {
        Finding::ok(ABOUT, shown.to_string())
    } else {
        Finding::problem(ABOUT, format!("{shown}: this user cannot write there"))
    }
}

/// Slurm jobs of every user who opted in write there, on the nodes.
fn check_output(folder: &Path, group: Option<&str>) -> Finding {
    const ABOUT: &str = "output_folder";
    let shown = folder.display();
    let data = match std::fs::metadata(folder) {
        Ok(data) if data.is_dir() => data,
        Ok(_) => return Finding::problem(ABOUT, format!("{shown} is not a folder")),
        Err(error) => {
            let text = format!(
                "{shown} is not seen here ({error}): nodes must have it, writable to every user (--node USER looks there)"
            );
            return Finding::warning(ABOUT, text);
        }
    };
    let mode = data.mode() & 0o7777;
    if let Some(path) = replaceable(folder) {
        let text = format!(
            "{}: others than root can replace it, and with it {shown}; chown root and chmod 1777 or 0755",
            path.display()
        );
        return Finding::problem(ABOUT, text);
    }
    let gid = group.and_then(|name| Group::from_name(name).ok().flatten());
    let of_group = mode & 0o030 == 0o030 && gid.is_some_and(|g| g.gid.as_raw() == data.gid());
    let of_all = mode & 0o003 == 0o003;
    if !of_all && !of_group {
        Finding::problem(
            ABOUT,
            format!("{shown} has mode {mode:04o}: users cannot write there; chmod 1777 {shown}"),
        )
    } else if mode & 0o1000 == 0 {
        Finding::warning(
            ABOUT,
            format!(
                "{shown} has mode {mode:04o}: users can remove each other's files; chmod +t {shown}"
            ),
        )
    } else {
        Finding::ok(ABOUT, format!("{shown}, mode {mode:04o}"))
    }
}

/// The first folder on the way to `folder`, itself included, of which somebody else than root or this user decides what is in it: not
/// theirs, or writable for others without the sticky bit. Of `folder` itself, the latter is said elsewhere.
fn replaceable(folder: &Path) -> Option<PathBuf> {
    let here = std::fs::canonicalize(folder).ok()?;
    let me = nix::unistd::Uid::effective().as_raw();
    let found = here.ancestors().find(|path| {
        std::fs::metadata(path).is_ok_and(|data| {
            let is_open = data.mode() & 0o022 != 0 && data.mode() & 0o1000 == 0;
            let is_foreign = data.uid() != 0 && data.uid() != me;
            is_foreign || (is_open && *path != here)
        })
    })?;
    Some(found.to_owned())
}

/// The runner's folder, as this machine sees it.
async fn check_runner(folder: &Path) -> Finding {
    const ABOUT: &str = "runner.folder";
    let shown = folder.display();
    if !folder.join("bin/Runner.Listener").is_file() {
        return Finding::warning(
            ABOUT,
            format!(
                "no {shown}/bin/Runner.Listener on this machine; nodes must have it (--node USER looks there)"
            ),
        );
    }
    match runner_version(folder).await {
        Ok(version) => Finding::ok(ABOUT, format!("{shown}, version {version}")),
        Err(error) => Finding::warning(
            ABOUT,
            format!("{shown} is there, but does not say its version on this machine: {error:#}"),
        ),
    }
}

async fn runner_version(folder: &Path) -> anyhow::Result<String> {
    let of_runner = folder.join("bin");
    let place = tokio::task::spawn_blocking(move || elsewhere(&of_runner)).await??;
    let mut command = tokio::process::Command::new(place.path().join("bin/Runner.Listener"));
    command
        .arg("--version")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", place.path());
    let output = program::answer(&mut command, "", RUNNER_DEADLINE, program::SHORT).await?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.lines().next().unwrap_or_default().trim();
    let plausible = version.starts_with(|c: char| c.is_ascii_digit()) && version.len() < 40;
    anyhow::ensure!(output.status.success() && plausible, "{}", output.status);
    Ok(version.to_owned())
}

/// The runner logs beside its own file, which the agent may not do there: so it gets another place, with links to the rest.
fn elsewhere(bin: &Path) -> anyhow::Result<tempfile::TempDir> {
    let place = tempfile::tempdir()?;
    let own = place.path().join("bin");
    std::fs::create_dir(&own)?;
    for file in std::fs::read_dir(bin)? {
        let file = file?;
        let name = file.file_name();
        if name.to_string_lossy().starts_with("Runner.Listener") {
            std::fs::copy(file.path(), own.join(name))?;
        } else {
            std::os::unix::fs::symlink(file.path(), own.join(name))?;
        }
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_output_folder_is_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let of_mode = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.path(), mode).unwrap();
            check_output(folder.path(), Some("no-such-group")).level
        };
        assert_eq!(of_mode(0o1777), Level::Ok);
        assert_eq!(of_mode(0o777), Level::Warning);
        assert_eq!(of_mode(0o755), Level::Problem);
        assert_eq!(of_mode(0o1770), Level::Problem);
        assert_eq!(
            check_output(Path::new("/no/such/folder"), None).level,
            Level::Warning,
            "it may be there on the nodes"
        );
    }

    #[test]
    fn nobody_else_decides_what_the_output_folder_is() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("output");
        std::fs::create_dir(&folder).unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&folder, 0o1777);
        for (mode, level) in [
            (0o777, Level::Problem),
            (0o775, Level::Problem),
            (0o1777, Level::Ok),
            (0o755, Level::Ok),
        ] {
            set(parent.path(), mode);
            assert_eq!(check_output(&folder, None).level, level, "{mode:o}");
        }
        if nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(&folder, Some(5), None).unwrap();
            assert_eq!(check_output(&folder, None).level, Level::Problem);
        }
    }

    #[tokio::test]
    async fn a_runner_says_its_version_where_nobody_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        assert_eq!(check_runner(folder.path()).await.level, Level::Warning);
        let script = "#!/bin/sh\necho log > \"$(dirname \"$0\")/../log\" && cat \"$(dirname \"$0\")/other\"\n";
        let program = bin.join("Runner.Listener");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(bin.join("other"), "2.336.0\n").unwrap();
        let finding = check_runner(folder.path()).await;
        assert!(finding.text.ends_with("version 2.336.0"), "{finding}");
        assert!(!folder.path().join("log").exists());
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..14).map(|n| format!("p{n}")).collect();
        assert!(listed(&names).ends_with("p11 and 2 more"));
        assert_eq!(listed(&names[..2]), "p0, p1");
    }
}
