//! What a step of a workflow job, which runs as the user of the job script, does with what it read from the job script's memory.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::stack::{REPOSITORY, Service, Stack};

const CALLS: usize = 10_000;
const AT_ONCE: usize = 16;

/// Leaves every word of the job script's memory that may be a progress token in a file.
const READ_MEMORY: &str = r#"
leader=$(sed 's/.*) . [0-9]* [0-9]* \([0-9]*\) .*/\1/' /proc/$$/stat)
while read -r range rights _ _ _ _; do
    [[ $rights == rw* ]] || continue
    from=$((16#${range%-*} / 4096)) to=$((16#${range#*-} / 4096))
    dd if="/proc/$leader/mem" bs=4096 skip="$from" count="$((to - from))" status=none 2>/dev/null
done < "/proc/$leader/maps" | tr -c 'A-Za-z0-9_-' '\n' | grep -xE '.{43}' | sort -u > "$WORDS.new"
mv "$WORDS.new" "$WORDS"
"#;

/// A step wrote 26 MB of timeline.
#[tokio::test]
async fn a_flood_of_progress() {
    let stack = Stack::start().await;
    stack.map(&[REPOSITORY]).await;
    let words = stack.folder().join("words");
    let (until, _) = stack.until_there("go.on");
    let step = format!("WORDS={}\n{READ_MEMORY}\n{until}", words.display());
    let id = stack.queue(&step);
    stack.until_kind(id, "workflow_job_started").await;
    gha_slurm_test_support::wait_until("the step has read", crate::stack::DEADLINE, || async {
        words.exists().then_some(())
    })
    .await;
    let url = format!("{}/gha/runner/progress", stack.url(Service::TokenBroker));
    let report = async |token: &str, phase: &str| {
        let text = "x".repeat(10_000);
        let body = json!({"phase": phase, "node": text, "reason": text, "logTail": text});
        let call = stack.http().post(&url).bearer_auth(token).json(&body);
        call.send().await.unwrap().status().as_u16()
    };
    let mut token = None;
    for word in std::fs::read_to_string(&words).unwrap().lines() {
        if report(word, "listening").await == 204 {
            token = Some(word.to_owned());
        }
    }
    let token = token.expect("the progress token can be read");
    let phases = [
        "set_up",
        "listening",
        "workflow_job_started",
        "registered",
        "allocated",
    ];
    let statuses: BTreeMap<u16, usize> = stream::iter(0..CALLS)
        .map(|number| report(&token, phases[number % phases.len()]))
        .buffer_unordered(AT_ONCE)
        .fold(BTreeMap::new(), |mut counts, status| async move {
            *counts.entry(status).or_default() += 1;
            counts
        })
        .await;
    assert!(
        statuses.keys().all(|status| [204, 429].contains(status)),
        "{statuses:?}"
    );
    assert!(statuses[&429] > CALLS / 2, "{statuses:?}");
    let size = "SELECT sum(length(detail) + coalesce(length(log_tail), 0)) FROM timeline";
    let bytes: i64 = stack.sql(size, &[]).await;
    assert!(bytes < 10_000, "{bytes} bytes of timeline");
    // It harms only itself: the workflow job ends as it would have.
    std::fs::write(stack.folder().join("go.on"), "").unwrap();
    stack.until_succeeded(id).await;
    stack.until_completed(id).await;
    stack.finish().await;
}
