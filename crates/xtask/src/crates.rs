//! Checks the table of crates in `docs/architecture.md` against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

use crate::source::PREFIX;

const SERVICES: [&str; 6] = [
    "webhook-ingest",
    "launcher",
    "token-broker",
    "repo-mapping",
    "slurm-agent",
    "token-signer",
];
/// Crates that are neither services nor libraries: nothing that is shipped may depend on them.
const FOR_DEVELOPMENT: [&str; 6] = ["simulator", "test-support", "e2e", "bench", "fuzz", "xtask"];

/// One row of the table.
#[derive(Debug)]
struct Row {
    /// Crates it may depend on; `None`: any.
    allowed: Option<BTreeSet<String>>,
    /// Crates and packages that it must not reach, directly or through others.
    forbidden: BTreeSet<String>,
}

/// The dependencies of the workspace's crates, which are named without the prefix.
struct Dependencies {
    /// The workspace's crates that each crate depends on directly.
    direct: BTreeMap<String, BTreeSet<String>>,
    /// Every crate and package that each crate depends on, directly or through others.
    reached: BTreeMap<String, BTreeSet<String>>,
}

/// Fails with every breach, one a line.
pub(crate) fn check(root: &Path) -> Result<()> {
    let document = root.join("docs/architecture.md");
    let text = std::fs::read_to_string(&document)
        .with_context(|| format!("cannot read {}", document.display()))?;
    let dependencies = dependencies(&metadata(root)?);
    let breaches = breaches(&table(&text, &dependencies)?, &dependencies);
    if breaches.is_empty() {
        return Ok(());
    }
    bail!(
        "crates break the table of docs/architecture.md:\n{}",
        breaches.join("\n")
    )
}

fn metadata(root: &Path) -> Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        // Only what this platform builds is there to read on a fresh machine.
        .other_options(["--filter-platform".to_owned(), host_triple()?])
        .exec()
        .context("cargo metadata")
}

fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = std::process::Command::new(rustc)
        .arg("-vV")
        .output()
        .context("rustc -vV")?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("host: ").map(str::to_owned))
        .context("rustc -vV names no host")
}

fn dependencies(metadata: &Metadata) -> Dependencies {
    let members: BTreeSet<&PackageId> = metadata.workspace_members.iter().collect();
    let name_of: BTreeMap<&PackageId, &str> = metadata
        .packages
        .iter()
        .map(|package| {
            let name = package.name.as_str();
            let in_workspace = members.contains(&package.id);
            let short = name.strip_prefix(PREFIX).filter(|_| in_workspace);
            (&package.id, short.unwrap_or(name))
        })
        .collect();
    let graph: BTreeMap<&PackageId, Vec<&PackageId>> = metadata
        .resolve
        .iter()
        .flat_map(|resolve| &resolve.nodes)
        .map(|node| {
            let normal = node.deps.iter().filter(|dependency| {
                dependency
                    .dep_kinds
                    .iter()
                    .any(|kind| kind.kind == DependencyKind::Normal)
            });
            (&node.id, normal.map(|dependency| &dependency.pkg).collect())
        })
        .collect();
    let name = |id: &PackageId| {
        name_of
            .get(id)
            .map_or_else(String::new, |n| (*n).to_owned())
    };
    let edges = |id: &PackageId| graph.get(id).cloned().unwrap_or_default();

    let mut dependencies = Dependencies {
        direct: BTreeMap::new(),
        reached: BTreeMap::new(),
    };
    for member in &members {
        let direct = edges(member).into_iter().filter(|id| members.contains(id));
        dependencies
            .direct
            .insert(name(member), direct.map(name).collect());
        let mut seen = BTreeSet::new();
        let mut open = edges(member);
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(edges(id));
            }
        }
        dependencies
            .reached
            .insert(name(member), seen.into_iter().map(name).collect());
    }
    dependencies
}

/// Reads the table under "## Crates".
fn table(text: &str, dependencies: &Dependencies) -> Result<BTreeMap<String, Row>> {
    let section = text
        .split_once("\n## Crates\n")
        .context("docs/architecture.md has no section \"## Crates\"")?
        .1;
    let mut table = BTreeMap::new();
    for line in section.lines().take_while(|line| !line.starts_with("## ")) {
        let Some(cells) = line.strip_prefix("| `") else {
            continue;
        };
        let cells: Vec<&str> = cells.trim_end_matches('|').split(" | ").collect();
        let [name, _, allowed, forbidden] = cells.as_slice() else {
            bail!(
                "docs/architecture.md: this row of the table of crates does not have four columns: {line}"
            );
        };
        let name = name.trim_end_matches('`').to_owned();
        let row = Row {
            allowed: allowed_crates(&name, allowed, dependencies)?,
            forbidden: forbidden_names(&name, forbidden),
        };
        table.insert(name, row);
    }
    Ok(table)
}

