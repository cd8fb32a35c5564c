//! `container:` and `services:` by real rootless Podman, as an ordinary user in a Slurm job of a real Slurm.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use gha_slurm_contract::LaunchClaims;
use gha_slurm_test_support::{PrivateSlurm, SLURM_USERS, skip, skipped_without_root, wait_until};
use serde_json::json;
use wiremock::matchers::{header, header_exists, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::DEADLINE;
use crate::agent_fixture::{Agent, Site};
use crate::node::{EPILOG, asked, for_all_users, site, until_gone, until_idle};
use crate::real_slurm::{By, by_both};
use crate::script_fixture::*;

by_both!(
    a_workflow_job_runs_in_its_container_beside_its_services,
    what_podman_is_not_to_do_is_refused_with_the_reason,
    containers_are_gone_after_a_signal,
    the_epilog_removes_containers_of_a_job_script_that_was_killed,
);

/// What a usual node has, for the nodes of this test alone, as other machines that run it may not: cgroups of one version
/// (crun refuses both at once), a TUN device for everybody, and subordinate ids for users. Then, as the user: may they have
/// a user namespace at all?
const AS_A_USUAL_NODE: &str = r"
! mountpoint --quiet /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
mount -t tmpfs none /mnt
mknod -m 666 /mnt/tun c 10 200
[[ -e /dev/net/tun ]] || { mkdir -p /dev/net; touch /dev/net/tun; }
mount --bind /mnt/tun /dev/net/tun
for file in subuid subgid; do
    echo games:700000:65536 >/mnt/$file
    [[ -e /etc/$file ]] || touch /etc/$file
    mount --bind /mnt/$file /etc/$file
done
";

/// The commands of the container hook protocol, as the runner sends them (ContainerHookManager.cs). JSON is made by jq.
const PROTOCOL: &str = r#"
listening
echo "2026-11-23 10:00:01Z: Running job: test"
GITHUB_RUN_ID=4711 GITHUB_RUN_ATTEMPT=1 bash "$ACTIONS_RUNNER_HOOK_JOB_STARTED" || exit 99
runner=$PWD
export RUNNER_TEMP=$runner/_work/_temp
mkdir -p _work/{_temp/_github_home,_temp/_github_workflow,_temp/_runner_hook_responses,_actions,_tool,widgets/widgets}
state='{}'
mount() { jq -nc --arg s "$1" --arg t "$2" --argjson r "${3:-false}" '{sourceVolumePath: $s, targetVolumePath: $t, readOnly: $r}'; }
mounts=$({
    mount /var/run/docker.sock /var/run/docker.sock
    mount "$runner/_work" /__w
    mount "$runner/externals" /__e true
    mount "$runner/_work/_temp/_github_home" /github/home
    mount "$runner/_work/_temp/_github_workflow" /github/workflow
} | jq -sc .)
# hook NAME COMMAND ARGUMENTS: its log is $SEEN/NAME.log, its answer $SEEN/NAME.json; $code.
hook() {
    local response=$runner/_work/_temp/_runner_hook_responses/$1.json
    : >"$response"
    jq -nc --arg c "$2" --arg f "$response" --argjson a "$3" --argjson s "$state" \
        '{command: $c, responseFile: $f, args: $a, state: $s}' |
        (cd _work/widgets/widgets && PATH=/nonexistent "$runner/externals/node20/bin/node" "$ACTIONS_RUNNER_CONTAINER_HOOKS") \
            >"$SEEN/$1.log" 2>&1
    code=$?
    echo "$1 $code" >>"$SEEN/codes"
    cp "$response" "$SEEN/$1.json"
    [[ $2 != prepare_job || ! -s $response ]] || state=$(jq -c .state "$response")
}
# step NAME SCRIPT [ENVIRONMENT [PATH]]: a `run:` step in the job container.
step() {
    printf '%s\n' "$2" >"_work/_temp/$1.sh"
    hook "$1" run_script_step "$(jq -nc --arg s "/__w/_temp/$1.sh" --argjson e "${3:-"{}"}" --arg p "${4:-}" '{
        entryPoint: "sh", entryPointArgs: ["-e", $s], environmentVariables: $e, prependPath: $p,
        workingDirectory: "/__w/widgets/widgets"}')"
}
container() { jq -nc --argjson m "$mounts" '{image: "busybox", entryPoint: "tail", entryPointArgs: ["\"-f\"", "\"/dev/null\""],
    workingDirectory: "/__w/widgets/widgets", environmentVariables: {HOME: "/github/home", OF_THE_JOB: "yes"},
    createOptions: "--env \"FROM_OPTIONS=two words\"", systemMountVolumes: $m, userMountVolumes: [], portMappings: []}'; }
