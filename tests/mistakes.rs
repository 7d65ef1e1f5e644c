//! Storages with mistakes, each of which the conformance suite finds; and each case of the suite finds
//! one. A test that cannot fail says nothing.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "mistakes/broken.rs"]
mod broken;
#[cfg(feature = "sqlite")]
#[path = "mistakes/careless.rs"]
mod careless;

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use broken::{Mistake, WithMistake};
use stepwell::testing::conformance::{Case, cases, crashes, differential, failures};

thread_local! {
    static IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// What a check says when it fails. Nobody has to read of panics that are expected.
fn failure(check: impl FnOnce()) -> Option<String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_other = std::thread::current().name().is_none();
            if !IS_EXPECTED.get() && !is_other {
                loud(info);
            }
        }));
    });
    IS_EXPECTED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(check));
    IS_EXPECTED.set(false);
    let text = |panic: Box<dyn Any + Send>| {
        panic.downcast::<String>().map_or_else(|_| String::new(), |text| *text)
    };
    outcome.err().map(text)
}

fn finds(case: &Case, mistake: Mistake) -> bool {
    failure(|| case.run(&WithMistake::new(mistake))).is_some()
}

#[test]
fn without_a_mistake_nothing_is_found() {
    let found: Vec<&Case> = cases().iter().filter(|case| finds(case, Mistake::None)).collect();
    assert!(found.is_empty(), "{found:?}");
    let found = failure(|| differential(&WithMistake::new(Mistake::None), 0..60, 60));
    assert_eq!(found, None);
}

#[test]
fn every_mistake_is_found_by_its_group() {
    let finds_none = |(mistake, group): &&(Mistake, &str)| {
        let mut of_group = cases().iter().filter(|case| case.group() == *group);
        !of_group.any(|case| finds(case, *mistake))
    };
    let missed: Vec<_> = broken::GROUPS.iter().filter(finds_none).collect();
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

#[test]
fn random_operations_find_what_cases_find() {
    let finds = |mistake: Mistake| {
        failure(|| differential(&WithMistake::new(mistake), 0..300, 100)).is_some()
    };
    let mistakes = broken::GROUPS.iter().map(|(mistake, _)| *mistake);
    let missed: Vec<Mistake> = mistakes
        .filter(|mistake| !broken::BY_CASES_ONLY.contains(mistake) && !finds(*mistake))
        .collect();
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

#[test]
fn every_case_finds_a_mistake() {
    let finds_one = |case: &&Case| {
        let near = broken::GROUPS.iter().filter(|(_, group)| *group == case.group());
        let far = broken::GROUPS.iter().filter(|(_, group)| *group != case.group());
        // These ask nothing of a storage in memory but that it says so.
        let asks = case.group() != "writes" || case.name() == "who_takes_no_writes_says_so";
        !asks || near.chain(far).any(|(mistake, _)| finds(case, *mistake))
    };
    let idle: Vec<String> =
        cases().iter().filter(|case| !finds_one(case)).map(ToString::to_string).collect();
    assert!(idle.is_empty(), "these find nothing: {idle:#?}");
}

#[cfg(feature = "sqlite")]
#[test]
fn every_case_about_writes_finds_a_mistake_and_every_mistake_is_found() {
    use careless::{CARELESS, Care, InFiles};
    let of_group = || {
        let asks = |case: &&Case| case.name() != "who_takes_no_writes_says_so";
        cases().iter().filter(|case| case.group() == "writes").filter(asks)
    };
    let finds = |case: &Case, care: Care| failure(|| case.run(&InFiles::new(care))).is_some();
    let wrong: Vec<&Case> = of_group().filter(|case| finds(case, Care::Taken)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let missed: Vec<Care> =
        CARELESS.into_iter().filter(|care| !of_group().any(|case| finds(case, *care))).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
    let idle: Vec<&Case> =
        of_group().filter(|case| !CARELESS.iter().any(|care| finds(case, *care))).collect();
    assert!(idle.is_empty(), "these find nothing: {idle:?}");
}

#[test]
fn engines_find_mistakes_of_storages_whose_programs_are_killed_or_whose_calls_fail() {
    let killed = |mistake| failure(|| crashes(&WithMistake::new(mistake), 0..20)).is_some();
    let fails = |mistake| failure(|| failures(&WithMistake::new(mistake), 7)).is_some();
    assert!(!killed(Mistake::None) && !fails(Mistake::None));
    let either = [
        Mistake::CommitForgetsAnswers,
        Mistake::CommitForgetsReleases,
        Mistake::InboxKeepsAnswered,
        Mistake::ForgetsAll,
    ];
    let by_crashes = [Mistake::InboxEmptiesAtOnce, Mistake::ClaimForgetsInbox];
    for mistake in either.into_iter().chain(by_crashes) {
        assert!(killed(mistake), "{mistake:?} is not found by crashes");
    }
    for mistake in either.into_iter().chain([Mistake::LocksChargeAgain]) {
        assert!(fails(mistake), "{mistake:?} is not found by failures");
    }
}
