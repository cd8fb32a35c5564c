//! The job template: a shell script with `%RUNNER_CONFIG_LINE%`, `%LAUNCH_TOKEN%`, `%LOG_FILE%` and `$USER`.
//!
//! The token and the file become references to variables, never text, so the script that Slurm keeps holds no secret. What
//! does become text is made of characters that mean nothing to a shell. `set -x` traces to nowhere.

use anyhow::{bail, ensure};

use crate::original::file::Repository;
use crate::original::request::OriginalRequest;

/// Where the site's file has none.
const OURS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/job-script/gha-slurm-original-job.sh"
));

/// What comes before a template. As our job script, it opens its own output, and starts itself again without the launch token in its
/// environment, which everybody with this uid can read as long as it lives.
const BEFORE: &str = r#"#!/bin/bash
exec 19>/dev/null
BASH_XTRACEFD=19
umask 077
if [[ -n ${GHA_SLURM_LAUNCH_TOKEN:-} ]]; then
    gha_slurm_token=$GHA_SLURM_LAUNCH_TOKEN
    unset GHA_SLURM_LAUNCH_TOKEN SUDO_COMMAND SUDO_USER SUDO_UID SUDO_GID
    exec 18< <(printf '%s\n' "$gha_slurm_token")
    gha_slurm_output=${GHA_SLURM_OUTPUT:-${TMPDIR:-/tmp}/gha-slurm-original}
    if [[ -n ${GHA_SLURM_OUTPUT:-} ]] && output_file=$(mktemp --suffix=.log "$gha_slurm_output.XXXXXXXXXX"); then
        exec >>"$output_file" 2>&1
    fi
    GHA_SLURM_LOG_FILE=$(mktemp --suffix=.log "$gha_slurm_output.runner.XXXXXXXXXX") || exit 1
    export GHA_SLURM_LOG_FILE
    unset GHA_SLURM_OUTPUT
    exec bash "$0"
fi
IFS= read -r GHA_SLURM_LAUNCH_TOKEN <&18 || exit 1
exec 18<&-
USER=$(id -un) HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
export USER HOME LOGNAME=$USER SLURM_UMASK=0022
umask 022
# --- the site's jobTemplate ---
"#;

const TOKEN: &str = "%LAUNCH_TOKEN%";
const LOG_FILE: &str = "%LOG_FILE%";
const CONFIG_LINE: &str = "%RUNNER_CONFIG_LINE%";

/// A template whose placeholders stand where a shell can look into variables.
pub(super) struct Template(String);

impl Template {
    /// The site's, or the built-in one.
    pub(super) fn parse(text: Option<String>) -> anyhow::Result<Self> {
        let text = text.unwrap_or_else(|| OURS.to_owned());
        ensure!(!text.contains('\0'), "jobTemplate: a NUL character");
        if let Some(interpreter) = text.strip_prefix("#!").and_then(|rest| rest.lines().next()) {
            let program = interpreter
                .split_whitespace()
                .filter(|w| !w.ends_with("/env"));
            let program = program.map(|word| word.rsplit('/').next()).next().flatten();
            ensure!(
                matches!(program, Some("bash" | "sh")),
                "jobTemplate: it is run by bash; its first line names something else"
            );
        }
        for (number, line) in text.lines().enumerate() {
            for placeholder in [TOKEN, LOG_FILE] {
                if stands_in_single_quotes(line, placeholder) {
                    bail!(
                        "jobTemplate, line {}: {placeholder} stands in single quotes, where a shell does not look into \
                         variables; write double quotes",
                        number + 1
                    );
                }
            }
        }
        Ok(Self(text))
    }

    /// The script of one Slurm job.
    pub(super) fn script(&self, asked: &OriginalRequest, repository: &Repository) -> String {
        let text = self
            .0
            .replace(TOKEN, "${GHA_SLURM_LAUNCH_TOKEN}")
            .replace(LOG_FILE, "${GHA_SLURM_LOG_FILE}")
            .replace(CONFIG_LINE, &config_line(asked, repository));
        format!("{BEFORE}{text}")
    }
}

/// What the original program hands to the runner's config.sh.
fn config_line(asked: &OriginalRequest, repository: &Repository) -> String {
    let option = |name: &str, value: &str| match value {
        "" => String::new(),
        value => format!(" --{name} '{value}'"),
    };
    format!(
        "--unattended --replace --url {} --token $GHTOKEN --ephemeral --work gha_work{}{}",
        repository.url,
        option("name", asked.runner_name.as_deref().unwrap_or_default()),
        option("labels", &asked.labels),
    )
}

/// Whether a placeholder is between single quotes of its line. A remark counts for nothing.
fn stands_in_single_quotes(line: &str, placeholder: &str) -> bool {
    if line.trim_start().starts_with('#') {
        return false;
    }
    let (mut quote, mut escaped) = (None, false);
    for (at, character) in line.char_indices() {
        if quote == Some('\'')
            && line
                .get(at..)
                .is_some_and(|rest| rest.starts_with(placeholder))
        {
            return true;
        }
        match (quote, character) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), close) if open == close => quote = None,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_quotes_are_seen() {
        for (line, single) in [
            ("curl -H 'Authorization: %LAUNCH_TOKEN%' x", true),
            ("curl -H \"Authorization: %LAUNCH_TOKEN%\" x", false),
            ("curl -H \"it's %LAUNCH_TOKEN%\" x", false),
            ("echo it\\'s %LAUNCH_TOKEN%", false),
            ("echo 'a' %LAUNCH_TOKEN% 'b'", false),
            ("# don't: %LAUNCH_TOKEN%", false),
        ] {
            assert_eq!(stands_in_single_quotes(line, TOKEN), single, "{line}");
            assert_eq!(
                Template::parse(Some(line.into())).is_err(),
                single,
                "{line}"
            );
        }
    }

    #[test]
    fn a_template_is_a_shell_script() {
        for (first, fine) in [
            ("#!/bin/bash -x", true),
            ("#!/bin/sh", true),
            ("#!/usr/bin/env bash", true),
            ("set -x", true),
            ("#!/usr/bin/python3", false),
        ] {
            assert_eq!(Template::parse(Some(first.into())).is_ok(), fine, "{first}");
        }
        Template::parse(None).unwrap();
        let check = std::process::Command::new("bash")
            .args(["-n", "-c", &format!("{BEFORE}{OURS}")])
            .status();
        assert!(check.unwrap().success());
    }
}
