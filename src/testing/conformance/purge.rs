//! Removing runs that have ended.

use super::given::{A, B, at, begun, commit, event, id, ready, run, workflow};
use super::trial::Trial;
use crate::error::ErrorKind;
use crate::journal::{Event, Outcome, RunStatus, Signal, Snapshot};
use crate::storage::{Commit, Holding, Message, NewRun, Owner, Purge};

fn all() -> Purge {
    Purge { owner: A, before: Some(at(1_000)), keep: None, workflow: None, limit: 100 }
}

fn until(seconds: i64) -> Purge {
    Purge { before: Some(at(seconds)), ..all() }
}

fn beyond(keep: u64) -> Purge {
    Purge { before: None, keep: Some(keep), ..all() }
}

fn purge(on: &Trial<'_>, which: Purge) -> Vec<String> {
    on.ask(on.storage().purge(which)).iter().map(ToString::to_string).collect()
}

fn clear(on: &Trial<'_>, owner: Owner, names: &[&str]) {
    on.ask(on.storage().clear(owner, names.iter().map(|name| id(name)).collect()));
}

/// A purge by `A`, and its ids are free.
fn removes(on: &Trial<'_>, which: Purge) -> Vec<String> {
    let named = purge(on, which);
    let ids = named.iter().map(|name| id(name)).collect();
    on.ask(on.storage().clear(A, ids));
    named
}

/// A run of this workflow that ended at this time.
fn ended_of(on: &Trial<'_>, name: &str, of: &str, seconds: i64) {
    on.create(NewRun { workflow: workflow(of), ..run(name) });
    ends(on, name, seconds);
}

fn ends(on: &Trial<'_>, name: &str, seconds: i64) {
    let outcome = Outcome::Cancelled.into();
    let events = vec![begun(), event(seconds, Event::RunFinished { outcome })];
    let (status, holding) = (RunStatus::Cancelled, Holding::Finished);
    on.commit(name, Commit { events, status, holding, ..commit(A, 0) });
}

fn ended(on: &Trial<'_>, name: &str, seconds: i64) {
    ended_of(on, name, "w", seconds);
}

fn names(on: &Trial<'_>) -> Vec<String> {
    let mut names: Vec<String> =
        on.list(Default::default()).iter().map(|run| run.id.to_string()).collect();
    names.sort_unstable();
    names
}

pub(super) fn what_ended_long_enough_ago_goes(on: &Trial<'_>) {
    for (name, seconds) in [("a", 10), ("b", 20), ("c", 30)] {
        ended(on, name, seconds);
    }
    assert_eq!(removes(on, until(9)), [""; 0]);
    assert_eq!(removes(on, until(20)), ["a", "b"]);
    assert_eq!(names(on), ["c"]);
    assert_eq!(removes(on, until(20)), [""; 0]);
}

pub(super) fn a_time_counts_to_the_microsecond(on: &Trial<'_>) {
    ended(on, "r", 10);
    let just_before = crate::time::Timestamp::from_micros(at(10).as_micros() - 1);
    assert_eq!(removes(on, Purge { before: Some(just_before), ..all() }), [""; 0]);
    assert_eq!(removes(on, until(10)), ["r"]);
}

pub(super) fn what_is_beyond_a_number_goes(on: &Trial<'_>) {
    // Neither in the order of adding nor in that of their names.
    for (name, seconds) in [("b", 30), ("d", 10), ("a", 20), ("c", 40)] {
        ended(on, name, seconds);
    }
    assert_eq!(removes(on, beyond(4)), [""; 0]);
    assert_eq!(removes(on, beyond(u64::MAX)), [""; 0]);
    assert_eq!(removes(on, beyond(2)), ["a", "d"]);
    assert_eq!(removes(on, beyond(0)), ["b", "c"]);
}

pub(super) fn of_equal_times_the_id_decides(on: &Trial<'_>) {
    for name in ["b", "d", "a", "c"] {
        ended(on, name, 10);
    }
    assert_eq!(removes(on, beyond(3)), ["a"]);
    assert_eq!(removes(on, beyond(1)), ["b", "c"]);
}

