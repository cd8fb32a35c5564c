//! The agent before a real slurmrestd, in each version of its API that both know, with tokens from `scontrol`, from a file and
//! from the signer.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gha_slurm_contract::slurm_token::{SlurmTokenAnswer, SlurmTokenRequest};
use gha_slurm_domain::Clock;
use gha_slurm_service_kit::settings::load;
use gha_slurm_slurm::settings::{Backend, SlurmrestdSettings};
use gha_slurm_slurm::{ApiVersion, RestSlurm, token_signer};
use gha_slurm_slurm_agent::Settings;
use gha_slurm_test_support::{
    PrivateSlurm, Process, SLURM_USERS, binary, slurm_api_versions, wait_until,
};

use crate::DEADLINE;
use crate::agent_fixture::Site;
use crate::real_slurm::{self, of, of_launch, queue, refusal};
use crate::{doctor, original};

/// Asks for lists; has no Slurm jobs of its own.
const SERVICE_USER: &str = "bin";

fn bare_site() -> Site {
    let (site, output) = real_slurm::bare_site();
    site.with("SLURM__BACKEND", "slurmrestd")
        .with("SLURMRESTD__SERVICE_USER", SERVICE_USER)
        .with("SLURMRESTD__OUTPUT_FOLDER", &output)
}

/// The versions that slurmrestd and the agent know, newest first.
fn versions() -> Vec<&'static str> {
    let there = slurm_api_versions();
    let ours = ApiVersion::NEWEST_FIRST.map(ApiVersion::as_str);
    let both = ours.into_iter().filter(|v| there.iter().any(|t| t == v));
    both.collect()
}

pub(crate) fn site(slurm: &PrivateSlurm) -> Site {
    bare_site()
        .with("SLURMRESTD__URL", &slurm.rest_url())
        .with("SLURMRESTD__TOKENS", "scontrol")
        .with("SLURMRESTD__CONF", slurm.conf().to_str().unwrap())
}

