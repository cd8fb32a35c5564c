//! Limits on text from outside. The sender of an event chooses its text, which is then stored, passed on and shown. Types with such text
//! name these functions in `deserialize_with`, so that the same limits apply to webhooks, GitHub's responses, events in a queue and rows
//! of the database.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, SeqAccess, Visitor};

use crate::labels::{MAX_LABEL_LENGTH, MAX_LABELS};

/// Bytes of a text for people, such as the name of a workflow job.
pub const MAX_TEXT: usize = 1024;
/// Bytes of a name that identifies something. GitHub's own are shorter: logins have 39, names of repositories 100, those of runners 64.
pub const MAX_NAME: usize = 256;
/// What a cut text ends with, so that it is no other one.
const ELLIPSIS: char = '…';
/// Stands for the labels beyond [`MAX_LABELS`].
const MORE_LABELS: &str = "… and labels beyond the first 100";

/// A text for people: one that is longer than [`MAX_TEXT`] is cut and ends with `…`.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Kind::Text.deserialize(deserializer)
}

/// As [`text`], where there may be none.
pub fn optional_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_option(Optional(Kind::Text))
}

/// A name that identifies something: one that is longer than [`MAX_NAME`] is an error, since a part of it is the name of something else.
pub fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Kind::Name.deserialize(deserializer)
}

/// As [`name`], where there may be none.
pub fn optional_name<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_option(Optional(Kind::Name))
}

/// The address of a web page; `None` for what is none, for another scheme than http and https, and for one longer than [`MAX_TEXT`], a
/// part of which would lead elsewhere.
pub fn web_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let address = optional_text(deserializer)?;
    Ok(address.filter(|address| is_web_address(address)))
}

/// Whether a text is an address that [`web_address`] keeps.
pub fn is_web_address(text: &str) -> bool {
    let scheme = ["https://", "http://"];
    let rest = scheme.iter().find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(is_foreign_to_addresses))
}

/// An address has others percent-encoded. A cut one ends with `…`.
fn is_foreign_to_addresses(c: char) -> bool {
    !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
}

/// The labels of a workflow job. Those beyond [`MAX_LABELS`] become one, and one that is longer than [`MAX_LABEL_LENGTH`] is cut and
/// ends with `…`: no runner has such labels, and so none is given the workflow job.
pub fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct List;

    impl<'de> Visitor<'de> for List {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of labels")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut labels = Vec::new();
            while labels.len() < MAX_LABELS {
                let Some(label) = list.next_element_seed(Kind::Label)? else {
                    return Ok(labels);
                };
                labels.push(label);
            }
            if list.next_element::<IgnoredAny>()?.is_some() {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                labels.push(MORE_LABELS.to_owned());
            }
            Ok(labels)
        }
    }

    deserializer.deserialize_seq(List)
}

/// Whether a label is one that [`labels`] made of others.
pub(crate) fn is_cut_label(label: &str) -> bool {
    label.starts_with(ELLIPSIS) || label.ends_with(ELLIPSIS)
}

/// At most so many bytes of a text, whole characters, with the ellipsis.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let room = most - ELLIPSIS.len_utf8();
    let whole = (0..=room).rev().find_map(|end| text.get(..end));
    let mut cut = whole.unwrap_or_default().to_owned();
    cut.push(ELLIPSIS);
    cut
}

/// A name of so many bytes.
#[derive(Debug, thiserror::Error)]
#[error("a name has at most {MAX_NAME} bytes, and this one has {0}")]
struct TooLong(usize);

/// What a string is. Only what is kept of it is copied.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Name,
    Label,
}

