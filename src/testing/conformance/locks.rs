//! Locks that steps of all runs share.

use super::given::{A, B, C, acquire, at_most, begun, commit, id, mutex, rate, ready};
use super::trial::Trial;
use crate::error::ErrorKind;
use crate::id::StepKey;
use crate::journal::RunStatus;
use crate::run::Want;
use crate::storage::{Acquire, Commit, Denied, Holding};

#[track_caller]
fn takes(on: &Trial<'_>, run: &str, step: u32, wants: &[Want]) {
    let answer = on.acquire(run, step, wants, 0);
    assert_eq!(answer, None, "step {step} of {run} is given {wants:?}");
}

#[track_caller]
fn denied(on: &Trial<'_>, run: &str, step: u32, wants: &[Want]) -> Denied {
    let answer = on.acquire(run, step, wants, 0);
    answer.unwrap_or_else(|| panic!("step {step} of {run} is not given {wants:?}"))
}

fn two(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", B);
}

pub(super) fn one_step_holds_a_mutex(on: &Trial<'_>) {
    two(on);
    takes(on, "r", 0, &[mutex("l")]);
    let why = denied(on, "s", 0, &[mutex("l")]);
    assert_eq!((why.lock.as_str(), why.until), ("l", None));
    assert_eq!(why.holders, [id("r")], "who holds it is told");
}

pub(super) fn another_step_of_the_same_run_is_another(on: &Trial<'_>) {
    two(on);
    takes(on, "r", 0, &[mutex("l")]);
    assert_eq!(denied(on, "r", 1, &[mutex("l")]).holders, [id("r")]);
    let step = StepKey { scope: 1, step: 0 };
    let asked = Acquire { step, ..on.asks("r", &[mutex("l")]) };
    let inner = on.ask(on.storage().acquire(&id("r"), asked));
    assert!(inner.is_some(), "the same place in another scope");
}

pub(super) fn locks_of_other_names_are_free(on: &Trial<'_>) {
    two(on);
    takes(on, "r", 0, &[mutex("l")]);
    for name in ["L", "l ", "l[1]", "l[\"1\"]", "m", "", "%"] {
        takes(on, "s", 0, &[mutex(name)]);
    }
}

pub(super) fn names_of_locks_have_any_letters(on: &Trial<'_>) {
    two(on);
    let long = "x".repeat(2_000);
    for name in ["ключ", "🔒", "a'b\"c", "e\u{301}", "\u{e9}", "a\u{0}b", "a\nb", &long] {
        takes(on, "r", 0, &[mutex(name)]);
        assert_eq!(denied(on, "s", 0, &[mutex(name)]).lock, name);
    }
}

pub(super) fn so_many_hold_a_lock_as_it_allows(on: &Trial<'_>) {
    two(on);
    let want = [at_most(3, "l")];
    takes(on, "r", 0, &want);
    takes(on, "s", 0, &want);
    takes(on, "r", 1, &want);
    let why = denied(on, "s", 1, &want);
    assert!(!why.holders.is_empty(), "somebody holds it");
    assert!(why.holders.iter().all(|holder| [id("r"), id("s")].contains(holder)), "{why:?}");
    on.commit("s", Commit { released: vec![StepKey::root(0)], ..commit(B, 0) });
    takes(on, "s", 1, &want);
    denied(on, "s", 0, &want);
}

pub(super) fn any_number_hold_a_lock_without_a_limit(on: &Trial<'_>) {
    two(on);
    let want = [Want { max: None, ..mutex("l") }];
    for step in 0..30 {
        takes(on, if step % 2 == 0 { "r" } else { "s" }, step, &want);
    }
}

pub(super) fn a_step_is_given_again_what_it_holds(on: &Trial<'_>) {
    two(on);
    for _ in 0..3 {
        takes(on, "r", 0, &[mutex("l")]);
    }
    on.commit("r", Commit { released: vec![StepKey::root(0)], ..commit(A, 0) });
    takes(on, "s", 0, &[mutex("l")]);
}

