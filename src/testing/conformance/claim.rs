//! What a claim gives, and to whom.

use super::given::{A, B, C, at, commit, id, ready, run};
use super::trial::Trial;
use crate::storage::{Claim, Commit, Holding, NewRun, Owner};
use crate::time::Timestamp;

fn up_to(owner: Owner, limit: usize) -> Claim {
    Claim { owner, now: at(100), gone: Vec::new(), run: None, limit }
}

pub(super) fn a_parked_run_is_given_when_it_is_due(on: &Trial<'_>) {
    on.parked("r", Some(10));
    assert!(on.claims(A, 9).is_empty(), "it is not due");
    assert_eq!(on.claims(A, 10), ["r"], "it is due at its very time");
}

pub(super) fn a_time_is_due_to_the_microsecond(on: &Trial<'_>) {
    let due = Timestamp::from_micros(at(10).as_micros() + 1);
    on.create(NewRun { holding: Holding::Parked(Some(due)), ..run("r") });
    assert!(on.claims(A, 10).is_empty(), "one microsecond before");
    let claim = Claim { now: due, ..up_to(A, 1) };
    assert_eq!(on.claim(claim).len(), 1);
}

pub(super) fn a_parked_run_without_a_time_is_never_due(on: &Trial<'_>) {
    on.parked("r", None);
    assert!(on.claims(A, 1_000_000_000).is_empty());
    let last = Claim { now: Timestamp::MAX, ..up_to(A, 1) };
    assert!(on.claim(last).is_empty());
}

pub(super) fn first_and_last_times_are_due(on: &Trial<'_>) {
    let runs = [("a", Timestamp::MIN), ("b", Timestamp::EPOCH), ("c", Timestamp::MAX)];
    for (name, due) in runs {
        on.create(NewRun { holding: Holding::Parked(Some(due)), ..run(name) });
    }
    let now = |now| on.claim(Claim { now, ..up_to(A, 10) }).len();
    assert_eq!(now(Timestamp::MIN), 1);
    assert_eq!(now(Timestamp::from_micros(-1)), 0);
    assert_eq!(now(Timestamp::EPOCH), 1);
    assert_eq!(now(Timestamp::MAX), 1);
}

pub(super) fn a_parked_run_with_a_message_is_given_at_once(on: &Trial<'_>) {
    on.parked("r", None);
    on.parked("s", Some(50));
    on.parked("t", None);
    on.signal("r", "x");
    on.signal("s", "x");
    assert_eq!(on.claims(A, 0), ["r", "s"]);
}

pub(super) fn a_finished_run_with_a_message_is_given(on: &Trial<'_>) {
    on.finished("r");
    on.finished("s");
    assert!(on.claims(B, 1_000).is_empty(), "nobody needs them");
    on.signal("r", "x");
    assert_eq!(on.claims(B, 0), ["r"]);
}

pub(super) fn a_message_that_came_before_a_run_was_parked_counts(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.beat(A);
    on.signal("r", "x");
    on.signal("s", "x");
    on.commit("r", Commit { holding: Holding::Parked(None), ..commit(A, 0) });
    on.commit("s", Commit { holding: Holding::Finished, ..commit(A, 0) });
    assert_eq!(on.claims(B, 0), ["r", "s"]);
}

pub(super) fn an_answered_message_is_no_reason(on: &Trial<'_>) {
    on.held("r", A);
    let (first, second) = (on.signal("r", "x"), on.signal("r", "y"));
    let holding = Holding::Parked(None);
    let answers = vec![(first, Ok(())), (second, Ok(()))];
    on.commit("r", Commit { answers, holding, ..commit(A, 0) });
    assert!(on.claims(B, 0).is_empty());
}

pub(super) fn one_of_two_messages_left_is_a_reason(on: &Trial<'_>) {
    on.held("r", A);
    let first = on.signal("r", "x");
    on.signal("r", "y");
    let (answers, holding) = (vec![(first, Ok(()))], Holding::Parked(None));
    on.commit("r", Commit { answers, holding, ..commit(A, 0) });
    assert_eq!(on.claims(B, 0), ["r"]);
}

pub(super) fn a_run_is_given_to_one_owner_only(on: &Trial<'_>) {
    on.parked("r", Some(0));
    on.beat(A);
    assert_eq!(on.claims(A, 0), ["r"]);
    assert_eq!(on.load("r").holding, Holding::Held(A));
    assert!(on.claims(B, 0).is_empty(), "it is held");
    assert!(on.claims(A, 0).is_empty(), "it is held by whoever asks");
    assert!(!on.claims_named(B, "r", 0));
}

pub(super) fn a_run_given_back_is_given_again(on: &Trial<'_>) {
    on.parked("r", Some(0));
    on.beat(A);
    for seconds in 0..5 {
        assert_eq!(on.claims(A, seconds), ["r"]);
        let holding = Holding::Parked(Some(at(seconds + 1)));
        on.commit("r", Commit { holding, ..commit(A, 0) });
        assert!(on.claims(B, seconds).is_empty());
    }
}

