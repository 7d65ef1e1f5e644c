//! Named locks: mutex groups, critical sections, limits by key and rates, across runs; in virtual time.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{join_all, select};
use serde_json::json;
use stepwell::journal::Reason;
use stepwell::runtime::Runtime as _;
use stepwell::storage::Memory;
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::Lock;
use stepwell::{
    Engine, Outcome, RetryConfig, RunHandle, StartOptions, Step, StepError, Wait, Workflow,
    executor_fn,
};

const SECOND: Duration = Duration::from_secs(1);

/// When each step began and ended, in seconds, by its run and path.
type Times = Arc<Mutex<BTreeMap<String, (u64, u64)>>>;

struct World {
    time: VirtualRuntime,
    storage: Memory,
    times: Times,
}

impl World {
    fn new() -> Self {
        Self { time: VirtualRuntime::new(1), storage: Memory::new(), times: Times::default() }
    }

    fn engine(&self) -> Engine {
        let times = Arc::clone(&self.times);
        Engine::builder()
            .runtime(self.time.clone())
            .storage(self.storage.clone())
            .executor(
                "works",
                executor_fn(move |ctx| {
                    let times = Arc::clone(&times);
                    async move {
                        let seconds = |at: stepwell::Timestamp| (at.as_micros() / 1_000_000) as u64;
                        let begin = seconds(ctx.now());
                        ctx.sleep(10 * SECOND).await;
                        let name = format!("{}/{}", ctx.execution_id(), ctx.step());
                        times.lock().unwrap().insert(name, (begin, seconds(ctx.now())));
                        if ctx.attempt() == 1 && ctx.run_input() == "fails" {
                            return Err(StepError::retryable("once"));
                        }
                        Ok(())
                    }
                }),
            )
            .build()
            .unwrap()
    }

    /// Runs these until all have ended; how many worked at once at most, and how long it took.
    fn run(&self, flow: &Workflow, inputs: &[serde_json::Value]) -> (usize, u64) {
        let engine = self.engine();
        let begin = self.time.now();
        self.time
            .block_on(join_all(inputs.iter().map(|input| engine.execute(flow, input.clone()))))
            .unwrap()
            .into_iter()
            .for_each(|run| assert!(run.unwrap().output().is_some()));
        let took = self.time.now().since(begin).as_secs();
        let times = self.times.lock().unwrap();
        let spans: Vec<(u64, u64)> = times.values().copied().collect();
        let at_once = |(begin, _): &(u64, u64)| {
            spans.iter().filter(|(from, to)| from <= begin && begin < to).count()
        };
        (spans.iter().map(at_once).max().unwrap_or(0), took)
    }
}

fn task(id: &str, lock: Lock) -> Step {
    Step::task(id, "works").lock(lock)
}

fn flow(steps: impl IntoIterator<Item = Step>) -> Workflow {
    Workflow::builder("w").steps(steps).build().unwrap()
}

#[test]
fn one_step_at_a_time_of_all_runs() {
    let world = World::new();
    let flow = flow([task("a", Lock::new("production")), task("b", Lock::new("production"))]);
    assert_eq!(world.run(&flow, &vec![json!(null); 3]), (1, 60));
}

#[test]
fn so_many_at_once_for_each_key() {
    let world = World::new();
    let flow = flow([task("a", Lock::new("exports").key("input.tenant").max(2))]);
    let tenants: Vec<_> = ["x", "x", "x", "x", "y"].map(|t| json!({"tenant": t})).into();
    // Four of x take two rounds of two, beside the one of y.
    assert_eq!(world.run(&flow, &tenants), (3, 20));
}

#[test]
fn so_often_in_a_length_of_time() {
    let world = World::new();
    let flow = flow([task("a", Lock::rate("api", 2, 60 * SECOND))]);
    let (_, took) = world.run(&flow, &vec![json!(null); 5]);
    let mut begins: Vec<u64> = world.times.lock().unwrap().values().map(|(at, _)| *at).collect();
    begins.sort_unstable();
    let first = begins[0];
    let offsets: Vec<u64> = begins.iter().map(|at| at - first).collect();
    // Two at once, then one each half minute.
    assert_eq!((offsets, took), (vec![0, 0, 30, 60, 90], 100));
}

