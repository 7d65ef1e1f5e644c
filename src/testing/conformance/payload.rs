//! Values come back as they were: through the journal, messages and metadata.

use serde_json::json;

use super::given::{A, at, begun, commit, event, run, started, workflow};
use super::trial::Trial;
use crate::id::{NAME_BYTES_MAX, StepKey};
use crate::journal::{Event, Recorded, Signal};
use crate::storage::{Commit, Message, NewRun};
use crate::time::Timestamp;
use crate::value::{Json, NESTING_MAX, Value};

/// By their text, too: 0.0 and -0.0 are equal, and so are maps in another order.
#[track_caller]
fn equal(found: &Json, given: &Json, place: &str) {
    let (text, expected) = (found.to_string(), given.to_string());
    assert!(text == expected && found == given, "{place}: {text:.300} of {expected:.300}");
}

#[track_caller]
fn comes_back(on: &Trial<'_>, name: &str, given: &Json) {
    let value = Value::from(given.clone());
    let metadata = [("key".to_string(), given.clone())].into();
    let journal = vec![event(0, started(value.clone()))];
    on.create(NewRun { metadata, journal, ..run(name) });
    let succeeded = Event::StepSucceeded { step: StepKey::root(0), output: value.clone() };
    on.commit(name, Commit { events: vec![event(1, succeeded)], ..commit(A, 1) });
    on.post(name, Message::Signal(Signal::new("s", value)));
    let stored = on.load(name);
    equal(&stored.metadata["key"], given, "in metadata");
    match &stored.journal[0].event {
        Event::RunStarted(started) => equal(&started.input, given, "in the first events"),
        other => panic!("a run started, and this came back: {other:?}"),
    }
    match &stored.journal[1].event {
        Event::StepSucceeded { output, .. } => equal(output, given, "in an event"),
        other => panic!("a step succeeded, and this came back: {other:?}"),
    }
    match &on.inbox(name)[0].1 {
        Message::Signal(signal) => equal(&signal.payload, given, "in a message"),
        other => panic!("a signal was posted, and this came back: {other:?}"),
    }
}

#[track_caller]
fn all_come_back(on: &Trial<'_>, given: &[Json]) {
    for (place, given) in given.iter().enumerate() {
        comes_back(on, &format!("r{place}"), given);
    }
}

pub(super) fn empty_values(on: &Trial<'_>) {
    all_come_back(on, &[json!(null), json!(""), json!([]), json!({}), json!({"": ""})]);
}

pub(super) fn plain_values(on: &Trial<'_>) {
    all_come_back(on, &[json!(true), json!(false), json!(0), json!("x"), json!([null, [[]]])]);
}

pub(super) fn a_text_of_a_mebibyte(on: &Trial<'_>) {
    comes_back(on, "r", &json!("abcdefgh".repeat(131_072)));
}

pub(super) fn the_null_letter(on: &Trial<'_>) {
    all_come_back(on, &[json!("\u{0}"), json!("a\u{0}b"), json!({"\u{0}": "\u{0}\u{0}"})]);
}

pub(super) fn control_letters(on: &Trial<'_>) {
    let all: String = (0..32).chain([127]).filter_map(char::from_u32).collect();
    all_come_back(on, &[json!(all), json!("\r\n\t"), json!("\u{2028}\u{2029}\u{feff}")]);
}

pub(super) fn quotes_and_escapes(on: &Trial<'_>) {
    let texts = ["'", "\"", "''", "\\", "\\\\", "\\u0000", "\\n", "`", "$1", "?", "%s", "{}", "--"];
    all_come_back(on, &texts.map(Json::from));
}

pub(super) fn letters_beyond_the_first_plane(on: &Trial<'_>) {
    let texts = ["🦀", "𝔘𝔫𝔦", "\u{10ffff}", "e\u{301}", "\u{e9}", "👩‍👩‍👧", "ﷺ", "\u{202e}abc"];
    all_come_back(on, &texts.map(Json::from));
}

pub(super) fn integers_beyond_what_floats_hold(on: &Trial<'_>) {
    let over = (1_u64 << 53) + 1;
    all_come_back(on, &[json!(over), json!(-(over as i64)), json!([over, over + 1])]);
}

pub(super) fn the_first_and_last_integers(on: &Trial<'_>) {
    all_come_back(on, &[json!(i64::MIN), json!(i64::MAX), json!(u64::MAX), json!(1_u64 << 63)]);
}