#[test]
fn the_sample_is_right() {
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config");
    // The section is in remarks.
    let text = std::fs::read_to_string(format!("{deploy}/gha-slurm-munge.toml")).unwrap();
    let (head, section) = text.split_once("# [slurmrestd]").unwrap();
    let (section, tail) = section.split_once("\n\n").unwrap();
    let lines = section.lines().skip(1);
    let section: Vec<&str> = lines.map(|line| line.strip_prefix("# ").unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let text = format!("{head}[slurmrestd]\n{}\n\n{tail}", section.join("\n"));
    std::fs::write(&path, text.replace("\"sbatch\"   ", "\"slurmrestd\"")).unwrap();
    let settings: Settings = load(Some(&path), []).unwrap();
    assert_eq!(settings.slurm.backend, Backend::Slurmrestd);
    let slurmrestd = settings.slurmrestd.unwrap();
    assert_eq!(slurmrestd.api_version, Some(ApiVersion::V38));
    let clock = Clock::new(chrono::Utc::now);
    RestSlurm::new(slurmrestd.clone(), clock.clone()).unwrap();
    let neither = SlurmrestdSettings {
        url: None,
        ..slurmrestd
    };
    let error = RestSlurm::new(neither, clock).err().unwrap();
    assert!(error.to_string().contains("give either url"), "{error}");
}

#[tokio::test]
async fn two_users_on_one_node_by_each_version() {
    for version in versions() {
        real_slurm::two_users_on_one_node(|slurm| {
            site(slurm).with("SLURMRESTD__API_VERSION", version)
        })
        .await;
    }
}

#[tokio::test]
async fn what_slurm_says_is_told_apart_over_a_unix_socket() {
    real_slurm::what_slurm_says(|slurm| {
        bare_site()
            .with("SLURMRESTD__SOCKET", slurm.rest_socket().to_str().unwrap())
            .with("SLURMRESTD__TOKENS", "scontrol")
            .with("SLURMRESTD__CONF", slurm.conf().to_str().unwrap())
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_was_killed_finds_its_slurm_job_again() {
    real_slurm::a_killed_agent(site).await;
}

#[tokio::test]
async fn slurms_truth_comes_back_and_what_is_not_wanted_is_cancelled() {
    for version in versions() {
        real_slurm::states_and_cancelling(|slurm| {
            site(slurm).with("SLURMRESTD__API_VERSION", version)
        })
        .await;
    }
}

#[tokio::test]
async fn the_slurm_side_has_the_last_word() {
    real_slurm::policy(site).await;
}

#[tokio::test]
async fn what_a_slurm_job_used_comes_back() {
    for version in versions() {
        real_slurm::usage(|slurm| site(slurm).with("SLURMRESTD__API_VERSION", version)).await;
    }
}

#[tokio::test]
async fn hostile_names_reach_neither_a_shell_nor_a_path() {
    real_slurm::hostile_names(|slurm| {
        site(slurm).with("SLURMRESTD__REPOSITORY_IN_COMMENT", "true")
    })
    .await;
}

#[tokio::test]
async fn a_slurmrestd_that_is_away_delays_and_a_version_it_does_not_know_is_named() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site(&slurm);
    let agent = site.agent().await;
    let newest = versions()[0];
    let log = agent.log();
    assert!(log.contains(newest), "{newest}: {log}");
    slurm.stop_rest();
    let asked = of(SLURM_USERS[0], "r");
    let problem = refusal(&agent, &site, &asked).await;
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (503, "unavailable")
    );
    slurm.start_rest().unwrap();
    let request = site.request(&asked);
    wait_until("it is submitted", DEADLINE, || async {
        agent.ask(&request).await.unwrap().status().is_success()
    })
    .await;
    agent.start(&request).await;
    let queue = queue(&slurm).await;
    assert_eq!(of_launch(&queue, asked.sub).len(), 1, "{queue:?}");
    agent.stop();

    let ours = ApiVersion::NEWEST_FIRST.map(ApiVersion::as_str);
    let unknown = ours.into_iter().find(|v| !versions().contains(v)).unwrap();
    let site = site.with("SLURMRESTD__API_VERSION", unknown);
    let agent = site.spawn();
    let why = format!("slurmrestd knows none of {unknown}");
    wait_until("the log says why", DEADLINE, || async {
        agent.log().contains(&why)
    })
    .await;
    agent.stop();
}

#[tokio::test]
async fn a_token_that_slurm_no_longer_accepts_is_replaced() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = site(&slurm);
    let agent = site.agent().await;
    agent.start(&site.request(&of(SLURM_USERS[0], "r1"))).await;
    // Slurm gets another key: the tokens at hand are worth nothing.
    slurm.stop_controller();
    std::fs::write(slurm.jwt_key(), [7; 32]).unwrap();
    slurm.start_controller().await.unwrap();
    let asked = of(SLURM_USERS[0], "r2");
    agent.start(&site.request(&asked)).await;
    let queue = queue(&slurm).await;
    assert_eq!(of_launch(&queue, asked.sub).len(), 1, "{queue:?}");
    agent.stop();
}

#[tokio::test]
async fn tokens_in_files_are_read_again() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = bare_site();
    let file = |user: &str| site.path(&format!("token-{user}"));
    let pattern = file("%u");
    let token = async |user: &str| {
        let words = ["token", &format!("username={user}")];
        slurm.run("scontrol", &words).await.unwrap()
    };
    std::fs::write(file(SERVICE_USER), token(SERVICE_USER).await).unwrap();
    let site = site
        .with("SLURMRESTD__URL", &slurm.rest_url())
        .with("SLURMRESTD__TOKENS", "file")
        .with("SLURMRESTD__TOKEN_FILE", pattern.to_str().unwrap());
    let agent = site.agent().await;
    let user = SLURM_USERS[1];
    let path = site.path(&format!("token-{user}"));
    let asked = of(user, "r");
    let good = token(user).await;
    for wrong in [
        None,
        Some("nonsense".to_owned()),
        // Of somebody else; and one that somebody changed.
        Some(token(SLURM_USERS[0]).await),
        Some(format!("{}x", good.trim())),
    ] {
        if let Some(text) = wrong {
            std::fs::write(&path, text).unwrap();
        }
        let problem = refusal(&agent, &site, &asked).await;
        assert_eq!(problem.status, 503, "{problem:?}");
    }
    std::fs::write(&path, &good).unwrap();
    agent.start(&site.request(&asked)).await;
    let seen = queue(&slurm).await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    for token in [good.trim(), "eyJ"] {
        assert!(!agent.log().contains(token), "a token is in the log");
    }
    agent.stop();
}

/// A signer for `slurm`: root may ask, and members of `group` get tokens.
struct Signer {
    process: Process,
    socket: PathBuf,
}

