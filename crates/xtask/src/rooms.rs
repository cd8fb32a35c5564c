//! The table of rooms in `docs/architecture.md`, checked against what cargo says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Package names carry it, rooms do not.
const PREFIX: &str = "gha-slurm-";
const SERVICES: [&str; 6] = [
    "webhook-ingest",
    "launcher",
    "token-broker",
    "repo-mapping",
    "slurm-agent",
    "token-signer",
];
/// Rooms that are neither services nor libraries: nothing that is shipped may depend on them.
const FOR_DEVELOPMENT: [&str; 5] = ["simulator", "test-support", "e2e", "bench", "xtask"];

/// One row of the table.
#[derive(Debug)]
struct Room {
    /// Rooms it may depend on; `None`: any.
    allowed: Option<BTreeSet<String>>,
    /// Rooms and packages that it must not reach, directly or through others.
    forbidden: BTreeSet<String>,
}

/// What the workspace looks like to the check.
struct Houses {
    /// Direct dependencies of each room on rooms.
    direct: BTreeMap<String, BTreeSet<String>>,
    /// Everything each room reaches: rooms by room name, packages by package name.
    reached: BTreeMap<String, BTreeSet<String>>,
}

/// Fails with every breach, one a line.
pub(crate) fn check(root: &Path) -> Result<()> {
    let document = root.join("docs/architecture.md");
    let text = std::fs::read_to_string(&document)
        .with_context(|| format!("cannot read {}", document.display()))?;
    let houses = houses(&metadata(root)?);
    let breaches = breaches(&table(&text, &houses)?, &houses);
    if breaches.is_empty() {
        return Ok(());
    }
    bail!(
        "the rooms of docs/architecture.md are not kept:\n{}",
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

fn houses(metadata: &Metadata) -> Houses {
    let members: BTreeSet<&PackageId> = metadata.workspace_members.iter().collect();
    let name_of: BTreeMap<&PackageId, &str> = metadata
        .packages
        .iter()
        .map(|package| {
            let name = package.name.as_str();
            let ours = members.contains(&package.id);
            let room = name.strip_prefix(PREFIX).filter(|_| ours);
            (&package.id, room.unwrap_or(name))
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

    let mut houses = Houses {
        direct: BTreeMap::new(),
        reached: BTreeMap::new(),
    };
    for member in &members {
        let direct = edges(member).into_iter().filter(|id| members.contains(id));
        houses
            .direct
            .insert(name(member), direct.map(name).collect());
        let mut seen = BTreeSet::new();
        let mut open = edges(member);
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(edges(id));
            }
        }
        houses
            .reached
            .insert(name(member), seen.into_iter().map(name).collect());
    }
    houses
}

/// Reads the table under "## Rooms".
fn table(text: &str, houses: &Houses) -> Result<BTreeMap<String, Room>> {
    let rooms = text
        .split_once("\n## Rooms\n")
        .context("docs/architecture.md has no section \"## Rooms\"")?
        .1;
    let mut table = BTreeMap::new();
    for line in rooms.lines().take_while(|line| !line.starts_with("## ")) {
        let Some(row) = line.strip_prefix("| `") else {
            continue;
        };
        let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").collect();
        let [name, _, allowed, forbidden] = cells.as_slice() else {
            bail!("docs/architecture.md: this row of the rooms has not four columns: {line}");
        };
        let name = name.trim_end_matches('`').to_owned();
        let room = Room {
            allowed: allowed_rooms(&name, allowed, houses)?,
            forbidden: forbidden_names(&name, forbidden),
        };
        table.insert(name, room);
    }
    Ok(table)
}

fn libraries(houses: &Houses) -> BTreeSet<String> {
    let not = |name: &&String| {
        !SERVICES.contains(&name.as_str())
            && !FOR_DEVELOPMENT.contains(&name.as_str())
            && name.as_str() != "cli"
    };
    houses.direct.keys().filter(not).cloned().collect()
}

fn allowed_rooms(name: &str, cell: &str, houses: &Houses) -> Result<Option<BTreeSet<String>>> {
    let mut rooms = match cell.trim() {
        "any" => return Ok(None),
        "–" => BTreeSet::new(),
        "any library" => libraries(houses),
        list => {
            let mut rooms = BTreeSet::new();
            for word in list.split(',') {
                // "auth (public half)" is about people, not about cargo.
                let room = word.split('(').next().unwrap_or(word).trim();
                if !houses.direct.contains_key(room) {
                    bail!(
                        "docs/architecture.md: `{name}` may depend on {room:?}, which is no room"
                    );
                }
                rooms.insert(room.to_owned());
            }
            rooms
        }
    };
    if name == "e2e" {
        rooms.extend(["simulator".to_owned(), "test-support".to_owned()]);
    }
    Ok(Some(rooms))
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

fn breaches(table: &BTreeMap<String, Room>, houses: &Houses) -> Vec<String> {
    let mut breaches = Vec::new();
    for (name, direct) in &houses.direct {
        let Some(room) = table.get(name) else {
            breaches.push(format!("- `{name}` is not in the table"));
            continue;
        };
        if let Some(allowed) = &room.allowed {
            for other in direct.difference(allowed) {
                breaches.push(format!("- `{name}` may not depend on `{other}`"));
            }
        }
        let reached = houses.reached.get(name).cloned().unwrap_or_default();
        for other in reached.intersection(&room.forbidden) {
            breaches.push(format!("- `{name}` must not see `{other}`, but reaches it"));
        }
    }
    for name in table
        .keys()
        .filter(|name| !houses.direct.contains_key(*name))
    {
        breaches.push(format!("- `{name}` is in the table, but is no crate"));
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rooms_are_kept() {
        check(&crate::root()).unwrap();
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn breaches_are_named() {
        let mut houses = Houses {
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
            houses.direct.insert(name.to_owned(), direct);
            houses.reached.insert(name.to_owned(), reached);
        }
        let text = "\n## Rooms\n\
            | crate | owns | may depend on (ours) | must not see |\n\
            |---|---|---|---|\n\
            | `domain` | words | – | async: `tokio` |\n\
            | `storage` | rows | domain | – |\n\
            | `webhook-ingest` | service | domain | `storage` |\n\
            | `launcher` | service | any | other services |\n\
            | `cellar` | nothing | any | – |\n\
            ## Next\n";
        let found = breaches(&table(text, &houses).unwrap(), &houses);
        assert_eq!(
            found,
            [
                "- `attic` is not in the table",
                "- `domain` must not see `tokio`, but reaches it",
                "- `launcher` must not see `webhook-ingest`, but reaches it",
                "- `webhook-ingest` may not depend on `storage`",
                "- `webhook-ingest` must not see `storage`, but reaches it",
                "- `cellar` is in the table, but is no crate",
            ]
        );
    }
}
