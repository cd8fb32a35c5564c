//! v0.0.40 to v0.0.42 of slurmrestd's API, played from `tests/it/recorded` of the crate `slurm`: answers of slurmrestd 24.11.5
//! (Debian 13), with the fields that matter and other numbers of Slurm jobs. [`take_the_answers_anew`] wrote them, and does it
//! again: `make test-slurm DEBIAN=trixie TESTS='--ignored take_the_answers_anew'`.

use std::path::PathBuf;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gha_slurm_contract::LaunchClaims;
use gha_slurm_contract::agent::{CallPurpose, LaunchStatus};
use gha_slurm_domain::SlurmState;
use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS, slurm_api_versions, wait_until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::DEADLINE;
use crate::agent_fixture::{Site, claims};
use crate::real_slurm::{refusal, states};

const VERSIONS: [&str; 3] = ["v0.0.40", "v0.0.41", "v0.0.42"];

fn file(version: &str, name: &str) -> PathBuf {
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/../slurm/tests/it/recorded");
    PathBuf::from(format!("{recorded}/{version}/{name}.json"))
}

fn recorded(version: &str, name: &str) -> String {
    std::fs::read_to_string(file(version, name)).unwrap()
}

/// Looks like a token of Slurm's.
fn token() -> String {
    let exp = chrono::Utc::now().timestamp() + 3600;
    let claims = json!({ "exp": exp, "iat": exp - 3600, "sun": "root" }).to_string();
    format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
}

fn site(slurmrestd: &str) -> Site {
    let site = Site::new("");
    let file = site.path("token");
    std::fs::write(&file, token()).unwrap();
    site.with("SLURM__BACKEND", "slurmrestd")
        .with("SLURM__INTERVAL_S", "1")
        .with("POLICY__MIN_UID", "1")
        .with("SLURMRESTD__URL", slurmrestd)
        .with("SLURMRESTD__SERVICE_USER", "bin")
        .with("SLURMRESTD__TOKENS", "file")
        .with("SLURMRESTD__TOKEN_FILE", file.to_str().unwrap())
}

/// A Slurm job of a user that the system knows.
fn asked() -> LaunchClaims {
    let mut asked = claims();
    asked.slurm_user = "games".parse().unwrap();
    asked.resources.time_minutes = Some(30);
    asked
}

async fn answer(server: &MockServer, verb: &str, at: &str, status: u16, body: &str) {
    Mock::given(method(verb))
        .and(path(at))
        .respond_with(ResponseTemplate::new(status).set_body_raw(body, "application/json"))
        .mount(server)
        .await;
}

#[tokio::test]
async fn each_version_takes_and_tells_what_it_should() {
    for version in VERSIONS {
        // What it does not know it answers with 404, as slurmrestd does.
        let slurmrestd = MockServer::start().await;
        let at = |rest: &str| format!("/slurm/{version}/{rest}");
        let asked = asked();
        let submitted = recorded(version, "submitted");
        let pending = recorded(version, "jobs").replace("LAUNCH", &asked.sub.to_string());
        let cancelled = recorded(version, "cancelled");
        answer(&slurmrestd, "POST", &at("job/submit"), 200, &submitted).await;
        // What is listed before it is submitted would be that of an agent that lost its state folder.
        let is_submitted = Arc::new(AtomicBool::new(false));
        let listed = Arc::clone(&is_submitted);
        let nothing = cancelled.clone();
        Mock::given(method("GET"))
            .and(path(at("jobs")))
            .respond_with(move |_: &wiremock::Request| {
                let is_listed = listed.load(Ordering::SeqCst);
                let body = if is_listed { &pending } else { &nothing };
                ResponseTemplate::new(200).set_body_raw(body.clone(), "application/json")
            })
            .mount(&slurmrestd)
            .await;
        answer(&slurmrestd, "DELETE", &at("job/17"), 200, &cancelled).await;
        let site = site(&slurmrestd.uri());
        let agent = site.agent().await;
        assert_eq!(agent.start(&site.request(&asked)).await, "17", "{version}");
        is_submitted.store(true, Ordering::SeqCst);
        wait_until("its state is known", DEADLINE, || async {
            let seen = states(&agent, &site, &[asked.sub]).await;
            let right = |status: &LaunchStatus| {
                let reason = status.reason.as_deref();
                (status.state, reason) == (SlurmState::Pending, Some("Resources"))
            };
            if seen.iter().any(right) {
                Ok(())
            } else {
                Err(seen)
            }
        })
        .await;
        let assertion = site.assertion(CallPurpose::Cancel, &[asked.sub]);
        let (status, told) = agent.call("/runner/cancel", &assertion, json!({})).await;
        assert_eq!((status, told), (200, json!({ "cancelled": [asked.sub] })));
        agent.stop();

        let requests = slurmrestd.received_requests().await.unwrap();
        let to = |verb: &str, rest: &str| {
            requests
                .iter()
                .filter(|r| r.method.as_str() == verb && r.url.path() == at(rest))
                .collect::<Vec<_>>()
        };
        let submissions = to("POST", "job/submit");
        assert_eq!(submissions.len(), 1);
        assert_eq!(submissions[0].headers["X-SLURM-USER-NAME"], "games");
        let body: Value = serde_json::from_slice(&submissions[0].body).unwrap();
        let number = |n: u32| json!({ "set": true, "infinite": false, "number": n });
        assert_eq!(body["job"]["time_limit"], number(30));
        assert_eq!(body["job"]["kill_warning_flags"], json!(["BATCH_JOB"]));
        assert_eq!(body["job"]["requeue"], json!(false));
        let environment = body["job"]["environment"].as_array().unwrap();
        let variable = format!("GHA_SLURM_LAUNCH={}", asked.sub);
        assert!(environment.contains(&json!(variable)), "{environment:?}");
        // The owner cancels; lists are the service user's.
        assert_eq!(
            to("DELETE", "job/17")[0].headers["X-SLURM-USER-NAME"],
            "games"
        );
        assert_eq!(to("GET", "jobs")[0].headers["X-SLURM-USER-NAME"], "bin");
    }
}

