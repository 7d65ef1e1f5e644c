//! A commit changes all that it names, or nothing.

use super::given::{A, B, at, begun, commit, mutex, ready, run};
use super::trial::Trial;
use crate::error::ErrorKind;
use crate::id::StepKey;
use crate::journal::{Recorded, RunStatus};
use crate::run::Rejection;
use crate::storage::{Commit, Holding, NewRun, RunQuery};

pub(super) fn events_are_appended_in_order(on: &Trial<'_>) {
    on.held("r", A);
    on.commit("r", Commit { events: vec![begun(), ready(2)], ..commit(A, 0) });
    on.commit("r", Commit { events: vec![ready(1), ready(3), ready(0)], ..commit(A, 2) });
    assert_eq!(on.load("r").journal, [begun(), ready(2), ready(1), ready(3), ready(0)]);
}

pub(super) fn everything_changes_that_a_commit_names(on: &Trial<'_>) {
    on.held("r", A);
    on.held("other", B);
    let number = on.signal("r", "s");
    on.acquire("r", 0, &[mutex("l")], 0);
    on.commit(
        "r",
        Commit {
            events: vec![begun()],
            status: RunStatus::Paused,
            answers: vec![(number, Err(Rejection::NobodyWaits))],
            holding: Holding::Parked(Some(at(9))),
            released: vec![StepKey::root(0)],
            ..commit(A, 0)
        },
    );
    let stored = on.load("r");
    assert_eq!(stored.journal, [begun()]);
    assert_eq!(stored.status, RunStatus::Paused);
    assert_eq!(stored.holding, Holding::Parked(Some(at(9))));
    assert!(on.inbox("r").is_empty(), "the message is answered");
    assert_eq!(on.answer("r", number), Some(Err(Rejection::NobodyWaits)));
    assert_eq!(on.acquire("other", 0, &[mutex("l")], 0), None, "the lock is free");
    assert_eq!(on.next_due(), Some(at(9)));
}

pub(super) fn a_commit_without_events_changes_the_rest(on: &Trial<'_>) {
    on.create(NewRun { journal: vec![begun()], ..run("r") });
    let holding = Holding::Parked(None);
    on.commit("r", Commit { status: RunStatus::Paused, holding, ..commit(A, 1) });
    let stored = on.load("r");
    assert_eq!((stored.status, stored.holding), (RunStatus::Paused, holding));
    assert_eq!(stored.journal.len(), 1);
}

pub(super) fn every_status_is_kept(on: &Trial<'_>) {
    on.held("r", A);
    for status in [
        RunStatus::Running,
        RunStatus::Paused,
        RunStatus::Cancelling,
        RunStatus::Succeeded,
        RunStatus::Failed,
        RunStatus::Cancelled,
        RunStatus::TimedOut,
        RunStatus::Pending,
    ] {
        on.commit("r", Commit { status, ..commit(A, 0) });
        assert_eq!(on.load("r").status, status);
        assert_eq!(on.summary("r").status, status, "as the list says it");
    }
}

pub(super) fn every_holder_is_kept(on: &Trial<'_>) {
    on.held("r", A);
    for holding in [
        Holding::Parked(None),
        Holding::Parked(Some(at(1))),
        Holding::Aside(at(2)),
        Holding::Finished,
        Holding::Held(B),
    ] {
        on.commit("r", Commit { holding, ..commit(A, 0) });
        assert_eq!(on.load("r").holding, holding);
    }
}

pub(super) fn another_run_is_not_touched(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.signal("s", "x");
    on.acquire("s", 0, &[mutex("l")], 0);
    let before = format!("{:?}{:?}", on.load("s"), on.inbox("s"));
    let (status, released) = (RunStatus::Failed, vec![StepKey::root(0)]);
    on.commit("r", Commit { events: vec![begun()], status, released, ..commit(A, 0) });
    assert_eq!(format!("{:?}{:?}", on.load("s"), on.inbox("s")), before);
    on.held("t", A);
    assert!(on.acquire("t", 0, &[mutex("l")], 0).is_some(), "the other run holds its lock");
}

pub(super) fn the_same_commit_twice_is_one(on: &Trial<'_>) {
    on.held("r", A);
    let one = Commit { events: vec![begun()], ..commit(A, 0) };
    on.commit("r", one.clone());
    on.refuses("r", one);
}

