//! Many of everything.

use super::given::{A, B, at, commit, ready, run};
use super::trial::Trial;
use crate::journal::Recorded;
use crate::storage::{Claim, Commit, Holding, LIST_MAX, NewRun, RunQuery};

pub(super) fn a_journal_of_ten_thousand_events(on: &Trial<'_>) {
    on.held("r", A);
    for turn in 0..10 {
        let events: Vec<Recorded> = (turn * 1_000..(turn + 1) * 1_000).map(ready).collect();
        on.commit("r", Commit { events, ..commit(A, u64::from(turn) * 1_000) });
    }
    let expected: Vec<Recorded> = (0..10_000).map(ready).collect();
    assert!(on.load("r").journal == expected, "ten thousand events, in order");
    assert_eq!(on.summary("r").events, 10_000);
    on.refuses("r", commit(A, 9_999));
}

pub(super) fn a_run_that_begins_with_ten_thousand_events(on: &Trial<'_>) {
    let journal: Vec<Recorded> = (0..10_000).map(ready).collect();
    on.create(NewRun { journal: journal.clone(), ..run("r") });
    assert!(on.load("r").journal == journal, "ten thousand events, in order");
}

pub(super) fn no_more_runs_are_listed_at_once_than_the_limit(on: &Trial<'_>) {
    for number in 0..LIST_MAX + 5 {
        on.create(NewRun { at: at(number as i64), ..run(&format!("r{number}")) });
    }
    for limit in [0, LIST_MAX, LIST_MAX + 5, usize::MAX] {
        let found = on.list(RunQuery { limit, ..Default::default() });
        assert_eq!(found.len(), LIST_MAX, "when {limit} are asked for");
        assert_eq!(found[0].id.as_str(), format!("r{}", LIST_MAX + 4), "the newest is first");
        assert_eq!(found[LIST_MAX - 1].id.as_str(), "r5", "the oldest are left out");
    }
}

pub(super) fn a_thousand_runs_are_claimed(on: &Trial<'_>) {
    on.beat(A);
    for number in 0..1_000 {
        on.parked(&format!("r{number}"), Some(number % 10));
    }
    let mut total = 0;
    loop {
        let claim = Claim { owner: A, now: at(9), gone: Vec::new(), run: None, limit: 64 };
        let given = on.claim(claim).len();
        if given == 0 {
            break;
        }
        total += given;
    }
    assert_eq!((total, on.next_due()), (1_000, None));
}

pub(super) fn a_thousand_runs_are_taken_over(on: &Trial<'_>) {
    for number in 0..1_000 {
        on.held(&format!("r{number}"), A);
    }
    on.beat(A);
    on.retire(A);
    let claim = Claim { owner: B, now: at(0), gone: Vec::new(), run: None, limit: 10_000 };
    let given = on.claim(claim);
    assert_eq!(given.len(), 1_000);
    assert!(given.iter().all(|claimed| claimed.recoveries == 0));
}

pub(super) fn a_thousand_messages_of_one_run(on: &Trial<'_>) {
    on.held("r", A);
    let numbers: Vec<u64> = (0..1_000).map(|_| on.signal("r", "x")).collect();
    assert_eq!(on.numbers("r"), numbers);
    let answers = numbers.iter().map(|number| (*number, Ok(()))).collect();
    on.commit("r", Commit { answers, holding: Holding::Parked(None), ..commit(A, 0) });
    assert!(on.inbox("r").is_empty());
}
