//! What was there before a storage was closed is there when it is opened again.
//!
//! Nothing here is asked of a storage that does not survive that.

use std::time::Duration;

use serde_json::json;

use super::given::{A, B, C, at, at_most, begun, commit, event, mutex, rate, ready, run, started};
use super::given::{id, workflow};
use super::trial::Trial;
use crate::id::StepKey;
use crate::journal::{Recorded, RunStatus};
use crate::run::Rejection;
use crate::storage::{Beat, Claim, Commit, Holding, NewRun, RunQuery};

/// Runs of all kinds, with messages, answers, mail and a problem.
fn everything(on: &Trial<'_>) {
    on.create(NewRun {
        user: Some("ann".into()),
        metadata: [("k".to_string(), json!({"b": -0.0, "a": u64::MAX}))].into(),
        linked: vec![workflow("inner")],
        at: at(7),
        journal: vec![begun()],
        ..run("held")
    });
    on.signal("held", "x");
    let number = on.signal("held", "y");
    let answers = vec![(number, Err(Rejection::Payload("no".into())))];
    on.commit("held", Commit { events: vec![ready(1)], answers, ..commit(A, 1) });
    on.parked("parked", Some(50));
    on.parked("addressed", None);
    on.signal("addressed", "z");
    on.finished("finished");
    on.aside("aside", 70);
}

#[track_caller]
fn stays(on: &Trial<'_>, given: impl Fn(&Trial<'_>)) {
    given(on);
    let before = on.dump();
    if on.reopen() {
        on.is_as(&before, "it is not as it was before it was closed");
    }
}

pub(super) fn everything_is_as_it_was(on: &Trial<'_>) {
    stays(on, everything);
}

pub(super) fn everything_is_as_it_was_after_several_times(on: &Trial<'_>) {
    everything(on);
    let before = on.dump();
    for _ in 0..3 {
        if on.reopen() {
            on.is_as(&before, "it is not as it was before it was closed");
        }
    }
}

pub(super) fn an_empty_storage_stays_empty(on: &Trial<'_>) {
    stays(on, |on| assert!(on.list(RunQuery::default()).is_empty()));
}

pub(super) fn ids_stay_taken(on: &Trial<'_>) {
    on.create(NewRun { workflow: workflow("one"), ..run("r") });
    if on.reopen() {
        assert_eq!(on.create_again(run("r")), "one");
    }
}

pub(super) fn commits_go_on(on: &Trial<'_>) {
    on.held("r", A);
    let mut expected = 0;
    for turn in 0..5 {
        let events: Vec<Recorded> = (0..turn).map(ready).collect();
        let more = events.len() as u64;
        on.commit("r", Commit { events, ..commit(A, expected) });
        expected += more;
        if !on.reopen() {
            return;
        }
        assert_eq!(on.length("r"), expected);
        on.refuses("r", commit(A, expected + 1));
    }
}

pub(super) fn the_fence_stands(on: &Trial<'_>) {
    on.held("r", A);
    on.claims(B, 0);
    if on.reopen() {
        on.refuses("r", commit(A, 0));
        on.refuses("r", commit(C, 0));
        on.commit("r", commit(B, 0));
    }
}

pub(super) fn runs_are_claimed_when_they_are_due(on: &Trial<'_>) {
    on.beat(A);
    everything(on);
    if !on.forgets_owners() && on.reopen() {
        assert_eq!(on.claims(B, 49), ["addressed"]);
        assert_eq!(on.claims(B, 50), ["parked"]);
        assert_eq!(on.claims(B, 70), ["aside"]);
    }
}

pub(super) fn beats_count_on(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    on.beat(A);
    if on.reopen() {
        assert_eq!(on.beat(A), [Beat { owner: A, count: 3 }]);
        assert!(on.claims_from(B, A, 2).is_empty(), "it has beaten since");
        assert_eq!(on.claims_from(B, A, 3), ["r"]);
    }
}

pub(super) fn who_has_retired_stays_so(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    on.retire(A);
    if on.reopen() {
        assert_eq!(on.beat(B), [Beat { owner: B, count: 1 }]);
        let claim = Claim { owner: B, now: at(0), gone: Vec::new(), run: None, limit: 10 };
        assert_eq!(on.claim(claim)[0].recoveries, 0, "it went in order");
    }
}

pub(super) fn who_is_gone_stays_so(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    let gone = vec![Beat { owner: A, count: 1 }];
    on.claim(Claim { owner: B, now: at(0), gone, run: Some(id("none")), limit: 1 });
    if on.reopen() {
        assert_eq!(on.claims(B, 0), ["r"]);
    }
}