pub(super) fn a_step_that_asks_again_takes_one_place(on: &Trial<'_>) {
    two(on);
    let want = [at_most(2, "l")];
    takes(on, "r", 0, &want);
    takes(on, "r", 0, &want);
    takes(on, "s", 0, &want);
}

pub(super) fn all_locks_are_given_or_none(on: &Trial<'_>) {
    two(on);
    takes(on, "r", 0, &[mutex("b")]);
    let why = denied(on, "s", 0, &[mutex("a"), mutex("b"), mutex("c")]);
    assert_eq!(why.lock, "b", "the one that is not free");
    takes(on, "r", 1, &[mutex("a")]);
    takes(on, "r", 2, &[mutex("c")]);
}

pub(super) fn nothing_is_charged_for_what_was_not_given(on: &Trial<'_>) {
    two(on);
    takes(on, "r", 0, &[mutex("b")]);
    let slow = rate(1, 60, "a");
    denied(on, "s", 0, &[slow.clone(), mutex("b")]);
    takes(on, "r", 1, &[slow]);
}

pub(super) fn several_locks_are_held_together(on: &Trial<'_>) {
    two(on);
    takes(on, "r", 0, &[mutex("a"), mutex("b")]);
    denied(on, "s", 0, &[mutex("a")]);
    denied(on, "s", 0, &[mutex("b")]);
    takes(on, "r", 0, &[mutex("b"), mutex("c")]);
    denied(on, "s", 0, &[mutex("c")]);
    on.commit("r", Commit { released: vec![StepKey::root(0)], ..commit(A, 0) });
    takes(on, "s", 0, &[mutex("a"), mutex("b"), mutex("c")]);
}

pub(super) fn nothing_asked_is_given(on: &Trial<'_>) {
    two(on);
    takes(on, "r", 0, &[]);
}

pub(super) fn a_commit_releases_the_steps_that_it_names(on: &Trial<'_>) {
    two(on);
    takes(on, "r", 0, &[mutex("a")]);
    takes(on, "r", 1, &[mutex("b")]);
    on.commit("r", commit(A, 0));
    denied(on, "s", 0, &[mutex("a")]);
    on.commit("r", Commit { released: vec![StepKey::root(0)], ..commit(A, 0) });
    takes(on, "s", 0, &[mutex("a")]);
    denied(on, "s", 0, &[mutex("b")]);
}

pub(super) fn the_same_step_of_another_run_keeps_its_locks(on: &Trial<'_>) {
    two(on);
    takes(on, "r", 0, &[mutex("a")]);
    let released = vec![StepKey::root(0), StepKey::root(7)];
    on.commit("s", Commit { released, ..commit(B, 0) });
    denied(on, "s", 0, &[mutex("a")]);
}

pub(super) fn the_end_of_a_run_releases_everything(on: &Trial<'_>) {
    on.held("s", B);
    let ends = [RunStatus::Succeeded, RunStatus::Failed, RunStatus::Cancelled, RunStatus::TimedOut];
    for (place, status) in ends.into_iter().enumerate() {
        let (name, step) = (format!("r{place}"), place as u32);
        on.held(&name, A);
        takes(on, &name, 0, &[mutex("a"), mutex("b")]);
        let inner =
            Acquire { step: StepKey { scope: 9, step: 9 }, ..on.asks(&name, &[mutex("c")]) };
        assert_eq!(on.ask(on.storage().acquire(&id(&name), inner)), None);
        on.commit(&name, Commit { status, holding: Holding::Finished, ..commit(A, 0) });
        takes(on, "s", step, &[mutex("a"), mutex("b"), mutex("c")]);
        on.commit("s", Commit { released: vec![StepKey::root(step)], ..commit(B, 0) });
    }
}

