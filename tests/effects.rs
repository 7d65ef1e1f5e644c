//! Steps that are not to be begun twice: engines that go away, storages that fail, in virtual time.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, join, select};
use serde_json::json;
use stepwell::engine::EngineLimits;
use stepwell::journal::{Operation, Reason};
use stepwell::run::{Explanation, RunExplanation};
use stepwell::runtime::Runtime as _;
use stepwell::storage::{Memory, MemoryBlobs, Reply, Storage};
use stepwell::testing::{Fault, Faulty, VirtualRuntime};
use stepwell::workflow::{Lock, OnUnknown};
use stepwell::{
    Engine, EngineBuilder, ErrorClass, Outcome, RunHandle, RunId, RunStatus, Step, StepError,
    StepStatus, Workflow, executor_fn,
};

const SECOND: Duration = Duration::from_secs(1);

struct World {
    time: VirtualRuntime,
    memory: Memory,
    /// The steps that were begun.
    begun: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        Self { time: VirtualRuntime::new(3), memory: Memory::new(), begun: Arc::default() }
    }

    /// An engine whose steps note that they were begun, and take ten seconds.
    fn builder(&self, storage: impl Storage) -> EngineBuilder {
        let begun = Arc::clone(&self.begun);
        let work = executor_fn(move |ctx| {
            begun.lock().unwrap().push(format!("{}@{}", ctx.step(), ctx.attempt()));
            async move {
                ctx.sleep(10 * SECOND).await;
                Ok(ctx.step())
            }
        });
        Engine::builder().runtime(self.time.clone()).storage(storage).executor("work", work)
    }

    fn engine(&self) -> Engine {
        self.builder(self.memory.clone()).build().unwrap()
    }

    async fn nap(&self, length: Duration) {
        self.time.sleep_until(self.time.now() + length).await;
    }

    fn begun(&self) -> Vec<String> {
        self.begun.lock().unwrap().clone()
    }

    /// A run whose engine dies five seconds after its start.
    async fn left_behind(&self, workflow: &Workflow) -> RunId {
        let engine = self.engine();
        let run = engine.start(workflow, ()).await.unwrap();
        let crash = select(Box::pin(run.outcome()), Box::pin(self.nap(5 * SECOND)));
        assert!(matches!(crash.await, Either::Right(_)));
        run.id().clone()
    }

    /// Drives a run for so long, and gives its outcome if it has one by then.
    async fn drive(&self, run: &RunHandle, length: Duration) -> Option<Outcome> {
        match select(Box::pin(run.outcome()), Box::pin(self.nap(length))).await {
            Either::Left((outcome, _)) => Some(outcome.unwrap()),
            Either::Right(_) => None,
        }
    }
}

fn flow(steps: impl IntoIterator<Item = Step>) -> Workflow {
    Workflow::builder("w").steps(steps).build().unwrap()
}

fn once(id: &str) -> Step {
    Step::task(id, "work").at_most_once()
}

fn reason() -> Reason {
    Reason::new("ann", "I have looked")
}

#[test]
fn what_was_under_way_when_its_engine_died_is_not_begun_again_and_somebody_is_asked() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let steps = [once("a"), Step::task("b", "work"), Step::task("c", "work").after("a")];
            let id = world.left_behind(&flow(steps)).await;
            let second = world.engine();
            let run = second.run(&id).await.unwrap();
            let looks = async {
                world.nap(500 * SECOND).await;
                run.explain_run()
            };
            let (outcome, why) = join(world.drive(&run, 600 * SECOND), looks).await;
            assert_eq!(outcome, None, "it does not go on beyond it");
            let RunExplanation::UnderWay { waiting, .. } = why else { panic!("{why}") };
            assert_eq!(waiting[0].0, "a");
            assert_eq!(run.snapshot().step_status("a"), Some(StepStatus::OutcomeUnknown));
            assert_eq!(world.begun(), ["a@1", "b@1", "b@1"], "only what may be begun again was");
            let why = run.explain("a").unwrap();
            assert!(matches!(why, Explanation::OutcomeUnknown { attempt: 1, .. }), "{why}");
            let waits = run.waits();
            assert_eq!((waits.len(), waits[0].step.as_str()), (1, "a"));
            let progress = run.progress();
            assert_eq!((progress.outcome_unknown, progress.running), (1, 0));
            assert!(run.snapshot().to_mermaid().contains("unknown"));

            let done = Operation::succeed("a", "seen");
            let preview = run.preview(&done).unwrap();
            assert_eq!((preview.succeeded, preview.starts), (vec!["a".into()], vec!["c".into()]));
            run.operate(done, reason()).await.unwrap();
            let outcome = run.outcome().await.unwrap();
            assert_eq!(outcome, Outcome::Succeeded(json!({"b": "b", "c": "c"}).into()));
        })
        .unwrap();
    assert_eq!(world.begun(), ["a@1", "b@1", "b@1", "c@1"]);
}

