//! Summaries.

use super::given::{A, at, begun, commit, event, id, ready, run, started, workflow};
use super::trial::Trial;
use crate::journal::RunStatus;
use crate::storage::{Commit, Holding, NewRun, RunQuery};
use crate::value::Value;

#[track_caller]
fn listed(on: &Trial<'_>, query: RunQuery) -> Vec<String> {
    on.list(query).iter().map(|run| run.id.to_string()).collect()
}

fn all() -> RunQuery {
    RunQuery::default()
}

/// Runs of two workflows with all kinds of status, newest last.
fn several(on: &Trial<'_>) {
    let rows = [
        ("a", "x", RunStatus::Running),
        ("b", "y", RunStatus::Failed),
        ("c", "x", RunStatus::Failed),
        ("d", "x", RunStatus::Running),
    ];
    for (place, (name, flow, status)) in rows.into_iter().enumerate() {
        on.create(NewRun { workflow: workflow(flow), at: at(place as i64), status, ..run(name) });
    }
}

pub(super) fn the_newest_come_first(on: &Trial<'_>) {
    for (name, seconds) in [("a", 5), ("b", 9), ("c", 1), ("d", 7)] {
        on.create(NewRun { at: at(seconds), ..run(name) });
    }
    assert_eq!(listed(on, all()), ["b", "d", "a", "c"]);
}

pub(super) fn of_the_same_time_ids_go_backwards(on: &Trial<'_>) {
    // By their bytes: capital letters before small ones, accents behind all.
    for name in ["b", "B", "a", "é", "_", "10", "9", "Z", "日", "🦀"] {
        on.create(run(name));
    }
    assert_eq!(listed(on, all()), ["🦀", "日", "é", "b", "a", "_", "Z", "B", "9", "10"]);
}

pub(super) fn changes_do_not_move_a_run(on: &Trial<'_>) {
    several(on);
    on.commit("a", Commit { events: vec![ready(0)], ..commit(A, 0) });
    on.signal("a", "x");
    assert_eq!(listed(on, all()), ["d", "c", "b", "a"]);
}

pub(super) fn they_are_filtered_by_workflow(on: &Trial<'_>) {
    several(on);
    let of = |flow: &str| listed(on, RunQuery { workflow: Some(flow.into()), ..all() });
    assert_eq!(of("x"), ["d", "c", "a"]);
    assert_eq!(of("y"), ["b"]);
    assert!(of("X").is_empty() && of("").is_empty() && of("%").is_empty(), "none of these is");
}

pub(super) fn they_are_filtered_by_status(on: &Trial<'_>) {
    several(on);
    let with = |status| listed(on, RunQuery { status: Some(status), ..all() });
    assert_eq!(with(RunStatus::Failed), ["c", "b"]);
    assert_eq!(with(RunStatus::Running), ["d", "a"]);
    assert!(with(RunStatus::Succeeded).is_empty());
}

pub(super) fn they_are_filtered_by_whether_they_have_ended(on: &Trial<'_>) {
    use RunStatus as S;
    let live = [S::Pending, S::Running, S::Paused, S::Cancelling];
    let ended = [S::Succeeded, S::Failed, S::Cancelled, S::TimedOut];
    for (place, status) in live.into_iter().chain(ended).enumerate() {
        on.create(NewRun { status, ..run(&format!("r{place}")) });
    }
    let alive = RunQuery { live: true, ..all() };
    assert_eq!(listed(on, alive.clone()), ["r3", "r2", "r1", "r0"]);
    let status = Some(S::Failed);
    assert!(listed(on, RunQuery { status, ..alive }).is_empty(), "both hold");
}

