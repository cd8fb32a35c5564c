//! Sample settings, of which much is commented out.

use std::io::Write;

use tempfile::NamedTempFile;

/// A copy of a sample file with the settings between the lines that begin with `from` and `to` taken out of their comments.
pub fn uncommented(sample: &str, from: &str, to: &str) -> NamedTempFile {
    let text = std::fs::read_to_string(sample).expect("the sample");
    let mut between = false;
    let mut found = false;
    let mut copy = tempfile::Builder::new()
        .suffix(".toml")
        .tempfile()
        .expect("a file");
    for line in text.lines() {
        between = (between || line.starts_with(from)) && !line.starts_with(to);
        found |= between;
        let line = line.strip_prefix("# ").filter(|_| between).unwrap_or(line);
        writeln!(copy, "{line}").expect("a line");
    }
    assert!(found, "{sample} has no line `{from}`");
    copy
}
