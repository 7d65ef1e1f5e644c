//! What one handle has written another sees at once, as in two processes.
//!
//! Nothing here is asked of a storage that has only one.

use super::given::{A, B, C, at, begun, commit, id, mutex, rate, ready};
use super::trial::Trial;
use crate::storage::{Beat, Claim, Commit, Holding};

pub(super) fn a_new_run_is_seen(on: &Trial<'_>) {
    let Some(other) = on.beside() else { return };
    on.held("r", A);
    assert_eq!(other.load("r").holding, Holding::Held(A));
    assert_eq!(other.create_again(super::given::run("r")), "w");
}

pub(super) fn commits_are_seen_and_fenced(on: &Trial<'_>) {
    let Some(other) = on.beside() else { return };
    on.held("r", A);
    other.load("r");
    for turn in 0..5 {
        on.commit("r", Commit { events: vec![ready(turn)], ..commit(A, turn.into()) });
        assert_eq!(other.length("r"), u64::from(turn) + 1);
        assert_eq!(other.summary("r").events, u64::from(turn) + 1, "as the list says");
        other.refuses("r", commit(A, turn.into()));
        other.refuses("r", commit(B, u64::from(turn) + 1));
    }
    other.commit("r", Commit { events: vec![ready(5)], ..commit(A, 5) });
    on.refuses("r", commit(A, 5));
}

pub(super) fn messages_are_seen(on: &Trial<'_>) {
    let Some(other) = on.beside() else { return };
    on.held("r", A);
    assert!(on.mail(A).is_empty());
    let first = other.signal("r", "x");
    let second = on.signal("r", "y");
    assert!(second > first, "numbers grow whoever posts");
    assert_eq!(on.numbers("r"), [first, second]);
    assert_eq!(on.mail(A), ["r"]);
    on.commit("r", Commit { answers: vec![(first, Ok(())), (second, Ok(()))], ..commit(A, 0) });
    assert_eq!(other.answer("r", first), Some(Ok(())));
    assert!(other.inbox("r").is_empty());
}

pub(super) fn claims_are_seen(on: &Trial<'_>) {
    let Some(other) = on.beside() else { return };
    on.parked("r", Some(5));
    on.parked("s", Some(5));
    on.beat(A);
    assert_eq!(other.next_due(), Some(at(5)));
    let one = Claim { owner: A, now: at(5), gone: Vec::new(), run: None, limit: 1 };
    let mine = on.claim(one).remove(0).run;
    let theirs = other.claims(B, 5);
    assert_eq!(theirs.len(), 1);
    assert_ne!(mine.as_str(), theirs[0], "each to one owner only");
    assert_eq!((on.next_due(), other.next_due()), (None, None));
}

pub(super) fn owners_are_seen(on: &Trial<'_>) {
    let Some(other) = on.beside() else { return };
    on.held("r", A);
    on.beat(A);
    on.beat(A);
    assert_eq!(other.beat(B), [Beat { owner: A, count: 2 }, Beat { owner: B, count: 1 }]);
    assert!(other.claims_from(B, A, 1).is_empty(), "it has beaten since");
    assert_eq!(other.claims_from(B, A, 2), ["r"]);
    on.refuses("r", commit(A, 0));
    other.retire(B);
    assert_eq!(on.claims(C, 0), ["r"]);
}

pub(super) fn locks_are_seen(on: &Trial<'_>) {
    let Some(other) = on.beside() else { return };
    on.held("r", A);
    other.held("s", B);
    assert_eq!(on.acquire("r", 0, &[mutex("l"), rate(1, 60, "api")], 0), None);
    let why = other.acquire("s", 0, &[mutex("l")], 0);
    assert!(why.is_some_and(|why| why.holders == [id("r")]));
    assert!(other.acquire("s", 0, &[rate(1, 60, "api")], 0).is_some());
    on.commit("r", Commit { released: vec![crate::id::StepKey::root(0)], ..commit(A, 0) });
    assert_eq!(other.acquire("s", 0, &[mutex("l")], 0), None);
    assert!(on.acquire("r", 0, &[mutex("l")], 0).is_some());
}

pub(super) fn problems_are_seen(on: &Trial<'_>) {
    let Some(other) = on.beside() else { return };
    on.aside("r", 10);
    assert!(other.summary("r").problem.is_some());
    assert_eq!(other.claims(B, 10), ["r"]);
    assert_eq!(on.summary("r").problem, None);
}

pub(super) fn both_dump_the_same(on: &Trial<'_>) {
    let Some(other) = on.beside() else { return };
    on.held("r", A);
    other.parked("s", Some(3));
    other.signal("r", "x");
    on.commit("r", Commit { events: vec![begun()], ..commit(A, 0) });
    let lines = |trial: &Trial<'_>| -> Vec<String> {
        trial.dump().into_iter().filter(|line| !line.contains("is answered")).collect()
    };
    assert_eq!(lines(on), lines(&other));
}
