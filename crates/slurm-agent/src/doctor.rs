//! `gha-slurm-munge --doctor`: the self-check for people, and a look from a compute node.

use std::io::Read;
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use chrono::DateTime;
use gha_slurm_domain::{Clock, LaunchId, ResourceRequest, SlurmJobId, SlurmState, SlurmUser};
use nix::unistd::User;
use rustix::fs::OFlags;
use secrecy::SecretString;
use tokio::time::Instant;

use crate::answer::say;
use crate::backend;
use crate::polling::HIDDEN;
use crate::self_check::{Finding, Level, check_keys, self_check};
use crate::settings::Settings;
use crate::submission::{claims_without_token, prepare};
use gha_slurm_slurm::settings::Backend;
use gha_slurm_slurm::{Cancellation, Numbers, Slurm, SlurmJob, Submitted, is_output_file};

/// What runs on the node; its head documents its exit code.
const NODE_CHECK: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-node-check.sh"
));
/// What each bit of its exit code means.
const BITS: [(i32, &str); 7] = [
    (1, "token-broker"),
    (2, "certificates"),
    (4, "scratch space"),
    (8, "programs"),
    (16, "runner"),
    (32, "clock"),
    (64, "output folder"),
];
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A Slurm job that so many lists in a row do not have, and none before, is hidden.
const LISTS_WITHOUT: u32 = 3;
/// A shared file system may show the node's file late.
const LINES_DEADLINE: Duration = Duration::from_secs(5);
/// Most that is read of what the node check prints.
const MOST_OUTPUT: u64 = 64 * 1024;

/// A look from a compute node.
pub(crate) struct Node {
    /// Whose Slurm job looks.
    pub(crate) user: SlurmUser,
    /// Token-broker as nodes reach it.
    pub(crate) token_url: Option<String>,
    /// How long to wait.
    pub(crate) wait_s: NonZeroU32,
}

/// Prints everything; fails where there is a problem.
pub(crate) async fn run(settings: Settings, node: Option<Node>) -> ExitCode {
    let mut problems = 0;
    let mut show = |findings: Vec<Finding>| {
        for finding in findings {
            problems += u32::from(finding.level == Level::Problem);
            say(&finding.to_string());
        }
    };
    let slurm = match settings.slurm.backend {
        // To open it would start what is pending there.
        Backend::Local => Ok(None),
        Backend::Sbatch | Backend::Slurmrestd => {
            backend::connect(&settings, Clock::system()).map(Some)
        }
    };
    match slurm {
        Ok(slurm) => {
            let user = node.as_ref().map(|node| &node.user);
            show(self_check(&settings, slurm.as_deref(), user).await);
            show(vec![check_keys(&settings).await]);
            match (node, slurm) {
                (Some(node), Some(slurm)) => {
                    show(from_a_node(&settings, slurm.as_ref(), &node).await);
                }
                (Some(_), None) => show(vec![Finding::problem("node", "there is no Slurm")]),
                (None, Some(_)) => show(vec![Finding::warning(
                    "node",
                    "not looked from a compute node: --node USER",
                )]),
                (None, None) => {}
            }
        }
        Err(error) => show(vec![Finding::problem("slurm", format!("{error:#}"))]),
    }
    if problems == 0 {
        say("no problem found");
        ExitCode::SUCCESS
    } else {
        say(&format!("problems found: {problems}"));
        ExitCode::FAILURE
    }
}

/// Submits the node check, waits for its end and returns its findings.
async fn from_a_node(settings: &Settings, slurm: &dyn Slurm, node: &Node) -> Vec<Finding> {
    match look(settings, slurm, node).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::problem("node", format!("{error:#}"))],
    }
}

