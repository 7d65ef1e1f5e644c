//! The contract of `Storage`, one test a sentence, on the in-memory storage.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::executor::block_on;
use stepwell::journal::{Reason, Recorded, RunStarted, Signal};
use stepwell::storage::{
    Commit, Created, Holding, Memory, Message, NewRun, Owner, RunQuery, Storage,
};
use stepwell::{ErrorKind, Event, RunId, RunStatus, Step, StepKey, Timestamp, Value, Workflow};

const A: Owner = Owner(1);
const B: Owner = Owner(2);

fn id(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn create(storage: &Memory, name: &str, workflow: &str, seconds: i64) -> Created {
    let workflow = Workflow::builder(workflow).step(Step::task("a", "t")).build().unwrap();
    block_on(storage.create(NewRun {
        id: id(name),
        holding: Holding::Held(A),
        workflow,
        linked: Vec::new(),
        user: Some("ann".into()),
        metadata: [("k".to_string(), 1.into())].into(),
        at: at(seconds),
        journal: Vec::new(),
        status: RunStatus::Pending,
    }))
    .unwrap()
}

fn started() -> Recorded {
    let started = RunStarted {
        input: Value::NULL,
        variables: Value::NULL,
        seed: 1,
        deadline: Timestamp::MAX,
        grace: Duration::ZERO,
    };
    Recorded { at: at(1), event: Event::RunStarted(Box::new(started)) }
}

fn ready() -> Recorded {
    Recorded { at: at(2), event: Event::StepReady { step: StepKey::root(0) } }
}

fn commit(expected: u64, events: Vec<Recorded>, holding: Holding) -> Commit {
    let (status, consumed, released) = (RunStatus::Running, Vec::new(), Vec::new());
    Commit { expected, events, status, consumed, holding, released }
}

fn signal(name: &str) -> Message {
    Message::Signal(Signal::new(name, ()))
}

fn claimed(storage: &Memory, owner: Owner, seconds: i64, limit: usize) -> Vec<String> {
    let runs = block_on(storage.claim(owner, at(seconds), limit)).unwrap();
    runs.iter().map(ToString::to_string).collect()
}

#[test]
fn an_id_that_is_taken_changes_nothing_and_says_whose_it_is() {
    let storage = Memory::new();
    assert!(matches!(create(&storage, "r", "one", 0), Created::New));
    block_on(storage.commit(&id("r"), commit(0, vec![started()], Holding::Held(A)))).unwrap();
    let taken = create(&storage, "r", "two", 5);
    assert!(matches!(&taken, Created::Exists(workflow) if workflow == "one"), "{taken:?}");
    let stored = block_on(storage.load(&id("r"))).unwrap().unwrap();
    assert_eq!((stored.workflow.id(), stored.journal.len()), ("one", 1));
}

#[test]
fn what_was_created_and_committed_is_loaded_again() {
    let storage = Memory::new();
    create(&storage, "r", "w", 0);
    let run = id("r");
    let buffer = commit(0, vec![started(), ready()], Holding::Held(A));
    let emptied = block_on(storage.commit(&run, buffer)).unwrap();
    assert!(emptied.is_empty() && emptied.capacity() > 0, "the buffer comes back");
    block_on(storage.commit(&run, commit(2, vec![ready()], Holding::Held(A)))).unwrap();
    let stored = block_on(storage.load(&run)).unwrap().unwrap();
    assert_eq!(stored.journal, [started(), ready(), ready()]);
    assert_eq!(stored.user.as_deref(), Some("ann"));
    assert_eq!(stored.metadata["k"], 1);
    assert!(block_on(storage.load(&id("nobody"))).unwrap().is_none());
}

#[test]
fn a_commit_at_another_length_is_a_conflict_and_changes_nothing() {
    let storage = Memory::new();
    create(&storage, "r", "w", 0);
    let run = id("r");
    let number = block_on(storage.post(&run, signal("s"))).unwrap();
    block_on(storage.commit(&run, commit(0, vec![started()], Holding::Held(A)))).unwrap();
    for expected in [0, 2, u64::MAX] {
        let late = Commit {
            status: RunStatus::Succeeded,
            consumed: vec![number],
            ..commit(expected, vec![ready()], Holding::Finished)
        };
        let refused = block_on(storage.commit(&run, late)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
    }
    assert_eq!(block_on(storage.load(&run)).unwrap().unwrap().journal.len(), 1);
    assert_eq!(block_on(storage.inbox(&run)).unwrap().len(), 1);
    let summary = &block_on(storage.list(RunQuery::default())).unwrap()[0];
    assert_eq!((summary.status, summary.events), (RunStatus::Running, 1));
}

#[test]
fn nobody_writes_to_a_run_that_does_not_exist() {
    let storage = Memory::new();
    let run = id("r");
    let commit = commit(0, vec![started()], Holding::Held(A));
    assert_eq!(block_on(storage.commit(&run, commit)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(block_on(storage.post(&run, signal("s"))).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(block_on(storage.inbox(&run)).unwrap().is_empty());
}

#[test]
fn a_message_stays_until_a_commit_names_it_and_never_comes_back() {
    let storage = Memory::new();
    create(&storage, "r", "w", 0);
    let run = id("r");
    let numbers: Vec<u64> =
        ["a", "b", "c"].map(|name| block_on(storage.post(&run, signal(name))).unwrap()).to_vec();
    assert!(numbers.is_sorted(), "oldest first");
    assert_eq!(block_on(storage.inbox(&run)).unwrap().len(), 3);
    let one = Commit { consumed: vec![numbers[1]], ..commit(0, vec![started()], Holding::Held(A)) };
    block_on(storage.commit(&run, one)).unwrap();
    let left: Vec<u64> =
        block_on(storage.inbox(&run)).unwrap().into_iter().map(|(number, _)| number).collect();
    assert_eq!(left, [numbers[0], numbers[2]]);
    let paused = Message::Pause(Reason::default());
    assert!(block_on(storage.post(&run, paused)).unwrap() > numbers[2]);
}

#[test]
fn parked_runs_are_claimed_when_they_are_due_each_by_one_owner() {
    let storage = Memory::new();
    for (name, due) in [("late", Some(at(100))), ("soon", Some(at(10))), ("never", None)] {
        create(&storage, name, "w", 0);
        let park = commit(0, vec![started()], Holding::Parked(due));
        block_on(storage.commit(&id(name), park)).unwrap();
    }
    assert_eq!(block_on(storage.next_due()).unwrap(), Some(at(10)));
    assert!(claimed(&storage, A, 9, 10).is_empty());
    assert_eq!(claimed(&storage, A, 10, 10), ["soon"]);
    assert!(claimed(&storage, B, 10, 10).is_empty(), "it is held now");
    assert_eq!(block_on(storage.next_due()).unwrap(), Some(at(100)));
    assert_eq!(claimed(&storage, B, 1_000, 10), ["late"]);
}

#[test]
fn a_parked_run_with_a_message_is_claimed_at_once() {
    let storage = Memory::new();
    create(&storage, "r", "w", 0);
    block_on(storage.commit(&id("r"), commit(0, vec![started()], Holding::Parked(None)))).unwrap();
    assert_eq!(block_on(storage.next_due()).unwrap(), None);
    block_on(storage.post(&id("r"), signal("s"))).unwrap();
    assert!(block_on(storage.next_due()).unwrap().is_some_and(|due| due <= at(0)));
    assert_eq!(claimed(&storage, B, 0, 10), ["r"]);
    assert_eq!(block_on(storage.next_due()).unwrap(), None);
    // The message came while it was being parked.
    let park = commit(1, Vec::new(), Holding::Parked(None));
    block_on(storage.commit(&id("r"), park)).unwrap();
    assert_eq!(claimed(&storage, A, 0, 10), ["r"]);
}

#[test]
fn runs_of_an_owner_that_is_gone_are_taken_over_in_batches() {
    let storage = Memory::new();
    for number in 0..5 {
        create(&storage, &format!("r{number}"), "w", 0);
    }
    block_on(storage.heartbeat(A, at(30))).unwrap();
    assert!(claimed(&storage, B, 29, 10).is_empty(), "its owner is alive");
    assert_eq!(claimed(&storage, A, 31, 10).len(), 0, "an owner does not take over from itself");
    assert_eq!(claimed(&storage, B, 31, 2), ["r0", "r1"]);
    assert_eq!(claimed(&storage, B, 31, 10), ["r2", "r3", "r4"]);
    assert!(claimed(&storage, B, 31, 10).is_empty());
}

#[test]
fn finished_runs_are_nobody_s() {
    let storage = Memory::new();
    create(&storage, "r", "w", 0);
    let end =
        Commit { status: RunStatus::Succeeded, ..commit(0, vec![started()], Holding::Finished) };
    block_on(storage.commit(&id("r"), end)).unwrap();
    block_on(storage.heartbeat(A, at(1))).unwrap();
    assert!(claimed(&storage, B, 1_000, 10).is_empty());
}

#[test]
fn lists_are_newest_first_and_filtered() {
    let storage = Memory::new();
    for (name, workflow, seconds) in [("a", "x", 1), ("b", "y", 2), ("c", "x", 3)] {
        create(&storage, name, workflow, seconds);
    }
    let end = Commit { status: RunStatus::Failed, ..commit(0, vec![ready()], Holding::Finished) };
    block_on(storage.commit(&id("a"), end)).unwrap();
    let list = |query| -> Vec<String> {
        block_on(storage.list(query)).unwrap().iter().map(|run| run.id.to_string()).collect()
    };
    assert_eq!(list(RunQuery::default()), ["c", "b", "a"]);
    assert_eq!(list(RunQuery { workflow: Some("x".into()), ..Default::default() }), ["c", "a"]);
    assert_eq!(list(RunQuery { status: Some(RunStatus::Failed), ..Default::default() }), ["a"]);
    assert_eq!(list(RunQuery { limit: 1, ..Default::default() }), ["c"]);
    let summary = block_on(storage.list(RunQuery::default())).unwrap().remove(2);
    assert_eq!((summary.created_at, summary.changed_at), (at(1), at(2)));
    assert!(Duration::from_secs(1) == summary.changed_at.since(summary.created_at));
}
