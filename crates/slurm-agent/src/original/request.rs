//! The body of a start by the original contract. What it says ends up in arguments and in a script: it is parsed strictly.

use actix_web::http::StatusCode;
use gha_slurm_contract::problem::ProblemPart;
use gha_slurm_domain::naming::{InvalidSlurmName, slurm_name};
use gha_slurm_domain::{LaunchId, ResourceRequest};
use gha_slurm_service_kit::ApiError;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Longest of any field but the token.
const MAX_LENGTH: usize = 2000;
/// Longest token that is taken.
const MAX_TOKEN_LENGTH: usize = 16 * 1024;
/// Most labels, and the longest (REST: generate-jitconfig).
const MAX_LABELS: usize = 100;
const MAX_LABEL_LENGTH: usize = 256;

/// What is wrong with a field. The texts are for people.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum FieldError {
    #[error("too long")]
    TooLong,
    #[error("not a JWT")]
    NotAJwt,
    #[error("1 to {longest} letters, digits and -_.:+/@=, the first a letter or digit")]
    Word { longest: usize },
    #[error("at most {MAX_LABELS} labels")]
    TooManyLabels,
    #[error("write http:// or https://, a host and perhaps a path")]
    Url,
    #[error("write a whole number above 0, of at most six digits")]
    Number,
    #[error("write it as sbatch --time: 60, 1:30:00 or 1-12")]
    Time,
    #[error("the unit is K, M, G or T")]
    Unit,
    #[error("write true or false")]
    Flag,
    #[error(transparent)]
    SlurmName(#[from] InvalidSlurmName),
}

/// What was asked for.
pub(crate) struct OriginalRequest {
    pub(crate) github_url: String,
    /// Three words of base64url and dots: harmless wherever it stands.
    pub(crate) launcher_token: SecretString,
    /// Comma-separated.
    pub(crate) labels: String,
    pub(crate) token_url: String,
    pub(crate) runner_name: Option<String>,
    pub(crate) resources: ResourceRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    #[serde(rename = "gitHubURL")]
    github_url: String,
    launcher_token: SecretString,
    #[serde(default)]
    runner_labels: String,
    #[serde(rename = "tokenURL")]
    token_url: String,
    runner_name: Option<String>,
    cpus: Option<String>,
    duration: Option<String>,
    partition: Option<String>,
    memory: Option<String>,
    exclusive: Option<String>,
}

impl OriginalRequest {
    /// Parses; every field that is wrong is named.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let invalid = |detail: String| {
            ApiError::new(StatusCode::BAD_REQUEST, "body_invalid", "The body is wrong")
                .detail(detail)
        };
        // An error about a wrong type quotes the value; the token is always a string, so it is never quoted.
        let body: Body = serde_json::from_slice(body).map_err(|e| invalid(e.to_string()))?;
        let mut errors = Vec::new();
        let mut wrong = |field: &str, problem: FieldError| {
            errors.push(ProblemPart {
                index: None,
                value: None,
                code: "field_invalid".into(),
                detail: format!("{field}: {problem}"),
                link: None,
            });
        };
        if body.github_url.len() > MAX_LENGTH {
            wrong("gitHubURL", FieldError::TooLong);
        }
        if !is_jwt(body.launcher_token.expose_secret()) {
            wrong("launcherToken", FieldError::NotAJwt);
        }
        let mut checked = |field: &str, parsed: Result<String, FieldError>| {
            parsed
                .map_err(|problem| wrong(field, problem))
                .unwrap_or_default()
        };
        let labels = checked("runnerLabels", labels(&body.runner_labels));
        let token_url = checked("tokenURL", url(&body.token_url));
        let runner_name = given(body.runner_name);
        let runner_name = runner_name.map(|name| checked("runnerName", word(&name, 64)));
        let partition = given(body.partition);
        let partition = partition.map(|name| {
            checked(
                "partition",
                slurm_name(&name).map_err(FieldError::SlurmName),
            )
        });
        let cpus = number(given(body.cpus), whole).map_err(|e| wrong("cpus", e));
        let time = number(given(body.duration), minutes).map_err(|e| wrong("duration", e));
        let memory = number(given(body.memory), mebibytes).map_err(|e| wrong("memory", e));
        let exclusive = match given(body.exclusive).as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                wrong("exclusive", FieldError::Flag);
                false
            }
        };
        if let Some(first) = errors.first() {
            let detail = first.detail.clone();
            return Err(invalid(detail).errors(errors));
        }
        let narrow = |n: Option<u64>| n.and_then(|n| u32::try_from(n).ok());
        Ok(Self {
            github_url: body.github_url,
            launcher_token: body.launcher_token,
            labels,
            token_url,
            runner_name,
            resources: ResourceRequest {
                cpus: narrow(cpus.unwrap_or_default()),
                time_minutes: narrow(time.unwrap_or_default()),
                memory_mib: memory.unwrap_or_default(),
                partition,
                exclusive,
                ..ResourceRequest::default()
            },
        })
    }

    /// The same for the same token.
    pub(crate) fn launch(&self) -> LaunchId {
        launch_of(self.launcher_token.expose_secret())
    }
}

