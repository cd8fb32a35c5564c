//! URLs with a password, for commands without settings: from a file or a variable, since all users of a host can see command lines.

use std::path::Path;

use anyhow::{Context, bail};
use secrecy::SecretString;

/// One that a command needs.
pub(crate) struct SecretUrl {
    /// For people: `database URL`.
    pub(crate) what: &'static str,
    /// Holds it, if no file is given.
    pub(crate) variable: &'static str,
    /// Names the file.
    pub(crate) option: &'static str,
    /// It starts with one of these.
    pub(crate) schemes: [&'static str; 2],
}

impl SecretUrl {
    #[expect(
        clippy::disallowed_methods,
        reason = "the only variable of a command without settings"
    )]
    pub(crate) fn read(&self, file: Option<&Path>) -> anyhow::Result<SecretString> {
        let Self {
            what,
            variable,
            option,
            schemes: [one, other],
        } = self;
        let text = match file {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| path.display().to_string())?
            }
            None => std::env::var(variable)
                .with_context(|| format!("no {what}; set {variable} or use {option} FILE"))?,
        };
        let text = text.trim();
        if !(text.starts_with(one) || text.starts_with(other)) {
            // The URL is not shown: it may contain a password.
            bail!("the {what} must start with {one} or {other}");
        }
        Ok(SecretString::from(text))
    }
}
