//! Runs are added once.

use super::given::{A, B, at, begun, commit, id, ready, run, workflow};
use super::trial::Trial;
use crate::id::NAME_BYTES_MAX;
use crate::journal::RunStatus;
use crate::storage::{Commit, Holding, NewRun, RunQuery};

pub(super) fn a_new_run_is_there_as_it_was_given(on: &Trial<'_>) {
    let given = NewRun {
        linked: vec![workflow("inner"), workflow("other")],
        user: Some("ann".into()),
        metadata: [("k".to_string(), 1.into()), ("l".to_string(), "x".into())].into(),
        at: at(7),
        journal: vec![begun(), ready(3)],
        status: RunStatus::Running,
        ..run("r")
    };
    on.create(given.clone());
    let stored = on.load("r");
    assert_eq!(stored.workflow, given.workflow, "its workflow");
    assert_eq!(stored.linked, given.linked, "the linked workflows, in their order");
    assert_eq!(stored.user, given.user, "its user");
    assert_eq!(stored.metadata, given.metadata, "its metadata");
    assert_eq!(stored.journal, given.journal, "the beginning of its journal");
    assert_eq!(stored.status, given.status, "its status");
    assert_eq!(stored.holding, given.holding, "who holds it");
    assert_eq!(stored.recoveries, 0, "it was never taken from anybody");
}

pub(super) fn what_is_not_given_is_not_there(on: &Trial<'_>) {
    on.create(run("plain"));
    on.create(NewRun { user: Some(String::new()), ..run("empty") });
    let plain = on.load("plain");
    assert_eq!(plain.user, None, "no user was given");
    assert!(plain.metadata.is_empty() && plain.journal.is_empty() && plain.linked.is_empty());
    assert_eq!(on.load("empty").user.as_deref(), Some(""), "an empty name is not none");
}

pub(super) fn an_id_that_is_taken_says_whose_it_is(on: &Trial<'_>) {
    on.create(NewRun { workflow: workflow("one"), ..run("r") });
    let taken = on.create_again(NewRun { workflow: workflow("two"), ..run("r") });
    assert_eq!(taken, "one", "the workflow of the run that is there");
}

pub(super) fn an_id_that_is_taken_changes_nothing(on: &Trial<'_>) {
    on.held("r", A);
    on.commit("r", Commit { events: vec![begun()], ..commit(A, 0) });
    on.signal("r", "s");
    let before = on.dump();
    on.create_again(NewRun {
        holding: Holding::Parked(Some(at(5))),
        linked: vec![workflow("inner")],
        user: Some("bob".into()),
        metadata: [("k".to_string(), 1.into())].into(),
        at: at(9),
        journal: vec![ready(1), ready(2)],
        status: RunStatus::Failed,
        ..run("r")
    });
    on.is_as(&before, "a run was added under an id that is taken, and something has changed");
}

pub(super) fn an_id_stays_taken_when_its_run_has_finished(on: &Trial<'_>) {
    on.finished("r");
    let before = on.dump();
    on.create_again(run("r"));
    on.is_as(&before, "a run that has finished was touched by a new one of its id");
}

pub(super) fn the_same_run_added_twice_is_there_once(on: &Trial<'_>) {
    on.create(run("r"));
    on.create_again(run("r"));
    assert_eq!(on.list(RunQuery::default()).len(), 1);
}

pub(super) fn the_beginning_of_a_journal_counts(on: &Trial<'_>) {
    on.create(NewRun { journal: vec![begun(), ready(0)], ..run("r") });
    on.refuses("r", Commit { events: vec![ready(1)], ..commit(A, 0) });
    on.commit("r", Commit { events: vec![ready(1)], ..commit(A, 2) });
    assert_eq!(on.load("r").journal, [begun(), ready(0), ready(1)]);
}

pub(super) fn a_run_may_begin_with_any_holder(on: &Trial<'_>) {
    let holdings = [
        Holding::Held(A),
        Holding::Held(B),
        Holding::Parked(None),
        Holding::Parked(Some(at(3))),
        Holding::Finished,
        Holding::Aside(at(4)),
    ];
    for (place, holding) in holdings.into_iter().enumerate() {
        let name = format!("r{place}");
        on.create(NewRun { holding, ..run(&name) });
        assert_eq!(on.load(&name).holding, holding);
    }
}

pub(super) fn a_run_that_begins_parked_is_claimed_when_it_is_due(on: &Trial<'_>) {
    on.parked("r", Some(5));
    assert_eq!(on.next_due(), Some(at(5)));
    assert!(on.claims(B, 4).is_empty(), "it is not due yet");
    assert_eq!(on.claims(B, 5), ["r"]);
}

pub(super) fn ids_differ_by_every_letter(on: &Trial<'_>) {
    // The last two look alike: one letter, and one with an accent put on it.
    let ids = ["run", "Run", "RUN", "rün", "ru", "run1", "r%n", "r_n", "\u{e9}", "e\u{301}"];
    for (place, name) in ids.iter().enumerate() {
        on.create(NewRun { workflow: workflow(&format!("w{place}")), ..run(name) });
    }
    for (place, name) in ids.iter().enumerate() {
        assert_eq!(on.load(name).workflow.id(), format!("w{place}"), "of {name}");
    }
}

pub(super) fn ids_have_any_letters_that_names_may_have(on: &Trial<'_>) {
    let ids = [
        "'; drop table runs; --",
        "\"q\"",
        "a/b\\c",
        "[x]{y}",
        "%",
        "_",
        "*",
        "日本",
        "🦀",
        "$1",
        ":a",
        "?",
    ];
    for name in ids {
        on.create(run(name));
        on.signal(name, "s");
        on.commit(name, Commit { events: vec![ready(0)], ..commit(A, 0) });
        assert_eq!((on.length(name), on.inbox(name).len()), (1, 1), "of {name}");
        assert_eq!(on.summary(name).id, id(name));
    }
}

pub(super) fn ids_are_as_long_as_names_may_be(on: &Trial<'_>) {
    let long = "x".repeat(NAME_BYTES_MAX);
    let other = format!("{}y", "x".repeat(NAME_BYTES_MAX - 1));
    let wide = "é".repeat(NAME_BYTES_MAX / 2);
    for name in [&long, &other, &wide] {
        on.create(NewRun { workflow: workflow(name), ..run(name) });
        assert_eq!(on.load(name).workflow.id(), name);
    }
    assert_eq!(on.list(RunQuery { workflow: Some(other), ..Default::default() }).len(), 1);
}

pub(super) fn a_run_that_is_not_there_has_nothing(on: &Trial<'_>) {
    on.create(run("r"));
    assert!(on.find("s").is_none(), "nobody added it");
    assert!(on.inbox("s").is_empty());
    assert_eq!(on.answer("s", 1), None);
    assert!(!on.claims_named(B, "s", 10), "there is nothing to claim");
}

pub(super) fn an_empty_storage_is_empty(on: &Trial<'_>) {
    assert!(on.list(RunQuery::default()).is_empty());
    assert_eq!(on.next_due(), None);
    assert!(on.claims(A, 0).is_empty() && on.mail(A).is_empty());
    assert_eq!(on.beat(A).len(), 1, "only who has just beaten is alive");
}
