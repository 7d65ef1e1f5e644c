//! Who is alive, who is gone, and whose runs are free by that.

use super::given::{A, B, C, at, commit, id, ready};
use super::trial::Trial;
use crate::storage::{Beat, Claim, Commit, Holding, Owner};

fn beats(of: &[(Owner, u64)]) -> Vec<Beat> {
    let mut beats: Vec<Beat> =
        of.iter().map(|(owner, count)| Beat { owner: *owner, count: *count }).collect();
    beats.sort_unstable_by_key(|beat| beat.owner);
    beats
}

pub(super) fn each_beat_counts_one_further(on: &Trial<'_>) {
    for count in 1..=20 {
        assert_eq!(on.beat(A), beats(&[(A, count)]));
    }
}

pub(super) fn a_beat_tells_everybody_who_is_alive(on: &Trial<'_>) {
    on.beat(A);
    on.beat(A);
    on.beat(B);
    assert_eq!(on.beat(C), beats(&[(A, 2), (B, 1), (C, 1)]), "this one included");
}

pub(super) fn a_beat_of_one_is_none_of_another(on: &Trial<'_>) {
    on.beat(A);
    on.beat(C);
    on.beat(C);
    assert_eq!(on.beat(A), beats(&[(A, 2), (C, 2)]));
}

pub(super) fn who_is_alive_keeps_its_runs(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    assert!(on.claims(B, 1_000_000_000).is_empty(), "however late it is");
    assert!(!on.claims_named(B, "r", 0), "by name neither");
}

pub(super) fn the_first_beat_keeps_runs_from_then_on(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", C);
    on.beat(A);
    assert_eq!(on.claims(B, 0), ["s"], "who has never beaten is not alive");
}

pub(super) fn nobody_is_given_what_it_holds(on: &Trial<'_>) {
    on.held("r", A);
    assert!(on.claims(A, 0).is_empty(), "before its first beat");
    assert!(!on.claims_named(A, "r", 0), "by name");
    on.beat(A);
    assert!(on.claims(A, 0).is_empty(), "after it");
    assert_eq!(on.load("r").recoveries, 0, "it was not taken from anybody");
}

pub(super) fn who_has_retired_is_not_alive(on: &Trial<'_>) {
    on.beat(A);
    on.retire(A);
    assert_eq!(on.beat(B), beats(&[(B, 1)]));
}

pub(super) fn who_retires_gives_all_its_runs_away(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.held("t", C);
    on.beat(A);
    on.beat(C);
    on.retire(A);
    assert_eq!(on.claims(B, 0), ["r", "s"]);
    assert!(on.claims(B, 0).is_empty(), "they are held now");
}

pub(super) fn who_retires_without_a_beat_gives_its_runs_away(on: &Trial<'_>) {
    on.held("r", A);
    on.retire(A);
    assert_eq!(on.claims(B, 0), ["r"]);
}

pub(super) fn who_retires_leaves_others_alive(on: &Trial<'_>) {
    on.held("r", B);
    on.beat(A);
    on.beat(B);
    on.retire(A);
    on.retire(C);
    assert!(on.claims(C, 0).is_empty());
}

pub(super) fn who_is_called_gone_is_gone(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    assert_eq!(on.claims_from(B, A, 1), ["r"]);
    assert_eq!(on.beat(B), beats(&[(B, 1)]), "it is alive no more");
}

pub(super) fn who_has_beaten_since_is_not_gone(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    on.beat(A);
    assert!(on.claims_from(B, A, 1).is_empty(), "it has beaten since");
    assert_eq!(on.beat(B), beats(&[(A, 2), (B, 1)]), "it is alive");
    assert_eq!(on.claims_from(B, A, 2), ["r"]);
}

pub(super) fn a_beat_that_was_never_is_not_the_last(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    for count in [0, 2, u64::MAX] {
        assert!(on.claims_from(B, A, count).is_empty(), "{count} is not its last beat");
    }
    assert_eq!(on.beat(A), beats(&[(A, 2)]));
}

pub(super) fn each_of_several_is_gone_by_its_own_beat(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", C);
    on.beat(A);
    on.beat(C);
    on.beat(C);
    let gone = beats(&[(A, 1), (C, 1)]);
    let taken = on.claim(Claim { owner: B, now: at(0), gone, run: None, limit: 10 });
    assert_eq!(taken.len(), 1, "one has beaten since");
    assert_eq!(taken[0].run, id("r"));
}

pub(super) fn who_is_gone_stays_gone(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.beat(A);
    on.beat(B);
    let gone = beats(&[(A, 1)]);
    let first = on.claim(Claim { owner: B, now: at(0), gone, run: None, limit: 1 });
    assert_eq!(first.len(), 1);
    assert_eq!(on.claims(C, 0).len(), 1, "the rest, by a claim that calls nobody gone");
}

pub(super) fn a_claim_that_takes_nothing_calls_gone_all_the_same(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    let gone = beats(&[(A, 1)]);
    let run = Some(id("other"));
    assert!(on.claim(Claim { owner: B, now: at(0), gone, run, limit: 1 }).is_empty());
    assert_eq!(on.claims(C, 0), ["r"]);
}

pub(super) fn who_beats_after_it_was_gone_is_alive_again(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.beat(A);
    let (gone, run) = (beats(&[(A, 1)]), Some(id("r")));
    assert_eq!(on.claim(Claim { owner: B, now: at(0), gone, run, limit: 1 }).len(), 1);
    on.beat(A);
    assert!(on.claims(B, 0).is_empty(), "it has what nobody has claimed");
    on.commit("s", Commit { events: vec![ready(0)], ..commit(A, 0) });
    on.refuses("r", commit(A, 0));
}

pub(super) fn beats_count_on_after_an_owner_was_gone(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    on.claim(Claim {
        owner: B,
        now: at(0),
        gone: beats(&[(A, 1)]),
        run: Some(id("none")),
        limit: 1,
    });
    assert_eq!(on.beat(A), beats(&[(A, 2)]), "each beat counts one further");
    // Somebody else saw the first beat, and does not know that there was another.
    assert!(on.claims_from(C, A, 1).is_empty(), "it has beaten since");
}

pub(super) fn an_unknown_owner_may_be_called_gone(on: &Trial<'_>) {
    on.held("r", A);
    on.beat(A);
    assert!(on.claims_from(B, C, 1).is_empty());
    assert_eq!(on.beat(B), beats(&[(A, 1), (B, 1)]));
}

pub(super) fn nothing_of_a_gone_owner_is_free_that_it_does_not_hold(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.beat(A);
    on.commit("r", Commit { holding: Holding::Parked(None), ..commit(A, 0) });
    on.commit("s", Commit { holding: Holding::Finished, ..commit(A, 0) });
    assert!(on.claims_from(B, A, 1).is_empty());
}
