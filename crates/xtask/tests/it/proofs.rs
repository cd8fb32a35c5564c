//! The tables that say which test proves what.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const TABLES: [&str; 2] = ["slurm-agent/README.md", "e2e/README.md"];

/// `module::name` of each test function below `folder`, with modules named as their files.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let module = path.file_stem().unwrap().to_str().unwrap();
            for line in fs::read_to_string(&path).unwrap().lines() {
                let line = line.trim_start().trim_start_matches("async ");
                let name = line
                    .strip_prefix("fn ")
                    .and_then(|rest| rest.split('(').next());
                found.extend(name.map(|name| format!("{module}::{name}")));
            }
        }
    }
}

#[test]
fn every_test_that_a_table_names_is_there() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut there = BTreeSet::new();
    for member in fs::read_dir(&crates).unwrap().flatten() {
        for part in ["src", "tests"] {
            let folder = member.path().join(part);
            if folder.is_dir() {
                functions(&folder, &mut there);
            }
        }
    }
    for table in TABLES {
        let text = fs::read_to_string(crates.join(table)).unwrap();
        let rows = text.lines().filter(|line| line.starts_with('|'));
        let words = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
        let named: Vec<&str> = words.filter(|word| word.contains("::")).collect();
        assert!(named.len() > 20, "{table}: {named:?}");
        let missing: Vec<&str> = named.into_iter().filter(|n| !there.contains(*n)).collect();
        assert!(
            missing.is_empty(),
            "{table} names tests that are not there: {missing:#?}"
        );
    }
}