#[test]
fn a_critical_section_holds_while_it_waits_and_over_a_restart() {
    let world = World::new();
    let section = || {
        let inside = [Step::task("in", "works"), Step::wait("ask", Wait::signal("go"))];
        Step::sequence("section", inside).lock(Lock::new("ledger"))
    };
    let flow = flow([section(), Step::task("out", "works").after("section")]);
    let drive = async |engine: &Engine, handle: &RunHandle| {
        let nap = engine.runtime().sleep_until(engine.runtime().now() + 30 * SECOND);
        select(Box::pin(handle.outcome()), nap).await;
    };
    world
        .time
        .block_on(async {
            let first = world.engine();
            let one = first.start_with(&flow, (), StartOptions::id("one")).await.unwrap();
            let two = first.start_with(&flow, (), StartOptions::id("two")).await.unwrap();
            drive(&first, &one).await;
            drive(&first, &two).await;
            let why = two.explain("section").unwrap().to_string();
            assert!(why.contains("lock `ledger` is held by one"), "{why}");
            let id = (one.id().clone(), two.id().clone());
            drop((one, two, first));
            // Another engine finds the section taken.
            let second = world.engine();
            let two = second.run(&id.1).await.unwrap();
            drive(&second, &two).await;
            assert!(two.explain("section").unwrap().to_string().contains("held by one"));
            let one = second.run(&id.0).await.unwrap();
            one.signal("go", ()).await.unwrap();
            // It is free while the first goes on with what is outside.
            let (_, ()) = futures::join!(one.outcome(), async {
                drive(&second, &two).await;
                two.signal("go", ()).await.unwrap();
                two.outcome().await.unwrap();
            });
        })
        .unwrap();
    let times = world.times.lock().unwrap();
    assert!(times["two/section/in"].0 < times["one/out"].1, "{times:?}");
}

#[test]
fn all_of_several_locks_or_none() {
    let world = World::new();
    let both = Step::task("both", "works").lock(Lock::new("a")).lock(Lock::new("b"));
    let flow = flow([task("a", Lock::new("a")), both.clone(), task("b", Lock::new("b"))]);
    let (_, took) = world.run(&flow, &vec![json!(null); 2]);
    // Six pieces of work over two locks of which two need both: four rounds.
    assert_eq!(took, 40);
}

#[test]
fn nothing_is_held_between_attempts_or_after_an_end() {
    let world = World::new();
    let retry =
        RetryConfig::attempts(2).base_delay(50 * SECOND).jitter(stepwell::retry::Jitter::None);
    let flow = flow([task("a", Lock::new("l")).retry(retry)]);
    let engine = world.engine();
    world
        .time
        .block_on(async {
            let fails = engine.start(&flow, "fails").await.unwrap();
            let other = engine.start(&flow, "fine").await.unwrap();
            let cancelled = engine.start(&flow, "fine").await.unwrap();
            let begin = world.time.now();
            let (_, at, _) = futures::join!(
                fails.outcome(),
                async {
                    other.outcome().await.unwrap();
                    world.time.now().since(begin).as_secs()
                },
                async {
                    let outcome = cancelled.outcome();
                    let cancel = async {
                        let nap = world.time.now() + 5 * SECOND;
                        stepwell::runtime::Runtime::sleep_until(&world.time, nap).await;
                        cancelled.cancel(Reason::new("ann", "not needed")).await.unwrap();
                    };
                    futures::join!(outcome, cancel)
                },
            );
            // After the first attempt of the other, and long before its second.
            assert_eq!(at, 20);
            assert!(matches!(fails.outcome().await.unwrap(), Outcome::Succeeded(_)));
        })
        .unwrap();
}

