//! When the next run that nobody holds can be claimed.

use super::given::{A, B, at, commit};
use super::trial::Trial;
use crate::storage::{Commit, Holding};

#[track_caller]
fn is_long_ago(on: &Trial<'_>) {
    let due = on.next_due();
    assert!(due.is_some_and(|due| due < at(-1_000_000)), "{due:?} is not long ago");
}

pub(super) fn held_and_finished_runs_are_not_due(on: &Trial<'_>) {
    on.held("r", A);
    on.finished("s");
    on.parked("t", None);
    assert_eq!(on.next_due(), None);
}

pub(super) fn the_earliest_is_told(on: &Trial<'_>) {
    on.parked("r", Some(30));
    assert_eq!(on.next_due(), Some(at(30)));
    on.parked("s", Some(10));
    on.parked("t", Some(20));
    assert_eq!(on.next_due(), Some(at(10)));
}

pub(super) fn a_run_set_aside_is_due_at_its_time(on: &Trial<'_>) {
    on.parked("r", Some(30));
    on.aside("s", 20);
    assert_eq!(on.next_due(), Some(at(20)));
    on.signal("s", "x");
    assert_eq!(on.next_due(), Some(at(20)), "message or not");
}

pub(super) fn what_was_claimed_is_not_due(on: &Trial<'_>) {
    on.parked("r", Some(10));
    on.parked("s", Some(20));
    on.claims(A, 10);
    assert_eq!(on.next_due(), Some(at(20)));
    on.claims(A, 20);
    assert_eq!(on.next_due(), None);
}

pub(super) fn a_message_makes_a_parked_run_due(on: &Trial<'_>) {
    on.parked("r", None);
    on.signal("r", "x");
    is_long_ago(on);
    on.claims(A, 0);
    assert_eq!(on.next_due(), None);
}

pub(super) fn a_message_makes_a_finished_run_due(on: &Trial<'_>) {
    on.finished("r");
    on.parked("s", Some(5));
    on.signal("r", "x");
    is_long_ago(on);
}

pub(super) fn a_message_does_not_make_a_held_run_due(on: &Trial<'_>) {
    on.held("r", A);
    on.signal("r", "x");
    assert_eq!(on.next_due(), None);
    on.commit("r", Commit { holding: Holding::Parked(Some(at(5))), ..commit(A, 0) });
    is_long_ago(on);
}

pub(super) fn a_commit_moves_it(on: &Trial<'_>) {
    on.parked("r", Some(10));
    on.commit("r", Commit { holding: Holding::Parked(Some(at(40))), ..commit(A, 0) });
    assert_eq!(on.next_due(), Some(at(40)));
    assert!(on.claims(B, 39).is_empty(), "the old time is forgotten");
    on.commit("r", Commit { holding: Holding::Parked(None), ..commit(A, 0) });
    assert_eq!(on.next_due(), None);
}

pub(super) fn an_answer_takes_it_back(on: &Trial<'_>) {
    on.parked("r", Some(10));
    let number = on.signal("r", "x");
    let (answers, holding) = (vec![(number, Ok(()))], Holding::Parked(Some(at(10))));
    on.commit("r", Commit { answers, holding, ..commit(A, 0) });
    assert_eq!(on.next_due(), Some(at(10)));
}

pub(super) fn asking_changes_nothing(on: &Trial<'_>) {
    on.parked("r", Some(10));
    on.signal("r", "x");
    let before = on.dump();
    on.next_due();
    on.is_as(&before, "a question has changed something");
}