pub(super) fn either_reason_is_enough(on: &Trial<'_>) {
    for (name, seconds) in [("a", 10), ("b", 20), ("c", 30)] {
        ended(on, name, seconds);
    }
    assert_eq!(removes(on, Purge { keep: Some(2), ..until(1) }), ["a"]);
    assert_eq!(removes(on, Purge { keep: Some(9), ..until(20) }), ["b"]);
    assert_eq!(removes(on, Purge { before: None, ..all() }), [""; 0], "no reason at all");
    assert_eq!(names(on), ["c"]);
}

pub(super) fn only_what_has_finished_goes(on: &Trial<'_>) {
    on.held("held", B);
    on.parked("parked", None);
    on.parked("due", Some(1));
    on.aside("aside", 1);
    on.held("ended", A);
    on.commit("ended", Commit { status: RunStatus::Failed, ..commit(A, 0) });
    let before = on.dump();
    assert_eq!(removes(on, Purge { keep: Some(0), ..all() }), [""; 0]);
    on.is_as(&before, "nothing was to be removed");
}

pub(super) fn runs_that_go_on_do_not_count(on: &Trial<'_>) {
    ended(on, "a", 10);
    ended(on, "b", 20);
    on.held("held", B);
    on.parked("parked", None);
    assert_eq!(removes(on, beyond(2)), [""; 0]);
    assert_eq!(removes(on, beyond(1)), ["a"]);
}

pub(super) fn what_has_a_message_stays(on: &Trial<'_>) {
    for (name, seconds) in [("a", 10), ("b", 20), ("c", 30)] {
        ended(on, name, seconds);
    }
    let number = on.signal("a", "go");
    assert_eq!(removes(on, beyond(2)), [""; 0], "it counts all the same");
    assert_eq!(removes(on, beyond(1)), ["b"]);
    let status = RunStatus::Cancelled;
    let answers = vec![(number, Ok(()))];
    on.commit("a", Commit { answers, status, holding: Holding::Finished, ..commit(A, 2) });
    assert_eq!(removes(on, beyond(1)), ["a"]);
}

pub(super) fn a_run_that_goes_on_again_stays(on: &Trial<'_>) {
    ended(on, "r", 10);
    on.commit("r", Commit { events: vec![ready(0)], ..commit(B, 2) });
    assert_eq!(removes(on, all()), [""; 0]);
    assert_eq!(on.length("r"), 3);
}

pub(super) fn one_workflow_may_be_meant(on: &Trial<'_>) {
    for (name, of, seconds) in [("a", "v", 10), ("b", "w", 20), ("c", "v", 30), ("d", "W", 5)] {
        ended_of(on, name, of, seconds);
    }
    let of = |which: Purge| Purge { workflow: Some("w".into()), ..which };
    assert_eq!(removes(on, of(beyond(1))), [""; 0], "others do not count");
    assert_eq!(removes(on, of(all())), ["b"]);
    assert_eq!(names(on), ["a", "c", "d"]);
}

pub(super) fn no_more_go_than_were_asked_for(on: &Trial<'_>) {
    for (name, seconds) in [("b", 30), ("d", 10), ("a", 20), ("c", 40)] {
        ended(on, name, seconds);
    }
    assert_eq!(removes(on, Purge { limit: 0, ..all() }), [""; 0]);
    assert_eq!(removes(on, Purge { limit: 1, ..all() }), ["d"], "the first that ended");
    assert_eq!(removes(on, Purge { limit: 1, ..all() }), ["a"]);
    assert_eq!(removes(on, Purge { limit: 3, ..all() }), ["b", "c"]);
}

pub(super) fn many_go_in_batches(on: &Trial<'_>) {
    for number in 0..250 {
        ended(on, &format!("r{number}"), number);
    }
    let mut removed = 0;
    loop {
        let batch = removes(on, until(199)).len();
        removed += batch;
        assert!(batch <= 100 && removed <= 200, "{removed}");
        if batch == 0 {
            break;
        }
    }
    assert_eq!((removed, names(on).len()), (200, 50));
}