pub(super) fn a_claim_changes_only_the_holder(on: &Trial<'_>) {
    on.create(NewRun {
        holding: Holding::Parked(Some(at(0))),
        user: Some("ann".into()),
        metadata: [("k".to_string(), 1.into())].into(),
        journal: vec![ready(0), ready(1)],
        ..run("r")
    });
    let number = on.signal("r", "x");
    let before = on.load("r");
    on.claims(A, 0);
    let after = on.load("r");
    assert_eq!((after.journal, after.status), (before.journal, before.status));
    assert_eq!((after.user, after.metadata), (before.user, before.metadata));
    assert_eq!(on.numbers("r"), [number], "its message is still there");
}

pub(super) fn no_more_are_given_than_were_asked_for(on: &Trial<'_>) {
    for number in 0..10 {
        on.parked(&format!("r{number}"), Some(0));
    }
    for limit in [0, 1, 3] {
        let given = on.claim(up_to(A, limit)).len();
        assert!(given <= limit, "{given} were given, of {limit}");
    }
    on.parked("named", Some(0));
    let named = Claim { run: Some(id("named")), ..up_to(A, 0) };
    assert!(on.claim(named).is_empty(), "none, by name neither");
}

pub(super) fn every_run_is_given_in_batches(on: &Trial<'_>) {
    on.beat(A);
    for number in 0..30 {
        let name = format!("r{number}");
        match number % 3 {
            0 => on.parked(&name, Some(number)),
            1 => {
                on.parked(&name, Some(number));
                on.signal(&name, "due, and with a message");
            }
            _ => on.held(&name, C),
        }
    }
    let mut all = Vec::new();
    loop {
        let batch = on.claim(up_to(A, 7));
        assert!(batch.len() <= 7);
        if batch.is_empty() {
            break;
        }
        all.extend(batch.into_iter().map(|claimed| claimed.run));
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), count), (30, 30), "each once");
}

pub(super) fn two_claimers_share_what_there_is(on: &Trial<'_>) {
    on.beat(A);
    on.beat(B);
    for number in 0..20 {
        on.parked(&format!("r{number}"), Some(0));
    }
    let (mut all, mut turn) = (Vec::new(), 0);
    loop {
        let owner = if turn % 2 == 0 { A } else { B };
        let given = on.claim(up_to(owner, 3));
        turn += 1;
        if given.is_empty() {
            break;
        }
        for claimed in given {
            assert_eq!(on.load(claimed.run.as_str()).holding, Holding::Held(owner));
            all.push(claimed.run);
        }
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 20);
}

pub(super) fn everything_free_is_given_when_there_is_room(on: &Trial<'_>) {
    on.beat(A);
    on.parked("due", Some(5));
    on.parked("late", Some(500));
    on.parked("addressed", None);
    on.signal("addressed", "x");
    on.finished("ended");
    on.finished("revived");
    on.signal("revived", "x");
    on.held("kept", A);
    on.held("left", C);
    on.aside("aside", 5);
    on.aside("later", 500);
    on.signal("later", "x");
    assert_eq!(on.claims(B, 5), ["addressed", "aside", "due", "left", "revived"]);
    assert!(on.claims(B, 5).is_empty());
}

pub(super) fn a_claim_by_name_gives_only_that_run(on: &Trial<'_>) {
    on.parked("r", Some(0));
    on.parked("s", Some(0));
    assert!(on.claims_named(A, "s", 0));
    assert_eq!(on.load("r").holding, Holding::Parked(Some(at(0))), "nobody asked for it");
    on.beat(A);
    assert!(!on.claims_named(B, "s", 0), "it is held");
}

pub(super) fn a_claim_by_name_gives_a_parked_run_before_it_is_due(on: &Trial<'_>) {
    on.parked("r", Some(100));
    on.parked("s", None);
    assert!(on.claims_named(A, "r", 0), "who asks by name has a reason");
    assert!(on.claims_named(A, "s", 0));
}

pub(super) fn a_claim_by_name_gives_a_finished_run_only_with_a_message(on: &Trial<'_>) {
    on.finished("r");
    assert!(!on.claims_named(A, "r", 0));
    on.signal("r", "x");
    assert!(on.claims_named(A, "r", 0));
}

pub(super) fn a_claim_by_name_takes_from_who_is_gone(on: &Trial<'_>) {
    on.held("r", A);
    on.held("s", A);
    on.beat(A);
    let gone = vec![crate::storage::Beat { owner: A, count: 1 }];
    let claim = Claim { gone, run: Some(id("r")), ..up_to(B, 1) };
    assert_eq!(on.claim(claim).len(), 1);
    assert_eq!(on.load("s").holding, Holding::Held(A), "nobody asked for it");
}

pub(super) fn a_clock_that_goes_back_takes_nothing_back(on: &Trial<'_>) {
    on.parked("r", Some(10));
    on.parked("s", Some(20));
    on.beat(A);
    assert_eq!(on.claims(A, 15), ["r"]);
    assert!(on.claims(A, 5).is_empty());
    assert_eq!(on.load("r").holding, Holding::Held(A));
    assert_eq!(on.claims(A, 20), ["s"]);
}