async fn look(settings: &Settings, slurm: &dyn Slurm, node: &Node) -> anyhow::Result<Vec<Finding>> {
    let (policy, user) = (settings.policy.clone(), node.user.clone());
    let stop_file = settings.stop_file();
    tokio::task::spawn_blocking(move || {
        policy.check_user(user.as_str())?;
        stop_file.check(&user)
    })
    .await??;
    let resources = settings.policy.check_resources(&ResourceRequest {
        time_minutes: Some(1),
        ..ResourceRequest::default()
    })?;
    let launch = LaunchId(uuid::Uuid::new_v4());
    let name = format!("gha-slurm-node-check-{}", launch.0.simple());
    let mut claims = claims_without_token(launch, name, node.user.clone(), resources);
    let relay = settings
        .relay
        .as_ref()
        .map(|relay| relay.public_url.to_string());
    claims.token_url = match node.token_url.clone().or(relay) {
        Some(url) => url,
        None => settings.token_broker_urls()?.swap_remove(0).to_string(),
    };
    let mut submission = prepare(
        &claims,
        &SecretString::from(""),
        None,
        &settings.runner,
        &settings.policy.builds,
    )
    .await?;
    submission.environment.remove("GHA_SLURM_LAUNCH_TOKEN");
    NODE_CHECK.clone_into(&mut submission.script);
    let id = slurm.submit(&submission).await?;
    say(&format!(
        "{:<8} node: Slurm job {id} of {}, up to {} s",
        "wait", node.user, node.wait_s
    ));
    let job = Cancellation {
        launch: submission.launch,
        id: Some(id.clone()),
        user: Some(node.user.clone()),
        only_pending: false,
    };
    // By its number: a site's plugin may write a comment of its own.
    let known = Submitted {
        launch: submission.launch,
        id: id.clone(),
        user: node.user.clone(),
        earliest: DateTime::UNIX_EPOCH,
        latest: None,
    };
    let ended = until_ended(
        slurm,
        &id,
        &job,
        &Numbers::from_iter([known]),
        Duration::from_secs(node.wait_s.get().into()),
    )
    .await?;
    let folder = settings
        .output_folder()
        .unwrap_or(Path::new("/nonexistent"));
    let lines = read_lines(folder.into(), submission.name.clone(), node.user.clone()).await;
    let there = folder.join(format!("{}.*.log", submission.name));
    Ok(result(&ended, &lines, &there))
}

/// Waits for the end of a Slurm job; cancels one that is not over in time.
async fn until_ended(
    slurm: &dyn Slurm,
    id: &SlurmJobId,
    job: &Cancellation,
    known: &Numbers,
    wait: Duration,
) -> anyhow::Result<SlurmJob> {
    let give_up_at = Instant::now() + wait;
    let mut last = None;
    let mut lists_without = 0;
    loop {
        // An answer that does not come is no end.
        if let Ok(queue) = slurm.list(known).await {
            let seen = queue.ours.into_iter().find(|job| job.id == *id);
            match seen {
                Some(job) if job.state.is_over() => return Ok(job),
                None if last.is_some() => {
                    anyhow::bail!("Slurm forgot Slurm job {id} before it was seen to end")
                }
                None => {
                    lists_without += 1;
                    anyhow::ensure!(
                        lists_without < LISTS_WITHOUT,
                        "Slurm accepted Slurm job {id}, and no list has it. {HIDDEN}"
                    );
                }
                seen => last = seen,
            }
        }
        if Instant::now() >= give_up_at {
            slurm.cancel(std::slice::from_ref(job), known).await?;
            let state = last.as_ref().map_or("not listed", |job| job.state.as_str());
            let reason = last.and_then(|job| job.reason);
            let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
            anyhow::bail!(
                "Slurm job {id} was {state}{reason} after {} s, and is cancelled: wait longer with --wait-s",
                wait.as_secs()
            );
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What the node check printed, where its file is to be seen from here: nobody else's, and no link.
async fn read_lines(folder: PathBuf, name: String, user: SlurmUser) -> Vec<Finding> {
    let give_up_at = Instant::now() + LINES_DEADLINE;
    loop {
        let (folder, name, user) = (folder.clone(), name.clone(), user.clone());
        let read = tokio::task::spawn_blocking(move || find(&folder, &name, &user)).await;
        let lines = read.ok().and_then(Result::ok).unwrap_or_default();
        if !lines.is_empty() || Instant::now() >= give_up_at {
            return lines;
        }
        tokio::time::sleep(LOOK_AGAIN / 5).await;
    }
}

/// Others may have put files of such names there, so each is looked at.
fn find(folder: &Path, name: &str, user: &SlurmUser) -> anyhow::Result<Vec<Finding>> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name();
        if file.to_str().is_some_and(|file| is_output_file(file, name))
            && let Ok(lines) = read(&entry.path(), user)
        {
            return Ok(lines);
        }
    }
    Ok(Vec::new())
}

fn read(path: &Path, user: &SlurmUser) -> anyhow::Result<Vec<Finding>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let data = file.metadata()?;
    let owner = User::from_name(user.as_str())?;
    anyhow::ensure!(
        data.is_file() && owner.is_some_and(|owner| owner.uid.as_raw() == data.uid()),
        "{}: not a file of {user}",
        path.display()
    );
    let mut bytes = Vec::new();
    file.take(MOST_OUTPUT).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().filter_map(finding).collect())
}

