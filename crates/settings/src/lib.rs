#![doc = include_str!("../README.md")]

mod address;
mod database;
mod pem;
mod secret;

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use config::builder::DefaultState;
use config::{Config, ConfigBuilder, Environment, File, FileFormat, Value, ValueKind};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use address::Unprotected;

pub use address::{Address, AddressError};
pub use database::{DatabaseUrl, DatabaseUrlError};
pub use pem::{Pem, PemError, PemFileError};
pub use secret::{MIN_SECRET_LENGTH, WeakSecret, check_secret};

/// The key with which settings accept addresses without TLS beyond this machine. Whoever's settings hold an address has it as a `bool`,
/// off by default.
const INSECURE: &str = "insecure";

/// Where Docker and Podman mount secrets, readable for every user of the container.
const CONTAINER_SECRETS: &str = "/run/secrets";

/// A service's settings.
pub trait Settings: DeserializeOwned {
    /// Prefix of its environment variables, without the `__` that follows it.
    const PREFIX: &'static str;
    /// Keys that may also be given as `<key>_file` (TOML) or `<KEY>_FILE` (environment): the value is the file's text
    /// without its last newline.
    const SECRETS: &'static [&'static str];
    /// Keys whose addresses may be without TLS, since what goes there protects itself: a proxy's is one, through which TLS goes.
    const MAY_BE_PLAIN: &'static [&'static str] = &[];

    /// What reading cannot see: that settings fit each other, and that the keys in the files they name can be used. Part of
    /// [`load_checked`].
    fn check(&self, problems: &mut Problems) {
        let _ = problems;
    }
}

/// What [`Settings::check`] finds.
#[derive(Debug, Default)]
pub struct Problems(BTreeMap<String, String>);

impl Problems {
    /// The setting `key` is wrong. The first problem of a key is kept.
    pub fn add(&mut self, key: impl Into<String>, problem: impl Display) {
        self.0
            .entry(key.into())
            .or_insert_with(|| format!("{problem:#}"));
    }

