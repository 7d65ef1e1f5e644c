//! The storage in a SQLite file: what outlasts what, and who may write when others do.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod files;
mod history;
mod power;
mod queries;
mod shared;
mod together;
#[cfg(feature = "testing")]
mod writes;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use futures::executor::block_on;
use stepwell::journal::{Reason, Recorded, RunStarted, Signal};
use stepwell::storage::{
    Beat, Claim, Commit, Created, Holding, Message, NewRun, Owner, Sqlite, SqliteOptions, Storage,
    StoredRun, Synchronous,
};
use stepwell::{
    ErrorClass, Event, Failure, Result, RunId, RunStatus, Step, StepKey, Timestamp, Value, Workflow,
};

const A: Owner = Owner(1);
const B: Owner = Owner(u128::MAX);

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("stepwell-sqlite-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("runs.db")
    }

    /// As nearly all tests want it: they do not cut the power.
    fn open(&self) -> Sqlite {
        SqliteOptions::new().synchronous(Synchronous::Normal).open(self.file()).unwrap()
    }

    fn plain(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.file()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn id(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn workflow(name: &str) -> Workflow {
    let steps = [Step::task("a", "t"), Step::task("b", "t").after("a")];
    steps.into_iter().fold(Workflow::builder(name), |all, step| all.step(step)).build().unwrap()
}

fn new_run(name: &str, workflow: &Workflow, holding: Holding) -> NewRun {
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

fn create(storage: &Sqlite, name: &str) {
    let run = new_run(name, &workflow("w"), Holding::Held(A));
    assert!(matches!(block_on(storage.create(run)).unwrap(), Created::New));
}

fn started() -> Recorded {
    let started = RunStarted {
        input: Value::of(&"ä \"quoted\" {}").unwrap(),
        variables: Value::NULL,
        seed: u64::MAX,
        deadline: Timestamp::MAX,
        grace: Duration::ZERO,
    };
    Recorded { at: at(1), event: Event::RunStarted(Box::new(started)) }
}

fn ready(step: u32) -> Recorded {
    Recorded { at: at(2), event: Event::StepReady { step: StepKey::root(step) } }
}

fn commit(owner: Owner, expected: u64, events: Vec<Recorded>) -> Commit {
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

fn write(storage: &Sqlite, name: &str, commit: Commit) -> Result<Vec<Recorded>> {
    block_on(storage.commit(&id(name), commit))
}

fn load(storage: &Sqlite, name: &str) -> StoredRun {
    block_on(storage.load(&id(name))).unwrap().unwrap()
}

fn signal(name: &str) -> Message {
    Message::Signal(Signal::new(name, ()))
}

fn claim(owner: Owner, seconds: i64) -> Claim {
    Claim { owner, now: at(seconds), gone: Vec::new(), run: None, limit: 100 }
}

fn claimed(storage: &Sqlite, claim: Claim) -> Vec<(String, u32)> {
    let runs = block_on(storage.claim(claim)).unwrap();
    runs.into_iter().map(|claimed| (claimed.run.to_string(), claimed.recoveries)).collect()
}

fn alive(storage: &Sqlite, owner: Owner) -> Vec<Beat> {
    let mut beats = block_on(storage.beat(owner)).unwrap();
    beats.sort_by_key(|beat| beat.owner);
    beats
}

fn pause() -> Message {
    Message::Pause(Reason::new("ann", "lunch"))
}