fn libraries(dependencies: &Dependencies) -> BTreeSet<String> {
    let not = |name: &&String| {
        !SERVICES.contains(&name.as_str())
            && !FOR_DEVELOPMENT.contains(&name.as_str())
            && name.as_str() != "cli"
    };
    dependencies.direct.keys().filter(not).cloned().collect()
}

fn allowed_crates(
    name: &str,
    cell: &str,
    dependencies: &Dependencies,
) -> Result<Option<BTreeSet<String>>> {
    let mut crates = match cell.trim() {
        "any" => return Ok(None),
        "–" => BTreeSet::new(),
        "any library" => libraries(dependencies),
        list => {
            let mut crates = BTreeSet::new();
            for word in list.split(',') {
                // "auth (public half)" is about people, not about cargo.
                let allowed = word.split('(').next().unwrap_or(word).trim();
                if !dependencies.direct.contains_key(allowed) {
                    bail!(
                        "docs/architecture.md: `{name}` may depend on {allowed:?}, which is not a crate"
                    );
                }
                crates.insert(allowed.to_owned());
            }
            crates
        }
    };
    if name == "e2e" {
        crates.extend(["simulator".to_owned(), "test-support".to_owned()]);
    }
    Ok(Some(crates))
}

fn forbidden_names(name: &str, cell: &str) -> BTreeSet<String> {
    // Every second piece is in code type.
    let mut names: BTreeSet<String> = cell
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    if cell.contains("services") {
        names.extend(SERVICES.iter().map(|service| (*service).to_owned()));
        names.remove(name);
    }
    names
}

fn breaches(table: &BTreeMap<String, Row>, dependencies: &Dependencies) -> Vec<String> {
    let mut breaches = Vec::new();
    for (name, direct) in &dependencies.direct {
        let Some(row) = table.get(name) else {
            breaches.push(format!("- `{name}` is not in the table"));
            continue;
        };
        if let Some(allowed) = &row.allowed {
            for other in direct.difference(allowed) {
                breaches.push(format!("- `{name}` must not depend on `{other}`"));
            }
        }
        let reached = dependencies.reached.get(name).cloned().unwrap_or_default();
        for other in reached.intersection(&row.forbidden) {
            breaches.push(format!(
                "- `{name}` must not reach `{other}`, directly or through others"
            ));
        }
    }
    for name in table
        .keys()
        .filter(|name| !dependencies.direct.contains_key(*name))
    {
        breaches.push(format!("- `{name}` is in the table, but is not a crate"));
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_depends_on_what_the_table_allows() {
        check(&crate::root()).unwrap();
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn breaches_are_named() {
        let mut dependencies = Dependencies {
            direct: BTreeMap::new(),
            reached: BTreeMap::new(),
        };
        for (name, direct, reached) in [
            ("domain", set(&[]), set(&["tokio"])),
            ("storage", set(&["domain"]), set(&["domain"])),
            (
                "webhook-ingest",
                set(&["domain", "storage"]),
                set(&["domain", "storage"]),
            ),
            (
                "launcher",
                set(&["webhook-ingest"]),
                set(&["webhook-ingest"]),
            ),
            ("attic", set(&[]), set(&[])),
        ] {
            dependencies.direct.insert(name.to_owned(), direct);
            dependencies.reached.insert(name.to_owned(), reached);
        }
        let text = "\n## Crates\n\
            | crate | owns | may depend on (crates of the workspace) | must not see |\n\
            |---|---|---|---|\n\
            | `domain` | words | – | async: `tokio` |\n\
            | `storage` | rows | domain | – |\n\
            | `webhook-ingest` | service | domain | `storage` |\n\
            | `launcher` | service | any | other services |\n\
            | `cellar` | nothing | any | – |\n\
            ## Next\n";
        let found = breaches(&table(text, &dependencies).unwrap(), &dependencies);
        assert_eq!(
            found,
            [
                "- `attic` is not in the table",
                "- `domain` must not reach `tokio`, directly or through others",
                "- `launcher` must not reach `webhook-ingest`, directly or through others",
                "- `webhook-ingest` must not depend on `storage`",
                "- `webhook-ingest` must not reach `storage`, directly or through others",
                "- `cellar` is in the table, but is not a crate",
            ]
        );
    }
}
