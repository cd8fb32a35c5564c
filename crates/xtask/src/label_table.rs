//! The table of labels in docs/workflows.md: generated from the table of resources, committed, and compared in tests.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use gha_slurm_domain::resources::RESOURCE_LABELS;

const FILE: &str = "docs/workflows.md";
/// Around the table.
const MARKS: [&str; 2] = [
    "<!-- labels: written by `cargo xtask schemas` -->\n",
    "<!-- end of labels -->\n",
];

fn table() -> String {
    let mut text = String::from(
        "\n| label | asks for | example |\n|---|---|---|\n\
         | a profile of the site | what the site says | `slurm`, `slurm-large` |\n",
    );
    for label in RESOURCE_LABELS {
        let _ = writeln!(
            text,
            "| {} | {} | `{}` |",
            label.form, label.asks_for, label.example
        );
    }
    text.push_str(
        "| `slurm-cluster-X` | that cluster, by name | |\n\
         | `self-hosted`, `linux`, `x64` | nothing; every runner has them | |\n\n",
    );
    text
}

/// The page with its table as it must be.
fn page(root: &Path) -> Result<(String, String)> {
    let text = std::fs::read_to_string(root.join(FILE)).context(FILE)?;
    let [begin, end] = MARKS;
    let (before, rest) = text
        .split_once(begin)
        .with_context(|| format!("{FILE}: no {begin}"))?;
    let (_, after) = rest
        .split_once(end)
        .with_context(|| format!("{FILE}: no {end}"))?;
    let wanted = [before, begin, &table(), end, after].concat();
    Ok((text, wanted))
}

/// Writes the table.
pub(crate) fn write(root: &Path) -> Result<()> {
    let (_, wanted) = page(root)?;
    std::fs::write(root.join(FILE), wanted).context(FILE)
}

/// Fails where the table is not that of the resources.
pub(crate) fn check(root: &Path) -> Result<()> {
    let (text, wanted) = page(root)?;
    ensure!(
        text == wanted,
        "{FILE}: its table of labels differs from the resources: run `cargo xtask schemas` and commit the result"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_of_labels_is_that_of_the_resources() {
        super::check(&crate::root()).unwrap();
    }
}
