//! The samples of `deploy/config` against the programs that they are for.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

use gha_slurm_test_support::{Sample, binary};

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config");

/// Each program's sample, and a key that a site must fill in.
const PROGRAMS: [(&str, &str, &str); 6] = [
    (
        "webhook-ingest",
        "webhook-ingest.toml",
        "webhook.secret_file",
    ),
    ("launcher", "launcher.toml", "github.private_key_file"),
    (
        "token-broker",
        "token-broker.toml",
        "github.private_key_file",
    ),
    ("repo-mapping", "repo-mapping.toml", "access.tokens_file"),
    (
        "gha-slurm-munge",
        "gha-slurm-munge.toml",
        "keys.public_keys",
    ),
    (
        "gha-slurm-token-signer",
        "gha-slurm-token-signer.toml",
        "key_file",
    ),
];

/// Whether `--check-config` likes it, and what it says.
fn check(program: &str, file: &Path) -> (bool, String) {
    let mut command = Command::new(binary(program));
    let output = command
        .args(["--check-config", "--config"])
        .arg(file)
        .env_clear()
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn every_sample_is_tested() {
    let mut names: Vec<String> = std::fs::read_dir(SAMPLES)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    // `gha-slurm repos` has no --check-config, and its sample nothing to fill in.
    let mut tested: Vec<&str> = PROGRAMS.map(|(_, sample, _)| sample).to_vec();
    tested.push("client.toml");
    tested.sort_unstable();
    assert_eq!(names, tested);
}

#[test]
fn samples_are_refused_as_they_are_and_fine_when_they_are_filled_in() {
    for (program, name, key) in PROGRAMS {
        let (fine, said) = check(program, Path::new(&format!("{SAMPLES}/{name}")));
        assert!(!fine && said.contains(key), "{name}: {said}");
        let (fine, said) = check(program, Sample::filled(name).path());
        assert!(fine && !said.contains("warning"), "{name}: {said}");
    }
}

type Mistake<'a> = &'a dyn Fn(&Sample);
/// Program, sample, what is done to its files, what is replaced in it, and words of the answer.
type Row<'a> = (
    &'a str,
    &'a str,
    Mistake<'a>,
    (&'a str, &'a str),
    [&'a str; 2],
);

/// What a site gets wrong, in the words that it is told.
#[test]
fn what_a_site_gets_wrong_is_named() {
    let public = |sample: &Sample| {
        let files = std::fs::read_dir(sample.file("keys")).unwrap().flatten();
        let mut files = files.map(|file| file.path());
        files
            .find(|file| file.to_string_lossy().ends_with(".pub.pem"))
            .unwrap()
    };
    let write = |name: &'static str, change: fn(String) -> String| {
        move |sample: &Sample| {
            let file = sample.file(name);
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(file, change(text)).unwrap();
        }
    };
    let private_as_public = |sample: &Sample| {
        let files = std::fs::read_dir(sample.file("public-keys")).unwrap();
        for file in files.flatten() {
            if let Some(kid) = file.file_name().to_str().unwrap().strip_suffix(".key.pem") {
                let public = file.path().with_file_name(format!("{kid}.pub.pem"));
                std::fs::copy(file.path(), public).unwrap();
            }
        }
    };
    let public_as_private = |sample: &Sample| {
        let public = public(sample);
        let private = public.to_string_lossy().replace(".pub.pem", ".key.pem");
        std::fs::copy(public, private).unwrap();
    };
    let nothing = |_: &Sample| {};
    let app = "launcher.toml";
    let rows: [Row<'_>; 17] = [
        (
            "launcher",
            app,
            &write("app.pem", |pem| pem.replace('\n', "\\n")),
            ("", ""),
            ["github.private_key", "\\n"],
        ),
        (
            "launcher",
            app,
            &write("app.pem", |pem| format!("\"{pem}\"")),
            ("", ""),
            ["github.private_key", "quotes"],
        ),
        (
            "token-broker",
            "token-broker.toml",
            &write("app.pem", |pem| pem.replace("RSA PRIVATE", "PUBLIC")),
            ("", ""),
            ["github.private_key", "a public key"],
        ),
        (
            "token-broker",
            "token-broker.toml",
            &write("app.pem", |pem| pem.replace("MII", "AII")),
            ("", ""),
            ["github.private_key", "damaged"],
        ),
        (
            "launcher",
            app,
            &public_as_private,
            ("", ""),
            ["keys.folder", "a public key, and a private key is needed"],
        ),
        (
            "gha-slurm-munge",
            "gha-slurm-munge.toml",
            &private_as_public,
            ("", ""),
            [
                "keys.public_keys",
                "a private key, and a public key is needed",
            ],
        ),
        (
            "launcher",
            app,
            &nothing,
            (
                "name = \"example\"                # part of runner names, and the issuer of launch tokens\nprefix = \"gha-slurm\"",
                "name = \"a-name-of-24-characters-\"\nprefix = \"a-prefix-of-24-character\"",
            ),
            ["deployment", "42"],
        ),
        (
            "launcher",
            app,
            &nothing,
            (
                "https://gha-slurm.example.org",
                "http://gha-slurm.example.org",
            ),
            ["cluster.token_url", "insecure = true"],
        ),
        (
            "launcher",
            app,
            &nothing,
            (
                "agent_url = \"http://127.0.0.1:5011\"",
                "agent_url = \"http://agent.example.org\"",
            ),
            ["cluster.agent_url", "insecure = true"],
        ),
        (
            "launcher",
            app,
            &write("amqp-url", |_| "amqp://u:hunter2@rabbit/%2f".into()),
            ("", ""),
            ["amqp.url", "amqps://"],
        ),
        (
            "token-broker",
            "token-broker.toml",
            &write("token-broker-database-url", |url| {
                url.replace("127.0.0.1", "db")
                    .replace('\n', "?sslmode=disable")
            }),
            ("", ""),
            ["database.url", "sslmode=require"],
        ),
        (
            "token-broker",
            "token-broker.toml",
            &write("token-broker-database-url", |url| {
                url.replace("pw", "change-me")
            }),
            ("", ""),
            ["database.url", "placeholder"],
        ),
        (
            "webhook-ingest",
            "webhook-ingest.toml",
            &write("webhook-secret", |_| "hunter2".into()),
            ("", ""),
            ["webhook.secret", "fewer than 32"],
        ),
        (
            "repo-mapping",
            "repo-mapping.toml",
            &write("administrator-tokens", |_| "change-me".into()),
            ("", ""),
            ["access.tokens", "placeholder"],
        ),
        (
            "webhook-ingest",
            "webhook-ingest.toml",
            &nothing,
            ("publish_deadline_s = 8", "publish_deadline_s = 10"),
            ["webhook.publish_deadline_s", "GitHub"],
        ),
        (
            "gha-slurm-munge",
            "gha-slurm-munge.toml",
            &nothing,
            ("time_minutes = 1440", "time_minutes = 2"),
            ["sbatch.signal_before_end_s", "2 min"],
        ),
        (
            "gha-slurm-munge",
            "gha-slurm-munge.toml",
            &nothing,
            (
                "[policy.defaults]",
                "[policy.defaults]\ntimeMinutes = 2000 #",
            ),
            ["policy.defaults", "1440"],
        ),
    ];
    for (program, name, mistake, (from, to), words) in rows {
        let sample = Sample::filled(name).with(|text| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        });
        mistake(&sample);
        let (fine, said) = check(program, sample.path());
        assert!(!fine, "{program}, {words:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{program}, {word}: {said}");
        }
        assert!(
            !said.contains("hunter2") && !said.contains("change-me"),
            "{said}"
        );
    }
}
