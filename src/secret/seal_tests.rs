use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::scrub_tests::knows;
use super::*;
use crate::value::Json;

pub(super) const PLAIN: &str = "p@ss \"word\"/é+5";

pub(super) fn ring(id: &str, byte: u8) -> Keyring {
    Keyring::new(id, Key::from_bytes([byte; 32]))
}

pub(super) fn sealed_at(keys: &Keyring, run: &str, name: &str) -> Json {
    seal(keys, [9; 24], Place { run, name }, &PLAIN.into()).unwrap()
}

pub(super) fn text(sealed: &Json) -> &str {
    sealed["$sealed"].as_str().unwrap()
}

fn refusal(keys: &Keyring, run: &str, sealed: &Json) -> SecretError {
    open(keys, run, sealed).unwrap_err()
}

/// Numbers that look random and are the same each time (xorshift, Marsaglia 2003).
pub(super) fn pseudo_random() -> impl FnMut(usize) -> usize {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    }
}

#[test]
fn what_is_sealed_opens_in_its_run() {
    let keys = ring("k1", 1);
    for (name, plain) in [("token", PLAIN), ("", ""), ("a.b/ü", "x"), ("n", &"é".repeat(32_768))]
    {
        let sealed = seal(&keys, [3; 24], Place { run: "r", name }, &plain.into()).unwrap();
        assert!(crate::value::is_sealed(&sealed));
        assert_eq!(text(&sealed).matches('.').count(), 4);
        assert!(text(&sealed).starts_with("v1.k1."));
        assert_eq!(open(&keys, "r", &sealed).unwrap().expose(), plain);
    }
}

/// Made with an implementation of its own (Python, after RFC 8439 and draft-irtf-cfrg-xchacha).
#[test]
fn the_form_of_what_is_stored_does_not_change() {
    let keys = ring("2026-11", 7);
    let place = Place { run: "order-4711", name: "token" };
    let nonce = std::array::from_fn(|at| at as u8);
    let sealed = seal(&keys, nonce, place, &"hunter2".into()).unwrap();
    let nonce = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
    let expected = format!("v1.2026-11.dG9rZW4.{nonce}.wGLF8Z9uaYhpeRiFxGcjM_ihcLwn0Dk");
    assert_eq!(sealed, json!({ "$sealed": expected }));
}

#[test]
fn what_is_moved_or_changed_does_not_open() {
    let keys = ring("k1", 1).and("k2", Key::from_bytes([1; 32]));
    let sealed = sealed_at(&keys, "run-1", "token");
    assert_eq!(refusal(&keys, "run-2", &sealed), SecretError::Refused);
    assert_eq!(refusal(&ring("k1", 2), "run-1", &sealed), SecretError::Refused);
    let unknown = refusal(&ring("k3", 1), "run-1", &sealed);
    assert_eq!(unknown, SecretError::UnknownKey("k1".into()));
    let renamed = text(&sealed).replace(&URL_SAFE_NO_PAD.encode("token"), "bmFtZQ");
    assert_eq!(refusal(&keys, "run-1", &json!({ "$sealed": renamed })), SecretError::Refused);
    // The same key under another id.
    let rekeyed = text(&sealed).replace("v1.k1.", "v1.k2.");
    assert_eq!(refusal(&keys, "run-1", &json!({ "$sealed": rekeyed })), SecretError::Refused);
    // Nor do run and name run into each other.
    let shifted = sealed_at(&keys, "run-1t", "oken");
    let shifted = text(&shifted).replace(&URL_SAFE_NO_PAD.encode("oken"), "dG9rZW4");
    assert_eq!(refusal(&keys, "run-1", &json!({ "$sealed": shifted })), SecretError::Refused);
}

#[test]
fn no_bit_of_a_sealed_value_can_be_flipped() {
    let keys = ring("k1", 1);
    let sealed = sealed_at(&keys, "run", "token");
    let parts: Vec<&str> = text(&sealed).split('.').collect();
    for part in 2..5 {
        let bytes = URL_SAFE_NO_PAD.decode(parts[part]).unwrap();
        for bit in 0..8 * bytes.len() {
            let (mut bytes, mut parts) = (bytes.clone(), parts.clone());
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed = URL_SAFE_NO_PAD.encode(bytes);
            parts[part] = &changed;
            let error = refusal(&keys, "run", &json!({ "$sealed": parts.join(".") }));
            // A name may also stop being a text.
            assert!(error == SecretError::Refused || part == 2, "part {part}, bit {bit}: {error}");
        }
    }
}

#[test]
fn what_is_sealed_again_needs_the_new_key_only() {
    let old = ring("old", 1);
    let both = ring("new", 2).and("old", Key::from_bytes([1; 32]));
    let sealed = sealed_at(&old, "run", "token");
    assert_eq!(open(&both, "run", &sealed).unwrap().expose(), PLAIN);
    assert_eq!(reseal(&old, [4; 24], "run", text(&sealed)), Ok(None));
    let again = reseal(&both, [4; 24], "run", text(&sealed)).unwrap().unwrap();
    assert_eq!(open(&ring("new", 2), "run", &json!({ "$sealed": again })).unwrap().expose(), PLAIN);
    assert_eq!(reseal(&both, [5; 24], "run", &again), Ok(None));
    assert_eq!(reseal(&both, [4; 24], "other", text(&sealed)), Err(SecretError::Refused));
    assert_eq!(reseal(&both, [4; 24], "run", PLAIN), Err(SecretError::Malformed));
}

