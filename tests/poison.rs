//! A step that takes its process along, each time, and what becomes of what ran beside it: in virtual time.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "slow/mod.rs"]
mod slow;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{join_all, select};
use slow::{Effect, Slow};
use stepwell::journal::Reason;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{Memory, RunQuery, Storage, Summary};
use stepwell::testing::VirtualRuntime;
use stepwell::{Engine, RunId, RunStatus, StartOptions, Step, Wait, Workflow, executor_fn};

const SECOND: Duration = Duration::from_secs(1);

/// What has become of a run that kills and of those beside it.
struct Ends {
    poison: RunStatus,
    succeeded: usize,
    /// Set aside like the one that kills.
    quarantined: usize,
    /// Processes that died of it.
    deaths: u32,
}

type Shared = Arc<dyn Storage>;

/// An engine as a process has it, which dies when this is set.
fn process(time: &VirtualRuntime, storage: &Shared) -> (Engine, Arc<AtomicBool>) {
    let is_dead = Arc::new(AtomicBool::new(false));
    let kills = Arc::clone(&is_dead);
    let engine = Engine::builder()
        .runtime(time.clone())
        .storage(Slow::new(Arc::clone(storage), Effect::WhenPolled, time))
        .executor(
            "work",
            executor_fn(|ctx| async move {
                ctx.sleep(Duration::from_secs(ctx.input("seconds")?)).await;
                Ok(())
            }),
        )
        .executor(
            "poison",
            executor_fn(move |_| {
                kills.store(true, Ordering::Relaxed);
                std::future::pending::<Result<(), _>>()
            }),
        );
    (engine.build().unwrap(), is_dead)
}

fn world() -> (VirtualRuntime, Shared) {
    (VirtualRuntime::new(11), Arc::new(Memory::new()))
}

fn work(seconds: u32) -> Workflow {
    let work = Step::task("a", "work").input("seconds", seconds.to_string());
    Workflow::builder("w").step(work).build().unwrap()
}

/// So many runs, of a step that takes so long, and one that kills in the middle of them; each process waits
/// for all of them, or serves only.
fn beside_poison(neighbours: usize, seconds: u32, waits: bool) -> Ends {
    let (time, storage) = world();
    let work = work(seconds);
    let poison = Workflow::builder("p").step(Step::task("a", "poison")).build().unwrap();
    let ends = async {
        let (starter, _) = process(&time, &storage);
        for number in 0..neighbours {
            if number == neighbours / 2 {
                starter.enqueue(&poison, (), StartOptions::id("run-poison")).await.unwrap();
            }
            let id = format!("run-{number:06}");
            starter.enqueue(&work, (), StartOptions::id(id)).await.unwrap();
        }
        let mut deaths = 0;
        loop {
            let (engine, is_dead) = process(&time, &storage);
            // Nothing of it runs from then on.
            let dies = async {
                let ends = async || {
                    let listed = storage.list(RunQuery::default()).await.unwrap();
                    listed.iter().all(|run| run.status.is_end() || run.status == RunStatus::Paused)
                };
                while !is_dead.load(Ordering::Relaxed) && !ends().await {
                    time.sleep(SECOND / 4).await;
                }
            };
            let waits_for_all = async {
                let all = storage.list(RunQuery::default()).await.unwrap();
                let end = async |id| engine.run(&id).await.unwrap().outcome().await;
                join_all(all.into_iter().filter(|_| waits).map(|run| end(run.id))).await;
                std::future::pending::<()>().await;
            };
            drop(select(pin!(engine.serve(waits_for_all)), pin!(dies)).await);
            if !is_dead.load(Ordering::Relaxed) {
                break;
            }
            deaths += 1;
        }
        let listed = storage.list(RunQuery::default()).await.unwrap();
        let poison = RunId::new("run-poison").unwrap();
        let of = |status| {
            let beside = listed.iter().filter(|run| run.id != poison);
            beside.filter(|run| run.status == status).count()
        };
        Ends {
            poison: listed.iter().find(|run| run.id == poison).unwrap().status,
            succeeded: of(RunStatus::Succeeded),
            quarantined: of(RunStatus::Paused),
            deaths,
        }
    };
    time.block_on(ends).unwrap()
}

