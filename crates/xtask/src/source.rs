//! The Rust sources of the workspace's crates as syntax trees, without what is only compiled for tests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use syn::{Attribute, File, Item, ItemMod};

/// Package names carry it, crate names in the documents do not.
pub(crate) const PREFIX: &str = "gha-slurm-";

/// A library or a program: a tree of modules.
pub(crate) struct Target {
    /// The crate's name without the prefix.
    pub(crate) name: String,
    /// `lib.rs`, `main.rs` or a program of `src/bin`.
    pub(crate) root: Module,
}

/// A module with a file of its own, or written inside another module.
pub(crate) struct Module {
    /// As `use` names it; empty for the root.
    pub(crate) name: String,
    /// The file it stands in, relative to the crate's folder.
    pub(crate) file: PathBuf,
    /// Everything in it but modules.
    pub(crate) items: Vec<Item>,
    pub(crate) children: Vec<Module>,
}

/// Every library and program of the workspace.
pub(crate) fn targets(root: &Path) -> Result<Vec<Target>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    let mut targets = Vec::new();
    for package in &metadata.packages {
        let folder = package.manifest_path.parent().context("no folder")?;
        let name = package.name.as_str();
        for target in &package.targets {
            if target.is_lib() || target.is_bin() {
                let file = target.src_path.strip_prefix(folder)?;
                targets.push(Target {
                    name: name.strip_prefix(PREFIX).unwrap_or(name).to_owned(),
                    root: read(folder.as_std_path(), file.as_std_path())?,
                });
            }
        }
    }
    Ok(targets)
}

/// Reads the file and the files of its modules.
pub(crate) fn read(folder: &Path, file: &Path) -> Result<Module> {
    let children_in = file.parent().unwrap_or(Path::new("")).to_path_buf();
    let items = parse(folder, file)?.items;
    module(folder, file, &children_in, String::new(), items)
}

fn parse(folder: &Path, file: &Path) -> Result<File> {
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    syn::parse_file(&text).with_context(|| format!("cannot parse {}", path.display()))
}

/// `children_in` is the folder that holds the files of its modules.
fn module(
    folder: &Path,
    file: &Path,
    children_in: &Path,
    name: String,
    items: Vec<Item>,
) -> Result<Module> {
    let (mut kept, mut children) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Mod(inner) if !only_for_tests(&inner.attrs) => {
                children.push(child(folder, file, children_in, inner)?);
            }
            Item::Mod(_) => {}
            item => kept.push(item),
        }
    }
    Ok(Module {
        name,
        file: file.to_path_buf(),
        items: kept,
        children,
    })
}

fn child(folder: &Path, parent: &Path, children_in: &Path, declared: ItemMod) -> Result<Module> {
    let name = declared.ident.to_string();
    let inner = children_in.join(&name);
    if let Some((_, items)) = declared.content {
        return module(folder, parent, &inner, name, items);
    }
    let beside = children_in.join(format!("{name}.rs"));
    let file = if folder.join(&beside).is_file() {
        beside
    } else {
        inner.join("mod.rs")
    };
    let items = parse(folder, &file)?.items;
    module(folder, &file, &inner, name, items)
}

/// Every line of the module, and of those below it, that `lines` finds in a module, with the crate and the file.
pub(crate) fn places(
    name: &str,
    module: &Module,
    lines: &impl Fn(&str, &Module) -> Vec<usize>,
) -> Vec<String> {
    let file = module.file.display();
    let own = lines(name, module).into_iter();
    let own = own.map(|line| format!("- `{name}`: {file}:{line}"));
    let below = module.children.iter();
    own.chain(below.flat_map(|child| places(name, child, lines)))
        .collect()
}

/// Fails with `rule` and every place of the workspace that breaks it.
pub(crate) fn check(
    root: &Path,
    rule: &str,
    lines: impl Fn(&str, &Module) -> Vec<usize>,
) -> Result<()> {
    let targets = targets(root)?;
    let found: Vec<String> = targets
        .iter()
        .flat_map(|target| places(&target.name, &target.root, &lines))
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    bail!("{rule}:\n{}", found.join("\n"))
}

/// Whether the attributes hold `#[cfg(test)]`.
pub(crate) fn only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}
