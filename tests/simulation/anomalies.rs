//! Each call of a storage fails once: the first, the second, and so on until none is left, before it is
//! done, after it was, without an answer, and late.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join;
use stepwell::Workflow;
use stepwell::storage::{Memory, Storage};
use stepwell::testing::{Fault, VirtualRuntime};

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

/// What came of one failure.
pub(super) struct Once {
    /// How many calls there were.
    pub(super) calls: u64,
    /// The one that failed; none if there were fewer.
    pub(super) method: Option<&'static str>,
}

/// What has failed.
#[derive(Debug, Default)]
struct Failed {
    calls: u64,
    methods: BTreeSet<&'static str>,
}

impl Failed {
    /// From this call on every so many, as long as there are some.
    fn each_call(&mut self, first: u64, every: u64, fails: impl Fn(u64) -> Once) {
        for failing in (first..).step_by(every as usize) {
            let once = fails(failing);
            assert_eq!(once.method.is_some(), failing <= once.calls);
            let Some(method) = once.method else { return };
            self.calls += 1;
            self.methods.insert(method);
        }
    }
}

/// A run of this shape, and one call that fails: the same each time but for that.
fn run<S: Storage + Clone>(shape: &Workflow, storage: S, failing: u64, fault: Fault) -> Once {
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
    Once { calls: world.calls.load(Ordering::Relaxed), method }
}

/// Every so many of the calls of each shape fail, and all of those of what is done to keep a storage
/// in order.
fn every_call_fails<S: Storage + Clone>(
    faults: &[Fault],
    every: u64,
    shapes: &[Workflow],
    open: impl Fn(&mut dyn FnMut(S) -> Once) -> Once,
) {
    let open = &open;
    for (number, fault) in (0..).zip(faults.iter().copied()) {
        let begun = std::time::Instant::now();
        let mut failed = Failed::default();
        for (place, shape) in (number..).zip(shapes) {
            // Others of another shape, and with another fault.
            failed.each_call(1 + place % every, every, |failing| {
                open(&mut |storage| run(shape, storage, failing, fault))
            });
        }
        let least = 25 * shapes.len() as u64 / every;
        assert!(failed.calls > least, "{} calls", failed.calls);
        failed.each_call(1, 1, |failing| open(&mut |storage| upkeep(storage, failing, fault)));
        eprintln!("{fault:?} {failed:?} {:?}", begun.elapsed());
        assert!(failed.methods.iter().eq(&METHODS), "{:?}", failed.methods);
    }
}

/// A storage with work of its own behind it, asked no more often than memory is: virtual time stands
/// still while it works.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn at_once(storage: impl Storage) -> Slow<dyn Storage> {
    let storage: Arc<dyn Storage> = Arc::new(storage);
    Slow::new(storage, Effect::AtOnce, &VirtualRuntime::new(0)).poll_every(Memory::new().poll_every())
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
    every_call_fails(&FAULTS[..3], every(1), shapes(), |run| {
        let file = super::files::File::new();
        run(at_once(file.open()))
    });
}

#[cfg(feature = "postgres")]
#[test]
fn every_call_of_a_server_may_fail_once() {
    let Some(schema) = super::schema::Schema::new() else { return };
    every_call_fails(&FAULTS[..3], every(1), shapes(), |run| run(at_once(schema.emptied())));
}