impl Signer {
    async fn start(site: &Site, slurm: &PrivateSlurm, settings: &[(&str, &str)]) -> Self {
        let socket = site.path("signer-socket");
        let key = slurm.jwt_key();
        let usual = [
            ("SOCKET", socket.to_str().unwrap()),
            ("KEY_FILE", key.to_str().unwrap()),
            ("AGENT_USER", "root"),
            ("SLURM_USER", "daemon"),
            ("SERVICE_USER", SERVICE_USER),
            ("GROUP", SLURM_USERS[0]),
            ("MIN_UID", "3"),
        ];
        let command = || {
            let mut command = Command::new(binary("gha-slurm-token-signer"));
            for (key, value) in usual.iter().chain(settings) {
                command.env(format!("GHA_SLURM_TOKEN_SIGNER__{key}"), value);
            }
            command
        };
        let log = site.path("signer.log");
        let process = Process::start("the signer", &command(), &log).unwrap();
        wait_until("the signer answers", DEADLINE, || async {
            let asked = command().arg("--check-ready").output().unwrap();
            if asked.status.success() {
                Ok(())
            } else {
                Err(process.log_tail())
            }
        })
        .await;
        Self { process, socket }
    }

    fn stop(mut self) {
        assert!(self.process.stop(DEADLINE).unwrap().success());
        assert!(!self.socket.exists());
    }

    async fn ask(&self, user: &str, lifespan_s: u32) -> SlurmTokenAnswer {
        let user = user.to_owned();
        token_signer::ask(&self.socket, &SlurmTokenRequest { user, lifespan_s })
            .await
            .unwrap()
    }

    async fn refused(&self, user: &str, because: &str) {
        match self.ask(user, 60).await {
            SlurmTokenAnswer::Refused(why) => assert!(why.contains(because), "{user}: {why}"),
            SlurmTokenAnswer::Token(_) => panic!("{user} got a token"),
            SlurmTokenAnswer::Failed(why) => panic!("{user}: {why}"),
        }
    }
}

fn with_signer(slurm: &PrivateSlurm) -> Site {
    let site = bare_site();
    let socket = site.path("signer-socket");
    site.with("SLURMRESTD__URL", &slurm.rest_url())
        .with("SLURMRESTD__TOKENS", "signer")
        .with("SLURMRESTD__SIGNER_SOCKET", socket.to_str().unwrap())
}

#[tokio::test]
async fn the_signer_gives_tokens_of_those_who_opted_in_and_of_nobody_else() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = with_signer(&slurm);
    let signer = Signer::start(&site, &slurm, &[]).await;
    let agent = site.agent().await;
    let asked = of(SLURM_USERS[0], "r1");
    agent.start(&site.request(&asked)).await;
    let seen = queue(&slurm).await;
    assert_eq!(of_launch(&seen, asked.sub).len(), 1, "{seen:?}");
    // One who did not opt in is refused with the signer's reason, and may opt in later.
    let problem = refusal(&agent, &site, &of(SLURM_USERS[1], "r2")).await;
    assert_eq!(problem.code, "slurm_failed", "{problem:?}");
    assert!(problem.detail.unwrap().contains("opted in"));

    signer.refused("root", "uid 0").await;
    signer.refused("daemon", "uid 1").await;
    signer.refused("sys", "opted in").await;
    signer.refused("nosuchuser", "no user").await;
    signer.refused("", "no user").await;
    let SlurmTokenAnswer::Token(token) = signer.ask(SLURM_USERS[0], u32::MAX).await else {
        panic!("no token");
    };
    let log = signer.process.log();
    assert!(
        log.contains("gave a token") && !log.contains(&token),
        "{log}"
    );
    // It lives ten minutes, whatever was asked for.
    let claims = BASE64_URL_SAFE_NO_PAD
        .decode(token.split('.').nth(1).unwrap())
        .unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["sun"], SLURM_USERS[0]);
    let left = claims["exp"].as_i64().unwrap() - chrono::Utc::now().timestamp();
    assert!((590..=600).contains(&left), "{left}");
    agent.stop();
    signer.stop();
}

#[tokio::test]
async fn the_signer_knows_slurm_user_and_the_agent_by_their_uids() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = with_signer(&slurm);
    let mut signer = Signer::start(&site, &slurm, &[("SLURM_USER", SLURM_USERS[0])]).await;
    signer.refused(SLURM_USERS[0], "SlurmUser").await;
    signer.process.kill9();
    // A socket that was left behind is no obstacle.
    let signer = Signer::start(&site, &slurm, &[("AGENT_USER", "nobody")]).await;
    signer
        .refused(SLURM_USERS[0], "uid 0 is not that of nobody")
        .await;
    signer.stop();
    let signer = Signer::start(&site, &slurm, &[("SERVICE_USER", "root")]).await;
    signer.refused("root", "uid 0").await;
    // A key that others may read is none; and nothing of it is kept.
    let mode = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(slurm.jwt_key(), mode).unwrap();
    };
    mode(0o640);
    let SlurmTokenAnswer::Failed(why) = signer.ask(SLURM_USERS[0], 60).await else {
        panic!("not failed");
    };
    assert!(why.contains("0640"), "{why}");
    mode(0o600);
    assert!(matches!(
        signer.ask(SLURM_USERS[0], 60).await,
        SlurmTokenAnswer::Token(_)
    ));
    signer.stop();
}

