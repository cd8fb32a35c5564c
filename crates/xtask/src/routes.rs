//! `docs/security/routes.md`: which credential opens which route, from the OpenAPI documents of the services; committed, and compared in
//! tests. A route that no document has, or that declares no security, is an error. That services keep to it is tested over HTTP by
//! `attacks::routes` of the crate `e2e`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use syn::visit::{self, Visit};
use syn::{Expr, ExprCall, ExprLit, ExprMethodCall, Lit};

use crate::schemas;
use crate::source::{self, Module};

const FILE: &str = "docs/security/routes.md";
/// Crates with routes, and the OpenAPI documents (without `openapi/` and `.json`) that have them.
const SERVICES: [(&str, &str); 6] = [
    ("webhook-ingest", "webhook-ingest"),
    ("token-broker", "token-broker"),
    ("repo-mapping", "repo-mapping"),
    ("launcher", "launcher"),
    ("slurm-agent", "gha-slurm-munge"),
    ("service-kit", "operations"),
];
/// It registers the paths of a constant, which are those of token-broker.
const RELAY: &str = "src/relay.rs";
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// Writes the page.
pub(crate) fn write(root: &Path) -> Result<()> {
    let path = root.join(FILE);
    std::fs::create_dir_all(path.parent().unwrap_or(root))?;
    std::fs::write(path, page()?).context(FILE)
}

/// Fails where the page is not that of the documents, and where a service has a route that no document has.
pub(crate) fn check(root: &Path) -> Result<()> {
    let text = std::fs::read_to_string(root.join(FILE)).context(FILE)?;
    ensure!(
        text == page()?,
        "{FILE} differs from the OpenAPI documents: run `cargo xtask schemas` and commit the result"
    );
    let documents = documents()?;
    let broker = documents
        .get("token-broker")
        .map(paths_of)
        .unwrap_or_default();
    for path in gha_slurm_slurm_agent::RELAYED_PATHS {
        ensure!(
            broker.contains(path),
            "the relay passes on {path}, which token-broker does not have"
        );
    }
    let mut unknown = Vec::new();
    for target in source::targets(root)? {
        let Some((_, name)) = SERVICES.iter().find(|(crate_, _)| *crate_ == target.name) else {
            continue;
        };
        let documented = documents
            .get(*name)
            .with_context(|| format!("no openapi/{name}.json"))?;
        undocumented(
            &target.name,
            &target.root,
            &paths_of(documented),
            &mut unknown,
        );
    }
    ensure!(
        unknown.is_empty(),
        "routes without an OpenAPI path (add `#[utoipa::path]` with `security(…)`, and name it in the service's document):\n{}",
        unknown.join("\n")
    );
    Ok(())
}

fn documents() -> Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    for (name, text) in schemas::generate()? {
        let stem = name
            .strip_prefix("openapi/")
            .and_then(|name| name.strip_suffix(".json"));
        if let Some(stem) = stem {
            found.insert(stem.to_owned(), serde_json::from_str(&text)?);
        }
    }
    Ok(found)
}

fn paths_of(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object();
    paths
        .into_iter()
        .flatten()
        .map(|(path, _)| path.clone())
        .collect()
}

fn page() -> Result<String> {
    let mut text = String::from(
        "# Routes and rights\n\n\
         Which credential opens which HTTP route. Written by `cargo xtask schemas` from the services' OpenAPI documents \
         ([proto-schemas/openapi](../../proto-schemas/openapi));\na test calls each route with each kind of credential, and with none. \
         Everything else is answered with 404.\n[threat-model.md](threat-model.md) says what a credential opens in the wrong hands.\n",
    );
    let documents = documents()?;
    for (_, name) in SERVICES {
        let document = documents
            .get(name)
            .with_context(|| format!("no openapi/{name}.json"))?;
        section(&mut text, name, document)?;
    }
    let relayed: Vec<String> = gha_slurm_slurm_agent::RELAYED_PATHS
        .iter()
        .map(|path| format!("`POST {path}`"))
        .collect();
    let _ = write!(
        text,
        "\n## The agent's relay\n\n{} are passed on to token-broker, which decides; calls without `Authorization` are not.\n",
        relayed.join(", ")
    );
    Ok(text)
}

/// One service: its routes, then its credentials.
fn section(text: &mut String, name: &str, document: &Value) -> Result<()> {
    let said = document
        .pointer("/info/description")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let _ = write!(
        text,
        "\n## {name}\n\n{said}\n\n| route | credential |\n|---|---|\n"
    );
    let mut named = BTreeSet::new();
    for (path, operations) in document
        .get("paths")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            if !METHODS.contains(&method.as_str()) {
                continue;
            }
            let route = format!("{} {path}", method.to_uppercase());
            let schemes = schemes_of(operation).with_context(|| {
                format!("{name}: {route} declares no `security`: name the credential, or write `security(())` for everybody")
            })?;
            let words: Vec<String> = schemes.iter().map(|scheme| in_words(scheme)).collect();
            let _ = writeln!(text, "| `{route}` | {} |", words.join(", or "));
            named.extend(schemes);
        }
    }
    named.remove("");
    if named.is_empty() {
        return Ok(());
    }
    let _ = write!(text, "\n| credential | is |\n|---|---|\n");
    for scheme in named {
        let said = document
            .pointer(&format!("/components/securitySchemes/{scheme}/description"))
            .and_then(Value::as_str);
        let said = said
            .with_context(|| format!("{name}: the security scheme {scheme} has no description"))?;
        let _ = writeln!(text, "| {} | {said} |", in_words(&scheme));
    }
    Ok(())
}

