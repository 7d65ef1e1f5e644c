//! Runs that have ended are removed by age and number, with everything that is kept of them.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use stepwell::engine::{EngineLimits, Retention};
use stepwell::journal::{Operation, Reason, Signal};
use stepwell::runtime::Runtime as _;
use stepwell::storage::{BlobStore, Memory, MemoryBlobs, Message, Reply, RunQuery, Storage};
use stepwell::testing::{Fault, Faulty, VirtualRuntime};
use stepwell::{
    Engine, Error, ErrorKind, Outcome, Result, RunId, StartOptions, Step, Wait, Workflow,
    executor_fn,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Deletes nothing as often as it is told to, and slowly where it is given the time.
#[derive(Clone, Debug, Default)]
struct Blobs {
    blobs: MemoryBlobs,
    fails: Arc<AtomicU32>,
    /// Those of runs whose ids begin so are never deleted.
    stuck: Arc<Mutex<Option<&'static str>>>,
    slow: Arc<Mutex<Option<(VirtualRuntime, Duration)>>>,
    blocks: Arc<Mutex<Option<(VirtualRuntime, Duration)>>>,
    /// How often each run's were deleted.
    deleted: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl BlobStore for Blobs {
    fn put(&self, run: &RunId, name: &str, bytes: Vec<u8>) -> Reply<Result<()>> {
        self.blobs.put(run, name, bytes)
    }

    fn get(&self, run: &RunId, name: &str) -> Reply<Result<Option<Vec<u8>>>> {
        self.blobs.get(run, name)
    }

    fn delete(&self, run: &RunId, names: Vec<String>) -> Reply<Result<()>> {
        self.blobs.delete(run, names)
    }

    fn delete_run(&self, run: &RunId) -> Reply<Result<()>> {
        let fewer = |left: u32| left.checked_sub(1);
        if self.stuck.lock().unwrap().is_some_and(|stuck| run.as_str().starts_with(stuck)) {
            return Reply::ready(Err(Error::new(ErrorKind::Storage, "it does not go")));
        }
        match self.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer) {
            Ok(_) => Reply::ready(Err(Error::new(ErrorKind::Storage, "no such luck"))),
            Err(_) => {
                *self.deleted.lock().unwrap().entry(run.to_string()).or_default() += 1;
                if let Some((time, length)) = &*self.blocks.lock().unwrap() {
                    time.advance(*length);
                }
                let Some((time, length)) = self.slow.lock().unwrap().clone() else {
                    return self.blobs.delete_run(run);
                };
                let (blobs, run) = (self.blobs.clone(), run.clone());
                Reply::later(async move {
                    time.sleep(length).await;
                    blobs.delete_run(&run).await
                })
            }
        }
    }
}

#[derive(Clone)]
struct World {
    time: VirtualRuntime,
    storage: Memory,
    blobs: Blobs,
}

impl World {
    fn new() -> Self {
        let (storage, blobs) = (Memory::new(), Blobs::default());
        Self { time: VirtualRuntime::new(3), storage, blobs }
    }

    /// An engine whose steps come to something that goes to the blob store.
    fn engine(&self, rules: impl IntoIterator<Item = Retention>) -> Engine {
        let limits = EngineLimits { spill_over: 10, ..EngineLimits::default() };
        let builder = Engine::builder()
            .runtime(self.time.clone())
            .storage(self.storage.clone())
            .blobs(self.blobs.clone())
            .limits(limits)
            .executor("work", executor_fn(|_| async { Ok(json!({"text": "x".repeat(100)})) }));
        rules.into_iter().fold(builder, |builder, rule| builder.retention(rule)).build().unwrap()
    }

    /// One that has no rules and sees its storage otherwise.
    fn engine_on(&self, storage: impl Storage) -> Engine {
        let builder = Engine::builder().runtime(self.time.clone()).storage(storage);
        builder.blobs(self.blobs.clone()).build().unwrap()
    }

    fn run<T: Send + 'static>(&self, future: impl Future<Output = T>) -> T {
        self.time.block_on(future).unwrap()
    }

    async fn nap(&self, length: Duration) {
        self.time.sleep_until(self.time.now() + length).await;
    }

    async fn names(&self) -> Vec<String> {
        let listed = self.storage.list(RunQuery::default()).await.unwrap();
        let mut names: Vec<String> = listed.iter().map(|run| run.id.to_string()).collect();
        names.sort_unstable();
        names
    }
}

