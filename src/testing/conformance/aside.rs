//! Runs that an engine cannot go on with.

use super::given::{A, B, C, at, begun, commit, mutex, run};
use super::trial::Trial;
use crate::journal::RunStatus;
use crate::storage::{Commit, Holding, NewRun, RunQuery};

pub(super) fn a_run_set_aside_is_nobody_s_and_says_why(on: &Trial<'_>) {
    on.held("r", A);
    on.set_aside("r", A, 10, "there is no executor `x`: \"ünï\" \u{0}");
    assert_eq!(on.load("r").holding, Holding::Aside(at(10)));
    let why = on.summary("r").problem;
    assert_eq!(why.as_deref(), Some("there is no executor `x`: \"ünï\" \u{0}"));
}

pub(super) fn the_rest_of_a_run_set_aside_is_untouched(on: &Trial<'_>) {
    let (journal, status) = (vec![begun()], RunStatus::Running);
    on.create(NewRun { journal, status, user: Some("ann".into()), ..run("r") });
    let number = on.signal("r", "x");
    on.set_aside("r", A, 10, "broken");
    let stored = on.load("r");
    assert_eq!((stored.journal, stored.status), (vec![begun()], RunStatus::Running));
    assert_eq!(stored.user.as_deref(), Some("ann"));
    assert_eq!(on.numbers("r"), [number]);
}

pub(super) fn a_run_set_aside_is_given_at_its_time(on: &Trial<'_>) {
    on.aside("r", 10);
    assert!(on.claims(B, 9).is_empty());
    assert_eq!(on.claims(B, 10), ["r"]);
}

pub(super) fn a_message_does_not_bring_it_back_sooner(on: &Trial<'_>) {
    on.aside("r", 10);
    on.signal("r", "x");
    assert!(on.claims(B, 9).is_empty(), "message or not");
    assert_eq!(on.claims(B, 10), ["r"]);
    assert_eq!(on.mail(B), ["r"], "the message is there");
}

pub(super) fn a_message_from_before_does_not_bring_it_back_sooner(on: &Trial<'_>) {
    on.held("r", A);
    on.signal("r", "x");
    on.set_aside("r", A, 10, "broken");
    assert!(on.claims(B, 9).is_empty());
    assert_eq!(on.claims(B, 10), ["r"]);
}

pub(super) fn a_claim_by_name_brings_it_back_sooner(on: &Trial<'_>) {
    on.aside("r", 10);
    assert!(on.claims_named(B, "r", 0), "who asks by name has a reason");
    assert_eq!(on.load("r").holding, Holding::Held(B));
}

pub(super) fn only_the_holder_sets_a_run_aside(on: &Trial<'_>) {
    on.held("r", A);
    let before = on.dump();
    for other in [B, C] {
        on.set_aside("r", other, 10, "not mine");
    }
    on.is_as(&before, "who does not hold a run has set it aside");
}

pub(super) fn who_was_taken_over_sets_nothing_aside(on: &Trial<'_>) {
    on.held("r", A);
    on.claims(B, 0);
    let before = on.dump();
    on.set_aside("r", A, 10, "too late");
    on.is_as(&before, "who was taken over has set the run aside");
}

pub(super) fn what_nobody_holds_is_not_set_aside(on: &Trial<'_>) {
    on.parked("r", Some(5));
    on.finished("s");
    on.aside("t", 7);
    let before = on.dump();
    for name in ["r", "s", "t"] {
        on.set_aside(name, A, 10, "not held");
    }
    on.is_as(&before, "who does not hold a run has set it aside");
}

pub(super) fn a_problem_is_forgotten_when_somebody_has_the_run(on: &Trial<'_>) {
    on.aside("r", 10);
    on.claims(B, 10);
    assert_eq!(on.summary("r").problem, None, "it is not set aside");
    on.commit("r", Commit { holding: Holding::Parked(None), ..commit(B, 0) });
    assert_eq!(on.summary("r").problem, None);
}

pub(super) fn a_problem_is_forgotten_by_a_commit(on: &Trial<'_>) {
    on.aside("r", 10);
    on.commit("r", Commit { holding: Holding::Parked(Some(at(3))), ..commit(B, 0) });
    assert_eq!(on.summary("r").problem, None);
    assert_eq!(on.claims(A, 3), ["r"], "its time is another now");
}

pub(super) fn a_run_is_set_aside_again_for_another_reason(on: &Trial<'_>) {
    on.aside("r", 10);
    on.claims(B, 10);
    on.set_aside("r", B, 20, "still broken");
    assert_eq!(on.summary("r").problem.as_deref(), Some("still broken"));
    assert!(on.claims(A, 19).is_empty());
}

pub(super) fn a_run_set_aside_keeps_its_locks(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.acquire("r", 0, &[mutex("l")], 0);
    on.set_aside("r", A, 10, "broken");
    assert!(on.acquire("s", 0, &[mutex("l")], 0).is_some(), "nothing has released it");
}

pub(super) fn only_what_is_set_aside_has_a_problem(on: &Trial<'_>) {
    on.aside("r", 10);
    on.held("s", A);
    let problems: Vec<bool> =
        on.list(RunQuery::default()).iter().map(|run| run.problem.is_some()).collect();
    assert_eq!(problems, [false, true], "s, then r");
}