#[test]
fn what_cannot_be_sealed_is_refused() {
    let place = Place { run: "run", name: "token" };
    let long = "k".repeat(65);
    for id in ["", "a.b", "schlüssel", "tab\t", &long] {
        let error = seal(&ring(id, 1), [0; 24], place, &PLAIN.into()).unwrap_err();
        assert_eq!(error, SecretError::BadKeyId);
    }
    let secret = "x".repeat(SECRET_BYTES_MAX + 1).into();
    let error = seal(&ring(&long[..64], 1), [0; 24], place, &secret).unwrap_err();
    assert_eq!(error, SecretError::TooLong(65_537));
    #[derive(Debug)]
    struct Forgetful;
    impl KeyProvider for Forgetful {
        fn current(&self) -> String {
            "lost".into()
        }
        fn key(&self, _: &str) -> Option<Key> {
            None
        }
    }
    let error = seal(&Forgetful, [0; 24], place, &PLAIN.into()).unwrap_err();
    assert_eq!(error, SecretError::UnknownKey("lost".into()));
}

#[test]
fn only_an_object_with_that_one_field_is_sealed() {
    let keys = ring("k1", 1);
    let sealed = sealed_at(&keys, "run", "token");
    for value in [
        json!(null),
        json!([]),
        json!({}),
        json!({ "$sealed": 1 }),
        json!({ "$sealed": text(&sealed), "x": 1 }),
        json!(text(&sealed)),
        json!([sealed]),
    ] {
        assert!(!crate::value::is_sealed(&value));
        assert_eq!(refusal(&keys, "run", &value), SecretError::NotSealed);
    }
    let other = sealed_at(&keys, "run", "other");
    let value = json!({"a": [sealed, {"b": other, "$sealed": 7}], "c": {"d": sealed}, "e": "x"});
    let mut texts = vec![text(&sealed), text(&other)];
    texts.sort_unstable();
    assert_eq!(sealed_texts(&value), texts);
    let deep = (0..1000).fold(sealed.clone(), |value, _| json!([value]));
    assert_eq!(sealed_texts(&deep), [text(&sealed)]);
}

#[test]
fn no_text_in_the_place_of_an_envelope_panics() {
    let keys = ring("k1", 1);
    let sealed = sealed_at(&keys, "run", "token");
    let refused = |text: &str| {
        assert!(open(&keys, "run", &json!({ "$sealed": text })).is_err(), "{text}");
        assert!(reseal(&ring("k2", 1), [0; 24], "run", text).is_err(), "{text}");
    };
    for text in ["", ".", "....", "v1", "v1....", "v2.k1.a.b.c", "v1.k1.dG8.AAAA.AAAA", "\0é.€"]
    {
        refused(text);
    }
    refused(&text(&sealed).replace("v1", "v2"));
    refused(&format!("{}.", text(&sealed)));
    refused(&format!("{}=", text(&sealed)));
    let mut next = pseudo_random();
    let pool: Vec<char> = "v1.k.AZaz09-_=+/ é€\u{1f600}\0\n".chars().collect();
    for _ in 0..2000 {
        let length = next(120);
        let dots: String = (0..length).map(|_| pool[next(pool.len())]).collect();
        refused(&dots);
        let mut broken: Vec<char> = text(&sealed).chars().collect();
        let (at, to) = (next(broken.len()), pool[next(pool.len())]);
        if broken[at] != to {
            broken[at] = to;
            refused(&broken.into_iter().collect::<String>());
        }
        refused(&text(&sealed)[..next(text(&sealed).len())]);
    }
}

#[test]
fn nothing_secret_is_shown() {
    let keys = ring("k1", 0xab).and("k2", Key::from_bytes([0xcd; 32]));
    let sealed = sealed_at(&keys, "run", "token");
    let mut shown = format!("{keys:?} {:?} {:?}", Secret::new(PLAIN), knows(&[PLAIN]));
    assert_eq!(
        shown,
        "Keyring { current: \"k1\", keys: {\"k1\": [key], \"k2\": [key]} } [secret] [scrubber]"
    );
    let moved = refusal(&keys, "other", &sealed);
    let damaged = refusal(&keys, "run", &json!({ "$sealed": format!("{}.", text(&sealed)) }));
    let plain = refusal(&keys, "run", &json!(PLAIN));
    for error in [moved, damaged, plain] {
        shown += &format!("{error} {error:?}");
    }
    let cipher = text(&sealed).rsplit('.').next().unwrap();
    for hidden in [PLAIN, "p@ss", "171", "205", "abab", "cdcd", &cipher[..8]] {
        assert!(!shown.contains(hidden), "{hidden} in {shown}");
    }
}
