//! What is said to runs waits in order, and is taken once.

use super::given::{A, B, at, begun, commit, ready};
use super::trial::Trial;
use crate::error::ErrorKind;
use crate::journal::{Reason, Signal};
use crate::storage::{Commit, Holding, Message};
use crate::testing::conformance::trial::wait;

#[track_caller]
fn signals(on: &Trial<'_>, name: &str) -> Vec<String> {
    let name_of = |message| match message {
        Message::Signal(signal) => signal.name,
        other => panic!("a signal was posted, and this came: {other:?}"),
    };
    on.inbox(name).into_iter().map(|(_, message)| name_of(message)).collect()
}

pub(super) fn messages_are_kept_oldest_first(on: &Trial<'_>) {
    on.held("r", A);
    let sent: Vec<String> = (0..20).map(|number| format!("s{}", number * 7 % 20)).collect();
    let numbers: Vec<u64> = sent.iter().map(|name| on.signal("r", name)).collect();
    assert_eq!(signals(on, "r"), sent);
    assert_eq!(on.numbers("r"), numbers, "with the numbers that were told");
}

pub(super) fn numbers_grow(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    let mut last = None;
    for turn in 0..20 {
        let number = on.signal("r", "x");
        assert!(last.is_none_or(|last| number > last), "{number} after {last:?}");
        last = Some(number);
        if turn % 3 == 0 {
            on.signal("s", "between");
        }
    }
}

pub(super) fn numbers_grow_over_answers(on: &Trial<'_>) {
    on.held("r", A);
    let mut last = 0;
    for turn in 0..10 {
        let number = on.signal("r", "x");
        assert!(turn == 0 || number > last, "a number was given again");
        on.commit("r", Commit { answers: vec![(number, Ok(()))], ..commit(A, 0) });
        last = number;
    }
}

pub(super) fn a_message_is_in_one_inbox_only(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.signal("r", "to r");
    assert!(on.inbox("s").is_empty());
    on.signal("s", "to s");
    assert_eq!((signals(on, "r"), signals(on, "s")), (vec!["to r".into()], vec!["to s".into()]));
}

pub(super) fn a_message_stays_until_it_is_answered(on: &Trial<'_>) {
    on.held("r", A);
    let number = on.signal("r", "x");
    on.commit("r", Commit { events: vec![begun()], ..commit(A, 0) });
    on.commit("r", Commit { holding: Holding::Parked(None), ..commit(A, 1) });
    on.claims(B, 0);
    on.set_aside("r", B, 0, "broken");
    assert_eq!(on.numbers("r"), [number]);
    assert_eq!(on.numbers("r"), [number], "reading takes nothing away");
}

pub(super) fn an_answered_message_never_comes_back(on: &Trial<'_>) {
    on.held("r", A);
    let number = on.signal("r", "x");
    on.commit("r", Commit { answers: vec![(number, Ok(()))], ..commit(A, 0) });
    assert!(on.inbox("r").is_empty());
    on.commit("r", Commit { holding: Holding::Parked(Some(at(0))), ..commit(A, 0) });
    on.claims(B, 0);
    assert!(on.inbox("r").is_empty(), "whoever has the run now");
    let next = on.signal("r", "y");
    assert_eq!(on.numbers("r"), [next]);
}

pub(super) fn answers_take_what_they_name_and_no_more(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    let numbers: Vec<u64> = ["a", "b", "c", "d"].map(|name| on.signal("r", name)).into();
    let other = on.signal("s", "e");
    let answers = vec![(numbers[2], Ok(())), (numbers[0], Ok(()))];
    on.commit("r", Commit { answers, ..commit(A, 0) });
    assert_eq!(on.numbers("r"), [numbers[1], numbers[3]], "the others, still in order");
    assert_eq!(on.numbers("s"), [other]);
}

pub(super) fn nobody_writes_to_who_is_not_there(on: &Trial<'_>) {
    on.held("other", A);
    let message = Message::Pause(Reason::default());
    let answer = wait(on.factory(), on.storage().post(&super::given::id("r"), message));
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(on.find("r").is_none() && on.inbox("r").is_empty());
}

pub(super) fn messages_reach_runs_whoever_holds_them(on: &Trial<'_>) {
    on.held("held", A);
    on.parked("parked", None);
    on.parked("due", Some(9));
    on.finished("finished");
    on.aside("aside", 9);
    for name in ["held", "parked", "due", "finished", "aside"] {
        let number = on.signal(name, "x");
        assert_eq!(on.numbers(name), [number], "of {name}");
    }
}

pub(super) fn a_message_changes_nothing_else(on: &Trial<'_>) {
    on.held("r", A);
    on.commit("r", Commit { events: vec![begun(), ready(0)], ..commit(A, 0) });
    let before = format!("{:?} {:?}", on.load("r"), on.summary("r"));
    on.signal("r", "x");
    assert_eq!(format!("{:?} {:?}", on.load("r"), on.summary("r")), before);
    on.commit("r", commit(A, 2));
}

pub(super) fn a_message_may_come_between_two_commits(on: &Trial<'_>) {
    on.held("r", A);
    let first = on.signal("r", "x");
    on.commit("r", Commit { events: vec![begun()], ..commit(A, 0) });
    let second = on.signal("r", "y");
    on.commit("r", Commit { answers: vec![(first, Ok(()))], ..commit(A, 1) });
    assert_eq!(on.numbers("r"), [second], "one that the commit did not know stays");
}

pub(super) fn equal_messages_are_two(on: &Trial<'_>) {
    on.held("r", A);
    let message = || Message::Signal(Signal::new("x", 1));
    let (first, second) = (on.post("r", message()), on.post("r", message()));
    assert_ne!(first, second);
    on.commit("r", Commit { answers: vec![(first, Ok(()))], ..commit(A, 0) });
    assert_eq!(on.numbers("r"), [second]);
}