service() { jq -nc --arg i "$REGISTRY/private/httpd:1" '{contextName: "web", image: $i, portMappings: ["80"],
    createOptions: "--health-cmd \"wget -q -O /dev/null http://127.0.0.1/up\" --health-interval 1s",
    registry: {username: "alice", password: "hunter2", serverUrl: ($i | split("/")[0])}}'; }
"#;

/// Podman's program, Node.js, busybox: what `scripts/packages.sh` installs.
fn missing() -> Option<String> {
    let found = |program: &str| {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output();
        found.is_ok_and(|output| output.status.success())
    };
    let programs = ["podman", "slirp4netns", "newuidmap", "busybox", "node"];
    programs
        .into_iter()
        .find(|program| !found(program))
        .map(|program| format!("there is no {program} here"))
}

/// Whether users may have user namespaces here, which no test can bring about.
pub(crate) fn user_namespaces() -> bool {
    let tried = Command::new("setpriv")
        .args([
            "--reuid=games",
            "--regid=games",
            "--clear-groups",
            "unshare",
            "--user",
            "--map-root-user",
            "true",
        ])
        .output();
    tried.is_ok_and(|output| output.status.success())
}

/// The real programs; a site with [runner.podman].
struct Podman {
    slurm: PrivateSlurm,
    launch: Launch,
    site: Site,
    registry: MockServer,
    output: PathBuf,
}

impl Podman {
    /// With a runner that speaks to the hook as `conversation` (bash) says, and what comes into slurm.conf. `None`: skipped.
    async fn start(by: By, conversation: &str, epilog: bool) -> Option<Self> {
        if skipped_without_root("Slurm starts Slurm jobs as their users") {
            return None;
        }
        if !user_namespaces() {
            skip("ordinary users may make no user namespaces here, which rootless Podman needs");
            return None;
        }
        assert_eq!(missing(), None, "see scripts/packages.sh");
        let registry = registry().await;
        let address = registry.address();
        let runner = format!("REGISTRY={address}\n{PROTOCOL}\n{conversation}");
        let launch = for_all_users(&runner).await;
        let mut more = String::new();
        if epilog {
            let script = launch.path("epilog");
            let text = format!(
                "#!/bin/bash\nbash {EPILOG} {}\n",
                launch.path("work").display()
            );
            std::fs::write(&script, text).unwrap();
            Command::new("chmod")
                .arg("755")
                .arg(&script)
                .status()
                .unwrap();
            more = format!("Epilog={}\n", script.display());
        }
        let node = launch.path("runner/externals/node20/bin");
        std::fs::create_dir_all(&node).unwrap();
        let copied = Command::new("sh")
            .args([
                "-c",
                "cp \"$(realpath \"$(command -v node)\")\" \"$0/node\"",
                node.to_str().unwrap(),
            ])
            .status();
        assert!(copied.unwrap().success());
        // Docker's registry is this one.
        let registries = launch.path("registries.conf");
        let text = format!(
            "[[registry]]\nprefix = \"docker.io\"\nlocation = \"{address}\"\ninsecure = true\n\
             [[registry]]\nlocation = \"{address}\"\ninsecure = true\n"
        );
        std::fs::write(&registries, text).unwrap();
        std::fs::write(launch.path("software"), "of the site\n").unwrap();
        let slurm = PrivateSlurm::for_test_with_mounts(1, &more, AS_A_USUAL_NODE).await?;
        let (site, output) = site(by, &slurm, &launch);
        let settings = format!(
            "arguments = [\"--storage-driver=overlay\", \"--registries-conf={}\"]\nvolumes = [\"{}:/software:ro\"]\n",
            registries.display(),
            launch.path("software").display()
        );
        std::fs::write(
            site.path("agent.toml"),
            format!("[runner.podman]\n{settings}"),
        )
        .unwrap();
        let site = site.with_file("agent.toml");
        Some(Self {
            slurm,
            launch,
            site,
            registry,
            output,
        })
    }

    /// Starts the workflow job; the Slurm job's id.
    async fn run(&self) -> (Agent, String) {
        let agent = self.site.agent().await;
        let claims: LaunchClaims = asked(SLURM_USERS[0], &self.launch);
        let id = agent.start(&self.site.request(&claims)).await;
        (agent, id)
    }

