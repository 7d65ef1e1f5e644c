//! Texts as PostgreSQL can keep them: it has no U+0000.
//!
//! Neither `text` nor what is taken out of `json` may have one. A workflow's author, or whoever sends it
//! values, may write one all the same, and one such row must not make a query over many of them fail.
//! So U+0000 is kept as U+001A (substitute) and `0`, and U+001A as itself twice. Nobody else writes
//! either; all other texts are as they were.

use std::borrow::Cow;

const SUBSTITUTE: char = '\u{1a}';

/// What stands for one of the two in JSON, and what they are themselves.
const NUL: &str = "\\u0000";
const SUBSTITUTED: &str = "\\u001a";

pub(super) fn encode(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', SUBSTITUTE]) {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match letter {
            '\0' => kept.extend([SUBSTITUTE, '0']),
            SUBSTITUTE => kept.extend([SUBSTITUTE, SUBSTITUTE]),
            other => kept.push(other),
        }
    }
    Cow::Owned(kept)
}

pub(super) fn decode(kept: String) -> String {
    if !kept.contains(SUBSTITUTE) {
        return kept;
    }
    let mut text = String::with_capacity(kept.len());
    let mut letters = kept.chars();
    while let Some(letter) = letters.next() {
        match letter {
            SUBSTITUTE if letters.next() == Some('0') => text.push('\0'),
            other => text.push(other),
        }
    }
    text
}

/// The same in the strings of a JSON document, as `serde_json` writes it.
pub(super) fn encode_json(json: &str) -> Cow<'_, str> {
    if !json.contains("\\u00") {
        return Cow::Borrowed(json);
    }
    let mut kept = String::with_capacity(json.len() + 16);
    let mut rest = json;
    while let Some(escape) = next_escape(&mut rest, &mut kept) {
        match escape {
            NUL => kept.extend([SUBSTITUTED, "0"]),
            SUBSTITUTED => kept.extend([SUBSTITUTED, SUBSTITUTED]),
            other => kept.push_str(other),
        }
    }
    Cow::Owned(kept)
}

pub(super) fn decode_json(kept: &str) -> Cow<'_, str> {
    if !kept.contains(SUBSTITUTED) {
        return Cow::Borrowed(kept);
    }
    let mut json = String::with_capacity(kept.len());
    let mut rest = kept;
    while let Some(escape) = next_escape(&mut rest, &mut json) {
        if escape != SUBSTITUTED {
            json.push_str(escape);
        } else if let Some(behind) = rest.strip_prefix('0') {
            rest = behind;
            json.push_str(NUL);
        } else {
            rest = rest.strip_prefix(SUBSTITUTED).unwrap_or(rest);
            json.push_str(SUBSTITUTED);
        }
    }
    Cow::Owned(json)
}

/// Moves what stands before the next escape to `before`, and takes the escape: six letters that begin
/// with `\u`, or two that begin with another backslash.
fn next_escape<'a>(rest: &mut &'a str, before: &mut String) -> Option<&'a str> {
    let Some(start) = rest.find('\\') else {
        before.push_str(rest);
        *rest = "";
        return None;
    };
    let (plain, escape) = rest.split_at(start);
    before.push_str(plain);
    let length = if escape.starts_with("\\u") { NUL.len() } else { 2 };
    let (escape, behind) = escape.split_at_checked(length).unwrap_or((escape, ""));
    *rest = behind;
    Some(escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 12] = [
        "",
        "plain",
        "\0",
        "\u{1a}",
        "\u{1a}0",
        "\0\0\u{1a}\u{1a}0",
        "a\0b\u{1a}c",
        "\\u0000",
        "\\\0\\\\\u{1a}\"\\u001a",
        "\n\u{1}\u{1f}\u{0}0",
        "ünï 🦀\u{0}",
        "\\",
    ];

    #[test]
    fn texts_come_back_and_none_that_is_kept_has_a_nul() {
        for text in TEXTS {
            let kept = encode(text).into_owned();
            assert!(!kept.contains('\0'), "{text:?}");
            assert_eq!(decode(kept), text);
        }
    }

    #[test]
    fn json_comes_back_and_none_that_is_kept_has_a_nul() {
        for text in TEXTS {
            let value = serde_json::json!({text: [text, {"in": text}], "all": TEXTS});
            let json = value.to_string();
            let kept = encode_json(&json).into_owned();
            assert_eq!(decode_json(&kept), json);
            // What a query takes out of it is the kept text.
            let taken: serde_json::Value = serde_json::from_str(&kept).unwrap();
            assert_eq!(taken["all"][5], encode(TEXTS[5]).as_ref());
            let texts = taken["all"].as_array().unwrap().iter();
            assert!(texts.clone().all(|kept| !kept.as_str().unwrap().contains('\0')));
            assert_eq!(texts.count(), TEXTS.len());
        }
    }

    #[test]
    fn all_other_texts_are_as_they_were() {
        assert!(matches!(encode("a\tb\\u0000"), Cow::Borrowed(_)));
        assert!(matches!(encode_json("{\"a\":\"\\n\"}"), Cow::Borrowed(_)));
        assert_eq!(encode_json("\"\\\\u0000 \\u0001\""), "\"\\\\u0000 \\u0001\"");
    }
}
