//! What cases begin with.

use std::time::Duration;

use crate::id::{RunId, StepKey};
use crate::journal::{Event, Recorded, RunStarted, RunStatus};
use crate::run::Want;
use crate::storage::{Acquire, Commit, Holding, NewRun, Owner};
use crate::time::Timestamp;
use crate::value::Value;
use crate::workflow::{Metadata, Rate, Step, Workflow};

pub(super) const A: Owner = Owner(1);
pub(super) const B: Owner = Owner(u128::MAX);
/// The same as `A` for whoever keeps only 64 bits.
pub(super) const C: Owner = Owner((1 << 64) + 1);

pub(super) fn id(name: &str) -> RunId {
    RunId::new(name).expect("cases use good names")
}

/// So many seconds after the year 2001 began: no time of a case is 0 by chance.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros((978_307_200 + seconds) * 1_000_000)
}

pub(super) fn workflow(id: &str) -> Workflow {
    let step = Step::task("a", "t");
    Workflow::builder(id).step(step).build().expect("cases use good workflows")
}

/// A run that `A` holds, of which nothing has happened.
pub(super) fn run(name: &str) -> NewRun {
    NewRun {
        id: id(name),
        holding: Holding::Held(A),
        workflow: workflow("w"),
        linked: Vec::new(),
        user: None,
        metadata: Metadata::new(),
        at: at(0),
        journal: Vec::new(),
        status: RunStatus::Pending,
    }
}

/// A commit that changes nothing but the status, and that its owner holds the run from now on.
pub(super) fn commit(owner: Owner, expected: u64) -> Commit {
    Commit {
        owner,
        expected,
        events: Vec::new(),
        status: RunStatus::Running,
        answers: Vec::new(),
        holding: Holding::Held(owner),
        released: Vec::new(),
        recovered: false,
        writes: None,
        snapshot: None,
    }
}

/// This owner asks for locks for the first step.
pub(super) fn acquire(owner: Owner, expected: u64, wants: &[Want]) -> Acquire {
    Acquire { owner, expected, step: StepKey::root(0), wants: wants.to_vec(), now: at(0) }
}

pub(super) fn started(input: Value) -> Event {
    Event::RunStarted(Box::new(RunStarted {
        input,
        variables: Value::NULL,
        seed: 1,
        deadline: Timestamp::MAX,
        grace: Duration::ZERO,
    }))
}

pub(super) fn event(seconds: i64, event: Event) -> Recorded {
    Recorded { at: at(seconds), event }
}

pub(super) fn begun() -> Recorded {
    event(1, started(Value::NULL))
}

/// An event that tells its step.
pub(super) fn ready(step: u32) -> Recorded {
    event(2, Event::StepReady { step: StepKey::root(step) })
}

pub(super) fn mutex(lock: &str) -> Want {
    Want::new(lock)
}

pub(super) fn at_most(max: u32, lock: &str) -> Want {
    Want { max: Some(max), ..Want::new(lock) }
}

pub(super) fn rate(count: u32, seconds: u64, lock: &str) -> Want {
    let rate = Some(Rate { count, per: Duration::from_secs(seconds) });
    Want { max: None, rate, ..Want::new(lock) }
}
