//! Which runs an owner holds.

use super::given::{A, B, C};
use super::trial::Trial;
use crate::id::RunId;
use crate::storage::Owner;

fn held(on: &Trial<'_>, owner: Owner, after: Option<&str>, limit: usize) -> Vec<String> {
    let after = after.map(|after| RunId::new(after).unwrap());
    let held = on.ask(on.storage().held(owner, after, limit));
    held.iter().map(ToString::to_string).collect()
}

pub(super) fn all_that_an_owner_holds_is_named_by_id(on: &Trial<'_>) {
    assert!(held(on, A, None, 10).is_empty());
    for name in ["b", "a", "c10", "c9"] {
        on.held(name, A);
    }
    assert_eq!(held(on, A, None, 10), ["a", "b", "c10", "c9"]);
}

pub(super) fn what_others_or_nobody_hold_is_not_named(on: &Trial<'_>) {
    on.held("mine", A);
    on.held("theirs", B);
    on.parked("parked", Some(1));
    on.finished("finished");
    on.aside("aside", 10);
    assert_eq!(
        (held(on, A, None, 10), held(on, B, None, 10)),
        (vec!["mine".into()], vec!["theirs".into()])
    );
    assert!(held(on, C, None, 10).is_empty());
}

pub(super) fn pages_follow_each_other_and_come_to_an_end(on: &Trial<'_>) {
    for number in 0..7 {
        on.held(&format!("r{number}"), A);
    }
    assert_eq!(held(on, A, None, 3), ["r0", "r1", "r2"]);
    assert_eq!(held(on, A, Some("r2"), 3), ["r3", "r4", "r5"]);
    assert_eq!(held(on, A, Some("r5"), 3), ["r6"]);
    assert!(held(on, A, Some("r6"), 3).is_empty());
    assert_eq!(held(on, A, Some("r25"), 2), ["r3", "r4"], "also after one that is not there");
    assert!(held(on, A, None, 0).is_empty());
}

pub(super) fn what_is_held_moves_with_who_takes_over(on: &Trial<'_>) {
    on.held("r", A);
    on.claims(B, 0);
    assert!(held(on, A, None, 10).is_empty(), "A has never beaten");
    assert_eq!(held(on, B, None, 10), ["r"]);
}