pub(super) fn a_list_goes_on_behind_a_run(on: &Trial<'_>) {
    for (name, seconds) in [("a", 5), ("b", 5), ("c", 5), ("d", 7), ("e", 3)] {
        on.create(NewRun { at: at(seconds), ..run(name) });
    }
    let behind = |name, seconds| {
        let before = Some((at(seconds), id(name)));
        listed(on, RunQuery { before, limit: 2, ..all() })
    };
    assert_eq!(behind("d", 7), ["c", "b"]);
    assert_eq!(behind("b", 5), ["a", "e"]);
    assert_eq!(behind("e", 3), [""; 0]);
    assert_eq!(behind("bb", 5), ["b", "a"], "a run that is not there has a place, too");
    assert_eq!(behind("z", 4), ["e"]);
}

pub(super) fn filters_follow_changes(on: &Trial<'_>) {
    several(on);
    on.commit("a", Commit { status: RunStatus::Failed, ..commit(A, 0) });
    let query = RunQuery { status: Some(RunStatus::Failed), ..all() };
    assert_eq!(listed(on, query), ["c", "b", "a"]);
}

pub(super) fn both_filters_hold(on: &Trial<'_>) {
    several(on);
    let (workflow, status) = (Some("x".to_string()), Some(RunStatus::Failed));
    assert_eq!(listed(on, RunQuery { workflow, status, ..all() }), ["c"]);
}

pub(super) fn no_more_are_listed_than_were_asked_for(on: &Trial<'_>) {
    several(on);
    assert_eq!(listed(on, RunQuery { limit: 1, ..all() }), ["d"]);
    assert_eq!(listed(on, RunQuery { limit: 3, ..all() }), ["d", "c", "b"]);
    assert_eq!(listed(on, RunQuery { limit: usize::MAX, ..all() }).len(), 4);
    let (workflow, limit) = (Some("y".to_string()), 1);
    assert_eq!(listed(on, RunQuery { workflow, limit, ..all() }), ["b"], "filtered, then counted");
}

pub(super) fn a_summary_tells_what_became_of_a_run(on: &Trial<'_>) {
    on.create(NewRun { workflow: workflow("x"), at: at(3), ..run("r") });
    let fresh = on.summary("r");
    assert_eq!((fresh.id, fresh.workflow.as_str()), (id("r"), "x"));
    assert_eq!((fresh.status, fresh.events), (RunStatus::Pending, 0));
    assert_eq!((fresh.created_at, fresh.changed_at), (at(3), at(3)));
    assert_eq!(fresh.problem, None);
    let events = vec![event(8, started(Value::NULL)), event(9, ready(0).event)];
    let (status, holding) = (RunStatus::Succeeded, Holding::Finished);
    on.commit("r", Commit { events, status, holding, ..commit(A, 0) });
    let ended = on.summary("r");
    assert_eq!((ended.status, ended.events), (RunStatus::Succeeded, 2));
    assert_eq!((ended.created_at, ended.changed_at), (at(3), at(9)), "the last event's time");
}

pub(super) fn the_beginning_of_a_journal_is_in_the_summary(on: &Trial<'_>) {
    on.create(NewRun { journal: vec![begun(), ready(0)], ..run("r") });
    let summary = on.summary("r");
    assert_eq!((summary.events, summary.changed_at), (2, at(2)));
}

pub(super) fn a_run_keeps_the_name_of_the_workflow_it_was_added_with(on: &Trial<'_>) {
    on.create(NewRun { workflow: workflow("日 x'y"), ..run("r") });
    assert_eq!(on.summary("r").workflow, "日 x'y");
    let query = RunQuery { workflow: Some("日 x'y".into()), ..all() };
    assert_eq!(listed(on, query), ["r"]);
}

pub(super) fn times_are_kept_to_the_microsecond(on: &Trial<'_>) {
    use crate::time::Timestamp;
    let odd = Timestamp::from_micros(1_234_567_890_123_457);
    for (name, at) in [("a", Timestamp::MIN), ("b", odd), ("c", Timestamp::MAX)] {
        on.create(NewRun { at, ..run(name) });
        assert_eq!(on.summary(name).created_at, at);
    }
    assert_eq!(listed(on, all()), ["c", "b", "a"]);
}
