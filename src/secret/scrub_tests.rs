use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::json;

use super::seal_tests::{PLAIN, pseudo_random, ring, sealed_at, text};
use super::*;

pub(super) fn knows(secrets: &[&str]) -> Scrubber {
    let mut scrubber = Scrubber::new();
    secrets.iter().for_each(|secret| scrubber.learn(&(*secret).into()));
    scrubber
}

#[test]
fn a_secret_is_found_in_every_form() {
    let scrubber = knows(&[PLAIN]);
    let form = "p%40ss+%22word%22%2F%C3%A9%2B5";
    let hex: String = PLAIN.bytes().map(|byte| format!("{byte:02x}")).collect();
    let all_escaped: String = PLAIN.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for written in [
        PLAIN,
        &serde_json::to_string(PLAIN).unwrap().replace("\"p", "p").replace("5\"", "5"),
        r#"p@ss \u0022word\"\/\u00e9+5"#,
        "p%40ss%20%22word%22%2F%C3%A9%2B5",
        "p@ss%20%22word%22/%c3%a9+5",
        form,
        &all_escaped,
        &hex,
        &hex.to_uppercase(),
        &STANDARD.encode(PLAIN),
        &STANDARD_NO_PAD.encode(PLAIN),
        &URL_SAFE.encode(PLAIN),
        &URL_SAFE_NO_PAD.encode(PLAIN),
        &STANDARD.encode(PLAIN).replace('=', "%3D").replace('+', "%2B"),
    ] {
        assert_eq!(scrubber.text(written), "[secret]", "{written}");
        let inside = format!("é\\ 100% {written} \u{1f600}%");
        assert_eq!(scrubber.text(&inside), "é\\ 100% [secret] \u{1f600}%");
    }
    assert_eq!(knows(&["\u{1f600}\u{1f600}a\nb"]).text(r"<\ud83d\ude00😀a\nb>"), "<[secret]>");
    assert!(matches!(scrubber.text("nothing % \\ \\u12 %4 here"), Cow::Borrowed(_)));
}

#[test]
fn no_digit_of_base64_that_holds_bits_of_a_secret_stays() {
    for secret in ["abcd", "abcde", "hunter2", "??>>??>>", PLAIN] {
        let scrubber = knows(&[secret]);
        for before in ["", "u", "u:", "us:", "use:", "user:"] {
            for behind in ["", "@", "@h", "@ho"] {
                let plain = format!("{before}{secret}{behind}");
                for coded in [STANDARD.encode(&plain), URL_SAFE_NO_PAD.encode(&plain)] {
                    let clean = scrubber.text(&coded).into_owned();
                    let (start, end) = clean.split_once("[secret]").unwrap();
                    assert_eq!(start, &coded[..before.len() * 8 / 6], "{plain}");
                    let kept = (8 * (plain.len() - behind.len())).div_ceil(6);
                    let tail = if behind.is_empty() { "" } else { &coded[kept..] };
                    // The padding may go with the last digit.
                    assert!(end == tail || end.is_empty() && tail.starts_with('='), "{clean}");
                }
            }
        }
    }
}

#[test]
fn secrets_that_overlap_leave_nothing() {
    let scrubber = knows(&["abcdefgh", "cdef", "ghijkl", "xyxy"]);
    assert_eq!(scrubber.text("<abcdefghijkl>"), "<[secret]>");
    assert_eq!(scrubber.text("<cdef abcdefgh>"), "<[secret] [secret]>");
    assert_eq!(scrubber.text("xyxyxy, xyxyxyxyx"), "[secret], [secret]x");
    let secret = knows(&["secret"]);
    let once = secret.text("a secret!").into_owned();
    assert_eq!(once, "a [secret]!");
    assert_eq!(secret.text(&once), once);
}

#[test]
fn lines_of_a_secret_are_found_by_themselves() {
    let scrubber = knows(&["-----BEGIN-----\r\n  MIIEvgIBADANBg\nshort\n-----END-----\n"]);
    assert_eq!(scrubber.text("got MIIEvgIBADANBg and short"), "got [secret] and short");
    assert_eq!(scrubber.text("TUlJRXZnSUJBREFOQmc="), "[secret]");
    assert_eq!(knows(&["hunter2\n"]).text("hunter2, hunter2\n"), "[secret], [secret]");
}

