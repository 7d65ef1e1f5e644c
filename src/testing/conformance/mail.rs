//! Which of an owner's runs have messages.

use super::given::{A, B, C, at, commit};
use super::trial::Trial;
use crate::storage::{Commit, Holding};

pub(super) fn held_runs_with_messages_are_named(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.held("t", A);
    assert!(on.mail(A).is_empty());
    on.signal("r", "x");
    on.signal("t", "x");
    on.signal("t", "y");
    assert_eq!(on.mail(A), ["r", "t"], "each once");
}

pub(super) fn mail_is_for_the_holder_only(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", B);
    on.signal("r", "x");
    on.signal("s", "x");
    assert_eq!((on.mail(A), on.mail(B)), (vec!["r".into()], vec!["s".into()]));
    assert!(on.mail(C).is_empty());
}

pub(super) fn what_nobody_holds_is_nobody_s_mail(on: &Trial<'_>) {
    on.parked("r", None);
    on.finished("s");
    on.aside("t", 10);
    for name in ["r", "s", "t"] {
        on.signal(name, "x");
    }
    assert!(on.mail(A).is_empty() && on.mail(B).is_empty());
}

pub(super) fn no_more_is_named_than_was_asked_for(on: &Trial<'_>) {
    for number in 0..10 {
        on.held(&format!("r{number}"), A);
        on.signal(&format!("r{number}"), "x");
    }
    for limit in [0, 1, 4, 10, 11] {
        let named = on.ask(on.storage().mail(A, limit)).len();
        assert_eq!(named, limit.min(10), "of at most {limit}");
    }
}

pub(super) fn mail_is_gone_when_all_is_answered(on: &Trial<'_>) {
    on.held("r", A);
    let (first, second) = (on.signal("r", "x"), on.signal("r", "y"));
    on.commit("r", Commit { answers: vec![(first, Ok(()))], ..commit(A, 0) });
    assert_eq!(on.mail(A), ["r"], "one is left");
    on.commit("r", Commit { answers: vec![(second, Ok(()))], ..commit(A, 0) });
    assert!(on.mail(A).is_empty());
}

pub(super) fn mail_moves_with_who_takes_over(on: &Trial<'_>) {
    on.held("r", A);
    on.signal("r", "x");
    on.claims(B, 0);
    assert!(on.mail(A).is_empty(), "it holds nothing");
    assert_eq!(on.mail(B), ["r"]);
}

pub(super) fn mail_comes_with_a_claimed_run(on: &Trial<'_>) {
    on.parked("r", None);
    on.signal("r", "x");
    on.claims(B, 0);
    assert_eq!(on.mail(B), ["r"]);
}

pub(super) fn mail_goes_with_a_parked_run(on: &Trial<'_>) {
    on.held("r", A);
    on.signal("r", "x");
    on.commit("r", Commit { holding: Holding::Parked(Some(at(9))), ..commit(A, 0) });
    assert!(on.mail(A).is_empty());
}

pub(super) fn mail_goes_with_a_run_set_aside(on: &Trial<'_>) {
    on.held("r", A);
    on.signal("r", "x");
    on.set_aside("r", A, 9, "broken");
    assert!(on.mail(A).is_empty());
}

pub(super) fn mail_is_handed_over_with_a_run(on: &Trial<'_>) {
    on.held("r", A);
    on.signal("r", "x");
    on.commit("r", Commit { holding: Holding::Held(B), ..commit(A, 0) });
    assert_eq!((on.mail(A), on.mail(B)), (vec![], vec!["r".into()]));
}

pub(super) fn a_message_that_is_answered_as_a_run_moves_is_no_mail(on: &Trial<'_>) {
    on.held("r", A);
    let number = on.signal("r", "x");
    let (answers, holding) = (vec![(number, Ok(()))], Holding::Parked(Some(at(0))));
    on.commit("r", Commit { answers, holding, ..commit(A, 0) });
    on.claims(B, 0);
    assert!(on.mail(A).is_empty() && on.mail(B).is_empty());
}