#[tokio::test]
async fn errors_are_told_apart() {
    let slurmrestd = MockServer::start().await;
    let of = |name| recorded("v0.0.42", name);
    let (empty, invalid_partition) = (of("cancelled"), of("invalid-partition"));
    let list = "/slurm/v0.0.42/jobs";
    let submit = "/slurm/v0.0.42/job/submit";
    answer(&slurmrestd, "GET", list, 200, &empty).await;
    answer(&slurmrestd, "POST", submit, 500, &invalid_partition).await;
    // It lists at its start alone.
    let site = site(&slurmrestd.uri()).with("SLURM__INTERVAL_S", "3600");
    let agent = site.agent().await;
    let problem = refusal(&agent, &site, &asked()).await;
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (422, "slurm_rejected")
    );
    let detail = problem.detail.unwrap();
    assert!(
        detail.starts_with("Invalid partition name specified"),
        "{detail}"
    );

    slurmrestd.reset().await;
    let limit = invalid_partition.replace("2000", "2050").replace(
        "Invalid partition name specified",
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
    );
    answer(&slurmrestd, "GET", list, 200, &empty).await;
    answer(&slurmrestd, "POST", submit, 500, &limit).await;
    let problem = refusal(&agent, &site, &asked()).await;
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (429, "limit_reached")
    );

    // 511: once more, with the token that is in the file by then, and only after Slurm was searched.
    slurmrestd.reset().await;
    let old = std::fs::read_to_string(site.path("token")).unwrap();
    let bad = ResponseTemplate::new(511).set_body_raw(of("bad-token"), "application/json");
    Mock::given(method("POST"))
        .and(path(submit))
        .and(header("X-SLURM-USER-TOKEN", old.as_str()))
        .respond_with(bad)
        .mount(&slurmrestd)
        .await;
    let fresh = format!("{old}2");
    let (file, text) = (site.path("token"), fresh.clone());
    Mock::given(method("GET"))
        .and(path(list))
        .respond_with(move |_: &wiremock::Request| {
            std::fs::write(&file, &text).unwrap();
            ResponseTemplate::new(200).set_body_raw(empty.clone(), "application/json")
        })
        .mount(&slurmrestd)
        .await;
    Mock::given(method("POST"))
        .and(path(submit))
        .and(header("X-SLURM-USER-TOKEN", fresh.as_str()))
        .respond_with(ResponseTemplate::new(200).set_body_raw(of("submitted"), "application/json"))
        .expect(1)
        .mount(&slurmrestd)
        .await;
    assert_eq!(agent.start(&site.request(&asked())).await, "17");
    let asked: Vec<String> = slurmrestd
        .received_requests()
        .await
        .unwrap()
        .iter()
        .map(|r| r.url.path().to_owned())
        .collect();
    assert_eq!(asked, [submit, list, submit]);
    agent.stop();
}