#[test]
fn base64_in_lines_is_found() {
    let secret = "a key of more than one line ".repeat(8);
    let coded = STANDARD.encode(&secret);
    for (columns, end) in [(64, "\n"), (76, "\n"), (76, "\r\n")] {
        let lines: Vec<&str> =
            coded.as_bytes().chunks(columns).map(|line| str::from_utf8(line).unwrap()).collect();
        let wrapped = format!("key:{end}{}{end}ok", lines.join(end));
        assert_eq!(knows(&[&secret]).text(&wrapped), format!("key:{end}[secret]{end}ok"));
    }
    assert_eq!(knows(&["47114711"]).text("4711\n4711"), "4711\n4711");
}

#[test]
fn short_secrets_are_not_looked_for() {
    let scrubber = knows(&["", "a", "abc", "  é€é  ", "\n\n\n\n\n"]);
    assert!(scrubber.is_empty());
    assert_eq!(scrubber.text("abc é€é YWJj"), "abc é€é YWJj");
    assert_eq!(scrubber.json(&json!(["abc"])), None);
    assert!(!knows(&["abcd"]).is_empty());
}

#[test]
fn json_is_clean_in_texts_names_and_numbers() {
    let scrubber = knows(&["hunter2", "47114711"]);
    let value = json!({
        "log": ["user:hunter2", {"deep": {"hunter2": "x", "[secret]": 1, "aHVudGVyMg==": 2}}],
        "pin": 47_114_711,
        "time": 147_114_711_u64,
        "same": [true, null, 1.5, "plain"],
    });
    let clean = json!({
        "log": ["user:[secret]", {"deep": {"[secret] 3": "x", "[secret]": 1, "[secret] 2": 2}}],
        "pin": "[secret]",
        "time": 147_114_711_u64,
        "same": [true, null, 1.5, "plain"],
    });
    assert_eq!(scrubber.json(&value), Some(clean));
    assert_eq!(scrubber.json(&json!({"a": [1, "hunter"]})), None);
    assert_eq!(Scrubber::new().json(&value), None);
    let deep = (0..100).fold(json!("hunter2"), |value, _| json!({ "v": value }));
    assert!(!scrubber.json(&deep).unwrap().to_string().contains("hunter2"));
}

#[test]
fn sealed_values_are_not_scrubbed_but_what_pretends_to_be_one_is() {
    let sealed = sealed_at(&ring("k1", 1), "run", "token");
    let piece = text(&sealed).rsplit('.').next().unwrap()[..5].to_owned();
    let scrubber = knows(&[&piece]);
    assert_eq!(scrubber.json(&json!([sealed])), None);
    let both = scrubber.json(&json!([sealed, piece])).unwrap();
    assert_eq!(both, json!([sealed, "[secret]"]));
    assert_eq!(scrubber.json(&json!({ "$sealed": piece })), Some(json!({ "$sealed": "[secret]" })));
}

#[test]
fn no_text_panics_or_keeps_a_secret() {
    let secrets = ["é%é\\", "ab\"cd", "\u{1f600}ab c", "%41%41", "\\u00e9x"];
    let scrubber = knows(&secrets);
    let mut pool: Vec<&str> =
        vec!["%", "\\", "é", "\u{1f600}", "\\u", "00e9", "%c3", "a", "=", "\""];
    pool.extend(secrets);
    let mut next = pseudo_random();
    for _ in 0..5000 {
        let length = next(12);
        let text: String = (0..length).map(|_| pool[next(pool.len())]).collect();
        let clean = scrubber.text(&text);
        assert!(secrets.iter().all(|secret| !clean.contains(secret)), "{text} became {clean}");
        scrubber.json(&json!({ text.clone(): [clean] }));
    }
}

#[test]
fn what_is_left_of_a_secret_where_a_text_was_cut() {
    let mut scrubber = Scrubber::new();
    scrubber.learn(&Secret::new("correct-horse-battery-staple"));
    let cut = format!("{} correct-horse-bat...", "x".repeat(300));
    assert!(!scrubber.text(&cut).contains("correct"), "{}", scrubber.text(&cut));
    let value = json!({ "a": cut });
    assert!(!scrubber.json(&value).unwrap().to_string().contains("correct"));
    // A short text is whole, and an ordinary word is none.
    assert_eq!(scrubber.text("this is correct"), "this is correct");
}
