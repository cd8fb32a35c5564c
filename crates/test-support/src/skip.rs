//! Tests that cannot run on this machine: recorded, so that a run reports them instead of passing them over.

use std::fs::OpenOptions;
use std::io::Write;

use crate::server::we_are_root;

/// Names the file that [`skip`] appends to; `cargo xtask with-services` sets it and reads the file.
pub const SKIPPED_FILE: &str = "GHA_SLURM_TEST_SKIPPED";

/// Records that the current test does nothing, because this machine lacks `reason`: something that root has or can install.
/// Such a test fails a run with `REQUIRE_ROOT_TESTS=1`. The caller returns from the test.
pub fn skip(reason: &str) {
    record("skipped", reason);
}

/// As [`skip`], where no installation helps because the kernel was built or booted otherwise. Never fails a run.
pub fn skip_for_kernel(reason: &str) {
    record("kernel", reason);
}

/// Whether the current test is skipped because root does not run it. `purpose` says what root is needed for.
pub fn skipped_without_root(purpose: &str) -> bool {
    let skipped = !we_are_root();
    if skipped {
        skip(&format!("{purpose}: takes root"));
    }
    skipped
}

/// Appends one line: kind, package and test, and reason, separated by tabs.
fn record(kind: &str, reason: &str) {
    // The test harness names the thread of a test; with one test at a time there may be none.
    let thread = std::thread::current();
    let test = thread.name().filter(|name| *name != "main");
    let test = test.unwrap_or("a test");
    eprintln!("skipped {test}: {reason}");
    let Some(file) = std::env::var_os(SKIPPED_FILE) else {
        return;
    };
    let package = std::env::var_os("CARGO_PKG_NAME").unwrap_or_default();
    let line = format!("{kind}\t{} {test}\t{reason}\n", package.display());
    // One write in append mode: test processes do not cut into each other's lines.
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(&file)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .expect("the file of skipped tests can be written");
}