/// As slurmrestd 20.11 has it, which knows v0.0.36 alone: on one connection all calls are whose the first was.
#[tokio::test]
async fn each_call_has_a_connection_of_its_own_where_whose_it_is_is_asked_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answered = Arc::new(AtomicUsize::new(0));
    let shared = Arc::new(AtomicUsize::new(0));
    let counters = (Arc::clone(&answered), Arc::clone(&shared));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (answered, shared) = counters.clone();
            tokio::spawn(async move {
                let (mut asked, mut calls) = (Vec::new(), 0);
                while client.read_buf(&mut asked).await.unwrap_or(0) > 0 {
                    if !asked.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    calls += 1;
                    let known = asked.starts_with(b"GET /slurm/v0.0.36/");
                    asked.clear();
                    let status = if known { "200 OK" } else { "404 Not Found" };
                    if known {
                        answered.fetch_add(1, Ordering::SeqCst);
                        shared.fetch_add(usize::from(calls > 1), Ordering::SeqCst);
                    }
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}");
                    client.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let site = site(&url);
    let agent = site.spawn();
    wait_until("several calls", DEADLINE, || async {
        answered.load(Ordering::SeqCst) >= 4
    })
    .await;
    assert_eq!(shared.load(Ordering::SeqCst), 0);
    agent.stop();
}

/// A slurmrestd to be recorded, in one version.
struct Recorder<'a> {
    slurm: &'a PrivateSlurm,
    version: &'a str,
    /// Numbers of Slurm jobs, and what they are in the records.
    ids: Vec<(u64, u64)>,
}