#[test]
fn a_parked_run_with_an_unknown_outcome_takes_the_word_of_whoever_finds_it() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let id = world.left_behind(&flow([once("a")])).await;
            let second = world.engine();
            // Taken over after a lease, and parked: nobody has a handle.
            second.serve(world.nap(60 * SECOND)).await.unwrap();
            let third = world.engine();
            let run = third.run(&id).await.unwrap();
            assert_eq!(run.snapshot().step_status("a"), Some(StepStatus::OutcomeUnknown));
            let preview = run.preview(&Operation::rerun("a")).unwrap();
            assert_eq!(preview.again, ["a"]);
            run.operate(Operation::rerun("a"), reason()).await.unwrap();
            assert_eq!(run.outcome().await.unwrap(), Outcome::Succeeded("a".into()));
        })
        .unwrap();
    assert_eq!(world.begun(), ["a@1", "a@2"]);
}

#[test]
fn it_fails_with_a_class_of_its_own_where_the_author_wants_that() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let look = Step::task("look", "work");
            let a = once("a").on_unknown(OnUnknown::Fail);
            let a = a.on_error(ErrorClass::OutcomeUnknown, "look");
            let id = world.left_behind(&flow([a, look])).await;
            let run = world.engine().run(&id).await.unwrap();
            assert!(matches!(run.outcome().await.unwrap(), Outcome::Succeeded(_)));
            assert_eq!(
                run.snapshot().error_history()[0].1.failure.class,
                ErrorClass::OutcomeUnknown
            );
        })
        .unwrap();
    assert_eq!(world.begun(), ["a@1", "look@1"]);
}

#[test]
fn a_run_that_nobody_drives_any_more_has_an_unknown_outcome_when_somebody_does() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let engine = world.engine();
            let workflow = flow([once("a")]);
            // The future and the handle go, and with them the attempt; the engine stays.
            let gone = select(Box::pin(engine.execute(&workflow, ())), Box::pin(world.nap(SECOND)));
            assert!(matches!(gone.await, Either::Right(_)));
            let runs = engine.list(stepwell::storage::RunQuery::default()).await.unwrap();
            let run = engine.run(&runs[0].id).await.unwrap();
            assert_eq!(world.drive(&run, 100 * SECOND).await, None);
            assert_eq!(run.snapshot().step_status("a"), Some(StepStatus::OutcomeUnknown));
        })
        .unwrap();
    assert_eq!(world.begun(), ["a@1"]);
}

#[test]
fn an_engine_that_was_asleep_for_longer_than_a_lease_does_not_write_over_what_was_said() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let asleep = Arc::new(AtomicBool::new(false));
            let storage = {
                let asleep = Arc::clone(&asleep);
                Faulty::new(world.memory.clone(), move |_| {
                    asleep.load(Ordering::SeqCst).then_some(Fault::Before)
                })
            };
            let first = world.builder(storage).build().unwrap();
            let run = first.start(&flow([once("a")]), ()).await.unwrap();
            assert_eq!(world.drive(&run, 5 * SECOND).await, None);
            asleep.store(true, Ordering::SeqCst);
            let second = world.engine();
            second.serve(world.nap(60 * SECOND)).await.unwrap();
            asleep.store(false, Ordering::SeqCst);
            // Its attempt has ended long ago, and that is too late.
            assert_eq!(world.drive(&run, 60 * SECOND).await, None);
            assert_eq!(run.snapshot().step_status("a"), Some(StepStatus::OutcomeUnknown));
        })
        .unwrap();
    assert_eq!(world.begun(), ["a@1"]);
}

