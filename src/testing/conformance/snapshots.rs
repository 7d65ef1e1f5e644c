//! Snapshots, and journals whose beginning is forgotten.

use super::given::{A, B, at, begun, commit, event, id, ready};
use super::trial::{Trial, stored};
use crate::error::ErrorKind;
use crate::journal::{Event, Outcome, Reason, Recorded, RunStatus, Snapshot, Vote};
use crate::storage::{Commit, Holding};

/// One that stands for so many events, of which so many may be forgotten.
fn snapshot(events: u64, forget: u64, state: &str) -> Option<Box<Snapshot>> {
    Some(Snapshot { events, forget, state: state.into() }.into())
}

/// A run with so many events, and one commit more that has a snapshot.
fn written(on: &Trial<'_>, name: &str, events: u32, forget: u64) {
    on.held(name, A);
    let journal = (0..events).map(ready).collect();
    on.commit(name, Commit { events: journal, ..commit(A, 0) });
    let expected = u64::from(events);
    let events = vec![ready(events)];
    let snapshot = snapshot(expected + 1, forget, "{}");
    on.commit(name, Commit { events, snapshot, ..commit(A, expected) });
}

fn events(on: &Trial<'_>, name: &str, from: u64, limit: usize) -> Vec<(u64, Recorded)> {
    on.ask(on.storage().events(&id(name), from, limit))
}

fn positions(on: &Trial<'_>, name: &str) -> Vec<u64> {
    events(on, name, 0, usize::MAX).into_iter().map(|(position, _)| position).collect()
}

pub(super) fn a_snapshot_comes_back_as_it_was(on: &Trial<'_>) {
    on.held("r", A);
    for state in ["{\"a\":[1.5,null]}", "", " ü\u{0}'\n🦀\\", &"x".repeat(3 << 20)] {
        let length = on.length("r");
        let snapshot = snapshot(length + 1, length, state);
        let events = vec![ready(0)];
        on.commit("r", Commit { events, snapshot: snapshot.clone(), ..commit(A, length) });
        assert!(on.load("r").snapshot == snapshot, "{state:.20}");
    }
}

pub(super) fn a_run_has_none_before_the_first(on: &Trial<'_>) {
    on.held("r", A);
    on.commit("r", Commit { events: vec![begun(), ready(0)], ..commit(A, 0) });
    let stored = on.load("r");
    assert_eq!((stored.snapshot, stored.journal), (None, vec![begun(), ready(0)]));
    assert_eq!(on.summary("r").forgotten, 0);
}

pub(super) fn what_is_loaded_is_what_it_does_not_know(on: &Trial<'_>) {
    written(on, "r", 3, 0);
    assert_eq!(on.load("r").journal, [], "it knows its own commit");
    on.commit("r", Commit { events: vec![ready(7), ready(8)], ..commit(A, 4) });
    let stored = on.load("r");
    assert_eq!((stored.from(), stored.length()), (4, 6));
    assert_eq!(stored.journal, [ready(7), ready(8)]);
}

pub(super) fn the_last_is_given(on: &Trial<'_>) {
    written(on, "r", 3, 0);
    let last = snapshot(5, 0, "last");
    on.commit("r", Commit { events: vec![ready(7)], snapshot: last.clone(), ..commit(A, 4) });
    on.commit("r", Commit { events: vec![ready(8)], ..commit(A, 5) });
    let stored = on.load("r");
    assert_eq!((stored.snapshot, stored.journal), (last, vec![ready(8)]));
}

pub(super) fn it_stays_whatever_becomes_of_the_run(on: &Trial<'_>) {
    written(on, "r", 3, 2);
    let before = on.load("r").snapshot;
    let parked = Commit { holding: Holding::Parked(Some(at(1))), ..commit(A, 4) };
    on.commit("r", parked);
    on.claims(B, 9);
    on.commit("r", Commit { status: RunStatus::Succeeded, ..commit(B, 4) });
    on.commit("r", Commit { holding: Holding::Finished, ..commit(B, 4) });
    assert_eq!(on.load("r").snapshot, before);
    assert_eq!(positions(on, "r"), [2, 3]);
}

pub(super) fn each_run_has_its_own(on: &Trial<'_>) {
    written(on, "one", 3, 2);
    written(on, "two", 4, 0);
    let before = stored("two", &on.load("two"));
    let snapshot = snapshot(5, 4, "other");
    on.commit("one", Commit { events: vec![ready(7)], snapshot, ..commit(A, 4) });
    assert_eq!(stored("two", &on.load("two")), before);
    assert_eq!((positions(on, "one"), positions(on, "two")), (vec![4], vec![0, 1, 2, 3, 4]));
}

pub(super) fn a_refused_commit_leaves_it(on: &Trial<'_>) {
    written(on, "r", 5, 2);
    let refused = |owner, expected| Commit {
        events: vec![ready(7)],
        snapshot: snapshot(7, 5, "refused"),
        ..commit(owner, expected)
    };
    on.refuses("r", refused(A, 5));
    on.refuses("r", refused(B, 6));
    assert_eq!(positions(on, "r"), [2, 3, 4, 5]);
    assert_eq!(on.try_commit("none", refused(A, 0)), Err(ErrorKind::NotFound));
}