fn work(id: &str) -> Workflow {
    Workflow::builder(id).step(Step::task("a", "work")).build().unwrap()
}

async fn ended(engine: &Engine, workflow: &str, id: &str) {
    let run = engine.start_with(&work(workflow), (), StartOptions::id(id)).await.unwrap();
    assert!(matches!(run.outcome().await.unwrap(), Outcome::Succeeded(_)));
}

fn for_an_hour() -> Retention {
    Retention::new().finished_for(HOUR)
}

async fn blob_of(engine: &Engine, id: &str) -> (RunId, String) {
    let id = RunId::new(id).unwrap();
    let run = engine.run(&id).await.unwrap();
    let output = run.snapshot().step_output("a").unwrap();
    (id, output["$blob"]["name"].as_str().unwrap().to_string())
}

#[test]
fn what_ended_long_enough_ago_goes_with_its_blobs_and_its_id_is_free() {
    let world = World::new();
    world.run(async {
        let engine = world.engine([]);
        ended(&engine, "w", "old").await;
        let (id, blob) = blob_of(&engine, "old").await;
        world.nap(HOUR / 2).await;
        ended(&engine, "w", "new").await;
        world.nap(HOUR / 2).await;
        assert!(world.blobs.get(&id, &blob).await.unwrap().is_some());
        assert_eq!(engine.purge(&for_an_hour()).await.unwrap(), 1);
        assert_eq!(world.names().await, ["new"]);
        assert_eq!(world.blobs.get(&id, &blob).await.unwrap(), None);
        assert_eq!(engine.run(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
        // A new life.
        ended(&engine, "other", "old").await;
        assert_eq!(engine.purge(&for_an_hour()).await.unwrap(), 0);
        assert_eq!(world.names().await, ["new", "old"]);
    });
}

#[test]
fn what_is_there_beyond_a_number_goes() {
    let world = World::new();
    world.run(async {
        let engine = world.engine([]);
        for id in ["a", "b", "c", "d"] {
            ended(&engine, if id == "d" { "v" } else { "w" }, id).await;
            world.nap(Duration::from_secs(1)).await;
        }
        let two = Retention::new().keep_at_most(2);
        assert_eq!(engine.purge(&two.clone().workflow("v")).await.unwrap(), 0);
        assert_eq!(engine.purge(&two.clone().workflow("w")).await.unwrap(), 1);
        assert_eq!(world.names().await, ["b", "c", "d"]);
        assert_eq!(engine.purge(&two).await.unwrap(), 1);
        assert_eq!(engine.purge(&Retention::new()).await.unwrap(), 0, "it keeps everything");
        assert_eq!(world.names().await, ["c", "d"]);
    });
}

#[test]
fn what_goes_on_stays_however_old_it_is() {
    let world = World::new();
    world.run(async {
        let engine = world.engine([]);
        let waits =
            Workflow::builder("w").step(Step::wait("go", Wait::signal("go"))).build().unwrap();
        let run = engine.start(&waits, ()).await.unwrap();
        drop(engine.serve(world.nap(HOUR)).await);
        world.nap(100 * HOUR).await;
        let none = Retention::new().keep_at_most(0).finished_for(Duration::ZERO);
        assert_eq!(engine.purge(&none).await.unwrap(), 0);
        run.signal("go", ()).await.unwrap();
        assert!(matches!(run.outcome().await.unwrap(), Outcome::Succeeded(_)));
        assert_eq!(engine.purge(&none).await.unwrap(), 1);
        // Whoever has looked at it before has a picture, and can say nothing to it.
        assert!(run.outcome().await.is_ok());
        let again = engine.reopen(run.id(), Operation::rerun("go"), Reason::default()).await;
        assert_eq!(again.unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn an_engine_that_is_served_removes_all_the_time() {
    let world = World::new();
    world.run(async {
        let rules = [for_an_hour(), Retention::new().workflow("v").keep_at_most(1)];
        let engine = world.engine(rules);
        let starts = async {
            for turn in 0..5 {
                ended(&engine, "w", &format!("w{turn}")).await;
                ended(&engine, "v", &format!("v{turn}")).await;
                world.nap(HOUR / 2).await;
            }
        };
        engine.serve(starts).await.unwrap();
        assert_eq!(world.names().await, ["v4", "w3", "w4"]);
    });
}

#[test]
fn an_id_is_free_when_its_blobs_are_gone_and_not_before() {
    let world = World::new();
    world.run(async {
        let first = world.engine([]);
        ended(&first, "w", "r").await;
        let (id, blob) = blob_of(&first, "r").await;
        world.nap(2 * HOUR).await;
        world.blobs.fails.store(2, Ordering::SeqCst);
        assert!(first.purge(&for_an_hour()).await.is_err());
        // The run is gone as a whole, and nobody has one without its values.
        assert_eq!(world.names().await, [""; 0]);
        assert!(world.blobs.get(&id, &blob).await.unwrap().is_some());
        let early = first.start_with(&work("w"), (), StartOptions::id("r")).await.unwrap_err();
        assert_eq!(early.kind(), ErrorKind::AlreadyExists, "{early}");
        assert!(early.to_string().contains("removed"), "{early}");
        assert!(first.purge(&for_an_hour()).await.is_err(), "it tries again");
        drop(first);
        // Another engine goes on with it when that one is gone.
        let second = world.engine([for_an_hour()]);
        second.serve(world.nap(Duration::from_secs(200))).await.unwrap();
        assert_eq!(world.blobs.get(&id, &blob).await.unwrap(), None);
        ended(&second, "w", "r").await;
    });
}

#[test]
fn a_blob_store_that_fails_keeps_no_run_from_going_on() {
    let world = World::new();
    world.run(async {
        let engine = world.engine([Retention::new().keep_at_most(0)]);
        world.blobs.fails.store(u32::MAX, Ordering::SeqCst);
        let works = async {
            for turn in 0..5 {
                ended(&engine, "w", &format!("w{turn}")).await;
                world.nap(HOUR).await;
            }
        };
        engine.serve(works).await.unwrap();
        assert!(world.names().await.len() < 5);
        world.blobs.fails.store(0, Ordering::SeqCst);
        engine.serve(world.nap(HOUR)).await.unwrap();
        assert_eq!(world.names().await, [""; 0]);
    });
}

#[test]
fn a_blob_that_is_stuck_keeps_no_other_rule_from_its_runs() {
    let world = World::new();
    world.run(async {
        *world.blobs.stuck.lock().unwrap() = Some("v");
        let hour = for_an_hour();
        let engine = world.engine([hour.clone().workflow("v"), hour.workflow("w")]);
        for id in ["v1", "v2"] {
            ended(&engine, "v", id).await;
        }
        ended(&engine, "w", "w1").await;
        engine.serve(world.nap(2 * HOUR)).await.unwrap();
        assert_eq!(world.names().await, [""; 0]);
        ended(&engine, "w", "w1").await;
        let taken = engine.start_with(&work("v"), (), StartOptions::id("v1")).await.unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        *world.blobs.stuck.lock().unwrap() = None;
        engine.serve(world.nap(HOUR / 2)).await.unwrap();
        ended(&engine, "v", "v1").await;
    });
}

#[test]
fn two_engines_remove_each_run_once() {
    let world = World::new();
    world.run(async {
        let (one, two) = (world.engine([]), world.engine([]));
        for turn in 0..1_200 {
            ended(&one, "w", &format!("r{turn}")).await;
        }
        let all = Retention::new().keep_at_most(100);
        let (first, second) = futures::join!(one.purge(&all), two.purge(&all));
        assert_eq!(first.unwrap() + second.unwrap(), 1_100);
        assert_eq!(world.names().await.len(), 100);
    });
}

/// Deleting the blobs of three runs takes three minutes, six leases.
async fn slow_to_delete(world: &World, engine: &Engine) {
    for id in ["a", "b", "c"] {
        ended(engine, "w", id).await;
    }
    world.nap(2 * HOUR).await;
    let slow = (world.time.clone(), Duration::from_secs(60));
    *world.blobs.slow.lock().unwrap() = Some(slow);
}

fn each_was_deleted_once(world: &World) {
    let deleted = world.blobs.deleted.lock().unwrap().clone();
    assert_eq!(deleted, ["a", "b", "c"].map(|id| (id.to_string(), 1)).into());
}

#[test]
fn an_engine_that_removes_for_longer_than_a_lease_is_not_taken_for_gone() {
    let world = World::new();
    world.run(async {
        // It has said once that it is alive, hours ago, and is not served.
        let one = world.engine([]);
        slow_to_delete(&world, &one).await;
        let two = world.engine([for_an_hour()]);
        let rule = for_an_hour();
        let purge = one.purge(&rule);
        let serves = two.serve(world.nap(Duration::from_secs(400)));
        let (removed, served) = futures::join!(purge, serves);
        assert_eq!((removed.unwrap(), served.is_ok()), (3, true));
        each_was_deleted_once(&world);
        // The blobs of a new life stay.
        ended(&two, "w", "a").await;
        blob_of(&two, "a").await;
    });
}

#[test]
fn blobs_that_are_gone_at_once_keep_nobody_from_saying_that_it_is_alive() {
    let world = World::new();
    let calls: Arc<Mutex<Vec<&str>>> = Arc::default();
    let log = Arc::clone(&calls);
    let storage = Faulty::new(world.storage.clone(), move |call| {
        log.lock().unwrap().push(call.method);
        None
    });
    world.run(async {
        slow_to_delete(&world, &world.engine([])).await;
        // Each blocks its thread for so long.
        *world.blobs.slow.lock().unwrap() = None;
        *world.blobs.blocks.lock().unwrap() = Some((world.time.clone(), Duration::from_secs(11)));
        let one = world.engine_on(storage);
        assert_eq!(one.purge(&for_an_hour()).await.unwrap(), 3);
    });
    let calls = calls.lock().unwrap();
    assert_eq!(calls[..6], ["beat", "purge", "beat", "beat", "beat", "clear"]);
}

#[test]
fn an_engine_that_is_served_is_not_taken_for_gone_while_it_removes() {
    let world = World::new();
    world.run(async {
        let one = world.engine([for_an_hour()]);
        slow_to_delete(&world, &one).await;
        let two = world.engine([for_an_hour()]);
        let one = one.serve(world.nap(Duration::from_secs(400)));
        let two = two.serve(world.nap(Duration::from_secs(400)));
        let (one, two) = futures::join!(one, two);
        assert!(one.is_ok() && two.is_ok());
        each_was_deleted_once(&world);
    });
}

#[test]
fn an_engine_that_removes_does_what_it_does_otherwise() {
    let world = World::new();
    world.run(async {
        let one = world.engine([for_an_hour()]);
        slow_to_delete(&world, &one).await;
        let begun = world.time.now();
        let waits =
            Workflow::builder("w").step(Step::wait("go", Wait::signal("go"))).build().unwrap();
        let parked = one.start_with(&waits, (), StartOptions::id("parked")).await.unwrap();
        let id = parked.id().clone();
        drop(parked);
        let says = async {
            // Blobs are being removed, for two more minutes.
            world.nap(Duration::from_secs(60)).await;
            // As another process would say it.
            let message = Message::Signal(Signal::new("go", ()));
            world.storage.post(&id, message).await.unwrap();
            while !world.storage.load(&id).await.unwrap().unwrap().status.is_end() {
                world.nap(Duration::from_secs(1)).await;
            }
            world.time.now().since(begun)
        };
        let answered = async {
            let answered = says.await;
            world.nap(Duration::from_secs(300)).await;
            answered
        };
        let mut took = None;
        one.serve(async { took = Some(answered.await) }).await.unwrap();
        assert!(took.unwrap() < Duration::from_secs(70), "{took:?}");
        each_was_deleted_once(&world);
    });
}

#[test]
fn an_engine_that_ends_while_somebody_waits_for_a_purge_is_not_taken_for_gone() {
    let world = World::new();
    world.run(async {
        let one = world.engine([]);
        slow_to_delete(&world, &one).await;
        let two = world.engine([for_an_hour()]);
        let rule = for_an_hour();
        let purge = one.purge(&rule);
        let ends = one.serve(world.nap(Duration::from_secs(1)));
        let serves = async {
            world.nap(Duration::from_secs(2)).await;
            two.serve(world.nap(Duration::from_secs(400))).await
        };
        let (removed, ended, served) = futures::join!(purge, ends, serves);
        assert_eq!((removed.unwrap(), ended.is_ok(), served.is_ok()), (3, true, true));
        each_was_deleted_once(&world);
    });
}

#[test]
fn who_cannot_say_that_it_is_alive_stops_removing_before_others_go_on_with_it() {
    let world = World::new();
    let beats = Arc::new(AtomicU32::new(0));
    let (count, time) = (Arc::clone(&beats), world.time.clone());
    let silent = Faulty::new(world.storage.clone(), move |call| {
        let beaten = call.method == "beat" && count.fetch_add(1, Ordering::SeqCst) > 1;
        beaten.then_some(Fault::Before)
    });
    world.run(async {
        slow_to_delete(&world, &world.engine([])).await;
        let one = world.engine_on(silent);
        let began = time.monotonic();
        let error = one.purge(&for_an_hour()).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("alive"), "{error}");
        let lease = EngineLimits::default().lease;
        assert!(time.monotonic() - began < lease, "nobody could take it for gone");
        // Of those that it had not come to, another removes all.
        let two = world.engine([for_an_hour()]);
        two.serve(world.nap(Duration::from_secs(400))).await.unwrap();
        let deleted = world.blobs.deleted.lock().unwrap().clone();
        assert_eq!((deleted["b"], deleted["c"]), (1, 1));
        assert_eq!(world.names().await, [""; 0]);
    });
}

#[test]
fn an_engine_that_was_silent_for_hours_is_heard_before_it_removes() {
    let world = World::new();
    let calls: Arc<Mutex<Vec<&str>>> = Arc::default();
    let log = Arc::clone(&calls);
    let storage = Faulty::new(world.storage.clone(), move |call| {
        log.lock().unwrap().push(call.method);
        (call.method == "beat").then_some(Fault::AnswersLate(Duration::from_secs(1)))
    });
    world.run(async {
        let engine = Engine::builder()
            .runtime(world.time.clone())
            .storage(storage.runtime(world.time.clone()))
            .executor("work", executor_fn(|_| async { Ok(1) }))
            .build()
            .unwrap();
        ended(&engine, "w", "r").await;
        world.nap(2 * HOUR).await;
        calls.lock().unwrap().clear();
        assert_eq!(engine.purge(&for_an_hour()).await.unwrap(), 1);
    });
    assert_eq!(calls.lock().unwrap()[..2], ["beat", "purge"]);
}