pub(super) fn recoveries_stay(on: &Trial<'_>) {
    on.held("r", A);
    on.claims(B, 0);
    if on.reopen() {
        assert_eq!(on.load("r").recoveries, 1);
        on.claims(C, 0);
        assert_eq!(on.load("r").recoveries, 2);
    }
}

pub(super) fn numbers_of_messages_grow_on(on: &Trial<'_>) {
    on.held("r", A);
    let mut last = on.signal("r", "x");
    // Nothing that is still there tells how far the numbers went.
    on.commit("r", Commit { answers: vec![(last, Ok(()))], ..commit(A, 0) });
    for _ in 0..3 {
        if !on.reopen() {
            return;
        }
        let number = on.signal("r", "x");
        assert!(number > last, "{number} after {last}");
        last = number;
    }
}

pub(super) fn answers_stay(on: &Trial<'_>) {
    on.held("r", A);
    let numbers: Vec<u64> =
        (0..crate::storage::ANSWERS_KEPT).map(|_| on.signal("r", "x")).collect();
    let answers = numbers.iter().map(|number| (*number, Err(Rejection::Paused))).collect();
    on.commit("r", Commit { answers, ..commit(A, 0) });
    if on.reopen() {
        assert!(on.inbox("r").is_empty(), "they do not come back");
        for number in numbers {
            assert_eq!(on.answer("r", number), Some(Err(Rejection::Paused)));
        }
    }
}

pub(super) fn mail_stays(on: &Trial<'_>) {
    on.held("r", B);
    on.held("s", B);
    on.signal("r", "x");
    if on.reopen() {
        assert_eq!(on.mail(B), ["r"]);
    }
}

pub(super) fn locks_stay(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.acquire("r", 0, &[mutex("a"), at_most(2, "b")], 0);
    on.acquire("s", 0, &[at_most(2, "b")], 0);
    if on.reopen() {
        assert!(on.acquire("s", 1, &[mutex("a")], 0).is_some_and(|why| why.holders == [id("r")]));
        assert!(on.acquire("s", 1, &[at_most(2, "b")], 0).is_some());
        assert_eq!(on.acquire("r", 0, &[mutex("a")], 0), None, "it holds it");
        on.commit("r", Commit { released: vec![StepKey::root(0)], ..commit(A, 0) });
        assert_eq!(on.acquire("s", 1, &[mutex("a"), at_most(2, "b")], 0), None);
    }
}

pub(super) fn rates_stay(on: &Trial<'_>) {
    on.held("r", A);
    on.acquire("r", 0, &[rate(1, 60, "api")], 0);
    on.commit("r", Commit { released: vec![StepKey::root(0)], ..commit(A, 0) });
    if on.reopen() {
        let why = on.acquire("r", 1, &[rate(1, 60, "api")], 1);
        assert_eq!(why.and_then(|why| why.until), Some(at(0) + Duration::from_secs(60)));
    }
}

pub(super) fn lists_stay_in_order(on: &Trial<'_>) {
    for (name, seconds) in [("a", 5), ("b", 9), ("B", 9), ("c", 1)] {
        on.create(NewRun { at: at(seconds), ..run(name) });
    }
    let listed = || -> Vec<String> {
        on.list(RunQuery::default()).iter().map(|run| run.id.to_string()).collect()
    };
    if on.reopen() {
        assert_eq!(listed(), ["b", "B", "a", "c"]);
    }
}

pub(super) fn a_problem_stays(on: &Trial<'_>) {
    on.aside("r", 10);
    if on.reopen() {
        assert!(on.summary("r").problem.is_some());
        assert!(on.claims(B, 9).is_empty());
        assert_eq!(on.claims(B, 10), ["r"]);
        assert_eq!(on.summary("r").problem, None);
    }
}

pub(super) fn a_refused_commit_leaves_nothing_behind(on: &Trial<'_>) {
    stays(on, |on| {
        everything(on);
        on.refuses("held", Commit { events: vec![ready(9)], ..commit(B, 2) });
        let (status, holding) = (RunStatus::Failed, Holding::Finished);
        on.refuses("held", Commit { status, holding, ..commit(A, 7) });
    });
}

pub(super) fn values_stay(on: &Trial<'_>) {
    let values = [
        json!("abcdefgh".repeat(131_072)),
        json!(["\u{0}", -0.0, 5e-324, 1e308, i64::MIN, u64::MAX, (1_u64 << 53) + 1, "🦀"]),
    ];
    stays(on, |on| {
        let journal = values.iter().map(|value| event(0, started(value.clone().into())));
        on.create(NewRun { journal: journal.collect(), ..run("r") });
    });
}

pub(super) fn a_long_journal_stays(on: &Trial<'_>) {
    stays(on, |on| {
        on.held("r", A);
        on.commit("r", Commit { events: (0..10_000).map(ready).collect(), ..commit(A, 0) });
    });
}