/// A run of two such steps in which one call of the storage goes wrong. How many calls there were, and
/// what the run came to if nobody had to be asked.
fn one_call_fails(fault: Fault, failing: u64) -> (u64, Option<Outcome>) {
    let world = World::new();
    let calls = Arc::new(AtomicU64::new(0));
    let storage = {
        let calls = Arc::clone(&calls);
        Faulty::new(world.memory.clone(), move |call| {
            calls.store(call.number, Ordering::SeqCst);
            (call.number == failing).then_some(fault)
        })
    };
    let outcome = world.time.block_on(async {
        let engine = world.builder(storage).build().unwrap();
        let workflow = flow([once("a"), once("b").after("a")]);
        let options = || stepwell::StartOptions::id("r");
        // Whoever has a handle keeps what is in the air.
        let mut handles = Vec::new();
        for _ in 0..9 {
            let Ok(run) = engine.start_with(&workflow, (), options()).await else { continue };
            let driven = select(Box::pin(run.outcome()), Box::pin(world.nap(300 * SECOND))).await;
            if let Either::Left((Ok(outcome), _)) = driven {
                return Some(outcome);
            }
            handles.push(run.clone());
        }
        None
    });
    let begun = world.begun();
    let unique: std::collections::BTreeSet<&String> = begun.iter().collect();
    assert_eq!(begun.len(), unique.len(), "{fault:?} call {failing}: {begun:?}");
    (calls.load(Ordering::SeqCst), outcome.unwrap())
}

#[test]
fn whichever_call_fails_nothing_is_begun_twice_and_what_was_not_begun_is_begun_without_a_word() {
    for fault in [Fault::Before, Fault::After, Fault::Hangs, Fault::HangsAfter] {
        let mut failing = 1;
        loop {
            let (calls, outcome) = one_call_fails(fault, failing);
            let well = matches!(outcome, Some(Outcome::Succeeded(_)));
            assert!(well, "{fault:?} call {failing}: a start that nobody has begun is no question");
            if calls < failing {
                break;
            }
            failing += 1;
        }
        assert!(failing > 6, "{failing} calls");
    }
}

#[test]
fn a_start_is_stored_before_the_step_is_begun() {
    let world = World::new();
    let memory = world.memory.clone();
    let seen = Arc::new(Mutex::new(None));
    let check = {
        let seen = Arc::clone(&seen);
        executor_fn(move |ctx| {
            let stored = memory.load(ctx.execution_id()).now_or_never().unwrap().unwrap();
            let last = stored.unwrap().journal.pop().map(|recorded| recorded.event);
            *seen.lock().unwrap() = last;
            async { Ok(()) }
        })
    };
    world
        .time
        .block_on(async {
            let engine = world.builder(world.memory.clone()).executor("check", check);
            let step = Step::task("a", "check").at_most_once();
            engine.build().unwrap().execute(&flow([step]), ()).await.unwrap();
        })
        .unwrap();
    let seen = seen.lock().unwrap().take().unwrap();
    assert!(matches!(seen, stepwell::Event::StepStarted { attempt: 1, .. }), "{seen:?}");
}

#[test]
fn errors_panics_and_timeouts_leave_open_what_was_done_unless_they_say_so() {
    let world = World::new();
    let fails = executor_fn(|ctx| async move {
        let how: String = ctx.config_as("how")?;
        match how.as_str() {
            "io" => Err(std::io::Error::other("broken"))?,
            "fatal" => Err(StepError::fatal("no"))?,
            "panic" => panic!("oh"),
            "slow" => ctx.sleep(60 * SECOND).await,
            "nothing" if ctx.attempt() == 1 => {
                Err(StepError::retryable("refused").nothing_done())?;
            }
            _ => {}
        }
        Ok(())
    });
    let ways = ["io", "fatal", "panic", "slow", "nothing"];
    let step = |how: &str| {
        let step = Step::task(how, "fails").config(json!({"how": how})).at_most_once();
        step.attempt_timeout(30 * SECOND).retry(stepwell::RetryConfig::attempts(3))
    };
    world
        .time
        .block_on(async {
            let engine = world.builder(world.memory.clone()).executor("fails", fails);
            let engine = engine.build().unwrap();
            let run = engine.start(&flow(ways.map(step)), ()).await.unwrap();
            assert_eq!(world.drive(&run, 100 * SECOND).await, None);
            let run = run.snapshot();
            let states = ways.map(|way| run.step_status(way).unwrap());
            let unknown = StepStatus::OutcomeUnknown;
            let known = [StepStatus::Failed, StepStatus::Succeeded];
            assert_eq!(states, [unknown, known[0], unknown, unknown, known[1]]);
        })
        .unwrap();
}