pub(super) fn a_run_that_has_ended_is_given_nothing(on: &Trial<'_>) {
    two(on);
    on.commit(
        "r",
        Commit { status: RunStatus::Cancelled, holding: Holding::Finished, ..commit(A, 0) },
    );
    let refused = on.refuses_locks("r", acquire(A, 0, &[mutex("l")]));
    assert_eq!(refused, ErrorKind::Conflict);
    takes(on, "s", 0, &[mutex("l")]);
}

pub(super) fn only_who_holds_a_run_is_given_locks(on: &Trial<'_>) {
    two(on);
    for other in [B, C] {
        let refused = on.refuses_locks("r", acquire(other, 0, &[mutex("l")]));
        assert_eq!(refused, ErrorKind::Conflict);
    }
    assert_eq!(on.claims(B, 0), ["r"]);
    let before = on.refuses_locks("r", acquire(A, 0, &[mutex("l")]));
    assert_eq!(before, ErrorKind::Conflict, "it was taken over");
    takes(on, "s", 0, &[mutex("l")]);
}

pub(super) fn a_run_that_nobody_holds_is_given_nothing(on: &Trial<'_>) {
    on.held("s", B);
    on.parked("r", Some(9));
    let parked = on.refuses_locks("r", acquire(A, 0, &[mutex("l")]));
    on.aside("t", 9);
    let aside = on.refuses_locks("t", acquire(A, 0, &[mutex("l")]));
    assert_eq!((parked, aside), (ErrorKind::Conflict, ErrorKind::Conflict));
    takes(on, "s", 0, &[mutex("l")]);
}

pub(super) fn who_asks_from_another_length_is_given_nothing(on: &Trial<'_>) {
    two(on);
    on.commit("r", Commit { events: vec![begun(), ready(0)], ..commit(A, 0) });
    for expected in [0, 1, 3, u64::MAX] {
        let refused = on.refuses_locks("r", acquire(A, expected, &[mutex("l")]));
        assert_eq!(refused, ErrorKind::Conflict, "it has two events, not {expected}");
    }
    takes(on, "s", 0, &[mutex("l")]);
}

pub(super) fn a_refused_question_costs_nothing(on: &Trial<'_>) {
    two(on);
    let slow = [rate(1, 60, "api")];
    for asked in [acquire(B, 0, &slow), acquire(A, 1, &slow)] {
        on.refuses_locks("r", asked);
    }
    takes(on, "r", 0, &slow);
}

pub(super) fn steps_of_nothing_are_given_nothing(on: &Trial<'_>) {
    two(on);
    let refused = on.refuses_locks("nobody", acquire(A, 0, &[mutex("l")]));
    assert_eq!(refused, ErrorKind::NotFound);
    takes(on, "s", 0, &[mutex("l")]);
}

pub(super) fn the_end_of_one_run_releases_nothing_of_another(on: &Trial<'_>) {
    two(on);
    on.held("r2", A);
    takes(on, "r2", 0, &[mutex("a")]);
    let (status, holding) = (RunStatus::Failed, Holding::Finished);
    on.commit("r", Commit { status, holding, ..commit(A, 0) });
    denied(on, "s", 0, &[mutex("a")]);
}

pub(super) fn locks_are_held_while_a_run_is_parked(on: &Trial<'_>) {
    two(on);
    takes(on, "r", 0, &[mutex("a")]);
    for status in [RunStatus::Paused, RunStatus::Cancelling, RunStatus::Running] {
        on.commit("r", Commit { status, holding: Holding::Parked(None), ..commit(A, 0) });
        denied(on, "s", 0, &[mutex("a")]);
    }
}

pub(super) fn locks_are_held_when_a_run_is_taken_over(on: &Trial<'_>) {
    two(on);
    takes(on, "r", 0, &[mutex("a")]);
    assert_eq!(on.claims(B, 0), ["r"]);
    denied(on, "s", 0, &[mutex("a")]);
    takes(on, "r", 0, &[mutex("a")]);
    on.commit("r", Commit { released: vec![StepKey::root(0)], ..commit(B, 0) });
    takes(on, "s", 0, &[mutex("a")]);
}