/// An empty text is none.
fn given(field: Option<String>) -> Option<String> {
    field.filter(|text| !text.is_empty())
}

fn number(
    field: Option<String>,
    parse: fn(&str) -> Result<u64, FieldError>,
) -> Result<Option<u64>, FieldError> {
    field.map(|text| parse(&text)).transpose()
}

fn is_jwt(text: &str) -> bool {
    let part = |part: &str| {
        let base64url = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        !part.is_empty() && part.bytes().all(base64url)
    };
    text.len() <= MAX_TOKEN_LENGTH && text.split('.').count() == 3 && text.split('.').all(part)
}

fn word(text: &str, longest: usize) -> Result<String, FieldError> {
    let harmless = |b: u8| {
        b.is_ascii_alphanumeric()
            || matches!(b, b'-' | b'_' | b'.' | b':' | b'+' | b'/' | b'@' | b'=')
    };
    let fine = (1..=longest).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(harmless);
    if fine {
        Ok(text.to_owned())
    } else {
        Err(FieldError::Word { longest })
    }
}

fn labels(text: &str) -> Result<String, FieldError> {
    let labels = text.split(',').map(str::trim).filter(|l| !l.is_empty());
    let labels = labels
        .map(|label| word(label, MAX_LABEL_LENGTH))
        .collect::<Result<Vec<_>, _>>()?;
    if labels.len() > MAX_LABELS {
        return Err(FieldError::TooManyLabels);
    }
    Ok(labels.join(","))
}

fn url(text: &str) -> Result<String, FieldError> {
    let url = Url::parse(text).map_err(|_| FieldError::Url)?;
    let fine = ["http", "https"].contains(&url.scheme())
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && text.len() <= MAX_LENGTH;
    if fine {
        // As it is parsed, where nothing is left that is no URL; paths are put behind it.
        Ok(url.as_str().trim_end_matches('/').to_owned())
    } else {
        Err(FieldError::Url)
    }
}

/// At most six digits, more than 0.
fn whole(text: &str) -> Result<u64, FieldError> {
    let fine = (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|n| fine && *n > 0)
        .ok_or(FieldError::Number)
}

/// A time as sbatch(1) writes it, `--time`: minutes, minutes:seconds, hours:minutes:seconds, and with days before a hyphen
/// hours, hours:minutes or hours:minutes:seconds. Rounded up to minutes.
fn minutes(text: &str) -> Result<u64, FieldError> {
    let digits = |text: &str| -> Result<u64, FieldError> {
        let fine = (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| fine).ok_or(FieldError::Time)
    };
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(digits(days)?), rest),
        None => (None, text),
    };
    let parts = rest.split(':').map(digits).collect::<Result<Vec<_>, _>>()?;
    let (hours, minutes, seconds) = match (days, parts.as_slice()) {
        (None, [m]) => (0, *m, 0),
        (None, [m, s]) => (0, *m, *s),
        (Some(_), [h]) => (*h, 0, 0),
        (Some(_), [h, m]) => (*h, *m, 0),
        (_, [h, m, s]) => (*h, *m, *s),
        _ => return Err(FieldError::Time),
    };
    let total = (days.unwrap_or(0) * 24 + hours) * 60 + minutes + seconds.div_ceil(60);
    if (1..=1_000_000).contains(&total) {
        Ok(total)
    } else {
        Err(FieldError::Time)
    }
}

/// Memory as sbatch(1) writes it, `--mem`: MiB, or with K, M, G or T.
fn mebibytes(text: &str) -> Result<u64, FieldError> {
    let unit = text.chars().next_back().filter(char::is_ascii_alphabetic);
    let digits = text
        .strip_suffix(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text);
    let number = whole(digits)?;
    match unit.map(|c| c.to_ascii_uppercase()) {
        Some('K') => Ok(number.div_ceil(1024)),
        None | Some('M') => Ok(number),
        Some('G') => Ok(number * 1024),
        Some('T') => Ok(number * 1024 * 1024),
        Some(_) => Err(FieldError::Unit),
    }
}