pub(super) fn commits_follow_each_other(on: &Trial<'_>) {
    on.held("r", A);
    for number in 0..200 {
        on.commit("r", Commit { events: vec![ready(number)], ..commit(A, u64::from(number)) });
    }
    let expected: Vec<Recorded> = (0..200).map(ready).collect();
    assert_eq!(on.load("r").journal, expected);
}

pub(super) fn nobody_writes_to_a_run_that_is_not_there(on: &Trial<'_>) {
    on.held("other", A);
    let before = on.dump();
    for expected in [0, 1] {
        let answer = on.try_commit("r", Commit { events: vec![begun()], ..commit(A, expected) });
        assert_eq!(answer, Err(ErrorKind::NotFound));
    }
    assert!(on.find("r").is_none(), "a commit adds no run");
    on.is_as(&before, "a commit to a run that is not there has changed something");
}

/// Each part of a commit that is refused, alone and all at once: by its length and by its owner.
fn refused(on: &Trial<'_>, part: impl Fn(Commit) -> Commit) {
    on.create(NewRun { journal: vec![begun(), ready(0)], ..run("r") });
    on.signal("r", "s");
    for expected in [0, 1, 3] {
        on.refuses("r", part(commit(A, expected)));
    }
    on.refuses("r", part(commit(B, 2)));
}

pub(super) fn a_refused_commit_appends_nothing(on: &Trial<'_>) {
    refused(on, |commit| Commit { events: vec![ready(7), ready(8)], ..commit });
}

pub(super) fn a_refused_commit_leaves_the_status(on: &Trial<'_>) {
    refused(on, |commit| Commit { status: RunStatus::Succeeded, ..commit });
}

pub(super) fn a_refused_commit_leaves_the_holder(on: &Trial<'_>) {
    refused(on, |commit| Commit { holding: Holding::Parked(Some(at(1))), ..commit });
}

pub(super) fn a_refused_commit_answers_nothing(on: &Trial<'_>) {
    on.held("r", A);
    let number = on.signal("r", "s");
    let answers = vec![(number, Ok(()))];
    on.refuses("r", Commit { answers: answers.clone(), ..commit(A, 1) });
    on.refuses("r", Commit { answers, ..commit(B, 0) });
    assert_eq!(on.numbers("r"), [number]);
    assert_eq!(on.answer("r", number), None);
}

pub(super) fn a_refused_commit_releases_nothing(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.acquire("r", 4, &[mutex("l")], 0);
    let released = vec![StepKey::root(4)];
    on.refuses("r", Commit { released: released.clone(), ..commit(A, 1) });
    on.refuses("r", Commit { released, ..commit(B, 0) });
    assert!(on.acquire("s", 0, &[mutex("l")], 0).is_some(), "the lock is still held");
}

pub(super) fn a_refused_end_releases_nothing(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.acquire("r", 4, &[mutex("l")], 0);
    let (status, holding) = (RunStatus::Failed, Holding::Finished);
    on.refuses("r", Commit { status, holding, ..commit(A, 1) });
    on.refuses("r", Commit { status, holding, ..commit(B, 0) });
    assert!(on.acquire("s", 0, &[mutex("l")], 0).is_some(), "the lock is still held");
}

pub(super) fn a_refused_commit_leaves_recoveries(on: &Trial<'_>) {
    on.held("r", A);
    assert_eq!(on.claims(B, 0), ["r"], "its owner was never alive");
    on.refuses("r", Commit { recovered: true, ..commit(B, 1) });
    on.refuses("r", Commit { recovered: true, ..commit(A, 0) });
    assert_eq!(on.load("r").recoveries, 1);
}

pub(super) fn a_refused_commit_of_everything_changes_nothing(on: &Trial<'_>) {
    on.create(NewRun { journal: vec![begun()], ..run("r") });
    let number = on.signal("r", "s");
    let all = |commit: Commit| Commit {
        events: vec![ready(1)],
        status: RunStatus::Succeeded,
        answers: vec![(number, Ok(()))],
        holding: Holding::Finished,
        released: vec![StepKey::root(0)],
        recovered: true,
        ..commit
    };
    on.refuses("r", all(commit(A, 0)));
    on.refuses("r", all(commit(A, 2)));
    on.refuses("r", all(commit(B, 1)));
    on.commit("r", all(commit(A, 1)));
    assert_eq!(on.list(RunQuery::default())[0].events, 2, "the right one is still taken");
}
