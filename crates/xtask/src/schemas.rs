//! `proto-schemas/`: generated from the types, committed, and compared in tests.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use gha_slurm_contract::{Event, LaunchClaims};

const FOLDER: &str = "proto-schemas";

/// File name → text of everything that is generated.
pub(crate) fn generate() -> Result<BTreeMap<&'static str, String>> {
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
    for (name, document) in [
        (
            "openapi/gha-slurm-munge.json",
            gha_slurm_slurm_agent::openapi(),
        ),
        ("openapi/launcher.json", gha_slurm_launcher::openapi()),
        (
            "openapi/operations.json",
            gha_slurm_service_kit::operations::openapi(),
        ),
        (
            "openapi/repo-mapping.json",
            gha_slurm_repo_mapping::openapi(),
        ),
        (
            "openapi/token-broker.json",
            gha_slurm_token_broker::openapi(),
        ),
        (
            "openapi/webhook-ingest.json",
            gha_slurm_webhook_ingest::openapi(),
        ),
    ] {
        files.insert(name, pretty(&document)?);
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
        std::fs::create_dir_all(path.parent().unwrap_or(&folder))?;
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
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| next.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "json") {
                names.push(path.strip_prefix(folder)?.to_string_lossy().into_owned());
            }
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