impl Kind {
    fn bounded(self, text: &str) -> Result<String, TooLong> {
        match self {
            Self::Text => Ok(cut(text, MAX_TEXT)),
            Self::Name if text.len() > MAX_NAME => Err(TooLong(text.len())),
            // In characters, as GitHub counts them; most labels have fewer bytes than that and are not counted.
            Self::Label
                if text.len() > MAX_LABEL_LENGTH && text.chars().count() > MAX_LABEL_LENGTH =>
            {
                let kept = text.chars().take(MAX_LABEL_LENGTH - 1);
                Ok(kept.chain([ELLIPSIS]).collect())
            }
            Self::Name | Self::Label => Ok(text.to_owned()),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Kind {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Kind {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        self.bounded(text).map_err(E::custom)
    }
}

/// The same, where there may be none.
struct Optional(Kind);

impl<'de> Visitor<'de> for Optional {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or null")
    }

    fn visit_none<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<String>, D::Error> {
        self.0.deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, PartialEq, Deserialize, serde::Serialize)]
    struct Facts {
        #[serde(deserialize_with = "text")]
        text: String,
        #[serde(default, deserialize_with = "optional_text")]
        optional: Option<String>,
        #[serde(default, deserialize_with = "optional_name")]
        name: Option<String>,
        #[serde(default, deserialize_with = "web_address")]
        page: Option<String>,
        #[serde(default, deserialize_with = "labels")]
        labels: Vec<String>,
    }

    fn read(facts: &Value) -> Result<Facts, serde_json::Error> {
        // As from a queue, where borrowed strings are rare, and as from the database.
        let read: Facts = serde_json::from_str(&facts.to_string())?;
        let again: Facts = serde_json::from_value(facts.clone())?;
        assert_eq!(read, again);
        Ok(read)
    }

    /// Also long ones, of characters of any length.
    fn any_text() -> impl Strategy<Value = String> {
        (any::<String>(), 0..200_usize).prop_map(|(text, times)| text.repeat(times))
    }

    proptest! {
        #[test]
        fn texts_are_cut_at_characters_and_become_no_others(text in any_text()) {
            let facts = read(&json!({"text": text, "optional": text, "labels": [text]})).unwrap();
            prop_assert!(facts.text.len() <= MAX_TEXT);
            prop_assert_eq!(facts.optional.as_ref(), Some(&facts.text));
            let [label] = facts.labels.as_slice() else { panic!("{:?}", facts.labels) };
            prop_assert!(label.chars().count() <= MAX_LABEL_LENGTH);
            for (kept, is_short) in [
                (&facts.text, text.len() <= MAX_TEXT),
                (label, text.chars().count() <= MAX_LABEL_LENGTH),
            ] {
                if is_short {
                    prop_assert_eq!(kept, &text);
                } else {
                    let begin = kept.strip_suffix(ELLIPSIS).unwrap();
                    prop_assert!(text.starts_with(begin) && begin.len() > 200);
                }
            }
            // What was bounded once stays as it is: events are read again.
            let once = serde_json::to_value(&facts).unwrap();
            prop_assert_eq!(serde_json::to_value(read(&once).unwrap()).unwrap(), once);
        }

        #[test]
        fn names_stay_what_they_are_or_are_refused(name in any_text()) {
            match read(&json!({"text": "", "name": name})) {
                Ok(facts) => prop_assert_eq!(facts.name, Some(name)),
                Err(_) => prop_assert!(name.len() > MAX_NAME),
            }
        }

        #[test]
        fn pages_stay_what_they_are_or_are_left_out(rest in any_text(), scheme in "(https?://)?") {
            let page = scheme + &rest;
            let kept = read(&json!({"text": "", "page": page})).unwrap().page;
            prop_assert!(kept.is_none_or(|kept| kept == page && kept.starts_with("http") && kept.len() <= MAX_TEXT));
        }

        #[test]
        fn labels_are_the_first_and_those_beyond_are_one(count in 0..300_usize) {
            let labels: Vec<String> = (0..count).map(|n| format!("l{n}")).collect();
            let kept = read(&json!({"text": "", "labels": labels})).unwrap().labels;
            let first = count.min(MAX_LABELS);
            prop_assert_eq!(&kept[..first], &labels[..first]);
            let more: &[&str] = if count > MAX_LABELS { &[MORE_LABELS] } else { &[] };
            prop_assert_eq!(&kept[first..], more);
        }
    }

    #[test]
    fn only_pages_are_linked() {
        for (page, is_kept) in [
            ("https://github.com/acme/widgets/actions/runs/1/job/2", true),
            ("http://ghes.example:8080/a?b=c#d", true),
            ("javascript:alert(1)//https://github.com", false),
            ("HTTPS://github.com", false),
            ("https://", false),
            ("https://github.com/ a", false),
            ("//github.com/a", false),
            ("", false),
        ] {
            assert_eq!(is_web_address(page), is_kept, "{page}");
        }
    }
}
