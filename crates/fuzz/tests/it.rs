//! What must hold, for some thousand changed seeds each. Long runs are those of cargo-fuzz.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::path::Path;
use std::process::Command;

use gha_slurm_fuzz::TARGETS;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

/// Inputs of each target.
const CASES: u32 = 4_000;
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Pieces that parsers trip over.
const PIECES: [&str; 24] = [
    "",
    "\0",
    "\n",
    "\n\n",
    "\r",
    "|",
    ":",
    "-",
    ".",
    ",",
    "=",
    "/",
    "%",
    "\"",
    "'",
    "\\",
    "{",
    "[",
    "null",
    "-1",
    "0",
    "é",
    "\u{1f}",
    "99999999999999999999",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(ROOT).join("seeds").join(target);
    let files = std::fs::read_dir(&folder).unwrap();
    let mut seeds: Vec<_> = files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds
}

/// A seed of which up to six pieces were replaced by others, or by pieces of itself.
fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        select(PIECES.as_slice()).prop_map(|piece| piece.as_bytes().to_vec()),
        vec(any::<u8>(), 0..12),
        "\\PC{0,12}".prop_map(String::into_bytes),
        "[0-9]{1,24}".prop_map(String::into_bytes),
    ];
    let change = (any::<Index>(), 0..24_usize, piece);
    (select(seeds), vec(change, 0..6)).prop_map(|(mut bytes, changes)| {
        for (at, length, piece) in changes {
            let from = at.index(bytes.len() + 1);
            let to = (from + length).min(bytes.len());
            bytes.splice(from..to, piece);
        }
        bytes
    })
}

#[test]
fn whatever_is_thrown_at_a_parser_it_holds() {
    for (name, target) in TARGETS {
        let config = Config {
            cases: CASES,
            // The input that fails is printed; a unit test beside the parser keeps it.
            failure_persistence: None,
            ..Config::default()
        };
        let outcome = TestRunner::new(config).run(&inputs(seeds(name)), |bytes| {
            target(&bytes);
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{name}: {error}");
        }
    }
}

/// In JavaScript, as the container hook is.
#[test]
fn options_of_containers_are_those_that_are_offered() {
    let run = Command::new("node")
        .arg(Path::new(ROOT).join("container-options.js"))
        .arg((CASES * 5).to_string())
        .output();
    let Ok(run) = run else {
        return gha_slurm_test_support::skip("node is not installed");
    };
    let printed = String::from_utf8_lossy(&run.stdout);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{printed}{errors}");
}

/// The names in fuzz/Cargo.toml and the folders of seeds are those of the targets.
#[test]
fn each_target_can_be_run_by_cargo_fuzz() {
    let manifest = std::fs::read_to_string(Path::new(ROOT).join("fuzz/Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let file =
            std::fs::read_to_string(Path::new(ROOT).join(format!("fuzz/fuzz_targets/{name}.rs")))
                .unwrap();
        assert!(file.contains(&format!("gha_slurm_fuzz::{name}(")), "{file}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}
