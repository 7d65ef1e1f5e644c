//! Runs, and what is done with them, for tests of a storage.

pub(crate) mod counted;
pub(crate) mod definitions;
pub(crate) mod documented;
pub(crate) mod together;
#[cfg(feature = "testing")]
pub(crate) mod writing;

use std::time::Duration;

use futures::executor::block_on;
use stepwell::journal::{Recorded, RunStarted, Signal};
use stepwell::storage::{
    Beat, Claim, Commit, Created, Holding, Message, NewRun, Owner, Storage, StoredRun,
};
use stepwell::{Event, Result, RunId, RunStatus, Step, StepKey, Timestamp, Value, Workflow};

pub(crate) const A: Owner = Owner(1);

pub(crate) fn id(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

pub(crate) fn workflow(name: &str) -> Workflow {
    let steps = [Step::task("a", "t"), Step::task("b", "t").after("a")];
    steps.into_iter().fold(Workflow::builder(name), |all, step| all.step(step)).build().unwrap()
}

pub(crate) fn new_run(name: &str, workflow: &Workflow, holding: Holding) -> NewRun {
    NewRun {
        id: id(name),
        holding,
        workflow: workflow.clone(),
        linked: Vec::new(),
        user: Some("ann".into()),
        metadata: [("k".to_string(), 1.into())].into(),
        at: at(1),
        journal: Vec::new(),
        status: RunStatus::Pending,
    }
}

pub(crate) fn create(storage: &impl Storage, name: &str) {
    let run = new_run(name, &workflow("w"), Holding::Held(A));
    assert!(matches!(block_on(storage.create(run)).unwrap(), Created::New));
}

pub(crate) fn started_with(input: &str) -> Recorded {
    let started = RunStarted {
        input: Value::of(&input).unwrap(),
        variables: Value::NULL,
        seed: u64::MAX,
        deadline: Timestamp::MAX,
        grace: Duration::ZERO,
    };
    Recorded { at: at(1), event: Event::RunStarted(Box::new(started)) }
}

pub(crate) fn ready(step: u32) -> Recorded {
    Recorded { at: at(2), event: Event::StepReady { step: StepKey::root(step) } }
}

pub(crate) fn commit(owner: Owner, expected: u64, events: Vec<Recorded>) -> Commit {
    Commit {
        owner,
        expected,
        events,
        status: RunStatus::Running,
        answers: Vec::new(),
        holding: Holding::Held(owner),
        released: Vec::new(),
        recovered: false,
        writes: None,
        snapshot: None,
    }
}

pub(crate) fn write(storage: &impl Storage, name: &str, commit: Commit) -> Result<Vec<Recorded>> {
    block_on(storage.commit(&id(name), commit))
}

pub(crate) fn load(storage: &impl Storage, name: &str) -> StoredRun {
    block_on(storage.load(&id(name))).unwrap().unwrap()
}

pub(crate) fn signal(name: &str) -> Message {
    Message::Signal(Signal::new(name, ()))
}

pub(crate) fn claim(owner: Owner, seconds: i64) -> Claim {
    Claim { owner, now: at(seconds), gone: Vec::new(), run: None, limit: 100 }
}

pub(crate) fn claimed(storage: &impl Storage, claim: Claim) -> Vec<(String, u32)> {
    let runs = block_on(storage.claim(claim)).unwrap();
    runs.into_iter().map(|claimed| (claimed.run.to_string(), claimed.recoveries)).collect()
}

pub(crate) fn alive(storage: &impl Storage, owner: Owner) -> Vec<Beat> {
    let mut beats = block_on(storage.beat(owner)).unwrap();
    beats.sort_by_key(|beat| beat.owner);
    beats
}
