#![doc = include_str!("../README.md")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use config::builder::DefaultState;
use config::{Config, ConfigBuilder, Environment, File, FileFormat, Value, ValueKind};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// A service's settings.
pub trait Settings: DeserializeOwned {
    /// Prefix of its environment variables, without the `__` that follows it.
    const PREFIX: &'static str;
    /// Keys that may also be given as `<key>_file` (TOML) or `<KEY>_FILE` (environment): the value is the file's text
    /// without its last newline.
    const SECRETS: &'static [&'static str];
}

/// Every key that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// Key → what is wrong and what is allowed.
    pub problems: BTreeMap<String, String>,
    prefix: &'static str,
}

impl std::error::Error for SettingsError {}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("wrong settings:")?;
        for (key, problem) in &self.problems {
            let variable = key.to_uppercase().replace('.', "__");
            write!(f, "\n  {key} ({}__{variable}): {problem}", self.prefix)?;
        }
        Ok(())
    }
}

/// Loads settings from `file` and `environment` (usually `std::env::vars()`).
pub fn load<S: Settings>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<S, SettingsError> {
    let mut builder = Config::builder();
    if let Some(file) = file {
        builder = builder.add_source(File::from(file).format(FileFormat::Toml).required(true));
    }
    read(builder, file, environment)
}

/// Loads settings from the text of a file.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn load_text<S: Settings>(text: &str) -> Result<S, SettingsError> {
    let text = File::from_str(text, FileFormat::Toml);
    read(Config::builder().add_source(text), None, [])
}

/// Adds the environment to what came from `file`.
fn read<S: Settings>(
    builder: ConfigBuilder<DefaultState>,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<S, SettingsError> {
    let error = |key: &str, problem: String| SettingsError {
        problems: BTreeMap::from([(key.to_owned(), problem)]),
        prefix: S::PREFIX,
    };
    let source = environment.into_iter().collect();
    let environment = Environment::with_prefix(S::PREFIX)
        .prefix_separator("__")
        .separator("__")
        .source(Some(source));
    let config = builder.add_source(environment).build().map_err(|e| {
        let path = file.map_or_else(String::new, |f| f.display().to_string());
        error("--config", format!("{path}: {e}"))
    })?;
    let mut tree = config.cache;
    let mut problems = BTreeMap::new();
    for secret in S::SECRETS {
        if let Err(problem) = read_secret_file(&mut tree, secret) {
            problems.insert(format!("{secret}_file"), problem.to_string());
        }
    }
    loop {
        match serde_path_to_error::deserialize::<_, S>(tree.clone()) {
            Ok(settings) if problems.is_empty() => return Ok(settings),
            Ok(_) => break,
            Err(e) => {
                let path = e.path().to_string();
                let mut text = e.into_inner().to_string();
                if let Some((head, _)) = text.split_once(" for key `") {
                    text.truncate(head.len());
                }
                if let Some(missing) = missing_key(&text) {
                    // Dropping a wrong key makes it, and then its section, missing: that is no news.
                    let below = format!("{missing}.");
                    if !problems
                        .keys()
                        .any(|k| *k == missing || k.starts_with(&below))
                    {
                        problems.insert(missing, "must be given".to_owned());
                    }
                } else {
                    problems.insert(path.clone(), text);
                }
                // Drop what is wrong and look for the next; nothing to drop means the outermost table is complete.
                if !remove(&mut tree, &path) {
                    break;
                }
            }
        }
    }
    Err(SettingsError {
        problems,
        prefix: S::PREFIX,
    })
}

fn missing_key(text: &str) -> Option<String> {
    let key = text
        .strip_prefix("missing configuration field \"")?
        .strip_suffix('"')?;
    Some(key.to_owned())
}

fn table(value: &mut Value) -> Option<&mut config::Map<String, Value>> {
    match &mut value.kind {
        ValueKind::Table(table) => Some(table),
        _ => None,
    }
}

fn remove(tree: &mut Value, path: &str) -> bool {
    let mut keys: Vec<&str> = path.split('.').collect();
    let Some(last) = keys.pop() else { return false };
    let mut at = tree;
    for key in keys {
        match table(at).and_then(|t| t.get_mut(key)) {
            Some(below) => at = below,
            None => return false,
        }
    }
    table(at).is_some_and(|t| t.remove(last).is_some())
}

/// Why the file of a secret is of no use.
#[derive(Debug, thiserror::Error)]
enum SecretFileError {
    #[error("{0}")]
    NotAPath(#[from] config::ConfigError),
    #[error("{path}: {source}")]
    Unreadable {
        path: String,
        source: std::io::Error,
    },
}

fn read_secret_file(tree: &mut Value, key: &str) -> Result<(), SecretFileError> {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut at = tree;
    for part in section.split('.').filter(|p| !p.is_empty()) {
        match table(at).and_then(|t| t.get_mut(part)) {
            Some(below) => at = below,
            None => return Ok(()),
        }
    }
    let Some(section) = table(at) else {
        return Ok(());
    };
    let Some(path) = section.remove(&format!("{name}_file")) else {
        return Ok(());
    };
    let path = path.into_string()?;
    let text = std::fs::read_to_string(&path).map_err(|source| SecretFileError::Unreadable {
        path: path.clone(),
        source,
    })?;
    let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
    section.insert(
        name.to_owned(),
        Value::new(Some(&path), ValueKind::String(text)),
    );
    Ok(())
}

/// Deserialises a secret that may not be empty.
pub fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.trim().is_empty() {
        return Err(serde::de::Error::custom("must not be empty"));
    }
    Ok(SecretString::from(text))
}

/// Deserialises a list of texts, or one text that `split` takes apart: an environment variable holds no list.
pub fn texts<'de, D: Deserializer<'de>>(
    deserializer: D,
    split: impl FnOnce(&str) -> Vec<String>,
) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(text) => split(&text),
        OneOrMore::More(list) => list,
    })
}

