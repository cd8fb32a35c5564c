//! The tests that a run has skipped, as `gha_slurm_test_support::skip` has recorded them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// `1`: a machine with root and every package, where a skipped test is a failure.
const REQUIRE_ROOT_TESTS: &str = "REQUIRE_ROOT_TESTS";

/// Prints how many tests were skipped, by reason. Fails with [`REQUIRE_ROOT_TESTS`] where root could have run one.
pub(crate) fn report(recorded: &str) -> Result<()> {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let (mut count, mut for_root) = (0, 0);
    for line in recorded.lines() {
        let mut columns = line.splitn(3, '\t');
        let (Some(kind), Some(test), Some(reason)) =
            (columns.next(), columns.next(), columns.next())
        else {
            bail!("this line of the skipped tests has not three columns: {line:?}");
        };
        count += 1;
        for_root += usize::from(kind != "kernel");
        by_reason.entry(reason).or_default().push(test);
    }
    if count == 0 {
        return Ok(());
    }
    eprintln!(
        "\n{count} {} skipped:",
        if count == 1 { "test was" } else { "tests were" }
    );
    for (reason, tests) in &by_reason {
        eprintln!("  {} because {reason}", tests.len());
        for test in tests {
            eprintln!("    {test}");
        }
    }
    if for_root > 0 && std::env::var_os(REQUIRE_ROOT_TESTS).is_some_and(|value| value == "1") {
        bail!("{REQUIRE_ROOT_TESTS}=1, but tests were skipped: {for_root}");
    }
    Ok(())
}
