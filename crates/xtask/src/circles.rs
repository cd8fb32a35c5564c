//! Circles of modules: files of a crate that all use one another, directly or through others. Two files may; more can only
//! be understood together.
//!
//! A path of code (`use crate::a::B`, `super::a::b()`, `a::b()` of a child module) is an edge to the file that defines what it
//! names: re-exports are followed, and are no edges themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

use crate::source::{self, Module, Target, only_for_tests};

/// Most files of a circle.
const ALLOWED: usize = 2;
/// Most re-exports that are followed for one path.
const MAX_REEXPORTS: usize = 16;

/// Fails with every circle, and the edges that make it.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut found = String::new();
    for target in source::targets(root)? {
        found += &report(&target);
    }
    if found.is_empty() {
        return Ok(());
    }
    bail!("modules of more than {ALLOWED} files use one another in a circle:\n{found}")
}

/// The circles of one crate, one paragraph each.
fn report(target: &Target) -> String {
    let graph = Graph::new(&target.root);
    let edges = graph.edges();
    let mut text = String::new();
    for circle in circles(&edges) {
        let _ = writeln!(text, "- `{}`: {} files", target.name, circle.len());
        for ((from, to), paths) in &edges {
            if circle.contains(from.as_path()) && circle.contains(to.as_path()) {
                let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
                let (from, to) = (from.display(), to.display());
                let _ = writeln!(text, "    {from} -> {to}: {}", paths.join(", "));
            }
        }
    }
    text
}

/// Which file uses which, by which paths.
type Edges = BTreeMap<(PathBuf, PathBuf), BTreeSet<String>>;

/// Files that reach one another, in groups larger than allowed.
fn circles(edges: &Edges) -> Vec<BTreeSet<&Path>> {
    let mut next: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        next.entry(from).or_default().insert(to);
    }
    let reached: BTreeMap<&Path, BTreeSet<&Path>> = next
        .keys()
        .map(|start| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![*start]);
            while let Some(file) = open.pop() {
                let new = next.get(file).into_iter().flatten();
                open.extend(new.filter(|file| seen.insert(**file)));
            }
            (*start, seen)
        })
        .collect();
    let circle_of = |file: &Path| -> BTreeSet<&Path> {
        let others = reached.get(file).into_iter().flatten();
        others
            .filter(|other| reached.get(*other).is_some_and(|back| back.contains(file)))
            .copied()
            .collect()
    };
    let circles: BTreeSet<_> = reached.keys().map(|file| circle_of(file)).collect();
    circles.into_iter().filter(|c| c.len() > ALLOWED).collect()
}

/// Index of a module in [`Graph::modules`].
type Id = usize;

/// The modules of a crate; the first is the root.
struct Graph {
    modules: Vec<Node>,
}

struct Node {
    file: PathBuf,
    parent: Option<Id>,
    children: BTreeMap<String, Id>,
    mentions: Mentions,
}

/// What the code of a module names.
#[derive(Default)]
struct Mentions {
    /// Paths of at least two words; those of `use`, too, if they do not re-export.
    paths: BTreeSet<Vec<String>>,
    /// Names that `use` brings into the module, and what they stand for.
    imports: BTreeMap<String, Vec<String>>,
    /// Modules of which `use` brings everything.
    globs: Vec<Vec<String>>,
    /// Names of items that the module defines.
    defined: BTreeSet<String>,
}

impl Graph {
    fn new(root: &Module) -> Self {
        let mut graph = Self {
            modules: Vec::new(),
        };
        graph.add(root, None);
        graph
    }

    fn add(&mut self, module: &Module, parent: Option<Id>) -> Id {
        let mut mentions = Mentions::default();
        for item in &module.items {
            mentions.visit_item(item);
            mentions.defined.extend(name_of(item));
        }
        let id = self.modules.len();
        self.modules.push(Node {
            file: module.file.clone(),
            parent,
            children: BTreeMap::new(),
            mentions,
        });
        for child in &module.children {
            let child_id = self.add(child, Some(id));
            if let Some(node) = self.modules.get_mut(id) {
                node.children.insert(child.name.clone(), child_id);
            }
        }
        id
    }

    fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (id, node) in self.modules.iter().enumerate() {
            let mentions = &node.mentions;
            for path in mentions.paths.iter().chain(&mentions.globs) {
                let to = self.resolve(id, path, MAX_REEXPORTS);
                let Some(to) = to.and_then(|to| self.modules.get(to)) else {
                    continue;
                };
                if to.file != node.file {
                    let edge = (node.file.clone(), to.file.clone());
                    edges.entry(edge).or_default().insert(path.join("::"));
                }
            }
        }
        edges
    }

    /// The module that defines what `path` names in the module `from`; `None`: another crate's.
    fn resolve(&self, from: Id, path: &[String], reexports: usize) -> Option<Id> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.walk(0, rest, reexports),
            "self" => self.walk(from, rest, reexports),
            "super" => {
                let mut parent = self.modules.get(from)?.parent?;
                let mut rest = rest;
                while let Some(("super", more)) = rest.split_first().map(|(f, m)| (f.as_str(), m)) {
                    parent = self.modules.get(parent)?.parent?;
                    rest = more;
                }
                self.walk(parent, rest, reexports)
            }
            name => {
                let node = self.modules.get(from)?;
                if let Some(child) = node.children.get(name) {
                    return self.walk(*child, rest, reexports);
                }
                let target = node.mentions.imports.get(name)?;
                let same = target.first().is_some_and(|first| first == name);
                // `use serde::Serialize` and `use serde;` name other crates.
                (!same).then_some(())?;
                let path: Vec<String> = target.iter().chain(rest).cloned().collect();
                self.resolve(from, &path, reexports.checked_sub(1)?)
            }
        }
    }

    /// The module that defines what `path` names, seen from within `module`.
    fn walk(&self, module: Id, path: &[String], reexports: usize) -> Option<Id> {
        let Some((name, rest)) = path.split_first() else {
            return Some(module);
        };
        let node = self.modules.get(module)?;
        if let Some(child) = node.children.get(name) {
            return self.walk(*child, rest, reexports);
        }
        let mentions = &node.mentions;
        if mentions.defined.contains(name) {
            return Some(module);
        }
        let reexports = reexports.checked_sub(1)?;
        if let Some(target) = mentions.imports.get(name) {
            let path: Vec<String> = target.iter().chain(rest).cloned().collect();
            return self.resolve(module, &path, reexports);
        }
        let behind = mentions.globs.iter().find_map(|glob| {
            let behind = self.resolve(module, glob, reexports)?;
            let found = self.walk(behind, path, reexports)?;
            self.defines(found, path).then_some(found)
        });
        // What no syntax shows, such as what a macro makes.
        Some(behind.unwrap_or(module))
    }

    fn defines(&self, module: Id, path: &[String]) -> bool {
        let node = self.modules.get(module);
        node.is_some_and(|node| path.iter().any(|name| node.mentions.defined.contains(name)))
    }
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

