//! Errors that are strings. Callers cannot tell one from another, so errors are types; their text is for people.

use std::path::Path;

use anyhow::Result;
use syn::visit::{self, Visit};
use syn::{GenericArgument, ImplItemType, PathArguments, Type, TypePath};

use crate::source::{self, Module};

/// Fails with every place that names such a type.
pub(crate) fn check(root: &Path) -> Result<()> {
    source::check(root, "errors are types, not strings", lines)
}

fn lines(_: &str, module: &Module) -> Vec<usize> {
    let mut errors = StringErrors { lines: Vec::new() };
    for item in &module.items {
        errors.visit_item(item);
    }
    errors.lines
}

struct StringErrors {
    lines: Vec<usize>,
}

impl Visit<'_> for StringErrors {
    /// `Result<T, String>` and `Result<T, &str>`.
    fn visit_type_path(&mut self, path: &TypePath) {
        let last = path.path.segments.last();
        if let Some(last) = last.filter(|last| last.ident == "Result")
            && let PathArguments::AngleBracketed(arguments) = &last.arguments
            && let Some(GenericArgument::Type(error)) = arguments.args.iter().nth(1)
            && is_text(error)
        {
            self.lines.push(last.ident.span().start().line);
        }
        visit::visit_type_path(self, path);
    }

    /// `type Err = String` of an implementation.
    fn visit_impl_item_type(&mut self, item: &ImplItemType) {
        if (item.ident == "Err" || item.ident == "Error") && is_text(&item.ty) {
            self.lines.push(item.ident.span().start().line);
        }
        visit::visit_impl_item_type(self, item);
    }
}

fn is_text(kind: &Type) -> bool {
    match kind {
        Type::Reference(reference) => is_text(&reference.elem),
        Type::Path(path) => {
            let last = path.path.segments.last();
            last.is_some_and(|last| last.ident == "String" || last.ident == "str")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_is_a_string() {
        check(&crate::root()).unwrap();
    }

    #[test]
    fn string_errors_are_found() {
        let text = r#"
            fn a() -> Result<Vec<u8>, String> { Err("no".into()) }
            fn b(f: fn() -> std::result::Result<(), &'static str>) {}
            impl FromStr for X { type Err = String; }
            fn fine() -> Result<String, Typed> { Ok(String::new()) }
        "#;
        let module = Module {
            name: String::new(),
            file: "src/lib.rs".into(),
            items: syn::parse_file(text).unwrap().items,
            children: Vec::new(),
        };
        assert_eq!(
            source::places("attic", &module, &lines),
            [2, 3, 4].map(|line| format!("- `attic`: src/lib.rs:{line}"))
        );
    }
}
