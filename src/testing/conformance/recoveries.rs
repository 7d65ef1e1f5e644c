//! How often a run was taken from owners that were gone.

use super::given::{A, B, C, at, commit, id};
use super::trial::Trial;
use crate::storage::{Claim, Commit, Holding};

/// The recoveries that a claim of everything tells of the only run that it gives.
#[track_caller]
fn taken(on: &Trial<'_>, owner: crate::storage::Owner) -> u32 {
    let claim = Claim { owner, now: at(0), gone: Vec::new(), run: None, limit: 10 };
    let given = on.claim(claim);
    assert_eq!(given.len(), 1, "one run is free");
    assert_eq!(on.load(given[0].run.as_str()).recoveries, given[0].recoveries, "as `load` says");
    given[0].recoveries
}

pub(super) fn taking_from_who_is_gone_counts(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    assert_eq!(on.claims_from(B, A, 1), ["r"]);
    assert_eq!(on.load("r").recoveries, 1, "this time included");
}

pub(super) fn taking_from_who_never_lived_counts(on: &Trial<'_>) {
    on.held("r", A);
    assert_eq!(taken(on, B), 1);
}

pub(super) fn taking_from_who_has_retired_does_not_count(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    on.retire(A);
    assert_eq!(taken(on, B), 0);
}

pub(super) fn every_time_counts(on: &Trial<'_>) {
    on.held("r", A);
    for (turn, owner) in [B, C, A, B].into_iter().enumerate() {
        assert_eq!(taken(on, owner), turn as u32 + 1);
    }
}

pub(super) fn a_parked_run_is_not_recovered(on: &Trial<'_>) {
    on.parked("r", Some(0));
    assert_eq!(taken(on, A), 0);
    assert_eq!(taken(on, B), 1, "and then it is");
    on.commit("r", Commit { holding: Holding::Parked(Some(at(0))), ..commit(B, 0) });
    assert_eq!(taken(on, C), 1, "it is told what was counted, and nothing is added");
}

pub(super) fn a_run_set_aside_keeps_its_count(on: &Trial<'_>) {
    on.held("r", A);
    assert_eq!(taken(on, B), 1);
    on.set_aside("r", B, 0, "broken");
    assert_eq!(taken(on, C), 1);
}

pub(super) fn a_commit_that_has_recovered_sets_it_to_none(on: &Trial<'_>) {
    on.held("r", A);
    taken(on, B);
    taken(on, C);
    on.commit("r", Commit { recovered: true, ..commit(C, 0) });
    assert_eq!(on.load("r").recoveries, 0);
    assert_eq!(taken(on, A), 1, "it begins anew");
}

pub(super) fn another_commit_leaves_the_count(on: &Trial<'_>) {
    on.held("r", A);
    taken(on, B);
    on.commit("r", commit(B, 0));
    assert_eq!(on.load("r").recoveries, 1);
}

pub(super) fn a_claim_by_name_counts_the_same(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", B);
    on.beat(B);
    on.retire(B);
    let by_name = |name| {
        let (gone, run) = (Vec::new(), Some(id(name)));
        on.claim(Claim { owner: C, now: at(0), gone, run, limit: 1 })[0].recoveries
    };
    assert_eq!((by_name("r"), by_name("s")), (1, 0));
}

pub(super) fn each_run_has_its_own_count(on: &Trial<'_>) {
    on.held("r", A);
    taken(on, B);
    on.held("s", B);
    on.beat(B);
    assert_eq!(on.claims_from(C, B, 1), ["r", "s"]);
    assert_eq!((on.load("r").recoveries, on.load("s").recoveries), (2, 1));
}