impl Recorder<'_> {
    async fn ask(&self, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let (part, path) = path.split_once('/').unwrap();
        let url = format!("{}/{part}/{}/{path}", self.slurm.rest_url(), self.version);
        let builder = reqwest::Client::builder().timeout(DEADLINE).no_proxy();
        let http = builder.build().unwrap();
        let mut request = http.request(method.parse().unwrap(), url);
        if method == "POST" {
            request = request.json(body);
        }
        let request = request.header("X-SLURM-USER-TOKEN", token);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn token(&self, user: &str) -> String {
        let words = ["token", &format!("username={user}")];
        let said = self.slurm.run("scontrol", &words).await.unwrap();
        said.trim().strip_prefix("SLURM_JWT=").unwrap().to_owned()
    }

    /// Submits, in the list as number `shown`. Returns the answer.
    async fn submit(&mut self, shown: u64, user: &str, script: &str, more: Value) -> Value {
        let mut job = json!({
            "name": format!("r{shown}"), "current_working_directory": "/", "standard_output": "/dev/null",
            "environment": ["PATH=/usr/bin:/bin"],
        });
        let more = more.as_object().unwrap().clone();
        job.as_object_mut().unwrap().extend(more);
        let body = json!({ "script": format!("#!/bin/bash\n{script}\n"), "job": job });
        let token = self.token(user).await;
        let (status, said) = self.ask("POST", "slurm/job/submit", &token, &body).await;
        assert_eq!(status, 200, "{said}");
        self.ids.push((said["job_id"].as_u64().unwrap(), shown));
        said
    }

    /// The list, once the Slurm jobs of this recorder stand like that (state and reason) and have started or a time to start.
    async fn list_when(&self, expected: &[(&str, &str)]) -> Value {
        let token = self.token("root").await;
        wait_until(&format!("{expected:?}"), DEADLINE, || async {
            let (_, mut said) = self.ask("GET", "slurm/jobs", &token, &Value::Null).await;
            let known = |job: &Value| self.ids.iter().any(|(id, _)| job["job_id"] == *id);
            said["jobs"].as_array_mut().unwrap().retain(known);
            // Those that are pending, too.
            let mut jobs = said["jobs"].as_array().unwrap().iter();
            let planned = jobs.all(|job| job["start_time"]["number"] != 0);
            let seen = said["jobs"].as_array().unwrap().iter();
            let seen: Vec<_> = seen
                .map(|job| {
                    (
                        job["job_state"][0].as_str().unwrap(),
                        job["state_reason"].as_str().unwrap(),
                    )
                })
                .collect();
            if seen == expected && planned {
                Ok(said)
            } else {
                Err(format!("{seen:?}"))
            }
        })
        .await
    }

    fn write(&self, name: &str, mut said: Value) {
        const OF_A_JOB: [&str; 16] = [
            "job_id",
            "name",
            "comment",
            "user_name",
            "user_id",
            "job_state",
            "state_reason",
            "start_time",
            "end_time",
            "nodes",
            "exit_code",
            "state",
            "time",
            "tres",
            "steps",
            "user",
        ];
        if let Some(meta) = said.get_mut("meta").and_then(Value::as_object_mut) {
            meta.retain(|name, _| name == "plugin" || name == "slurm");
        }
        for job in list(&mut said, "jobs") {
            keep(job, &OF_A_JOB);
            for step in list(job, "steps") {
                keep(step, &["step", "time", "tres"]);
            }
        }
        let mut text = serde_json::to_string_pretty(&said).unwrap() + "\n";
        for (id, shown) in &self.ids {
            text = text.replace(&id.to_string(), &shown.to_string());
        }
        let file = file(self.version, name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
}

/// The list of this name, or nothing.
fn list<'a>(said: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = said.get_mut(name).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

fn keep(said: &mut Value, names: &[&str]) {
    let said = said.as_object_mut().unwrap();
    said.retain(|name, _| names.contains(&name.as_str()));
}

#[tokio::test]
#[ignore = "writes recorded/ anew"]
async fn take_the_answers_anew() {
    let slurm = PrivateSlurm::start_with_accounting(1).await.unwrap();
    let [user, other] = SLURM_USERS;
    let there = slurm_api_versions();
    for version in VERSIONS {
        assert!(there.iter().any(|v| v == version), "{version}: {there:?}");
        let mut it = Recorder {
            slurm: &slurm,
            version,
            ids: Vec::new(),
        };
        let comment = |number: u8| format!("gha-slurm:00000000-0000-7000-8000-0000000000{number}");
        let number = |n: u32| json!({ "set": true, "infinite": false, "number": n });
        // Long enough to be looked at by accounting.
        let work = "for ((i = 0; i < 400000; i++)); do :; done; text=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 2; exit 3";
        let more = json!({
            "comment": comment(14), "cpus_per_task": 2, "tres_per_node": "gres/gpu:1", "memory_per_node": number(100),
        });
        it.submit(14, user, work, more).await;
        it.submit(15, user, "kill -9 $$", json!({ "comment": comment(15) }))
            .await;
        let ended = [("FAILED", "NonZeroExitCode"), ("FAILED", "RaisedSignal")];
        it.list_when(&ended).await;
        it.submit(
            16,
            user,
            "sleep 600",
            json!({ "comment": comment(16), "shared": ["none"] }),
        )
        .await;
        it.list_when(&[ended[0], ended[1], ("RUNNING", "None")])
            .await;
        let submitted = it
            .submit(17, user, "", json!({ "comment": "gha-slurm:LAUNCH" }))
            .await;
        it.submit(18, other, "", json!({})).await;
        let waiting = [
            ("RUNNING", "None"),
            ("PENDING", "Resources"),
            ("PENDING", "Priority"),
        ];
        let jobs = it.list_when(&[&ended[..], &waiting].concat()).await;

        let token = it.token(user).await;
        let partition = json!({
            "script": "#!/bin/bash\n",
            "job": { "partition": "nowhere", "current_working_directory": "/", "environment": ["PATH=/bin"] },
        });
        let (status, invalid) = it.ask("POST", "slurm/job/submit", &token, &partition).await;
        assert_eq!(status, 500);
        let (status, bad_token) = it
            .ask("GET", "slurm/jobs", &format!("{token}x"), &Value::Null)
            .await;
        assert_eq!(status, 511);
        let ids: Vec<u64> = it.ids.iter().map(|(id, _)| *id).collect();
        let path = format!("slurm/job/{}", ids[3]);
        let (status, cancelled) = it.ask("DELETE", &path, &token, &Value::Null).await;
        assert_eq!(status, 200);
        let path = format!("slurmdb/jobs?step={}&step={}", ids[0], ids[1]);
        let root = it.token("root").await;
        let usage = wait_until("accounting has both", DEADLINE, || async {
            let (_, said) = it.ask("GET", &path, &root, &Value::Null).await;
            let over = |job: &Value| job["state"]["current"][0] == "FAILED";
            let jobs = said["jobs"].as_array().cloned().unwrap_or_default();
            if jobs.len() == 2 && jobs.iter().all(over) {
                Ok(said)
            } else {
                Err(said)
            }
        })
        .await;
        for (name, said) in [
            ("submitted", submitted),
            ("jobs", jobs),
            ("invalid-partition", invalid),
            ("bad-token", bad_token),
            ("cancelled", cancelled),
            ("usage", usage),
        ] {
            it.write(name, said);
        }
        for id in ids {
            slurm.run("scancel", &[&id.to_string()]).await.unwrap();
        }
        wait_until("the node is idle", DEADLINE, || async {
            slurm.run("squeue", &["-h"]).await.unwrap().is_empty()
        })
        .await;
    }
}