pub(super) fn floats_at_their_limits(on: &Trial<'_>) {
    let floats = [1e308, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, 0.1 + 0.2, 1.0, 1e21];
    all_come_back(on, &floats.map(Json::from));
}

pub(super) fn zero_below_zero(on: &Trial<'_>) {
    all_come_back(on, &[json!(-0.0), json!(0.0), json!(0)]);
}

pub(super) fn values_as_deep_as_they_may_be(on: &Trial<'_>) {
    let (mut lists, mut maps) = (json!([]), json!({}));
    for _ in 1..NESTING_MAX {
        lists = json!([lists]);
        maps = json!({"m": maps});
    }
    assert!(!Value::from(lists.clone()).nests_too_deep(), "runs accept it");
    all_come_back(on, &[lists, maps]);
}

pub(super) fn ten_thousand_keys(on: &Trial<'_>) {
    let keys = (0..10_000).map(|number| (format!("k{}", number * 7919 % 10_000), number.into()));
    comes_back(on, "r", &Json::Object(keys.collect()));
}

pub(super) fn the_order_of_keys(on: &Trial<'_>) {
    let text = r#"{"b":1,"a":{"z":1,"y":[{"d":1,"c":2}]},"B":3,"10":4,"9":5,"é":6,"":7}"#;
    let given: Json = serde_json::from_str(text).expect("it is JSON");
    comes_back(on, "r", &given);
}

pub(super) fn keys_of_any_letters(on: &Trial<'_>) {
    comes_back(on, "r", &json!({"$sealed": 1, "$blob": 2, "a.b": 3, "🦀": 4, "\"": 5, " ": 6}));
}

pub(super) fn texts_that_look_like_something_else(on: &Trial<'_>) {
    let texts = ["null", "1", "1e5", "true", "[]", "{}", "2026-01-01T00:00:00Z", "NaN", " x "];
    all_come_back(on, &texts.map(Json::from));
}

pub(super) fn times_at_their_limits(on: &Trial<'_>) {
    let times = [Timestamp::MIN, Timestamp::from_micros(-1), Timestamp::EPOCH, Timestamp::MAX];
    let ready = |at| Recorded { at, event: Event::RunLimitReached };
    on.create(NewRun { journal: times.map(ready).into(), ..run("r") });
    let found: Vec<Timestamp> = on.load("r").journal.iter().map(|event| event.at).collect();
    assert_eq!(found, times);
}

pub(super) fn names_at_their_longest(on: &Trial<'_>) {
    let name = "n".repeat(NAME_BYTES_MAX);
    let user = "u".repeat(10_000);
    let given = NewRun { workflow: workflow(&name), user: Some(user.clone()), ..run(&name) };
    on.create(NewRun { linked: vec![workflow(&name)], ..given });
    let number = on.signal(&name, &"s".repeat(NAME_BYTES_MAX));
    let stored = on.load(&name);
    assert_eq!((stored.workflow.id(), stored.linked[0].id()), (&*name, &*name));
    assert_eq!(stored.user, Some(user));
    assert_eq!(on.numbers(&name), [number]);
}

pub(super) fn users_and_keys_of_metadata(on: &Trial<'_>) {
    for (place, text) in ["", "\u{0}", "'; --", "ünï 🦀", "null", " x "].into_iter().enumerate()
    {
        let (name, metadata) = (format!("r{place}"), [(text.to_string(), json!(text))].into());
        on.create(NewRun { user: Some(text.into()), metadata, ..run(&name) });
        let stored = on.load(&name);
        assert_eq!(stored.user.as_deref(), Some(text));
        assert_eq!(stored.metadata.get(text), Some(&json!(text)));
    }
}

pub(super) fn one_value_in_many_places(on: &Trial<'_>) {
    let value = Value::from(json!({"shared": [1, 2, 3]}));
    let of = |step| Event::StepSucceeded { step: StepKey::root(step), output: value.clone() };
    let events: Vec<Recorded> = (0..50).map(|step| event(1, of(step))).collect();
    on.create(NewRun { journal: vec![begun()], at: at(0), ..run("r") });
    on.commit("r", Commit { events: events.clone(), ..commit(A, 1) });
    assert_eq!(on.load("r").journal[1..], events);
}
