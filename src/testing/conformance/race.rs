//! Many at once: threads that ask the same thing, of which one may have it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::given::{A, B, acquire, at, commit, id, mutex, ready, run, workflow};
use super::trial::{Trial, wait};
use crate::error::ErrorKind;
use crate::id::{RunId, StepKey};
use crate::journal::Signal;
use crate::storage::{
    Acquire, Beat, Claim, Claimed, Commit, Created, Message, NewRun, Owner, Storage,
};

const THREADS: u32 = 4;

/// What each of several threads is told. Each has its own handle, where there can be several.
fn all_at_once<T: Send>(on: &Trial<'_>, ask: impl Fn(u32, &dyn Storage) -> T + Sync) -> Vec<T> {
    let ask = &ask;
    let handle = |_| on.beside().map_or_else(|| on.storage(), |other| other.storage());
    let handles: Vec<Arc<dyn Storage>> = (0..THREADS).map(handle).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .zip(&handles)
            .map(|(number, storage)| scope.spawn(move || ask(number, &**storage)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("the storage panicked")).collect()
    })
}

fn owner(number: u32) -> Owner {
    Owner(1_000 + u128::from(number))
}

/// Claims until there is nothing more.
fn claim_all(on: &Trial<'_>, gone: &[Beat]) -> Vec<(Owner, Claimed)> {
    let factory = on.factory();
    let all = all_at_once(on, |number, storage| {
        let owner = owner(number);
        wait(factory, storage.beat(owner)).expect("a beat");
        let mut all = Vec::new();
        loop {
            let gone = gone.to_vec();
            let claim = Claim { owner, now: at(0), gone, run: None, limit: 3 };
            let given = wait(factory, storage.claim(claim)).expect("a claim");
            // A storage that gives the same again and again would have this go on for ever.
            if given.is_empty() || all.len() > 1_000 {
                break all;
            }
            all.extend(given.into_iter().map(|claimed| (owner, claimed)));
        }
    });
    all.into_iter().flatten().collect()
}

#[track_caller]
fn each_once(given: &[(Owner, Claimed)], count: usize) {
    let runs: BTreeSet<&RunId> = given.iter().map(|(_, claimed)| &claimed.run).collect();
    assert_eq!((runs.len(), given.len()), (count, count), "each run is given to one owner only");
}

pub(super) fn one_of_many_adds_a_run(on: &Trial<'_>) {
    let factory = on.factory();
    for turn in 0..20 {
        let name = format!("r{turn}");
        let answers = all_at_once(on, |number, storage| {
            let workflow = workflow(&format!("w{number}"));
            let run = NewRun { workflow, ..run(&name) };
            wait(factory, storage.create(run)).expect("an answer")
        });
        let new = answers.iter().filter(|answer| matches!(answer, Created::New)).count();
        assert_eq!(new, 1, "one of them has added it");
        let stored = on.load(&name);
        for answer in answers {
            if let Created::Exists(workflow) = answer {
                assert_eq!(workflow, stored.workflow.id(), "all are told of the same");
            }
        }
    }
}

pub(super) fn one_of_many_commits(on: &Trial<'_>) {
    let factory = on.factory();
    on.held("r", A);
    for turn in 0..20 {
        let answers = all_at_once(on, |number, storage| {
            let commit = Commit { events: vec![ready(number)], ..commit(A, turn) };
            wait(factory, storage.commit(&id("r"), commit)).map_err(|error| error.kind())
        });
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
        let conflict = |answer: &Result<_, ErrorKind>| !matches!(answer, Err(kind) if *kind != ErrorKind::Conflict);
        assert!(answers.iter().all(conflict), "{answers:?}");
        assert_eq!(on.length("r"), turn + 1);
    }
}

pub(super) fn each_run_is_given_to_one(on: &Trial<'_>) {
    for number in 0..60 {
        on.parked(&format!("r{number}"), Some(0));
    }
    let given = claim_all(on, &[]);
    each_once(&given, 60);
    for (owner, claimed) in given {
        let holding = on.load(claimed.run.as_str()).holding;
        assert_eq!(holding, crate::storage::Holding::Held(owner), "who was given it holds it");
    }
}

pub(super) fn each_run_is_recovered_once(on: &Trial<'_>) {
    for number in 0..40 {
        on.held(&format!("r{number}"), A);
    }
    on.beat(A);
    let given = claim_all(on, &[Beat { owner: A, count: 1 }]);
    each_once(&given, 40);
    assert!(given.iter().all(|(_, claimed)| claimed.recoveries == 1), "{given:?}");
}

pub(super) fn one_of_many_takes_a_lock(on: &Trial<'_>) {
    let factory = on.factory();
    on.held("r", A);
    for turn in 0..20 {
        let name = format!("l{turn}");
        let answers = all_at_once(on, |number, storage| {
            let wants = vec![mutex("shared"), mutex(&name)];
            let wants = if number % 2 == 0 { wants } else { wants.into_iter().rev().collect() };
            let asked = Acquire { step: StepKey::root(number), ..acquire(A, 0, &wants) };
            wait(factory, storage.acquire(&id("r"), asked)).expect("an answer")
        });
        assert_eq!(answers.iter().filter(|answer| answer.is_none()).count(), 1, "{answers:?}");
        let released = (0..THREADS).map(StepKey::root).collect();
        on.commit("r", Commit { released, ..commit(A, 0) });
    }
}

pub(super) fn no_message_is_lost(on: &Trial<'_>) {
    let factory = on.factory();
    on.held("r", B);
    let numbers: Vec<u64> = all_at_once(on, |number, storage| {
        let post = |turn| {
            let message = Message::Signal(Signal::new(format!("{number}-{turn}"), ()));
            wait(factory, storage.post(&id("r"), message)).expect("a number")
        };
        (0..25).map(post).collect::<Vec<u64>>()
    })
    .into_iter()
    .flatten()
    .collect();
    let (told, found): (BTreeSet<u64>, Vec<u64>) = (numbers.into_iter().collect(), on.numbers("r"));
    assert_eq!(told.len(), 25 * THREADS as usize, "each has its own number");
    assert!(found.is_sorted(), "oldest first");
    assert_eq!(found.into_iter().collect::<BTreeSet<u64>>(), told);
}

pub(super) fn every_beat_counts(on: &Trial<'_>) {
    let factory = on.factory();
    all_at_once(on, |_, storage| {
        for _ in 0..25 {
            wait(factory, storage.beat(A)).expect("a beat");
        }
    });
    assert_eq!(on.beat(A), [Beat { owner: A, count: 25 * u64::from(THREADS) + 1 }]);
}