/// A UUID that is the same for the same text.
fn launch_of(text: &str) -> LaunchId {
    let hash = Sha256::digest(text.as_bytes());
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash).for_each(|(byte, h)| *byte = h);
    LaunchId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body(more: &Value) -> Vec<u8> {
        let mut body = json!({
            "gitHubURL": "https://github.com/acme/widgets",
            "launcherToken": "eyJhbGciOiJIUzI1NiJ9.eyJvd25lciI6ImFjbWUifQ.c2ln",
            "runnerLabels": "self-hosted,linux, x64",
            "tokenURL": "https://app.example.org/base",
        });
        let fields = body.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        serde_json::to_vec(&body).unwrap()
    }

    fn parse(more: &Value) -> Result<OriginalRequest, String> {
        OriginalRequest::parse(&body(more)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_it_says_is_taken() {
        let asked = parse(&json!({})).ok().unwrap();
        assert_eq!(asked.labels, "self-hosted,linux,x64");
        assert_eq!(asked.token_url, "https://app.example.org/base");
        let bare = parse(&json!({ "tokenURL": "http://127.0.0.1:80" }));
        assert_eq!(bare.ok().unwrap().token_url, "http://127.0.0.1");
        assert_eq!(asked.resources, ResourceRequest::default());
        let again = parse(&json!({})).ok().unwrap();
        assert_eq!(asked.launch(), again.launch());
        let asked = parse(&json!({
            "runnerName": "n1", "cpus": "4", "duration": "1-02:30", "partition": "main", "memory": "2G", "exclusive": "true",
        }))
        .ok()
        .unwrap();
        let expected = ResourceRequest {
            cpus: Some(4),
            time_minutes: Some(24 * 60 + 150),
            partition: Some("main".into()),
            memory_mib: Some(2048),
            exclusive: true,
            ..ResourceRequest::default()
        };
        assert_eq!(
            (asked.resources, asked.runner_name),
            (expected, Some("n1".into()))
        );
        let asked = parse(&json!({ "runnerName": "", "cpus": null, "exclusive": "false" }));
        assert_eq!(asked.ok().unwrap().runner_name, None);
    }

    #[test]
    fn times_and_sizes_are_slurms() {
        for (text, expected) in [
            ("60", 60),
            ("1:30", 2),
            ("01:30:00", 90),
            ("2-0", 2880),
            ("1-1:1", 1501),
            ("0-0:0:1", 1),
        ] {
            assert_eq!(minutes(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "0",
            "-1",
            "1-",
            "1:2:3:4",
            "60m",
            "1 h",
            "UNLIMITED",
            "9999999",
        ] {
            assert!(minutes(text).is_err(), "{text}");
        }
        for (text, expected) in [
            ("512", 512),
            ("512m", 512),
            ("4G", 4096),
            ("1T", 1 << 20),
            ("1K", 1),
        ] {
            assert_eq!(mebibytes(text), Ok(expected), "{text}");
        }
        for text in ["", "G", "1GB", "1.5G", "-1", "1E", "0"] {
            assert!(mebibytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hostile_values_are_refused_and_named() {
        for hostile in [
            "$(reboot)",
            "a'b",
            "a\nb",
            "`id`",
            "--uid=root",
            "\"",
            "a b",
            "x;y",
            "%LAUNCH_TOKEN%",
        ] {
            for field in [
                "runnerName",
                "cpus",
                "duration",
                "partition",
                "memory",
                "exclusive",
                "runnerLabels",
                "launcherToken",
            ] {
                let error = parse(&json!({ field: hostile })).err();
                let error = error.unwrap_or_else(|| panic!("{field}: {hostile} is taken"));
                assert!(error.contains(field), "{error}");
            }
        }
        for url in [
            "",
            "file:///etc/passwd",
            "https://",
            "ftp://x/",
            "https://user:pw@x/",
            "x",
        ] {
            assert!(parse(&json!({ "tokenURL": url })).is_err(), "{url}");
        }
        assert!(parse(&json!({ "cpus": 4 })).is_err(), "strings, as there");
        let secret = "very.secret";
        let error = parse(&json!({ "launcherToken": secret })).err().unwrap();
        assert!(!error.contains(secret), "{error}");
    }
}