#[test]
fn an_input_that_cannot_be_loaded_is_no_attempt() {
    #[derive(Debug, Default)]
    struct Shy(MemoryBlobs, AtomicBool);
    impl stepwell::storage::BlobStore for Shy {
        fn put(&self, run: &RunId, name: &str, bytes: Vec<u8>) -> Reply<stepwell::Result<()>> {
            self.0.put(run, name, bytes)
        }

        fn get(&self, run: &RunId, name: &str) -> Reply<stepwell::Result<Option<Vec<u8>>>> {
            if !self.1.swap(true, Ordering::SeqCst) {
                let error = stepwell::Error::new(stepwell::ErrorKind::Storage, "not now");
                return Reply::ready(Err(error.transient()));
            }
            self.0.get(run, name)
        }

        fn delete(&self, run: &RunId, names: Vec<String>) -> Reply<stepwell::Result<()>> {
            self.0.delete(run, names)
        }

        fn delete_run(&self, run: &RunId) -> Reply<stepwell::Result<()>> {
            self.0.delete_run(run)
        }
    }
    let world = World::new();
    world
        .time
        .block_on(async {
            let large = executor_fn(|_| async { Ok("x".repeat(10_000)) });
            let engine = world.builder(world.memory.clone()).executor("large", large);
            let engine = engine
                .blobs(Shy::default())
                .limits(EngineLimits { spill_over: 1_000, ..EngineLimits::default() });
            let engine = engine.build().unwrap();
            let retry = stepwell::RetryConfig::attempts(3);
            let b = once("b").input("x", "a").retry(retry);
            let run = engine.execute(&flow([Step::task("a", "large"), b]), ()).await.unwrap();
            assert_eq!(run.status(), RunStatus::Succeeded, "{run:?}");
        })
        .unwrap();
    assert_eq!(world.begun(), ["b@2"]);
}

#[test]
fn what_has_an_unknown_outcome_keeps_its_lock_until_somebody_has_spoken() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let locked = || flow([once("a").lock(Lock::new("machine"))]);
            let id = world.left_behind(&locked()).await;
            let engine = world.engine();
            let first = engine.run(&id).await.unwrap();
            assert_eq!(world.drive(&first, 60 * SECOND).await, None);
            let second = engine.start(&locked(), ()).await.unwrap();
            assert_eq!(world.drive(&second, 60 * SECOND).await, None, "it may be half-way");
            first.operate(Operation::fail("a", "it has stopped"), reason()).await.unwrap();
            let outcome = first.outcome().await.unwrap();
            assert!(
                matches!(&outcome, Outcome::Failed { failure, .. }
                if failure.class == ErrorClass::Rejected),
                "{outcome}"
            );
            assert!(matches!(second.outcome().await.unwrap(), Outcome::Succeeded(_)));
        })
        .unwrap();
    assert_eq!(world.begun(), ["a@1", "a@1"], "one of each run");
}

#[test]
fn a_step_that_takes_its_engine_along_is_asked_about_before_there_is_a_quarantine() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let id = world.left_behind(&flow([once("a")])).await;
            for _ in 0..8 {
                let limits = EngineLimits { max_recoveries: 2, ..EngineLimits::default() };
                let engine = world.builder(world.memory.clone()).limits(limits).build().unwrap();
                let run = engine.run(&id).await.unwrap();
                assert_eq!(world.drive(&run, 40 * SECOND).await, None);
            }
            let run = world.engine().run(&id).await.unwrap();
            assert_eq!(run.status(), RunStatus::Running);
            assert_eq!(run.snapshot().step_status("a"), Some(StepStatus::OutcomeUnknown));
        })
        .unwrap();
    assert_eq!(world.begun(), ["a@1"]);
}