#[tokio::test]
async fn tokens_are_replaced_before_they_expire_and_the_signer_may_be_away() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let site = with_signer(&slurm).with("SLURM__INTERVAL_S", "1");
    let signer = Signer::start(&site, &slurm, &[("MAX_LIFESPAN_S", "4")]).await;
    let agent = site.agent().await;
    wait_until("three tokens in a row", DEADLINE, || async {
        signer.process.log().matches("gave a token").count() >= 3
    })
    .await;
    let log = agent.log();
    assert!(!log.contains("Slurm does not answer"), "{log}");
    signer.stop();
    let asked = of(SLURM_USERS[0], "r");
    let problem = refusal(&agent, &site, &asked).await;
    assert_eq!(problem.status, 503, "{problem:?}");
    // The failure is not remembered.
    let signer = Signer::start(&site, &slurm, &[]).await;
    agent.start(&site.request(&asked)).await;
    agent.stop();
    signer.stop();
}

#[tokio::test]
async fn a_doctor_finds_what_is_there_and_what_is_missing() {
    doctor::a_site(site, "by a Slurm token").await;
}

#[tokio::test]
async fn a_doctor_finds_a_node_that_is_too_old() {
    doctor::an_old_node(site).await;
}

#[tokio::test]
async fn a_dry_run_shows_the_body_of_the_request() {
    if let Some(said) = doctor::a_dry_run(site).await {
        let (head, body) = said.split_once('\n').unwrap();
        assert!(
            head.contains(&format!("/slurm/{}/job/submit as games", versions()[0])),
            "{head}"
        );
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["job"]["cpus_per_task"], 3);
    }
}

#[tokio::test]
async fn a_request_of_the_original_app_runs_the_sites_template() {
    original::a_template_runs(site).await;
}

#[tokio::test]
async fn a_request_of_the_original_app_runs_our_template_where_the_site_has_none() {
    original::our_template_runs(site).await;
}

#[tokio::test]
async fn the_last_place_is_given_once_and_the_persons_own_slurm_jobs_count() {
    real_slurm::places(site).await;
}

/// A way to slurmrestd, in this process (whose runtime needs a thread of its own for it). It keeps answers to itself on a
/// connection once `is_kept` has said so of a part of what was asked.
async fn way_to(
    slurm: &PrivateSlurm,
    is_kept: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let slurmrestd = slurm.rest_url().replace("http://", "");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let is_kept = Arc::new(is_kept);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(&slurmrestd).await.unwrap();
            let is_kept = Arc::clone(&is_kept);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let mute = AtomicBool::new(false);
                let asks = async {
                    let mut part = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = from_client.read(&mut part).await {
                        let part = &part[..length];
                        mute.fetch_or(is_kept(part), Ordering::SeqCst);
                        if to_server.write_all(part).await.is_err() {
                            break;
                        }
                    }
                };
                let answers = async {
                    let mut part = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = from_server.read(&mut part).await {
                        let is_kept = mute.load(Ordering::SeqCst);
                        if !is_kept && to_client.write_all(&part[..length]).await.is_err() {
                            break;
                        }
                    }
                    if mute.load(Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = asks => {}
                    () = answers => {}
                }
            });
        }
    });
    url
}

fn has(part: &[u8], words: &[u8]) -> bool {
    part.windows(words.len()).any(|window| window == words)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_whose_answer_is_lost_is_found_again() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let lost = AtomicBool::new(false);
    let first = move |part: &[u8]| has(part, b"job/submit") && !lost.swap(true, Ordering::SeqCst);
    let url = way_to(&slurm, first).await;
    let site = site(&slurm).with("SLURMRESTD__URL", &url);
    real_slurm::a_lost_answer(&slurm, site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_look_tells_of_all_launches() {
    let Some(slurm) = PrivateSlurm::for_test(1).await else {
        return;
    };
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let count = move |part: &[u8]| {
        counted.fetch_add(has(part, b"/jobs HTTP/1.1").into(), Ordering::SeqCst);
        false
    };
    let url = way_to(&slurm, count).await;
    let site = site(&slurm)
        .with("SLURMRESTD__URL", &url)
        // Versions are probed with the call that is counted.
        .with("SLURMRESTD__API_VERSION", versions()[0]);
    real_slurm::one_look(site, || looks.load(Ordering::SeqCst)).await;
}