#[test]
fn a_run_that_kills_takes_none_of_a_thousand_neighbours_along() {
    for waits in [false, true] {
        let ends = beside_poison(999, 3, waits);
        assert_eq!(ends.poison, RunStatus::Paused);
        assert_eq!((ends.succeeded, ends.quarantined), (999, 0), "{} deaths", ends.deaths);
        assert_eq!(ends.deaths, 6, "as often as it may be taken over, and once before");
    }
}

#[test]
fn most_go_on_whose_steps_are_always_under_way_when_another_kills() {
    for waits in [false, true] {
        let ends = beside_poison(100, 1_200, waits);
        assert_eq!(ends.poison, RunStatus::Paused);
        assert_eq!((ends.succeeded + ends.quarantined, ends.deaths), (100, 6));
        assert!(ends.quarantined <= 20, "{} of 100, {} deaths", ends.quarantined, ends.deaths);
    }
}

/// What is served for so long by one process after the other, each of which dies then.
async fn dies_after(time: &VirtualRuntime, storage: &Shared, lives: &[u32]) {
    for seconds in lives {
        let (engine, _) = process(time, storage);
        let life = time.sleep(SECOND * *seconds);
        drop(select(pin!(engine.serve(std::future::pending())), life).await);
    }
}

#[test]
fn a_run_that_waits_for_its_turn_says_so_and_is_cancelled_at_once() {
    let (time, storage) = world();
    let ends = async {
        let (starter, _) = process(&time, &storage);
        for number in 0..5 {
            let options = StartOptions::id(format!("run-{number}"));
            starter.enqueue(&work(1_200), (), options).await.unwrap();
        }
        dies_after(&time, &storage, &[60, 90]).await;
        let (engine, _) = process(&time, &storage);
        let looks = async {
            time.sleep(SECOND * 42).await;
            let listed = storage.list(RunQuery::default()).await.unwrap();
            let waits = |run: &&Summary| {
                run.problem.as_ref().is_some_and(|why| why.contains("begins again in a while"))
            };
            let waiting: Vec<&Summary> = listed.iter().filter(waits).collect();
            assert!((1..5).contains(&waiting.len()), "{listed:#?}");
            let run = engine.run(&waiting[0].id).await.unwrap();
            let before = time.now();
            run.cancel(Reason::default()).await.unwrap();
            assert!(time.now().since(before) <= SECOND);
            // All the others get on.
            time.sleep(SECOND * 1_500).await;
            let listed = storage.list(RunQuery::default()).await.unwrap();
            let of = |status| listed.iter().filter(|run| run.status == status).count();
            assert_eq!((of(RunStatus::Succeeded), of(RunStatus::Cancelled)), (4, 1));
        };
        engine.serve(looks).await.unwrap();
    };
    time.block_on(ends).unwrap();
}

#[test]
fn what_only_waits_is_never_suspected() {
    let (time, storage) = world();
    let ends = async {
        let (starter, _) = process(&time, &storage);
        let workflow = Step::wait("go", Wait::signal("go"));
        let workflow = Workflow::builder("w").step(workflow).build().unwrap();
        let ids: Vec<String> = (0..5).map(|number| format!("run-{number}")).collect();
        for id in &ids {
            starter.enqueue(&workflow, (), StartOptions::id(id)).await.unwrap();
        }
        // Each process has handles for them, so that it holds them.
        for _ in 0..8 {
            let (engine, _) = process(&time, &storage);
            let waits = async {
                let end = async |id| engine.run(&RunId::new(id).unwrap()).await?.outcome().await;
                join_all(ids.iter().map(end)).await;
            };
            drop(select(pin!(engine.serve(waits)), time.sleep(SECOND * 90)).await);
        }
        let (engine, _) = process(&time, &storage);
        let says = async {
            time.sleep(SECOND * 60).await;
            for id in &ids {
                let run = engine.run(&RunId::new(id).unwrap()).await.unwrap();
                let before = time.now();
                run.signal("go", 1).await.unwrap();
                run.outcome().await.unwrap();
                assert!(time.now().since(before) <= SECOND);
            }
        };
        engine.serve(says).await.unwrap();
    };
    time.block_on(ends).unwrap();
}
