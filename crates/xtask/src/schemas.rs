//! `proto-schemas/`: generated from the types, committed, and compared in tests.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use gha_slurm_contract::{Event, LaunchClaims};

const FOLDER: &str = "proto-schemas";

/// File name → text of everything that is generated.
fn generate() -> Result<BTreeMap<&'static str, String>> {
    let mut files = BTreeMap::new();
    for (name, schema) in [
        ("event.schema.json", schemars::schema_for!(Event)),
        (
            "launch-token.schema.json",
            schemars::schema_for!(LaunchClaims),
        ),
    ] {
        files.insert(name, pretty(&schema)?);
    }
    Ok(files)
}

fn pretty(value: &impl serde::Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}

/// Writes the files and removes what nothing generates any more.
pub(crate) fn write(root: &Path) -> Result<()> {
    let folder = root.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    let files = generate()?;
    for (name, text) in &files {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    for name in present(&folder)? {
        if !files.contains_key(name.as_str()) {
            std::fs::remove_file(folder.join(name))?;
        }
    }
    Ok(())
}

/// Fails with the names of the files that differ from the types.
pub(crate) fn check(root: &Path) -> Result<()> {
    let folder = root.join(FOLDER);
    let files = generate()?;
    let mut stale: Vec<String> = files
        .iter()
        .filter(|(name, text)| {
            std::fs::read_to_string(folder.join(name)).ok().as_ref() != Some(text)
        })
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let nobodys = present(&folder)?.into_iter();
    stale.extend(nobodys.filter(|name| !files.contains_key(name.as_str())));
    if stale.is_empty() {
        return Ok(());
    }
    bail!(
        "{FOLDER}/ differs from the types in {}: run `cargo xtask schemas` and commit the result",
        stale.join(", ")
    )
}

fn present(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if Path::new(&name).extension().is_some_and(|e| e == "json") {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schemas_are_those_of_the_types() {
        super::check(&crate::root()).unwrap();
    }
}
