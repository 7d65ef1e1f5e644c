//! Crash tests as users write them: what they do to a program, and that they find mistakes.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, select};
use stepwell::engine::EngineBuilder;
use stepwell::journal::Vote;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{RunQuery, Storage};
use stepwell::testing::CrashTest;
use stepwell::workflow::{Approval, Limits};
use stepwell::{Engine, Outcome, StartOptions, Step, StepError, Wait, Workflow, executor_fn};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// What the steps of a run have done to the world, by their keys.
type World = Arc<Mutex<BTreeMap<String, u32>>>;

fn order() -> Workflow {
    let limits = Limits { max_duration: 30 * DAY, ..Limits::default() };
    let steps = [
        Step::task("reserve", "work"),
        Step::wait("cools", Wait::For(600 * SECOND)).after("reserve"),
        Step::wait("paid", Wait::signal("paid")).after("cools"),
        Step::wait("release", Wait::approval(Approval::by(["ann"]))).after("paid"),
        Step::for_each("ship", "[1, 2, 3]", [Step::task("parcel", "work")]).after("release"),
        Step::task("close", "work").after("ship"),
    ];
    Workflow::builder("order").limits(limits).steps(steps).build().unwrap()
}

fn engine(builder: EngineBuilder, world: &World) -> Engine {
    let world = Arc::clone(world);
    let work = executor_fn(move |ctx| {
        *world.lock().unwrap().entry(ctx.idempotency_key()).or_default() += 1;
        async move {
            ctx.sleep(10 * SECOND).await;
            Ok::<_, StepError>(())
        }
    });
    builder.executor("work", work).build().unwrap()
}

/// What its `main` does, each time that it is begun.
async fn program(builder: EngineBuilder, world: &World, workflow: &Workflow) -> Outcome {
    let engine = engine(builder, world);
    let run = engine.start_with(workflow, (), StartOptions::id("order-7")).await.unwrap();
    let says = async {
        // Whoever was killed cannot know whether it was heard.
        let _ = run.signal("paid", ()).await;
        loop {
            if let Some(open) = run.approvals().first() {
                let _ = run.approve(&open.id, Vote::approve("ann")).await;
            }
            engine.runtime().sleep(60 * SECOND).await;
        }
    };
    match select(pin!(run.outcome()), pin!(says)).await {
        Either::Left((outcome, _)) => outcome.unwrap(),
        Either::Right((never, _)) => never,
    }
}

fn ends_well<S: Storage + Clone>(test: &CrashTest<S>) -> (BTreeMap<String, u32>, Duration) {
    let (world, workflow) = (World::default(), order());
    let outcome = test.run(|builder| program(builder, &world, &workflow)).unwrap();
    assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome:?}");
    let done = world.lock().unwrap().clone();
    assert_eq!(done.len(), 5, "each step has one key, however often it was begun: {done:?}");
    (done, test.time().monotonic())
}

#[test]
fn a_program_that_is_killed_anywhere_comes_to_its_end() {
    let (mut crashed, mut again, mut seeds) = (0, 0, 0);
    for seed in 0..300 {
        let test = CrashTest::new(seed).crashes(5);
        let (done, _) = ends_well(&test);
        crashed += test.crashed();
        again += done.values().filter(|count| **count > 1).count();
        seeds += u32::from(test.crashed() > 0);
    }
    assert!(crashed > 600 && seeds > 250, "{crashed} crashes with {seeds} of 300 seeds");
    assert!(again > 50, "steps that were under way: {again}");
}

#[test]
fn a_seed_is_the_same_story_again() {
    for seed in 0..20 {
        let story = || {
            let test = CrashTest::new(seed);
            (ends_well(&test), test.crashed())
        };
        assert_eq!(story(), story(), "seed {seed}");
    }
}

#[test]
fn nobody_is_killed_whom_nobody_wants_killed() {
    let test = CrashTest::new(1).crashes(0);
    let (done, _) = ends_well(&test);
    assert_eq!((test.crashed(), done.into_values().max()), (0, Some(1)));
}

#[test]
fn a_program_that_starts_a_second_run_is_found_out() {
    let workflow = Workflow::builder("w").step(Step::task("a", "work")).build().unwrap();
    let workflow = &workflow;
    let runs = |seed| {
        let world = World::default();
        let test = CrashTest::new(seed);
        let outcome = test.run(|builder| {
            let engine = engine(builder, &world);
            async move { engine.execute(workflow, ()).await }
        });
        outcome.unwrap().unwrap();
        world.lock().unwrap().len()
    };
    let found = (0..50).filter(|seed| runs(*seed) > 1).count();
    assert!(found > 10, "{found} of 50 seeds find two runs");
}

#[test]
fn what_a_killed_program_has_spawned_does_no_more() {
    for seed in 0..50 {
        let test = CrashTest::new(seed);
        let ticks: Arc<Mutex<Vec<u32>>> = Arc::default();
        let mut life = 0;
        let done = test.run(|builder| {
            life += 1;
            let (life, ticks) = (life, Arc::clone(&ticks));
            let engine = builder.build().unwrap();
            async move {
                let runtime = Arc::clone(engine.runtime());
                let spawned = Arc::clone(engine.runtime());
                let task = async move {
                    loop {
                        ticks.lock().unwrap().push(life);
                        spawned.sleep(SECOND).await;
                    }
                };
                assert!(runtime.spawn(task.boxed()).is_ok());
                // Something for it to be killed at.
                while engine.list(RunQuery::default()).await.is_ok() && runtime.monotonic() < DAY {
                    runtime.sleep(600 * SECOND).await;
                }
            }
        });
        done.unwrap();
        let ticks = ticks.lock().unwrap();
        assert!(ticks.is_sorted(), "seed {seed}: a life goes on after the next has begun");
        assert_eq!(ticks.last(), Some(&(test.crashed() + 1)));
    }
}

#[test]
fn a_program_that_waits_for_what_never_comes_is_told() {
    let test = CrashTest::new(7).crashes(0);
    let stalled = test.run(|_| std::future::pending::<()>());
    assert!(stalled.is_err());
}

#[cfg(feature = "sqlite")]
#[test]
fn a_program_on_a_file_comes_to_its_end() {
    use stepwell::storage::{SqliteOptions, Synchronous};

    let folder = std::env::temp_dir().join(format!("stepwell-crashes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut crashed = 0;
    for seed in 0..20 {
        // Nothing of this is about losing power.
        let options = SqliteOptions::new().synchronous(Synchronous::Normal);
        let test = CrashTest::on(options.open(folder.join(format!("{seed}.db"))).unwrap(), seed);
        ends_well(&test);
        crashed += test.crashed();
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(crashed > 20, "{crashed} crashes");
}
