//! Who asks the system for the time. Services and libraries are given a `Clock`, so that tests can set the time.

use std::path::Path;

use anyhow::{Result, bail};
use syn::ExprPath;
use syn::visit::{self, Visit};

use crate::source::{self, Module};

/// The one file that may: it makes the system's `Clock`.
const CLOCK: &str = "src/clock.rs";
/// Crates that only tests and measurements use.
const FOR_TESTS: [&str; 5] = ["bench", "e2e", "simulator", "test-support", "xtask"];

/// Fails with every place that asks.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut found = Vec::new();
    for target in source::targets(root)? {
        if !FOR_TESTS.contains(&target.name.as_str()) {
            breaches(&target.name, &target.root, &mut found);
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    bail!(
        "the time comes from a Clock that is passed in:\n{}",
        found.join("\n")
    )
}

fn breaches(name: &str, module: &Module, found: &mut Vec<String>) {
    if !(name == "domain" && module.file == Path::new(CLOCK)) {
        let mut times = Times { lines: Vec::new() };
        for item in &module.items {
            times.visit_item(item);
        }
        let file = module.file.display();
        let lines = times.lines.iter();
        found.extend(lines.map(|line| format!("- `{name}`: {file}:{line}")));
    }
    for child in &module.children {
        breaches(name, child, found);
    }
}

struct Times {
    lines: Vec<usize>,
}

impl Visit<'_> for Times {
    /// `Utc::now` and `SystemTime::now`, called or passed on.
    fn visit_expr_path(&mut self, path: &ExprPath) {
        let mut names = path.path.segments.iter().rev().map(|part| &part.ident);
        if let (Some(now), Some(of)) = (names.next(), names.next())
            && now == "now"
            && (of == "Utc" || of == "SystemTime")
        {
            self.lines.push(now.span().start().line);
        }
        visit::visit_expr_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asks_the_system_for_the_time() {
        check(&crate::root()).unwrap();
    }

    #[test]
    fn questions_for_the_time_are_found() {
        let text = r"
            fn a() { let at = chrono::Utc::now(); }
            fn b() -> Clock { Clock::new(Utc::now) }
            fn c() { take(std::time::SystemTime::now()); }
            fn fine(clock: &Clock) { let (at, begun) = (clock.now(), Instant::now()); }
        ";
        let module = |file: &str| Module {
            name: String::new(),
            file: file.into(),
            items: syn::parse_file(text).unwrap().items,
            children: Vec::new(),
        };
        let mut found = Vec::new();
        breaches("domain", &module(CLOCK), &mut found);
        assert!(found.is_empty());
        breaches("attic", &module(CLOCK), &mut found);
        assert_eq!(
            found,
            [2, 3, 4].map(|line| format!("- `attic`: {CLOCK}:{line}"))
        );
    }
}
