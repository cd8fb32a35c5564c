//! Who asks the system for the time. Services and libraries are given a `Clock`, so that tests can set the time.

use std::path::Path;

use anyhow::Result;
use syn::ExprPath;
use syn::visit::{self, Visit};

use crate::source::{self, Module};

/// The one file that may: it makes the system's `Clock`.
const CLOCK: &str = "src/clock.rs";
/// Crates that only tests and measurements use.
const FOR_TESTS: [&str; 6] = ["bench", "e2e", "fuzz", "simulator", "test-support", "xtask"];

/// Fails with every place that asks.
pub(crate) fn check(root: &Path) -> Result<()> {
    source::check(root, "the time comes from a Clock that is passed in", lines)
}

fn lines(name: &str, module: &Module) -> Vec<usize> {
    let may_ask = name == "domain" && module.file == Path::new(CLOCK);
    if may_ask || FOR_TESTS.contains(&name) {
        return Vec::new();
    }
    let mut times = Times { lines: Vec::new() };
    for item in &module.items {
        times.visit_item(item);
    }
    times.lines
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
        let found = source::places("domain", &module(CLOCK), &lines);
        assert!(found.is_empty());
        assert_eq!(
            source::places("attic", &module(CLOCK), &lines),
            [2, 3, 4].map(|line| format!("- `attic`: {CLOCK}:{line}"))
        );
    }
}
