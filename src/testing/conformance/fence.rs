//! Who may write: the right length, and no other holder.

use super::given::{A, B, C, at, begun, commit, ready, run};
use super::trial::Trial;
use crate::storage::{Commit, Holding, NewRun, Owner};

const WRONG: [u64; 5] = [0, 1, 3, i64::MAX as u64, u64::MAX];

fn given(on: &Trial<'_>, holding: Holding) {
    on.create(NewRun { holding, journal: vec![begun(), ready(0)], ..run("r") });
}

fn write(owner: Owner, expected: u64) -> Commit {
    Commit { events: vec![ready(9)], ..commit(owner, expected) }
}

/// Refused at every wrong length, then taken at the right one.
#[track_caller]
fn only_at_its_length(on: &Trial<'_>, owner: Owner) {
    for expected in WRONG {
        on.refuses("r", write(owner, expected));
    }
    on.commit("r", write(owner, 2));
    assert_eq!(on.load("r").holding, Holding::Held(owner));
    assert_eq!(on.length("r"), 3);
}

#[track_caller]
fn never(on: &Trial<'_>, owner: Owner) {
    for expected in WRONG.into_iter().chain([2]) {
        on.refuses("r", write(owner, expected));
    }
}

pub(super) fn the_holder_writes_at_the_right_length(on: &Trial<'_>) {
    given(on, Holding::Held(A));
    only_at_its_length(on, A);
}

pub(super) fn another_owner_does_not_write_to_a_held_run(on: &Trial<'_>) {
    given(on, Holding::Held(A));
    never(on, B);
}

pub(super) fn owners_are_told_apart_by_all_their_bits(on: &Trial<'_>) {
    given(on, Holding::Held(A));
    never(on, C);
    on.create(NewRun { holding: Holding::Held(B), ..run("s") });
    on.refuses("s", commit(Owner(u128::from(u64::MAX)), 0));
    on.refuses("s", commit(Owner(0), 0));
    on.commit("s", commit(B, 0));
}

pub(super) fn anybody_writes_to_a_parked_run_at_the_right_length(on: &Trial<'_>) {
    given(on, Holding::Parked(None));
    only_at_its_length(on, B);
}

pub(super) fn anybody_writes_to_a_run_with_a_time_at_the_right_length(on: &Trial<'_>) {
    given(on, Holding::Parked(Some(at(50))));
    only_at_its_length(on, B);
}

pub(super) fn anybody_writes_to_a_finished_run_at_the_right_length(on: &Trial<'_>) {
    given(on, Holding::Finished);
    only_at_its_length(on, B);
}

pub(super) fn anybody_writes_to_a_run_set_aside_at_the_right_length(on: &Trial<'_>) {
    given(on, Holding::Aside(at(50)));
    only_at_its_length(on, B);
}

pub(super) fn who_was_taken_over_does_not_write(on: &Trial<'_>) {
    given(on, Holding::Held(A));
    on.beat(A);
    assert_eq!(on.claims_from(B, A, 1), ["r"]);
    never(on, A);
    on.commit("r", write(B, 2));
}

pub(super) fn who_was_taken_over_does_not_write_after_a_beat(on: &Trial<'_>) {
    given(on, Holding::Held(A));
    on.beat(A);
    on.claims_from(B, A, 1);
    on.beat(A);
    never(on, A);
}

pub(super) fn who_was_taken_over_and_has_it_again_writes(on: &Trial<'_>) {
    given(on, Holding::Held(A));
    assert_eq!(on.claims(B, 0), ["r"]);
    on.commit("r", Commit { holding: Holding::Parked(Some(at(0))), ..commit(B, 2) });
    assert_eq!(on.claims(A, 0), ["r"]);
    never(on, B);
    only_at_its_length(on, A);
}

pub(super) fn who_was_called_gone_writes_until_the_run_is_taken(on: &Trial<'_>) {
    given(on, Holding::Held(A));
    on.held("s", A);
    on.beat(A);
    // Only one of its two is asked for.
    let gone = vec![crate::storage::Beat { owner: A, count: 1 }];
    let run = Some(super::given::id("s"));
    let taken = on.claim(crate::storage::Claim { owner: B, now: at(0), gone, run, limit: 1 });
    assert_eq!(taken.len(), 1);
    only_at_its_length(on, A);
}

pub(super) fn a_retired_holder_writes_until_the_run_is_taken(on: &Trial<'_>) {
    given(on, Holding::Held(A));
    on.beat(A);
    on.retire(A);
    on.commit("r", write(A, 2));
    assert_eq!(on.claims(B, 0), ["r"]);
    on.refuses("r", write(A, 3));
}

pub(super) fn a_holder_that_has_never_beaten_writes(on: &Trial<'_>) {
    given(on, Holding::Held(C));
    only_at_its_length(on, C);
}

pub(super) fn who_takes_a_parked_run_by_a_commit_keeps_others_out(on: &Trial<'_>) {
    given(on, Holding::Parked(None));
    on.commit("r", write(A, 2));
    on.refuses("r", write(B, 3));
    on.commit("r", write(A, 3));
}

pub(super) fn who_parks_a_run_has_no_more_right_to_it_than_others(on: &Trial<'_>) {
    given(on, Holding::Held(A));
    on.commit("r", Commit { holding: Holding::Parked(None), ..commit(A, 2) });
    on.commit("r", write(B, 2));
    on.refuses("r", write(A, 3));
}

pub(super) fn a_commit_may_hand_a_run_over(on: &Trial<'_>) {
    given(on, Holding::Held(A));
    on.commit("r", Commit { holding: Holding::Held(B), ..commit(A, 2) });
    on.refuses("r", write(A, 2));
    on.commit("r", write(B, 2));
}

pub(super) fn a_commit_without_events_is_fenced_by_owner(on: &Trial<'_>) {
    given(on, Holding::Held(A));
    on.claims(B, 0);
    // The length has not changed: only the owner tells that this comes too late.
    on.refuses("r", Commit { holding: Holding::Parked(None), ..commit(A, 2) });
    assert_eq!(on.load("r").holding, Holding::Held(B));
}