#[test]
fn a_key_that_is_none_fails_the_step() {
    let world = World::new();
    let flow = flow([task("a", Lock::new("l").key("input.nothing"))]);
    let outcome = world
        .time
        .block_on(async { world.engine().start(&flow, json!({})).await.unwrap().outcome().await })
        .unwrap()
        .unwrap();
    assert!(outcome.to_string().contains("a key is a text or a number"), "{outcome}");
}

#[test]
fn locks_that_make_no_sense_are_refused() {
    let wrong = Workflow::builder("w")
        .step(task("a", Lock::new("x").max(0)))
        .step(task("b", Lock::rate("x", 0, SECOND)))
        .step(task("c", Lock::new("x[1]")).lock(Lock::new("y")).lock(Lock::new("y")))
        .build()
        .unwrap_err()
        .to_string();
    for text in ["nobody may hold", "a rate of nothing", "contains '['", "`y` is there twice"] {
        assert!(wrong.contains(text), "{wrong}");
    }
}

#[test]
fn more_steps_than_are_asked_for_at_once_get_their_locks() {
    let world = World::new();
    let flow = {
        let step = Step::task("one", "works").lock(Lock::new("tenant").key("item"));
        let each = Step::for_each("all", "input.items", [step]).concurrency(2_000);
        let limits = stepwell::workflow::Limits {
            max_concurrent_steps: 5_000,
            max_cpu_percent: 100,
            ..Default::default()
        };
        Workflow::builder("w").limits(limits).step(each).build().unwrap()
    };
    let items: Vec<u32> = (0..2_100).collect();
    let (at_once, took) = world.run(&flow, &[json!({"items": items})]);
    assert_eq!((at_once, took), (2_000, 20), "each has a lock of its own");
    let few: Vec<u32> = (0..1_090).chain(0..10).collect();
    let shared = world.run(&flow, &[json!({"items": few})]);
    assert_eq!(shared.1, 20, "ten wait for others, wherever they stand");
}

#[test]
fn a_changed_definition_changes_nobody_s_locks() {
    let world = World::new();
    let engine = world.engine();
    let held = || Step::task("s", "works").lock(Lock::new("l"));
    let flow = Workflow::builder("w").step(held()).build().unwrap();
    world
        .time
        .block_on(async {
            let handle = engine.start(&flow, ()).await.unwrap();
            let change = async {
                world.time.sleep_until(world.time.now() + SECOND).await;
                let (mut definition, revision) = handle.definition();
                definition.steps.insert(0, Step::task("n", "works").lock(Lock::new("l")));
                let changed = Workflow::from_definition(definition).unwrap();
                let change = handle.modification(&changed, revision).unwrap();
                handle.operate(change, Reason::default()).await.unwrap();
            };
            let (outcome, ()) = futures::future::join(handle.outcome(), change).await;
            assert!(matches!(outcome.unwrap(), Outcome::Succeeded(_)));
        })
        .unwrap();
    let times = world.times.lock().unwrap();
    let mut spans: Vec<(u64, u64)> = times.values().copied().collect();
    spans.sort_unstable();
    assert!(spans.len() == 2 && spans[0].1 <= spans[1].0, "one after the other: {spans:?}");
}

#[test]
fn a_ready_step_that_is_removed_gives_its_lock_back() {
    let world = World::new();
    let engine = world.engine();
    let lock = || Lock::new("l");
    // Both are ready at once; `b` has its lock and waits for room.
    let flow = Workflow::builder("w")
        .limits(stepwell::workflow::Limits { max_concurrent_steps: 1, ..Default::default() })
        .step(Step::task("a", "works"))
        .step(Step::task("b", "works").lock(lock()))
        .build()
        .unwrap();
    let other = Workflow::builder("o").step(Step::task("c", "works").lock(lock())).build().unwrap();
    world
        .time
        .block_on(async {
            let first = engine.start(&flow, ()).await.unwrap();
            let change = async {
                world.time.sleep_until(world.time.now() + SECOND).await;
                let (mut definition, revision) = first.definition();
                definition.steps.retain(|step| step.id.as_str() == "a");
                let changed = Workflow::from_definition(definition).unwrap();
                let change = first.modification(&changed, revision).unwrap();
                first.operate(change, Reason::default()).await.unwrap();
                let began = world.time.now();
                engine.execute(&other, ()).await.unwrap();
                let took = world.time.now().since(began);
                assert_eq!(took, 10 * SECOND, "it is free at once");
            };
            futures::future::join(first.outcome(), change).await.0.unwrap();
        })
        .unwrap();
}