/// Deserialises one or several secrets: a list, or a text with one secret a line.
pub fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SecretString>, D::Error> {
    let lines = texts(deserializer, |text| {
        let lines = text.lines().map(str::trim);
        lines
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    })?;
    if lines.is_empty() || lines.iter().any(|l| l.trim().is_empty()) {
        return Err(serde::de::Error::custom(
            "must hold at least one secret, and none that is empty",
        ));
    }
    Ok(lines.into_iter().map(SecretString::from).collect())
}

/// What `--check-config` says about a path that settings were read from; `prefix` is that of environment variables.
pub fn describe_source(file: Option<&PathBuf>, prefix: &str) -> String {
    let mut text = String::from("settings are fine: ");
    match file {
        Some(file) => {
            let _ = write!(text, "{} and ", file.display());
        }
        None => text.push_str("defaults and "),
    }
    let _ = write!(text, "environment variables {prefix}__*");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::io::Write as _;
    use std::net::SocketAddr;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Http {
        listen: SocketAddr,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        http: Http,
        #[serde(default = "two")]
        workers: u32,
        webhook: Webhook,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Webhook {
        #[serde(deserialize_with = "secrets")]
        secret: Vec<SecretString>,
    }

    fn two() -> u32 {
        2
    }

    impl Settings for Example {
        const PREFIX: &'static str = "EXAMPLE";
        const SECRETS: &'static [&'static str] = &["webhook.secret"];
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn environment_beats_file_beats_default() {
        let f = file("workers = 3\n[http]\nlisten = '127.0.0.1:1'\n[webhook]\nsecret = '1234'\n");
        let s: Example = load(
            Some(f.path()),
            env(&[("EXAMPLE__HTTP__LISTEN", "127.0.0.1:2")]),
        )
        .unwrap();
        assert_eq!((s.workers, s.http.listen.port()), (3, 2));
        assert_eq!(s.webhook.secret[0].expose_secret(), "1234");
        let s: Example = load(
            Some(file("[http]\nlisten = '127.0.0.1:1'\n[webhook]\nsecret = ['a', 'b']\n").path()),
            env(&[("EXAMPLE__WORKERS", "5"), ("OTHER__WORKERS", "x")]),
        )
        .unwrap();
        assert_eq!((s.workers, s.webhook.secret.len()), (5, 2));
    }

    #[test]
    fn secrets_come_from_files_too() {
        let secret = file("old\nnew\n");
        let path = secret.path().to_str().unwrap();
        let s: Example = load(
            None,
            env(&[
                ("EXAMPLE__HTTP__LISTEN", "127.0.0.1:0"),
                ("EXAMPLE__WEBHOOK__SECRET_FILE", path),
            ]),
        )
        .unwrap();
        assert_eq!(s.webhook.secret.len(), 2);
    }

    #[test]
    fn every_wrong_key_is_named_at_once() {
        let f =
            file("wokers = 3\nworkers = 'many'\n[http]\nlisten = 'here'\n[webhook]\nsecret = ''\n");
        let error = load::<Example>(Some(f.path()), env(&[])).unwrap_err();
        let keys: Vec<&str> = error.problems.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["http.listen", "webhook.secret", "wokers", "workers"],
            "{error}"
        );
        assert!(
            error.to_string().contains("EXAMPLE__HTTP__LISTEN"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_key_and_a_missing_file_are_named() {
        let error =
            load::<Example>(None, env(&[("EXAMPLE__HTTP__LISTEN", "127.0.0.1:0")])).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("webhook (EXAMPLE__WEBHOOK): must be given"),
            "{error}"
        );
        let error = load::<Example>(Some(Path::new("/nowhere.toml")), env(&[])).unwrap_err();
        assert!(error.to_string().contains("/nowhere.toml"), "{error}");
    }
}
