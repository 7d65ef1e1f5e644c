//! Locks that are taken so often in a length of time.

use super::given::{A, B, at, commit, mutex, rate};
use super::trial::Trial;
use crate::id::StepKey;
use crate::run::Want;
use crate::storage::{Acquire, Commit};

fn two(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", B);
}

#[track_caller]
fn takes(on: &Trial<'_>, step: u32, want: &Want, seconds: i64) {
    let answer = on.acquire("r", step, std::slice::from_ref(want), seconds);
    assert_eq!(answer, None, "step {step} takes it after {seconds} seconds");
}

#[track_caller]
fn until(on: &Trial<'_>, step: u32, want: &Want, seconds: i64, until: i64) {
    let answer = on.acquire("r", step, std::slice::from_ref(want), seconds);
    let why = answer.unwrap_or_else(|| panic!("step {step} comes too soon at {seconds}"));
    assert_eq!(why.until, Some(at(until)), "when it may be asked for again");
    assert_eq!(why.lock, want.lock);
    assert!(why.holders.is_empty(), "nobody stands in the way: {why:?}");
}

pub(super) fn so_many_are_given_at_once(on: &Trial<'_>) {
    two(on);
    let want = rate(3, 60, "api");
    (0..3).for_each(|step| takes(on, step, &want, 0));
    until(on, 3, &want, 0, 20);
}

pub(super) fn then_they_are_given_evenly(on: &Trial<'_>) {
    two(on);
    let want = rate(2, 60, "api");
    takes(on, 0, &want, 0);
    takes(on, 1, &want, 0);
    for step in 2..6 {
        let due = i64::from(step - 1) * 30;
        until(on, step, &want, due - 30, due);
        until(on, step, &want, due - 1, due);
        takes(on, step, &want, due);
    }
}

pub(super) fn a_refusal_costs_nothing(on: &Trial<'_>) {
    two(on);
    let want = rate(1, 60, "api");
    takes(on, 0, &want, 0);
    (0..50).for_each(|seconds| until(on, 1, &want, seconds, 60));
    takes(on, 1, &want, 60);
}

pub(super) fn time_that_passes_gives_no_more_than_all_at_once(on: &Trial<'_>) {
    two(on);
    let want = rate(2, 60, "api");
    takes(on, 0, &want, 0);
    let much_later = 100_000;
    takes(on, 1, &want, much_later);
    takes(on, 2, &want, much_later);
    until(on, 3, &want, much_later, much_later + 30);
}

pub(super) fn a_rate_is_one_for_all_runs(on: &Trial<'_>) {
    two(on);
    let want = rate(1, 60, "api");
    takes(on, 0, &want, 0);
    assert!(on.acquire("s", 0, &[want], 30).is_some_and(|why| why.until == Some(at(60))));
}

pub(super) fn who_holds_it_pays_once(on: &Trial<'_>) {
    two(on);
    let want = rate(2, 60, "api");
    (0..5).for_each(|_| takes(on, 0, &want, 0));
    takes(on, 1, &want, 0);
    until(on, 2, &want, 0, 30);
}

pub(super) fn releasing_gives_nothing_back(on: &Trial<'_>) {
    two(on);
    let want = rate(1, 60, "api");
    takes(on, 0, &want, 0);
    on.commit("r", Commit { released: vec![StepKey::root(0)], ..commit(A, 0) });
    until(on, 0, &want, 10, 60);
    takes(on, 0, &want, 60);
}

pub(super) fn rates_of_other_names_are_apart(on: &Trial<'_>) {
    two(on);
    takes(on, 0, &rate(1, 60, "api[1]"), 0);
    takes(on, 0, &rate(1, 60, "api[2]"), 0);
    until(on, 1, &rate(1, 60, "api[1]"), 0, 60);
}

pub(super) fn a_rate_may_have_a_limit_too(on: &Trial<'_>) {
    two(on);
    let want = Want { max: Some(1), ..rate(2, 60, "api") };
    takes(on, 0, &want, 0);
    assert!(on.acquire("r", 1, std::slice::from_ref(&want), 0).is_some(), "one holds it");
    on.commit("r", Commit { released: vec![StepKey::root(0)], ..commit(A, 0) });
    takes(on, 1, &want, 0);
    on.commit("r", Commit { released: vec![StepKey::root(1)], ..commit(A, 0) });
    until(on, 2, &want, 0, 30);
}

pub(super) fn who_wants_no_rate_leaves_it_as_it_is(on: &Trial<'_>) {
    two(on);
    let want = rate(1, 60, "api");
    takes(on, 0, &want, 0);
    takes(on, 1, &Want { max: None, ..mutex("api") }, 0);
    until(on, 2, &want, 0, 60);
}

pub(super) fn a_rate_is_exact_to_the_microsecond(on: &Trial<'_>) {
    two(on);
    let want = rate(4, 1, "api");
    (0..4).for_each(|step| takes(on, step, &want, 0));
    let why = on.acquire("r", 4, std::slice::from_ref(&want), 0).expect("four in a second");
    let due = at(0) + std::time::Duration::from_millis(250);
    assert_eq!(why.until, Some(due));
    let ask = |now| {
        let asked = on.asks("r", std::slice::from_ref(&want));
        let asked = Acquire { step: StepKey::root(4), now, ..asked };
        on.ask(on.storage().acquire(&super::given::id("r"), asked))
    };
    let before = crate::time::Timestamp::from_micros(due.as_micros() - 1);
    assert!(ask(before).is_some());
    assert_eq!(ask(due), None);
}

pub(super) fn a_clock_that_goes_back_gives_nothing_for_free(on: &Trial<'_>) {
    two(on);
    let want = rate(1, 60, "api");
    takes(on, 0, &want, 100);
    until(on, 1, &want, 50, 160);
}
