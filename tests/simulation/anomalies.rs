//! Each call of a storage fails once: the first, the second, and so on until none is left, before it is
//! done, after it was, without an answer, and late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join;
use stepwell::Workflow;
use stepwell::storage::{Memory, Storage};
use stepwell::testing::Fault;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use stepwell::testing::VirtualRuntime;

use super::client::Client;
use super::mistakes::Mistake;
use super::shapes::shapes;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use super::slow::{Effect, Slow};
use super::tape::What;
use super::upkeep::upkeep;
use super::world::{SECOND, World};
use super::{check, settle, within};

/// How long one run may take when one call has failed: a lease, a life of a client, and then some.
const PATIENCE: Duration = Duration::from_secs(1_200);

const FAULTS: [Fault; 8] = [
    Fault::Before,
    Fault::After,
    Fault::HangsAfter,
    Fault::Hangs,
    Fault::AnswersLate(SECOND),
    Fault::AnswersLate(Duration::from_secs(40)),
    Fault::DoneLate(SECOND),
    Fault::DoneLate(Duration::from_secs(40)),
];

/// What a storage can be asked for; `poll_every`, `news` and `takes_writes` ask for nothing.
const METHODS: [&str; 18] = [
    "acquire",
    "answer",
    "beat",
    "claim",
    "clear",
    "commit",
    "create",
    "events",
    "held",
    "inbox",
    "list",
    "load",
    "mail",
    "next_due",
    "post",
    "purge",
    "retire",
    "set_aside",
];

/// What has failed.
#[derive(Debug, Default)]
struct Failed {
    calls: u64,
    methods: BTreeSet<&'static str>,
}

impl Failed {
    fn note(&mut self, method: &'static str) {
        self.calls += 1;
        self.methods.insert(method);
    }

    /// From this call of a run on every so many, as long as there are some.
    fn in_a_run(&mut self, first: u64, every: u64, fails: impl Fn(u64) -> Option<&'static str>) {
        for failing in (first..).step_by(every as usize) {
            let Some(method) = fails(failing) else { return };
            self.note(method);
        }
    }

    /// Of each kind of call the first, and every so many.
    fn in_upkeep(&mut self, every: u64, calls: impl Fn(u64) -> Vec<&'static str>) {
        let mut seen = BTreeMap::new();
        for (number, method) in (1..).zip(calls(0)) {
            let nth = seen.entry(method).or_insert(0_u64);
            if nth.is_multiple_of(every) {
                assert_eq!(calls(number)[number as usize - 1], method);
                self.note(method);
            }
            *nth += 1;
        }
    }
}

/// A run of this shape, and one call that fails: the same each time but for that. Which one it was, if
/// there were so many.
fn run<S: Storage + Clone>(
    shape: &Workflow,
    storage: S,
    failing: u64,
    fault: Fault,
) -> Option<&'static str> {
    let world = World::new(1, storage, Mistake::None, Some((failing, fault)));
    let runs = world.time.block_on(async {
        let asks = async {
            let client = Client::new(Arc::clone(&world), 0, shape.clone(), 0);
            let id = client.come().await;
            settle(&world).await;
            world.all_done.store(true, Ordering::Relaxed);
            vec![id]
        };
        let all = join(asks, Arc::clone(&world).process(0, 0));
        within(&world, PATIENCE, all).await.0
    });
    let tape = check(&world, &runs.unwrap());
    let method = tape.iter().find_map(|noted| match noted.what {
        What::Faulty(method, _) => Some(method),
        _ => None,
    });
    assert_eq!(method.is_some(), failing <= world.calls.load(Ordering::Relaxed));
    method
}

/// Every so many of the calls of each shape fail, and of those that keep a storage in order.
fn every_call_fails<S: Storage + Clone>(
    faults: &[Fault],
    every: u64,
    shapes: &[Workflow],
    open: impl Fn(&mut dyn FnMut(S)),
) {
    for (number, fault) in (0..).zip(faults.iter().copied()) {
        let mut failed = Failed::default();
        for (place, shape) in (number..).zip(shapes) {
            // Others of another shape, and with another fault.
            failed.in_a_run(1 + place % every, every, |failing| {
                let mut method = None;
                open(&mut |storage| method = run(shape, storage, failing, fault));
                method
            });
        }
        let least = 40 * shapes.len() as u64 / every;
        assert!(failed.calls >= least, "{} calls of {least}", failed.calls);
        failed.in_upkeep(every, |failing| {
            let mut calls = Vec::new();
            open(&mut |storage| calls = upkeep(storage, failing, fault));
            calls
        });
        assert!(failed.methods.iter().eq(&METHODS), "{:?}", failed.methods);
        eprintln!("{fault:?}: {} calls have failed", failed.calls);
    }
}

/// A storage with work of its own behind it, asked no more often than memory is: virtual time stands
/// still while it works.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn at_once(storage: impl Storage) -> Slow<dyn Storage> {
    let storage: Arc<dyn Storage> = Arc::new(storage);
    Slow::new(storage, Effect::AtOnce, &VirtualRuntime::new(0))
        .poll_every(Memory::new().poll_every())
}

/// Every so many calls, or as the environment says.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn every(so_many: u64) -> u64 {
    super::number("SIMULATION_EACH").unwrap_or(so_many)
}

#[test]
fn every_call_may_fail_once() {
    every_call_fails(&FAULTS, 1, shapes(), |run| run(Memory::new()));
}

#[cfg(feature = "sqlite")]
#[test]
fn every_call_of_a_file_may_fail_once() {
    every_call_fails(&FAULTS[..3], every(4), shapes(), |run| {
        let file = super::files::File::new();
        run(at_once(file.open()));
    });
}

#[cfg(feature = "postgres")]
#[test]
fn every_call_of_a_server_may_fail_once() {
    let Some(schema) = super::schema::Schema::new() else { return };
    every_call_fails(&FAULTS[..3], every(10), shapes(), |run| run(at_once(schema.emptied())));
}