    fn printed(&self) -> String {
        let log = gha_slurm_test_support::output_of(&self.output, "r-games");
        let mut all = log;
        for entry in std::fs::read_dir(self.launch.path("seen"))
            .unwrap()
            .flatten()
        {
            let text = std::fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let _ = write!(all, "\n--- {}\n{text}", entry.file_name().display());
        }
        all
    }

    async fn until_seen(&self, name: &str) {
        wait_until(&format!("the runner leaves {name}"), DEADLINE, || async {
            if self.launch.seen(name).is_empty() {
                Err(self.printed())
            } else {
                Ok(())
            }
        })
        .await;
    }

    /// The Slurm job is over, and nothing of it is left: no process, no file, no state of Podman's.
    async fn until_nothing_is_left(&self, id: &str) {
        until_idle(&self.slurm).await;
        let mark = format!("GHA_SLURM_LAUNCH={}", self.launch.id);
        let mut left = Vec::new();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let read = |name: &str| std::fs::read(process.path().join(name)).unwrap_or_default();
            let of = |name: &str| String::from_utf8_lossy(&read(name)).replace('\0', " ");
            if of("environ").contains(&mark) || of("cmdline").contains(&format!("gha-slurm-{id}."))
            {
                left.push(of("cmdline"));
            }
        }
        assert!(left.is_empty(), "{left:?}\n{}", self.printed());
        assert!(is_empty(&self.launch.path("work")), "{}", self.printed());
        let state = format!("gha-slurm-{id}.");
        for entry in std::fs::read_dir("/tmp").unwrap().flatten() {
            let name = entry.file_name().to_str().unwrap().to_owned();
            assert!(!name.starts_with(&state), "{name}\n{}", self.printed());
        }
    }
}