/// A line of the node check. It comes from a user: nothing that a terminal would obey is kept.
fn finding(line: &str) -> Option<Finding> {
    let (word, rest) = line.split_once(char::is_whitespace)?;
    let level = [Level::Ok, Level::Warning, Level::Problem]
        .into_iter()
        .find(|level| level.as_str() == word)?;
    let (about, text) = rest.trim_start().split_once(": ")?;
    let harmless =
        |text: &str| -> String { text.chars().filter(|c| !c.is_control()).take(500).collect() };
    Some(Finding::new(
        level,
        &format!("node, {}", harmless(about)),
        harmless(text),
    ))
}

/// The lines, or, where they stay on the node, what the exit code says about them.
fn result(ended: &SlurmJob, lines: &[Finding], path: &Path) -> Vec<Finding> {
    let id = &ended.id;
    let node = ended.nodes.as_deref().unwrap_or("the node");
    let known: i32 = BITS.iter().map(|(bit, _)| bit).sum();
    let code = match (ended.state, ended.exit_code) {
        (SlurmState::Completed, _) => 0,
        // From 126 on they are the shell's: it could not run a program.
        (SlurmState::Failed, Some(code)) if (1..126).contains(&code) && code & !known == 0 => code,
        (state, code) => {
            let code = code.map_or_else(String::new, |code| format!(", exit code {code}"));
            let text = format!(
                "Slurm job {id} on {node} did not come to its end: {}{code}; see {} there",
                state.as_str(),
                path.display()
            );
            let mut findings = lines.to_vec();
            findings.push(Finding::problem("node", text));
            return findings;
        }
    };
    if !lines.is_empty() {
        return lines.to_vec();
    }
    let there = format!("details in {} on {node}", path.display());
    if code == 0 {
        return vec![Finding::ok(
            "node",
            format!("{node}: everything is there; {there}"),
        )];
    }
    BITS.into_iter()
        .filter(|(bit, _)| code & bit != 0)
        .map(|(_, about)| Finding::problem(&format!("node, {about}"), there.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(state: SlurmState, exit_code: Option<i32>) -> SlurmJob {
        SlurmJob {
            launch: LaunchId(uuid::Uuid::nil()),
            id: "17".parse().unwrap(),
            user: "alice".into(),
            state,
            reason: None,
            starts_at: None,
            ended_at: None,
            nodes: Some("n1".into()),
            exit_code,
        }
    }

    #[test]
    fn the_exit_code_tells_what_the_lines_would() {
        let told = |state, code| -> Vec<String> {
            let findings = result(&ended(state, code), &[], Path::new("/tmp/x.log"));
            findings.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            told(SlurmState::Completed, Some(0)),
            ["ok       node: n1: everything is there; details in /tmp/x.log on n1"]
        );
        assert_eq!(
            told(SlurmState::Failed, Some(17)),
            [
                "problem  node, token-broker: details in /tmp/x.log on n1",
                "problem  node, runner: details in /tmp/x.log on n1"
            ]
        );
        for (state, code) in [
            (SlurmState::Failed, Some(127)),
            (SlurmState::TimedOut, None),
        ] {
            let told = told(state, code);
            assert!(told[0].contains("did not come to its end"), "{told:?}");
        }
    }

    #[test]
    fn lines_of_the_node_are_read_with_care() {
        let read = |line| finding(line).map(|f| f.to_string());
        assert_eq!(
            read("problem  clock: 300 s ahead").as_deref(),
            Some("problem  node, clock: 300 s ahead")
        );
        assert_eq!(
            read("ok x: \u{1b}[2Jgone").as_deref(),
            Some("ok       node, x: [2Jgone")
        );
        assert_eq!(read("slurmstepd: error: x"), None);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.log");
        std::fs::write(&file, "ok x: y\n").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let me = User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
        let me: SlurmUser = me.name.parse().unwrap();
        assert_eq!(super::read(&file, &me).unwrap().len(), 1);
        assert!(super::read(&link, &me).is_err(), "a link of somebody's");
        assert!(super::read(&file, &"games".parse().unwrap()).is_err());
    }

    #[test]
    fn the_node_check_is_bash() {
        let check = std::process::Command::new("bash")
            .args(["-n", "-c", NODE_CHECK])
            .status();
        assert!(check.unwrap().success());
    }
}