pub(super) fn nothing_of_a_removed_run_is_there(on: &Trial<'_>) {
    ended(on, "r", 10);
    ended(on, "other", 2_000);
    let number = on.signal("r", "go");
    let (events, answers) = (vec![ready(0), ready(1)], vec![(number, Ok(()))]);
    let snapshot = Some(Snapshot { events: 4, forget: 1, state: "{}".into() }.into());
    let (status, holding) = (RunStatus::Cancelled, Holding::Finished);
    on.commit("r", Commit { events, answers, snapshot, status, holding, ..commit(A, 2) });
    assert_eq!(removes(on, all()), ["r"]);
    assert_eq!(on.find("r").map(|run| run.status), None);
    assert_eq!((on.inbox("r"), on.answer("r", number)), (vec![], None));
    assert_eq!(on.ask(on.storage().events(&id("r"), 0, 9)), []);
    assert_eq!(names(on), ["other"]);
    assert!(!on.claims_named(B, "r", 9));
    assert_eq!(on.try_commit("r", commit(A, 4)), Err(ErrorKind::NotFound));
    let signal = Message::Signal(Signal::new("s", ()));
    let posted = super::trial::wait(on.factory(), on.storage().post(&id("r"), signal));
    assert_eq!(posted.map_err(|error| error.kind()), Err(ErrorKind::NotFound));
}

pub(super) fn others_are_not_touched(on: &Trial<'_>) {
    ended(on, "other", 2_000);
    on.held("held", B);
    on.signal("held", "go");
    let before = on.dump();
    ended(on, "r", 10);
    assert_eq!(removes(on, all()), ["r"]);
    on.is_as(&before, "another run was removed");
}

pub(super) fn an_id_is_taken_until_it_is_cleared(on: &Trial<'_>) {
    ended_of(on, "r", "v", 10);
    assert_eq!(purge(on, all()), ["r"]);
    assert_eq!(on.create_again(run("r")), "v");
    assert_eq!(on.find("r").map(|run| run.status), None);
    clear(on, A, &["r"]);
    on.create(run("r"));
}

pub(super) fn a_new_run_has_nothing_of_the_one_before(on: &Trial<'_>) {
    nothing_of_a_removed_run_is_there(on);
    on.create(run("r"));
    let stored = on.load("r");
    assert_eq!((stored.snapshot, stored.journal), (None, vec![]));
    assert_eq!((on.inbox("r"), on.ask(on.storage().events(&id("r"), 0, 9))), (vec![], vec![]));
    on.commit("r", Commit { events: vec![begun()], ..commit(A, 0) });
    assert_eq!(on.load("r").journal, [begun()]);
}

pub(super) fn a_workflow_whose_runs_were_removed_can_run_again(on: &Trial<'_>) {
    let linked = ["inner", "w", "inner"].map(workflow);
    for _ in 0..3 {
        on.create(NewRun { linked: linked.to_vec(), ..run("r") });
        let stored = on.load("r");
        assert_eq!((stored.workflow, stored.linked), (workflow("w"), linked.to_vec()));
        ends(on, "r", 10);
        assert_eq!(removes(on, all()), ["r"]);
    }
}

pub(super) fn a_workflow_whose_runs_another_has_removed_can_run_again(on: &Trial<'_>) {
    let Some(other) = on.beside() else { return };
    for turn in 0..5 {
        let (here, there) = if turn % 2 == 0 { (on, &other) } else { (&other, on) };
        here.create(NewRun { linked: vec![workflow("inner")], ..run("r") });
        let stored = there.load("r");
        assert_eq!((stored.workflow, stored.linked), (workflow("w"), vec![workflow("inner")]));
        ends(there, "r", 10);
        // What is added next is not to be taken for one of those that were removed.
        here.create(NewRun { workflow: workflow(&format!("v{turn}")), ..run("other") });
        assert_eq!(removes(there, all()), ["r"]);
        here.create(NewRun { workflow: workflow("new"), ..run("r") });
        assert_eq!(here.load("r").workflow, workflow("new"));
        for name in ["r", "other"] {
            ends(here, name, 10);
        }
        assert_eq!(removes(there, all()), ["other", "r"]);
    }
}

