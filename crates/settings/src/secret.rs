//! Whether a secret is one.

/// Shortest bearer token, webhook secret or shared secret: 32 characters, 128 bits if they are random hexadecimal digits.
pub const MIN_SECRET_LENGTH: usize = 32;

/// Why a text is no secret. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakSecret {
    /// Nothing.
    #[error("must not be empty")]
    Empty,
    /// What a sample says in place of a secret.
    #[error("is still a placeholder; make a secret with `openssl rand -hex 32`")]
    Placeholder,
    /// Too short.
    #[error(
        "has fewer than {MIN_SECRET_LENGTH} characters; make a secret with `openssl rand -hex 32`"
    )]
    Short,
    /// Too few different characters, or one word several times.
    #[error("repeats itself; make a secret with `openssl rand -hex 32`")]
    Repeats,
}

/// Whether a text can be a bearer token, a webhook secret or a shared secret.
pub fn check_secret(text: &str) -> Result<(), WeakSecret> {
    if text.trim().is_empty() {
        Err(WeakSecret::Empty)
    } else if is_placeholder(text) {
        Err(WeakSecret::Placeholder)
    } else if repeats(text) {
        Err(WeakSecret::Repeats)
    } else if text.chars().count() < MIN_SECRET_LENGTH {
        Err(WeakSecret::Short)
    } else {
        Ok(())
    }
}

/// What nobody draws by chance: a placeholder, whatever is around it.
const TELLING: [&str; 6] = [
    "changeme",
    "changethis",
    "replaceme",
    "replacethis",
    "placeholder",
    "openssl",
];

/// A text of nothing but these is a placeholder.
const WORDS: [&str; 36] = [
    "a", "admin", "an", "bearer", "change", "dummy", "example", "fill", "fixme", "for", "here",
    "in", "insert", "is", "it", "key", "long", "me", "my", "new", "of", "passwd", "password",
    "random", "replace", "sample", "secret", "some", "test", "the", "this", "todo", "token",
    "webhook", "with", "your",
];

/// Whether a host is what people write where its name is to be filled in: names such as `test.example` are in use.
pub(crate) fn is_placeholder_host(host: &str) -> bool {
    let letters: String = host.chars().filter(|c| c.is_alphanumeric()).collect();
    let letters = letters.to_lowercase();
    let meant = TELLING.iter().filter(|word| **word != "openssl");
    meant.into_iter().any(|word| letters.contains(word))
}

/// Whether a text is what people write where a secret is to be filled in.
pub(crate) fn is_placeholder(text: &str) -> bool {
    let text = text.trim().to_lowercase();
    let letters: String = text.chars().filter(|c| c.is_alphanumeric()).collect();
    let framed = [
        ("<", ">"),
        ("${", "}"),
        ("{{", "}}"),
        ("[", "]"),
        ("%", "%"),
    ]
    .iter()
    .any(|(open, close)| text.starts_with(open) && text.ends_with(close));
    let mut words = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .peekable();
    // `secret1` is `secret`; `xxxx` is nothing.
    let filler = |word: &str| {
        let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
        word.is_empty() || WORDS.contains(&word) || word.chars().all(|c| c == 'x')
    };
    let only_digits = letters.chars().all(|c| c.is_ascii_digit());
    framed
        || TELLING.iter().any(|word| letters.contains(word))
        || (!only_digits && words.peek().is_some() && words.all(filler))
}

/// Whether a text has fewer than six different characters, or is one beginning again and again.
fn repeats(text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    let different: std::collections::BTreeSet<_> = characters.iter().collect();
    let periodic = (1..=characters.len() / 2).any(|period| {
        characters
            .iter()
            .zip(characters.iter().skip(period))
            .all(|(a, b)| a == b)
    });
    different.len() < 6 || periodic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_and_short_texts_are_no_secrets() {
        use WeakSecret::{Empty, Placeholder, Repeats, Short};
        for (text, expected) in [
            ("", Err(Empty)),
            (" \n", Err(Empty)),
            ("change-me", Err(Placeholder)),
            ("changeme", Err(Placeholder)),
            ("Change Me", Err(Placeholder)),
            ("CHANGE_ME_CHANGE_ME_CHANGE_ME_NOW_1", Err(Placeholder)),
            ("change me: the webhook secret of the App", Err(Placeholder)),
            ("example", Err(Placeholder)),
            ("secret", Err(Placeholder)),
            ("secret123", Err(Placeholder)),
            ("my-webhook-secret", Err(Placeholder)),
            ("xxx", Err(Placeholder)),
            ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", Err(Placeholder)),
            ("<the webhook secret of your GitHub App>", Err(Placeholder)),
            ("${WEBHOOK_SECRET_OF_THE_GITHUB_APP_1}", Err(Placeholder)),
            ("TODO", Err(Placeholder)),
            ("a long random word: openssl rand -hex 32", Err(Placeholder)),
            ("0000000000000000000000000000000000000000", Err(Repeats)),
            ("abcabdabcabdabcabdabcabdabcabdabcabdabcabd", Err(Repeats)),
            (
                "0123456789abcdef0123456789abcdef0123456789abcdef",
                Err(Repeats),
            ),
            ("It's a Secret to Everybody", Err(Short)),
            ("9f2c4e8b7a6d5c3b1a0f9e8d7c6b5a4", Err(Short)),
            ("9f2c4e8b7a6d5c3b1a0f9e8d7c6b5a43", Ok(())),
            ("47120938561209348756120934876523", Ok(())),
            ("correct horse battery staple, and some more", Ok(())),
            ("tXxm3GQ8tbTodoY1wqz/7cE0k5Rl2vNnDf+Ua9KhSjo=", Ok(())),
        ] {
            assert_eq!(check_secret(text), expected, "{text}");
        }
    }
}