/// The security schemes of which one is needed; an empty name stands for none. `None`: not declared.
fn schemes_of(operation: &Value) -> Option<Vec<String>> {
    let declared = operation["security"]
        .as_array()
        .filter(|list| !list.is_empty())?;
    let schemes = declared.iter().map(|one| {
        let names = one
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone());
        names.collect::<Vec<_>>().join(" and ")
    });
    Some(schemes.collect())
}

/// `launchToken` as `launch token`.
fn in_words(scheme: &str) -> String {
    if scheme.is_empty() {
        return "none".to_owned();
    }
    let words = scheme.chars().fold(String::new(), |mut words, letter| {
        if letter.is_uppercase() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
        words
    });
    words.replace("munge", "MUNGE")
}

/// Adds every path that the module, or one below it, registers and no document has. Paths within a scope are ends of documented ones.
fn undocumented(
    name: &str,
    module: &Module,
    documented: &BTreeSet<String>,
    found: &mut Vec<String>,
) {
    let mut registered = Registered::default();
    for item in &module.items {
        registered.visit_item(item);
    }
    for path in registered.paths {
        let known = match &path {
            Some(path) => documented
                .iter()
                .any(|known| known.ends_with(path.as_str())),
            None => name == "slurm-agent" && module.file == Path::new(RELAY),
        };
        if !known {
            let path = path.as_deref().unwrap_or("a path that is no literal");
            found.push(format!("- `{name}`: {}: {path}", module.file.display()));
        }
    }
    for child in &module.children {
        undocumented(name, child, documented, found);
    }
}

/// What is registered with actix-web: `web::resource(…)`, `.route(path, …)`. `None`: no literal.
#[derive(Default)]
struct Registered {
    paths: Vec<Option<String>>,
}

fn literal(expression: Option<&Expr>) -> Option<String> {
    match expression {
        Some(Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        })) => Some(text.value()),
        _ => None,
    }
}

impl Visit<'_> for Registered {
    fn visit_expr_call(&mut self, call: &ExprCall) {
        if let Expr::Path(function) = &*call.func
            && function
                .path
                .segments
                .last()
                .is_some_and(|last| last.ident == "resource")
        {
            self.paths.push(literal(call.args.first()));
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &ExprMethodCall) {
        // `Resource::route` takes no path.
        if call.method == "route" && call.args.len() == 2 {
            self.paths.push(literal(call.args.first()));
        }
        visit::visit_expr_method_call(self, call);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_has_every_route_of_every_service() {
        check(&crate::root()).unwrap();
    }

    #[test]
    fn a_route_without_security_is_an_error() {
        let document = |security: Value| {
            let mut operation = json!({"operationId": "open"});
            if !security.is_null() {
                operation["security"] = security;
            }
            json!({"paths": {"/door": {"get": operation}}, "components": {"securitySchemes": {"frontKey": {"description": "A key."}}}})
        };
        for undeclared in [Value::Null, json!([])] {
            let error = section(&mut String::new(), "house", &document(undeclared)).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("house: GET /door declares no `security`"),
                "{error}"
            );
        }
        let mut text = String::new();
        section(&mut text, "house", &document(json!([{}, {"frontKey": []}]))).unwrap();
        assert!(
            text.contains("| `GET /door` | none, or front key |"),
            "{text}"
        );
        assert!(text.contains("| front key | A key. |"), "{text}");
    }

    #[test]
    fn a_route_that_no_document_has_is_found() {
        let text = r#"
            fn configure(config: &mut ServiceConfig) {
                config
                    .service(web::scope("/api").service(web::resource("/builds").route(web::get().to(list))))
                    .service(web::resource("/back/door").route(web::get().to(open)))
                    .route("/cellar", web::post().to(dig));
                for path in PATHS { config.service(web::resource(path)); }
            }
        "#;
        let module = Module {
            name: String::new(),
            file: "src/routes.rs".into(),
            items: syn::parse_file(text).unwrap().items,
            children: Vec::new(),
        };
        let mut found = Vec::new();
        undocumented(
            "house",
            &module,
            &BTreeSet::from(["/api/builds".to_owned()]),
            &mut found,
        );
        found.sort();
        assert_eq!(
            found,
            ["/back/door", "/cellar", "a path that is no literal"]
                .map(|path| format!("- `house`: src/routes.rs: {path}"))
        );
    }
}