    /// The setting `key` is wrong if this is an error.
    pub fn note<T, E: Display>(
        &mut self,
        key: impl Into<String>,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.add(key, error)).ok()
    }

    /// The problems by key.
    pub fn by_key(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// Settings that were read, and what their owner must hear at every start.
#[derive(Debug)]
pub struct Loaded<S> {
    /// They.
    pub settings: S,
    /// What `insecure = true` accepts, and files of secrets that everybody can read.
    pub warnings: Vec<String>,
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

/// As [`read`], without the warnings: for tests, and for programs that only look into the settings of another.
pub fn load<S: Settings>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<S, SettingsError> {
    read(file, environment).map(|loaded| loaded.settings)
}

/// As [`read`], and everything that [`Settings::check`] finds: what a program does when it starts, and for `--check-config`.
pub fn load_checked<S: Settings>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded<S>, SettingsError> {
    let loaded: Loaded<S> = read(file, environment)?;
    let mut problems = Problems::default();
    loaded.settings.check(&mut problems);
    if problems.0.is_empty() {
        return Ok(loaded);
    }
    Err(SettingsError {
        problems: problems.0,
        prefix: S::PREFIX,
    })
}

/// Reads settings from `file` and `environment` (usually `std::env::vars()`). Wrong is also: an address without TLS beyond this machine
/// (unless the settings say `insecure = true`) and a placeholder as host or password of an address.
pub fn read<S: Settings>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded<S>, SettingsError> {
    let mut builder = Config::builder();
    if let Some(file) = file {
        builder = builder.add_source(File::from(file).format(FileFormat::Toml).required(true));
    }
    read_from(builder, file, environment)
}

/// Loads settings from the text of a file.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn load_text<S: Settings>(text: &str) -> Result<S, SettingsError> {
    let text = File::from_str(text, FileFormat::Toml);
    read_from(Config::builder().add_source(text), None, []).map(|loaded| loaded.settings)
}

/// Adds the environment to what came from `file`.
fn read_from<S: Settings>(
    builder: ConfigBuilder<DefaultState>,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded<S>, SettingsError> {
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
    let mut warnings = Vec::new();
    for secret in S::SECRETS {
        match read_secret_file(&mut tree, secret) {
            Ok(warning) => warnings.extend(warning),
            Err(problem) => {
                problems.insert(format!("{secret}_file"), problem.to_string());
            }
        }
    }
    warnings.extend(look_at_addresses(&tree, S::MAY_BE_PLAIN, &mut problems));
    loop {
        match serde_path_to_error::deserialize::<_, S>(tree.clone()) {
            Ok(settings) if problems.is_empty() => return Ok(Loaded { settings, warnings }),
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
                    problems.entry(path.clone()).or_insert(text);
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

/// Looks at every address in the settings, whatever it is for: nobody can forget one. Returns what `insecure = true` accepts.
fn look_at_addresses(
    tree: &Value,
    may_be_plain: &[&str],
    problems: &mut BTreeMap<String, String>,
) -> Vec<String> {
    let insecure = match &tree.kind {
        ValueKind::Table(table) => table.get(INSECURE),
        _ => None,
    };
    let insecure = insecure.is_some_and(|value| value.clone().into_bool().unwrap_or(false));
    let mut warnings = Vec::new();
    each_text(tree, "", &mut |key, text| {
        // A text may be a list, or be read as one address whatever white space is in it.
        for word in std::iter::once(text).chain(text.split_whitespace()) {
            if let Some(problem) = address::placeholder(word) {
                problems.insert(key.to_owned(), problem.to_owned());
            }
            let Some(found) = Unprotected::of(word).filter(|_| !may_be_plain.contains(&key)) else {
                continue;
            };
            if insecure {
                let warning = format!("{INSECURE} = true accepts {key}: {found}");
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            } else {
                let remedy = found.remedy();
                let problem = format!(
                    "{found}. Use {remedy}, or accept this risk for all addresses in these settings by {INSECURE} = true"
                );
                problems.insert(key.to_owned(), problem);
            }
        }
    });
    if insecure && warnings.is_empty() {
        warnings.push(format!(
            "{INSECURE} = true, but every address has TLS or is on this machine: remove it"
        ));
    }
    warnings
}

/// Calls `look` with every text below `value` and its key.
fn each_text(value: &Value, key: &str, look: &mut impl FnMut(&str, &str)) {
    match &value.kind {
        ValueKind::String(text) => look(key, text),
        ValueKind::Table(table) => {
            let dot = if key.is_empty() { "" } else { "." };
            for (name, below) in table {
                each_text(below, &format!("{key}{dot}{name}"), look);
            }
        }
        ValueKind::Array(list) => {
            for (index, below) in list.iter().enumerate() {
                each_text(below, &format!("{key}[{index}]"), look);
            }
        }
        _ => {}
    }
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

/// Puts the text of a secret's file in its place. Returns a warning if everybody on this machine can read the file.
fn read_secret_file(tree: &mut Value, key: &str) -> Result<Option<String>, SecretFileError> {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut at = tree;
    for part in section.split('.').filter(|p| !p.is_empty()) {
        match table(at).and_then(|t| t.get_mut(part)) {
            Some(below) => at = below,
            None => return Ok(None),
        }
    }
    let Some(section) = table(at) else {
        return Ok(None);
    };
    let Some(path) = section.remove(&format!("{name}_file")) else {
        return Ok(None);
    };
    let path = path.into_string()?;
    let unreadable = |source| SecretFileError::Unreadable {
        path: path.clone(),
        source,
    };
    let mut file = std::fs::File::open(&path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
    section.insert(
        name.to_owned(),
        Value::new(Some(&path), ValueKind::String(text)),
    );
    // In a container they are mounted like this, and nobody else is there.
    let everybody = mode & 0o004 != 0 && !Path::new(&path).starts_with(CONTAINER_SECRETS);
    Ok(everybody.then(|| {
        format!("{key}_file: every user of this machine can read {path}: remove that with `chmod o= {path}`")
    }))
}

/// Deserialises a secret that may not be empty.
pub fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.trim().is_empty() {
        return Err(serde::de::Error::custom("must not be empty"));
    }
    Ok(SecretString::from(text))
}

/// Deserialises a secret that [`check_secret`] accepts.
pub fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    let text = String::deserialize(deserializer)?;
    check_secret(&text).map_err(serde::de::Error::custom)?;
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

/// Deserialises a list of words, or one text with spaces between them.
pub fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    texts(deserializer, |text| {
        text.split_whitespace().map(str::to_owned).collect()
    })
}

/// Deserialises one or several secrets that [`check_secret`] accepts: a list, or a text with one secret a line.
pub fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SecretString>, D::Error> {
    let lines = texts(deserializer, |text| {
        let lines = text.lines().map(str::trim);
        lines
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    })?;
    if lines.is_empty() {
        return Err(serde::de::Error::custom("must hold at least one secret"));
    }
    let several = lines.len() > 1;
    for (number, line) in lines.iter().enumerate() {
        check_secret(line).map_err(|weak| {
            if several {
                serde::de::Error::custom(format_args!("number {} {weak}", number + 1))
            } else {
                serde::de::Error::custom(weak)
            }
        })?;
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
        #[serde(default)]
        #[expect(dead_code, reason = "load looks at it")]
        insecure: bool,
        #[serde(default)]
        #[expect(dead_code, reason = "load looks at it")]
        calls: BTreeMap<String, String>,
        #[serde(default)]
        #[expect(dead_code, reason = "load looks at it")]
        others: Vec<String>,
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
        const MAY_BE_PLAIN: &'static [&'static str] = &["calls.proxy"];

        fn check(&self, problems: &mut Problems) {
            if self.workers > 4 {
                problems.add("workers", "at most 4");
            }
        }
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
        let f = file(
            "workers = 3\n[http]\nlisten = '127.0.0.1:1'\n[webhook]\nsecret = '9f2c4e8b7a6d5c3b1a0f9e8d7c6b5a43'\n",
        );
        let s: Example = load(
            Some(f.path()),
            env(&[("EXAMPLE__HTTP__LISTEN", "127.0.0.1:2")]),
        )
        .unwrap();
        assert_eq!((s.workers, s.http.listen.port()), (3, 2));
        assert_eq!(
            s.webhook.secret[0].expose_secret(),
            "9f2c4e8b7a6d5c3b1a0f9e8d7c6b5a43"
        );
        let s: Example = load(
            Some(file("[http]\nlisten = '127.0.0.1:1'\n[webhook]\nsecret = ['9f2c4e8b7a6d5c3b1a0f9e8d7c6b5a43', '0b5d7f9a1c3e2b4d6f8a9c0e1d3b5f72']\n").path()),
            env(&[("EXAMPLE__WORKERS", "5"), ("OTHER__WORKERS", "x")]),
        )
        .unwrap();
        assert_eq!((s.workers, s.webhook.secret.len()), (5, 2));
    }

    #[test]
    fn secrets_come_from_files_too() {
        let secret = file("9f2c4e8b7a6d5c3b1a0f9e8d7c6b5a43\n0b5d7f9a1c3e2b4d6f8a9c0e1d3b5f72\n");
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

    fn complete(more: &str) -> tempfile::NamedTempFile {
        let rest = "[http]\nlisten = '127.0.0.1:1'\n[webhook]\nsecret = '9f2c4e8b7a6d5c3b1a0f9e8d7c6b5a43'\n";
        file(&format!("{more}\n{rest}"))
    }

    #[test]
    fn addresses_without_tls_need_a_word_that_accepts_the_risk() {
        for (more, wrong) in [
            ("", None),
            ("calls.keys = 'https://keys.example.org'", None),
            ("calls.keys = 'http://127.0.0.1:1/'", None),
            ("calls.proxy = 'http://proxy.example.org:3128'", None),
            (
                "calls.keys = 'http://keys.example.org/jwks.json'",
                Some("calls.keys"),
            ),
            (
                "insecure = false\ncalls.keys = 'http://keys.example.org'",
                Some("calls.keys"),
            ),
            (
                "calls.queue = 'amqp://u:hunter2@rabbitmq'",
                Some("calls.queue"),
            ),
            ("others = ['https://a', 'http://b']", Some("others[1]")),
            ("others = ['https://a http://b']", Some("others[0]")),
        ] {
            let loaded = read::<Example>(Some(complete(more).path()), []);
            let Some(wrong) = wrong else {
                assert!(loaded.unwrap().warnings.is_empty(), "{more}");
                continue;
            };
            let error = loaded.unwrap_err();
            let keys: Vec<&str> = error.problems.keys().map(String::as_str).collect();
            assert_eq!(keys, [wrong], "{more}: {error}");
            let words = error.to_string();
            assert!(
                words.contains("can read and change") && words.contains("insecure = true"),
                "{words}"
            );
            assert!(!words.contains("hunter2"), "{words}");

            let more = format!(
                "insecure = true\n{}",
                more.replace("insecure = false\n", "")
            );
            let loaded = read::<Example>(Some(complete(&more).path()), []).unwrap();
            let [warning] = loaded.warnings.as_slice() else {
                panic!("{:?}", loaded.warnings)
            };
            assert!(
                warning.contains(wrong) && !warning.contains("hunter2"),
                "{warning}"
            );
        }
        let needless = read::<Example>(Some(complete("insecure = true").path()), []).unwrap();
        assert!(needless.warnings[0].contains("remove it"), "{needless:?}");
        let by_variable = env(&[("EXAMPLE__INSECURE", "true")]);
        let plain = complete("calls.keys = 'http://keys.example.org'");
        assert_eq!(
            read::<Example>(Some(plain.path()), by_variable)
                .unwrap()
                .warnings
                .len(),
            1
        );
    }

    #[test]
    fn placeholders_are_named_and_never_repeated() {
        for (more, variable, value) in [
            (
                "calls.database = 'postgres://u:change-me@127.0.0.1/d'",
                "",
                "",
            ),
            ("", "EXAMPLE__WEBHOOK__SECRET", "my-webhook-secret"),
            ("", "EXAMPLE__WEBHOOK__SECRET", "tooshorttobeasecret"),
            (
                "",
                "EXAMPLE__WEBHOOK__SECRET",
                "9f2c4e8b7a6d5c3b1a0f9e8d7c6b5a43\nchange-me",
            ),
        ] {
            let variables = if variable.is_empty() {
                vec![]
            } else {
                env(&[(variable, value)])
            };
            let error = read::<Example>(Some(complete(more).path()), variables).unwrap_err();
            let expected = if variable.is_empty() {
                "calls.database"
            } else {
                "webhook.secret"
            };
            assert!(error.problems.contains_key(expected), "{error}");
            let words = error.to_string();
            for text in ["change-me", "my-webhook-secret", "tooshorttobeasecret"] {
                assert!(!words.contains(text), "{words}");
            }
        }
    }

    #[test]
    fn what_fits_each_other_is_checked_too() {
        assert!(load_checked::<Example>(Some(complete("workers = 4").path()), []).is_ok());
        let error = load_checked::<Example>(Some(complete("workers = 5").path()), []).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("workers (EXAMPLE__WORKERS): at most 4"),
            "{error}"
        );
    }

    #[test]
    fn an_address_is_read_as_a_whole_too() {
        for more in [
            r#"calls.keys = "http://127.0.0.1\n.example.org""#,
            r#"calls.queue = "amqp://u:p@127.0.0.1\n.example.org""#,
            r#"calls.database = "postgres://u:p@db/d?options=-c x&sslmode=disable""#,
        ] {
            let error = read::<Example>(Some(complete(more).path()), []).unwrap_err();
            assert!(error.to_string().contains("without TLS"), "{more}: {error}");
        }
    }

    #[test]
    fn a_file_of_a_secret_that_everybody_can_read_is_warned_of() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "9f2c4e8b7a6d5c3b1a0f9e8d7c6b5a43\n").unwrap();
        let path = file.path().to_str().unwrap();
        let settings = complete("");
        let read = |mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            let variables = env(&[("EXAMPLE__WEBHOOK__SECRET_FILE", path)]);
            let loaded = super::read::<Example>(Some(settings.path()), variables).unwrap();
            assert_eq!(loaded.settings.webhook.secret.len(), 1);
            loaded.warnings
        };
        assert_eq!(read(0o640), Vec::<String>::new());
        let [warning] = <[String; 1]>::try_from(read(0o644)).unwrap();
        assert!(
            warning.contains("webhook.secret_file") && warning.contains(path),
            "{warning}"
        );
    }
}
