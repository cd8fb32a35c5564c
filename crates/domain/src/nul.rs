//! U+0000, which JSON has and PostgreSQL's texts have not.

const ESCAPED: &[u8] = br"\u0000";

/// Where U+0000 stands in JSON: the offset of the first `\u0000`. In no other form may a string of JSON hold it.
pub fn find_nul(json: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = json
        .get(from..)?
        .windows(ESCAPED.len())
        .position(|window| window == ESCAPED)
        .map(|at| from + at)
    {
        let before = json.get(..at)?.iter().rev();
        // Behind an odd number of backslashes, this one is escaped itself.
        if before.take_while(|byte| **byte == b'\\').count() % 2 == 0 {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// `json` with U+FFFD, the replacement character, for each U+0000; `None`: it has none.
pub fn replace_nul(json: &[u8]) -> Option<Vec<u8>> {
    let mut from = find_nul(json)?;
    let mut replaced = json.to_vec();
    while let Some(escape) = replaced.get_mut(from..from + ESCAPED.len()) {
        escape.copy_from_slice(br"\ufffd");
        let rest = from + ESCAPED.len();
        match json.get(rest..).and_then(find_nul) {
            Some(next) => from = rest + next,
            None => break,
        }
    }
    Some(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_is_found_and_replaced_and_a_backslash_is_not_mistaken_for_it() {
        for (json, at, replaced) in [
            (r#"{"a": "b"}"#, None, None),
            (r#""\u0000""#, Some(1), Some(r#""\ufffd""#)),
            (r#""a\\u0000""#, None, None),
            (r#""a\\\u0000""#, Some(4), Some(r#""a\\\ufffd""#)),
            (
                r#""\\u0000 \u0000\u0000 \\u0000""#,
                Some(9),
                Some(r#""\\u0000 \ufffd\ufffd \\u0000""#),
            ),
            (r#""\u00000""#, Some(1), Some(r#""\ufffd0""#)),
            (r#""\u0001""#, None, None),
            ("", None, None),
        ] {
            assert_eq!(find_nul(json.as_bytes()), at, "{json}");
            let found = replace_nul(json.as_bytes());
            let found = found.map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(found.as_deref(), replaced, "{json}");
        }
    }
}
