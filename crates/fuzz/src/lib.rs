#![doc = include_str!("../README.md")]
#![expect(
    clippy::missing_panics_doc,
    reason = "all of it panics if something does not hold"
)]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use gha_slurm_contract::Event;
use gha_slurm_domain::ResourceRequest;
use gha_slurm_domain::labels::LabelPolicy;
use gha_slurm_settings::Settings;

/// A target: its name, and what must hold for any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 6] = [
    ("webhook", webhook),
    ("slurm_listings", slurm_listings),
    ("munge_credential", munge_credential),
    ("original_request", original_request),
    ("labels", labels),
    ("settings", settings),
];

const EVENTS: [&str; 5] = [
    "workflow_job",
    "installation",
    "installation_repositories",
    "github_app_authorization",
    "ping",
];

/// Whether Slurm and a shell see only a word in it.
fn is_harmless(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.:/+@=,&|!*()[]".contains(&b))
        && !text.starts_with('-')
}

/// The first byte chooses event and encoding. An event that is made of a delivery can be written and read again.
pub fn webhook(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else {
        return;
    };
    let name = EVENTS
        .get(usize::from(choice & 0x0f) % EVENTS.len())
        .copied()
        .unwrap_or_default();
    let form = choice & 0x40 == 0;
    let Some(event) = gha_slurm_webhook_ingest::fuzzing::event(name, body, form) else {
        return;
    };
    let text = serde_json::to_vec(&event).unwrap_or_default();
    let again: Option<Event> = serde_json::from_slice(&text).ok();
    assert_eq!(
        again.as_ref(),
        Some(&event),
        "{}",
        String::from_utf8_lossy(&text)
    );
}

/// No Slurm job is made of nothing.
pub fn slurm_listings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let queue = gha_slurm_slurm::fuzzing::squeue(&text, "|");
    let columns = text.matches('|').count();
    let jobs = queue.ours.len() + queue.others.values().sum::<u32>() as usize;
    assert!(
        jobs <= columns / 10,
        "{jobs} Slurm jobs in {columns} columns"
    );
    for job in queue.ours {
        assert!(is_harmless(job.id.as_str()), "{:?}", job.id);
    }
    let usages = gha_slurm_slurm::fuzzing::sacct(&text);
    assert!(usages.len() <= text.lines().count());
    for usage in usages {
        assert!(usage.state.is_over() || usage.usage == gha_slurm_domain::Usage::default());
    }
}

/// Who it is of is said in its head alone, once, whatever the payload says.
pub fn munge_credential(bytes: &[u8]) {
    let Some((host, uid, restricted_to)) = gha_slurm_slurm_agent::fuzzing::munge_credential(bytes)
    else {
        return;
    };
    let end = bytes
        .windows(2)
        .position(|two| two == b"\n\n")
        .unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    let lines = |key: &str| {
        head.lines()
            .filter(|line| line.split(':').next().is_some_and(|k| k.trim() == key))
            .count()
    };
    assert_eq!((lines("UID"), lines("ENCODE_HOST")), (1, 1));
    assert!(head.contains(&host) && head.contains(&uid.to_string()));
    assert_eq!(
        lines("UID_RESTRICTION"),
        usize::from(restricted_to.is_some())
    );
}

/// What is accepted goes into arguments and a script.
pub fn original_request(bytes: &[u8]) {
    let Some(asked) = gha_slurm_slurm_agent::fuzzing::original_request(bytes) else {
        return;
    };
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    assert!(asked.token.bytes().all(is_token), "{}", asked.token);
    for word in asked
        .labels
        .split(',')
        .chain(asked.runner_name.as_deref())
        .chain(asked.resources.partition.as_deref())
    {
        assert!(is_harmless(word), "{word:?}");
    }
    assert!(asked.token_url.starts_with("http"), "{}", asked.token_url);
    assert!(
        asked.token_url.bytes().all(|b| b.is_ascii_graphic()),
        "{}",
        asked.token_url
    );
    let ResourceRequest {
        cpus,
        memory_mib,
        time_minutes,
        ..
    } = asked.resources;
    assert!(cpus != Some(0) && memory_mib != Some(0) && time_minutes != Some(0));
}

static POLICY: LazyLock<LabelPolicy> = LazyLock::new(|| {
    LabelPolicy::new(
        ["self-hosted", "linux", "x64"].into_iter().collect(),
        BTreeMap::from([("slurm".to_owned(), ResourceRequest::default())]),
        ResourceRequest::default(),
        "main",
    )
});

/// One label a line. What they ask Slurm for is harmless.
pub fn labels(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let labels: Vec<&str> = text.lines().collect();
    let Ok(asked) = POLICY.classify(&labels) else {
        return;
    };
    let fields = serde_json::to_value(&asked.by_labels).unwrap_or_default();
    for field in fields.as_object().into_iter().flatten() {
        if let (name, Some(text)) = (field.0, field.1.as_str()) {
            assert!(is_harmless(text), "{name}: {text:?}");
        }
    }
}

fn wrong_keys<S: Settings>(text: &str) {
    if let Err(error) = gha_slurm_settings::load_text::<S>(text) {
        assert!(!error.problems.is_empty());
        assert!(!error.to_string().is_empty());
    }
}

/// What is wrong with settings is said.
pub fn settings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    wrong_keys::<gha_slurm_slurm_agent::Settings>(&text);
    wrong_keys::<gha_slurm_webhook_ingest::Settings>(&text);
    wrong_keys::<gha_slurm_token_signer::Settings>(&text);
}