pub(super) fn what_may_be_forgotten_is_told_no_more(on: &Trial<'_>) {
    written(on, "r", 9, 4);
    assert_eq!(positions(on, "r"), [4, 5, 6, 7, 8, 9]);
    assert_eq!(on.summary("r").forgotten, 4);
}

pub(super) fn all_of_it_may_be_forgotten(on: &Trial<'_>) {
    written(on, "r", 9, 10);
    assert_eq!(positions(on, "r"), [0_u64; 0]);
    let summary = on.summary("r");
    assert_eq!((summary.forgotten, summary.events), (10, 10));
    assert_eq!(summary.changed_at, ready(0).at, "when the last of them happened");
    on.commit("r", Commit { events: vec![ready(7)], ..commit(A, 10) });
    assert_eq!(events(on, "r", 0, 9), [(10, ready(7))]);
}

pub(super) fn what_was_forgotten_stays_so(on: &Trial<'_>) {
    written(on, "r", 9, 4);
    let snapshot = snapshot(11, 2, "{}");
    on.commit("r", Commit { events: vec![ready(7)], snapshot, ..commit(A, 10) });
    assert_eq!(positions(on, "r"), [4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(on.summary("r").forgotten, 4);
    assert_eq!(on.load("r").snapshot.map(|snapshot| snapshot.forget), Some(4));
}

pub(super) fn lengths_count_what_is_forgotten(on: &Trial<'_>) {
    written(on, "r", 9, 4);
    assert_eq!((on.summary("r").events, on.length("r")), (10, 10));
    on.refuses("r", Commit { events: vec![ready(7)], ..commit(A, 6) });
    on.commit("r", Commit { events: vec![ready(7)], ..commit(A, 10) });
    assert_eq!(on.summary("r").events, 11);
}

pub(super) fn what_people_did_is_kept(on: &Trial<'_>) {
    let by = || Box::new(Reason::new("ann", "why"));
    let vote = Vote::approve("bob").comment("fine").into();
    let step = crate::id::StepKey::root(0);
    let kept = [
        begun().event,
        Event::RunPaused { by: by() },
        Event::RunResumed { by: by(), deadline: at(9) },
        Event::Operated { operation: crate::journal::Operation::RetryFailed.into(), by: by() },
        Event::Voted { step, vote },
        Event::RunCancelRequested { by: by(), grace: None },
        Event::RunTerminated { by: by() },
        Event::RunQuarantined { recoveries: 6 },
        Event::RunFinished { outcome: Outcome::Cancelled.into() },
    ];
    on.held("r", A);
    let all = kept.iter().flat_map(|kept| [event(1, kept.clone()), ready(1)]);
    let snapshot = snapshot(18, 18, "{}");
    on.commit("r", Commit { events: all.collect(), snapshot, ..commit(A, 0) });
    let expected: Vec<_> = (0..9).map(|place| place * 2).zip(kept).collect();
    let found: Vec<_> = events(on, "r", 0, 99).into_iter().map(|(at, it)| (at, it.event)).collect();
    assert_eq!(found, expected);
    assert_eq!(on.load("r").journal, []);
    let found: Vec<_> = events(on, "r", 3, 2).into_iter().map(|(position, _)| position).collect();
    assert_eq!(found, [4, 6], "in pages, too");
}

pub(super) fn what_is_kept_stays_over_many_snapshots(on: &Trial<'_>) {
    on.held("r", A);
    for turn in 0..10 {
        let by = Reason::new("ann", "lunch").into();
        let events = vec![event(1, Event::RunPaused { by }), ready(0), ready(1)];
        let snapshot = snapshot(3 * turn + 3, 3 * turn + 2, "{}");
        on.commit("r", Commit { events, snapshot, ..commit(A, 3 * turn) });
    }
    let kept: Vec<u64> = (0..10).map(|turn| 3 * turn).chain([29]).collect();
    assert_eq!(positions(on, "r"), kept);
}

pub(super) fn events_are_told_in_pages(on: &Trial<'_>) {
    written(on, "r", 9, 0);
    assert_eq!(events(on, "r", 0, 2), [(0, ready(0)), (1, ready(1))]);
    assert_eq!(events(on, "r", 8, 5), [(8, ready(8)), (9, ready(9))]);
    assert_eq!((events(on, "r", 10, 5), events(on, "r", 0, 0)), (vec![], vec![]));
    assert_eq!(events(on, "r", u64::MAX, 5), []);
    assert_eq!(events(on, "none", 0, 5), []);
}

pub(super) fn the_beginning_of_a_run_is_told(on: &Trial<'_>) {
    on.create(crate::storage::NewRun {
        journal: vec![begun(), ready(0)],
        ..super::given::run("r")
    });
    assert_eq!(events(on, "r", 0, 9), [(0, begun()), (1, ready(0))]);
}

pub(super) fn snapshots_stay_when_it_is_opened_again(on: &Trial<'_>) {
    written(on, "r", 9, 4);
    let before = on.dump();
    if on.reopen() {
        on.is_as(&before, "it was opened again");
        assert_eq!(positions(on, "r"), [4, 5, 6, 7, 8, 9]);
        on.commit("r", Commit { events: vec![ready(7)], ..commit(A, 10) });
    }
}