impl Mentions {
    fn import(&mut self, tree: &UseTree, mut path: Vec<String>, reexport: bool) {
        let (ident, known_as) = match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                return self.import(&part.tree, path, reexport);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, path.clone(), reexport);
                }
                return;
            }
            UseTree::Glob(_) => return self.globs.push(path),
            UseTree::Name(name) => (&name.ident, &name.ident),
            UseTree::Rename(rename) => (&rename.ident, &rename.rename),
        };
        let mut known_as = known_as.to_string();
        // `use a::{self}` is `use a`.
        if ident != "self" || path.is_empty() {
            path.push(ident.to_string());
        } else if known_as == "self" {
            known_as = path.last().cloned().unwrap_or_default();
        }
        if !reexport {
            self.paths.insert(path.clone());
        }
        self.imports.insert(known_as, path);
    }

    /// Paths in what is given to a macro.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.path(std::mem::take(&mut path));
                    }
                    colons = 0;
                    path.push(ident.to_string());
                }
                other => {
                    colons = 0;
                    self.path(std::mem::take(&mut path));
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.path(path);
    }

    fn path(&mut self, path: Vec<String>) {
        if path.len() > 1 {
            self.paths.insert(path);
        }
    }
}

impl Visit<'_> for Mentions {
    fn visit_item(&mut self, item: &Item) {
        if !only_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        let reexport = !matches!(item.vis, Visibility::Inherited);
        self.import(&item.tree, Vec::new(), reexport);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let words = path.segments.iter().map(|part| part.ident.to_string());
        self.path(words.collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_crate_has_a_circle() {
        check(&crate::root()).unwrap();
    }

    /// A crate of these files: name and text.
    fn report_of(files: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let file = folder.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        report(&Target {
            name: "attic".into(),
            root: source::read(folder.path(), Path::new("src/lib.rs")).unwrap(),
        })
    }

    #[test]
    fn a_circle_is_reported_with_its_edges() {
        let found = report_of(&[
            ("src/lib.rs", "mod a; mod b; mod c; mod d; pub use a::A;"),
            ("src/a.rs", "use crate::b::{self, B}; pub struct A(B);"),
            // By a path, in a macro, through a re-export, from a folder.
            ("src/b.rs", "pub struct B; fn f() { crate::c::inner::f() }"),
            ("src/c/mod.rs", "pub mod inner; mod other {}"),
            (
                "src/c/inner.rs",
                "pub fn f() { println!(\"{}\", crate::A::new()) }",
            ),
            ("src/d.rs", "use super::a::A; use crate::b::B;"),
        ]);
        assert_eq!(
            found,
            "- `attic`: 3 files\n    \
             src/a.rs -> src/b.rs: crate::b, crate::b::B\n    \
             src/b.rs -> src/c/inner.rs: crate::c::inner::f\n    \
             src/c/inner.rs -> src/a.rs: crate::A::new\n"
        );
    }

    #[test]
    fn two_files_may_use_one_another_and_tests_do_not_count() {
        let found = report_of(&[
            ("src/lib.rs", "mod a; mod b; mod c; use serde::c;"),
            (
                "src/a.rs",
                "use crate::b::B; use super::c::C; pub struct A;",
            ),
            ("src/b.rs", "use crate::a::A; pub struct B;"),
            (
                "src/c.rs",
                "pub struct C; #[cfg(test)] mod tests { use crate::a::A; } #[cfg(test)] use crate::a;",
            ),
        ]);
        assert_eq!(found, "");
    }

    #[test]
    fn inline_modules_and_globs_are_followed() {
        let found = report_of(&[
            (
                "src/lib.rs",
                "mod a; mod b; mod c; pub mod all { pub use crate::a::*; }",
            ),
            ("src/a.rs", "use crate::b::B; pub struct A;"),
            (
                "src/b.rs",
                "use crate::c::C as D; pub struct B; fn f(_: D) {}",
            ),
            (
                "src/c.rs",
                "mod inside { use super::super::all::A; } pub struct C;",
            ),
        ]);
        assert!(found.contains("src/c.rs -> src/a.rs"), "{found}");
        assert!(found.starts_with("- `attic`: 3 files\n"), "{found}");
    }
}