/// A registry with busybox as `library/busybox`, for everybody, and as a web server in `private/httpd`, for alice.
async fn registry() -> MockServer {
    let server = MockServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("bash")
        .current_dir(folder.path())
        .args(["-euc", r#"
            mkdir -p root/bin root/tmp root/www root/etc
            chmod 1777 root/tmp
            cp "$(command -v busybox)" root/bin/busybox
            for name in sh tail env cat id wget httpd sleep chown touch ls grep echo tr; do ln -s busybox root/bin/$name; done
            echo served >root/www/up
            touch root/etc/of-another
            tar -C root --owner=0 --group=0 --numeric-owner -cf layer --exclude=./etc/of-another .
            tar -C root --owner=33 --group=33 --numeric-owner -rf layer ./etc/of-another"#])
        .status();
    assert!(made.unwrap().success());
    let layer = std::fs::read(folder.path().join("layer")).unwrap();
    let layer_digest = digest(&folder.path().join("layer"));
    serve_blob(&server, &layer_digest, layer.clone()).await;
    for (name, command) in [
        ("library/busybox", json!(["sh"])),
        (
            "private/httpd",
            json!(["httpd", "-f", "-p", "80", "-h", "/www"]),
        ),
    ] {
        let configuration = json!({
            "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"), "os": "linux",
            "config": { "Env": ["PATH=/bin", "OF_THE_IMAGE=yes"], "Cmd": command },
            "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        });
        let file = folder.path().join("configuration");
        std::fs::write(&file, configuration.to_string()).unwrap();
        let configuration_digest = digest(&file);
        serve_blob(
            &server,
            &configuration_digest,
            configuration.to_string().into_bytes(),
        )
        .await;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": configuration_digest, "size": configuration.to_string().len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len() }],
        });
        let answer = ResponseTemplate::new(200).set_body_raw(
            manifest.to_string(),
            "application/vnd.oci.image.manifest.v1+json",
        );
        let tag = if name.starts_with("library") {
            "latest"
        } else {
            "1"
        };
        let at = Mock::given(path(format!("/v2/{name}/manifests/{tag}")));
        let at = if name.starts_with("private") {
            // alice:hunter2
            at.and(header("authorization", "Basic YWxpY2U6aHVudGVyMg=="))
        } else {
            at
        };
        at.respond_with(answer).mount(&server).await;
    }
    // What `podman pull` asks first: who may come in, and how.
    let challenge =
        ResponseTemplate::new(401).insert_header("www-authenticate", "Basic realm=\"test\"");
    Mock::given(method("GET"))
        .and(path("/v2/"))
        .and(header_exists("authorization"))
        .respond_with(ResponseTemplate::new(200))
        .with_priority(3)
        .mount(&server)
        .await;
    Mock::given(path("/v2/"))
        .respond_with(challenge)
        .with_priority(4)
        .mount(&server)
        .await;
    server
}

fn digest(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    format!(
        "sha256:{}",
        &String::from_utf8(output.stdout).unwrap()[..64]
    )
}

async fn serve_blob(server: &MockServer, digest: &str, blob: Vec<u8>) {
    for name in ["library/busybox", "private/httpd"] {
        let answer =
            ResponseTemplate::new(200).set_body_raw(blob.clone(), "application/octet-stream");
        Mock::given(path(format!("/v2/{name}/blobs/{digest}")))
            .respond_with(answer)
            .mount(server)
            .await;
    }
}

async fn a_workflow_job_runs_in_its_container_beside_its_services(by: By) {
    let conversation = r#"
    hook prepare prepare_job "$(jq -nc --argjson c "$(container)" --argjson s "$(service)" '{container: $c, services: [$s]}')"
    step first '
        echo "id $(id -u) job $OF_THE_JOB image $OF_THE_IMAGE options $FROM_OPTIONS home $HOME path $PATH"
        echo "$GREETING"; tr "\\0" "\\n" </proc/$$/environ | grep -A 1 INPUT
        wget -q -O - http://web/up; wget -q -O - http://localhost/up
        cat /software; [ -x /__e/node20/bin/node ]; ! touch /__e/new 2>/dev/null
        [ ! -e /etc/passwd ] && [ ! -e /home ] && pwd
        touch result; touch of-another; chown 33 of-another
        echo "::notice::from inside"' \
        '{"GREETING": "one\ntwo \"$(reboot)\" \u0027", "INPUT_WHO-TO-GREET": "many\nlines", "HOME": "/github/home"}' /opt/tool
    step failing 'exit 3'
    hook action run_container_step "$(jq -nc --argjson m "$mounts" '{image: "busybox", entryPoint: "sh",
        entryPointArgs: ["-c", "\"wget", "-q", "-O", "-", "http://web/up;", "echo", "$INPUT_NAME\""], workingDirectory: "/__w/widgets/widgets",
        environmentVariables: {INPUT_NAME: "of the action"}, systemMountVolumes: $m, userMountVolumes: []}')"
    ls -ln _work/widgets/widgets >"$SEEN/workspace"
    grep -c . /proc/self/cgroup >/dev/null
    hook clean cleanup_job null
    state='{}'
    # No job container: steps run on the node.
    hook published prepare_job "$(jq -nc --argjson s "$(service)" '{container: null, services: [$s]}')"
    curl -sS "http://127.0.0.1:$(jq -r '.context.services[0].ports["80"]' "$SEEN/published.json")/up" >"$SEEN/served"
    echo "2026-11-23 10:00:02Z: Job test completed with result: Succeeded"
    echo end > "$SEEN/end"
    "#;
    let Some(podman) = Podman::start(by, conversation, false).await else {
        return;
    };
    let (agent, id) = podman.run().await;
    podman.until_seen("end").await;
    let launch = &podman.launch;
    let codes = "prepare 0\nfirst 0\nfailing 3\naction 0\nclean 0\npublished 0\n";
    assert_eq!(launch.seen("codes"), codes, "{}", podman.printed());
    let answer: serde_json::Value = serde_json::from_str(&launch.seen("prepare.json")).unwrap();
    assert_eq!(answer["isAlpine"], false);
    assert_eq!(
        answer["context"]["services"][0]["ports"],
        json!({"80": "80"})
    );
    assert!(answer["context"]["container"]["id"].is_string(), "{answer}");
    assert_eq!(
        launch.seen("first.log"),
        "id 0 job yes image yes options two words home /github/home path /opt/tool:/bin\n\
         one\ntwo \"$(reboot)\" '\nINPUT_WHO-TO-GREET=many\nlines\n\
         served\nserved\nof the site\n/__w/widgets/widgets\n::notice::from inside\n"
    );
    assert_eq!(launch.seen("action.log"), "served\nof the action\n");
    assert_eq!(launch.seen("served"), "served\n");
    // Root inside is the Slurm user; the others inside are of that user's range.
    let workspace = launch.seen("workspace");
    let owners: Vec<(&str, &str)> = workspace
        .lines()
        .skip(1)
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[8], words[2])
        })
        .collect();
    assert_eq!(owners, [("of-another", "700032"), ("result", "5")]);
    podman.until_nothing_is_left(&id).await;
    assert_eq!(launch.last().await["reason"], "completed");
    let logins = podman.registry.received_requests().await.unwrap();
    assert!(
        logins
            .iter()
            .any(|request| request.headers.contains_key("authorization"))
    );
    assert!(!podman.printed().contains("hunter2"));
    agent.stop();
}