pub(super) fn a_workflow_that_another_run_has_stays(on: &Trial<'_>) {
    let linked = ["inner", "w"].map(workflow);
    on.create(NewRun { linked: linked.to_vec(), ..run("other") });
    let before = on.dump();
    for of in ["w", "inner"] {
        on.create(NewRun { workflow: workflow(of), linked: linked.to_vec(), ..run("r") });
        ends(on, "r", 10);
        assert_eq!(removes(on, all()), ["r"]);
        on.is_as(&before, "another run was removed");
    }
}

pub(super) fn what_was_left_and_what_goes_now_share_the_room(on: &Trial<'_>) {
    on.beat(A);
    for run in ["a", "b", "c", "d"] {
        ended(on, run, 10);
    }
    assert_eq!(purge(on, Purge { limit: 3, ..all() }), ["a", "b", "c"]);
    on.beat(B);
    assert_eq!(on.claims_from(B, A, 1), [""; 0]);
    let of_b = |limit| Purge { owner: B, limit, ..all() };
    let left = |limit| Purge { before: None, ..of_b(limit) };
    assert_eq!(purge(on, left(2)).len(), 2, "as many as there is room for");
    assert_eq!(purge(on, left(9)), ["a", "b", "c"], "all of them");
    let shared = purge(on, of_b(2));
    assert!(shared.len() == 2 && shared.contains(&"d".to_string()), "one goes now: {shared:?}");
    assert_eq!(purge(on, of_b(4)), ["a", "b", "c", "d"]);
}

pub(super) fn what_is_not_cleared_is_named_again(on: &Trial<'_>) {
    on.beat(A);
    ended(on, "a", 10);
    ended(on, "b", 20);
    assert_eq!(purge(on, until(10)), ["a"]);
    assert_eq!(purge(on, until(10)), ["a"]);
    assert_eq!(purge(on, Purge { limit: 0, ..all() }), [""; 0]);
    assert_eq!(purge(on, Purge { limit: 1, ..all() }), ["a"], "it is within the limit");
    assert_eq!(purge(on, Purge { before: None, ..all() }), ["a"]);
    assert_eq!(purge(on, all()), ["a", "b"]);
    clear(on, A, &["a"]);
    assert_eq!(purge(on, all()), ["b"]);
}

pub(super) fn only_who_removed_it_is_told(on: &Trial<'_>) {
    on.beat(A);
    on.beat(B);
    ended(on, "r", 10);
    assert_eq!(purge(on, all()), ["r"]);
    assert_eq!(purge(on, Purge { owner: B, ..all() }), [""; 0]);
    clear(on, B, &["r"]);
    assert_eq!(on.create_again(run("r")), "w");
    assert_eq!(purge(on, all()), ["r"]);
}

pub(super) fn what_somebody_left_is_told_to_another(on: &Trial<'_>) {
    on.beat(A);
    on.beat(B);
    ended(on, "r", 10);
    assert_eq!(purge(on, all()), ["r"]);
    assert_eq!(on.claims_from(B, A, 1), [""; 0]);
    assert_eq!(purge(on, Purge { owner: B, ..all() }), ["r"]);
    clear(on, A, &["r"]);
    assert_eq!(on.create_again(run("r")), "w", "it is another's by now");
    clear(on, B, &["r"]);
    on.create(run("r"));
}

pub(super) fn clearing_what_is_not_to_be_cleared_changes_nothing(on: &Trial<'_>) {
    ended(on, "r", 10);
    let before = on.dump();
    clear(on, A, &["r", "none"]);
    clear(on, A, &[]);
    on.is_as(&before, "nothing was to be cleared");
}

pub(super) fn ids_stay_taken_when_it_is_opened_again(on: &Trial<'_>) {
    ended(on, "r", 10);
    assert_eq!(purge(on, all()), ["r"]);
    if on.reopen() {
        assert_eq!(on.create_again(run("r")), "w");
        assert_eq!(purge(on, Purge { before: None, ..all() }), ["r"]);
        clear(on, A, &["r"]);
        on.create(run("r"));
    }
}