#[test]
fn a_key_that_can_be_told_no_more_holds_the_step_back() {
    let world = World::new();
    let engine = world.engine();
    let keyed = |id: &str| Step::task(id, "works").lock(Lock::new("l").key("vars.t"));
    let flow = Workflow::builder("w")
        .variable("t", stepwell::workflow::Variable::default().default_value("x"))
        .steps([keyed("a"), keyed("b")])
        .build()
        .unwrap();
    world
        .time
        .block_on(async {
            let handle = engine.start(&flow, ()).await.unwrap();
            let change = async {
                world.time.sleep_until(world.time.now() + SECOND).await;
                let set = |value: serde_json::Value| stepwell::journal::Operation::SetVariables {
                    values: json!({"t": value}).into(),
                };
                handle.operate(set(json!(null)), Reason::default()).await.unwrap();
                world.time.sleep_until(world.time.now() + 30 * SECOND).await;
                let waits = handle.explain("b").unwrap().to_string();
                assert!(waits.contains("a key is a text or a number"), "{waits}");
                handle.operate(set(json!("y")), Reason::default()).await.unwrap();
            };
            let (outcome, ()) = futures::future::join(handle.outcome(), change).await;
            assert!(matches!(outcome.unwrap(), Outcome::Succeeded(_)));
        })
        .unwrap();
    let times = world.times.lock().unwrap();
    let mut spans: Vec<(u64, u64)> = times.values().copied().collect();
    spans.sort_unstable();
    assert!(spans[0].1 <= spans[1].0, "one after the other: {spans:?}");
}

/// Says so when it is dropped.
struct Work(Arc<Mutex<u32>>);

impl Work {
    fn begin(under_way: &Arc<Mutex<u32>>) -> Self {
        let mut count = under_way.lock().unwrap();
        *count += 1;
        assert_eq!(*count, 1, "another has the lock, and is not gone");
        Self(Arc::clone(under_way))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        *self.0.lock().unwrap() -= 1;
    }
}

#[test]
fn who_is_out_of_time_is_gone_before_the_next_one_has_its_lock() {
    let time = VirtualRuntime::new(1);
    let (under_way, clock) = (Arc::new(Mutex::new(0)), time.clone());
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "works",
            executor_fn(move |ctx| {
                let (under_way, clock) = (Arc::clone(&under_way), clock.clone());
                async move {
                    if ctx.step().starts_with("busy") {
                        for _ in 0..100 {
                            clock.advance(SECOND / 10);
                            smol::future::yield_now().await;
                        }
                        return Ok(());
                    }
                    let work = Work::begin(&under_way);
                    if ctx.step() == "a" {
                        std::future::pending::<()>().await;
                    }
                    drop(work);
                    Ok(())
                }
            }),
        )
        .build()
        .unwrap();
    let once = RetryConfig::attempts(1);
    let a = task("a", Lock::new("l")).attempt_timeout(SECOND).retry(once).on_failure("b");
    // Others are busy all the while.
    let busy = |number| Step::task(format!("busy{number}"), "works");
    let steps = [busy(1), busy(2), a, task("b", Lock::new("l")), busy(3)];
    let flow = flow(steps);
    let outcome = time.block_on(engine.execute(&flow, ())).unwrap().unwrap().outcome();
    assert!(matches!(outcome, Some(Outcome::Succeeded(_))), "{outcome:?}");
}