async fn what_podman_is_not_to_do_is_refused_with_the_reason(by: By) {
    let conversation = r#"
    with() { jq -nc --argjson c "$(container)" --argjson more "$1" '{container: ($c + $more), services: []}'; }
    hook cpus prepare_job "$(with '{"createOptions": "--cpus 1"}')"
    hook docker prepare_job "$(with '{"userMountVolumes": [{"sourceVolumePath": "/var/run/docker.sock", "targetVolumePath": "/s"}]}')"
    hook build run_container_step '{"image": null, "dockerfile": "/x/Dockerfile", "environmentVariables": {}, "entryPointArgs": []}'
    hook unknown prepare_job "$(with '{"image": "library/nosuch"}')"
    hook clean cleanup_job null
    echo end > "$SEEN/end"
    "#;
    let Some(podman) = Podman::start(by, conversation, false).await else {
        return;
    };
    let (agent, id) = podman.run().await;
    podman.until_seen("end").await;
    let launch = &podman.launch;
    assert_eq!(
        launch.seen("codes"),
        "cpus 1\ndocker 1\nbuild 1\nunknown 1\nclean 0\n",
        "{}",
        podman.printed()
    );
    for (name, text) in [
        (
            "cpus",
            "::error title=Refused by the cluster::options: --cpus is not offered",
        ),
        (
            "docker",
            "::error title=Refused by the cluster::volumes: /var/run/docker.sock is not offered",
        ),
        (
            "build",
            "::error title=Refused by the cluster::actions that build a container image are not offered",
        ),
        (
            "unknown",
            "::error title=Containers on the cluster::cannot pull docker.io/library/nosuch: ",
        ),
    ] {
        let log = launch.seen(&format!("{name}.log"));
        assert!(
            log.lines().any(|line| line.starts_with(text)),
            "{name}: {log}"
        );
    }
    podman.until_nothing_is_left(&id).await;
    let reason = launch.last().await["reason"].to_string();
    assert!(
        reason.contains("refused_by_policy: actions that build"),
        "{reason}"
    );
    agent.stop();
}

/// A container that goes on, and a step in it.
const A_LONG_STEP: &str = r#"
    hook prepare prepare_job "$(jq -nc --argjson c "$(container)" --argjson s "$(service)" '{container: $c, services: [$s]}')"
    trap 'kill -INT $(pgrep -P $step -x node) 2>/dev/null; wait $step; hook clean cleanup_job null; exit 0' TERM INT
    step long 'trap "echo cancelled >/__w/_temp/said; exit 1" INT; touch of-another; chown 33 of-another
        echo up >/__w/_temp/up; while :; do sleep 0.1; done' & step=$!
    until [ -s _work/_temp/up ]; do sleep 0.1; done
    pgrep -u games -x httpd > "$SEEN/httpd"
    echo up > "$SEEN/up"
    wait $step
"#;

/// Sends the job script this signal in the midst of a step, and waits until nothing is left of it.
async fn signalled(by: By, signal: &str, epilog: bool) -> Option<Podman> {
    let podman = Podman::start(by, A_LONG_STEP, epilog).await?;
    let (agent, id) = podman.run().await;
    podman.until_seen("up").await;
    let service = podman.launch.seen("httpd");
    let signal = format!("--signal={signal}");
    podman
        .slurm
        .run("scancel", &[&signal, "--batch", &id])
        .await
        .unwrap();
    podman.until_nothing_is_left(&id).await;
    until_gone(&service).await;
    agent.stop();
    Some(podman)
}

async fn containers_are_gone_after_a_signal(by: By) {
    let Some(podman) = signalled(by, "TERM", false).await else {
        return;
    };
    assert_eq!(
        podman.launch.last().await["reason"],
        "signal",
        "{}",
        podman.printed()
    );
}

async fn the_epilog_removes_containers_of_a_job_script_that_was_killed(by: By) {
    signalled(by, "KILL", true).await;
}
