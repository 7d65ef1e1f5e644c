//! Runs that go to other engines while the one that began them lives on: in virtual time.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "slow/mod.rs"]
mod slow;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{Either, join, select};
use futures::{FutureExt, StreamExt};
use slow::{Effect, Slow};
use stepwell::engine::EngineLimits;
use stepwell::executor::RunEvent;
use stepwell::journal::{Operation, Reason, Signal, Vote};
use stepwell::runtime::Runtime as _;
use stepwell::storage::{Holding, Memory, Message, Storage, StoredRun};
use stepwell::testing::{Call, Fault, Faulty, VirtualRuntime};

use stepwell::{
    Engine, ErrorKind, Event, Outcome, Result, RunHandle, RunId, RunStatus, StartOptions, Step,
    Timestamp, Wait, Workflow, executor_fn,
};

const SECOND: Duration = Duration::from_secs(1);
/// How often the storage is looked at.
const POLL: Duration = SECOND;
const LEASE: Duration = Duration::from_secs(30);

struct World {
    time: VirtualRuntime,
    /// One that other processes may be on, so that it is looked at every second.
    storage: Slow<dyn Storage>,
    /// Which engine began which step.
    begun: Arc<Mutex<Vec<(&'static str, String)>>>,
}

impl World {
    fn new() -> Self {
        let time = VirtualRuntime::new(7);
        let memory: Arc<dyn Storage> = Arc::new(Memory::new());
        let storage = Slow::new(memory, Effect::AtOnce, &time).poll_every(POLL);
        Self { time, storage, begun: Arc::default() }
    }

    /// One that can run nothing, and whose limits are not those of the ones that can.
    fn bare(&self) -> Engine {
        let limits = EngineLimits { max_recoveries: 0, ..EngineLimits::default() };
        let builder = Engine::builder().runtime(self.time.clone()).limits(limits);
        builder.storage(self.storage.clone()).build().unwrap()
    }

    fn engine(&self, name: &'static str) -> Engine {
        self.engine_on(name, self.storage.clone())
    }

    fn engine_on(&self, name: &'static str, storage: impl Storage) -> Engine {
        let begun = Arc::clone(&self.begun);
        let work = executor_fn(move |ctx| {
            begun.lock().unwrap().push((name, ctx.step().to_string()));
            async move {
                ctx.sleep(Duration::from_secs(ctx.input("seconds")?)).await;
                Ok(())
            }
        });
        let builder = Engine::builder().runtime(self.time.clone());
        builder.storage(storage).executor("work", work).build().unwrap()
    }

    /// An engine whose calls of this kind fail as long as this is set.
    fn cut_off(&self, name: &'static str, of: fn(&Call) -> bool) -> (Engine, Arc<AtomicBool>) {
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&is_cut);
        let fails =
            move |call: Call| (of(&call) && cut.load(Ordering::Relaxed)).then_some(Fault::Before);
        (self.engine_on(name, Faulty::new(self.storage.clone(), fails)), is_cut)
    }

    /// An engine that is told so late what was said to a run.
    fn told_late(&self, name: &'static str, by: Duration) -> Engine {
        let late = move |call: Call| (call.method == "inbox").then_some(Fault::DoneLate(by));
        let storage = Faulty::new(self.storage.clone(), late).runtime(self.time.clone());
        self.engine_on(name, storage)
    }

    async fn nap(&self, length: Duration) {
        self.time.sleep_until(self.time.now() + length).await;
    }

    async fn stored(&self, id: &RunId) -> StoredRun {
        self.storage.load(id).await.unwrap().unwrap()
    }

    async fn ended_at(&self, id: &RunId) -> Timestamp {
        let run = self.stored(id).await;
        assert_eq!((run.status, run.recoveries), (RunStatus::Succeeded, 0), "nobody has crashed");
        run.journal.last().unwrap().at
    }

    fn who_began(&self, step: &str) -> Vec<&'static str> {
        let begun = self.begun.lock().unwrap();
        begun.iter().filter(|(_, began)| began == step).map(|(engine, _)| *engine).collect()
    }
}

fn flow(id: &str, seconds: u32) -> Workflow {
    let work = Step::task(id, "work").input("seconds", seconds.to_string());
    Workflow::builder(id).step(work).build().unwrap()
}

fn waits_for_go() -> Workflow {
    Workflow::builder("w").step(Step::wait("go", Wait::signal("go"))).build().unwrap()
}

/// What somebody hears who waits for a run until others have done this.
async fn heard(run: &RunHandle, others: impl Future<Output = ()>) -> Outcome {
    let mut outcome = None;
    let waits = async {
        outcome = Some(run.outcome().await.unwrap());
        std::future::pending::<()>().await;
    };
    select(pin!(waits), pin!(others)).await;
    outcome.unwrap()
}

/// Serves an engine until this is dropped.
fn serve(world: &World, engine: Engine) -> oneshot::Sender<()> {
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = async move { engine.serve(stopped.map(drop)).await.unwrap() };
    assert!(world.time.spawn(Box::pin(serving)).is_ok());
    stop
}

#[test]
fn who_serves_no_more_keeps_what_somebody_waits_for_and_gives_the_rest_at_once() {
    let world = World::new();
    let begins = world.time.now();
    world
        .time
        .block_on(async {
            let first = world.engine("first");
            let _serving = serve(&world, world.engine("second"));
            let kept = first.start(&flow("kept", 300), ()).await.unwrap();
            let id = first.start(&flow("given", 20), ()).await.unwrap().id().clone();
            let (outcome, ()) = join(kept.outcome(), async {
                first.serve(world.nap(5 * SECOND)).await.unwrap();
            })
            .await;
            assert!(outcome.unwrap().output().is_some());
            let took = world.ended_at(&id).await.since(begins);
            assert!(took <= 25 * SECOND + POLL, "{took:?}");
        })
        .unwrap();
    assert_eq!(world.who_began("given"), ["first", "second"]);
    assert_eq!(world.who_began("kept"), ["first"]);
}

#[test]
fn a_run_that_nobody_wants_where_it_was_begun_goes_to_who_serves() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let first = world.engine("first");
            let _serving = serve(&world, world.engine("second"));
            // What somebody waits for has the engine live on.
            let long = first.start(&flow("long", 300), ()).await.unwrap();
            let id = first.start(&flow("dropped", 1), ()).await.unwrap().id().clone();
            let began = world.time.now();
            assert!(long.outcome().await.unwrap().output().is_some());
            let took = world.ended_at(&id).await.since(began);
            assert!(took <= LEASE / 3 + 2 * POLL, "{took:?}");
        })
        .unwrap();
    assert_eq!(world.who_began("dropped"), ["second"]);
    assert_eq!(world.who_began("long"), ["first"]);
}

#[test]
fn what_could_not_be_given_is_given_again() {
    let world = World::new();
    let (calls, lost) = (Arc::new(Mutex::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, loses) = (Arc::clone(&calls), Arc::clone(&lost));
    // One is not done, the next is done and its answer lost.
    let fails = move |call: Call| {
        let mut count = count.lock().unwrap();
        *count += u32::from(loses.load(Ordering::Relaxed) && call.method == "commit");
        match (call.method, *count) {
            ("commit", 1) => Some(Fault::Before),
            ("commit", 2) => Some(Fault::After),
            _ => None,
        }
    };
    let first = world.engine_on("first", Faulty::new(world.storage.clone(), fails));
    world
        .time
        .block_on(async {
            let _serving = serve(&world, world.engine("second"));
            let long = first.start(&flow("long", 300), ()).await.unwrap();
            let driving = async { assert!(long.outcome().await.unwrap().output().is_some()) };
            let others = async {
                world.nap(SECOND).await;
                let id = first.start(&flow("dropped", 1), ()).await.unwrap().id().clone();
                lost.store(true, Ordering::Relaxed);
                let began = world.time.now();
                world.nap(2 * LEASE).await;
                let took = world.ended_at(&id).await.since(began);
                assert!(took <= LEASE, "{took:?}");
            };
            join(driving, others).await;
        })
        .unwrap();
    assert!(*calls.lock().unwrap() >= 2);
    assert_eq!(world.who_began("dropped"), ["second"]);
}

#[test]
fn a_served_engine_that_waits_for_an_answer_keeps_its_runs() {
    for method in ["claim", "mail", "next_due"] {
        let world = World::new();
        let lost = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&lost);
        let hangs = move |call: Call| {
            (call.method == method && asked.load(Ordering::Relaxed)).then_some(Fault::Hangs)
        };
        let first = world.engine_on("first", Faulty::new(world.storage.clone(), hangs));
        world
            .time
            .block_on(async {
                let id = first.start(&flow("long", 300), ()).await.unwrap().id().clone();
                let _serving = serve(&world, first);
                let _others = serve(&world, world.engine("second"));
                world.nap(SECOND).await;
                lost.store(true, Ordering::Relaxed);
                world.nap(4 * LEASE).await;
                lost.store(false, Ordering::Relaxed);
                world.nap(10 * LEASE).await;
                world.ended_at(&id).await;
            })
            .unwrap();
        assert_eq!(world.who_began("long"), ["first"], "{method}");
    }
}

#[test]
fn what_was_decided_and_never_stored_keeps_no_run_from_the_others() {
    let world = World::new();
    let (first, fails) = world.cut_off("first", |call| call.method == "commit");
    world
        .time
        .block_on(async {
            let _serving = serve(&world, world.engine("second"));
            let long = first.start(&flow("long", 300), ()).await.unwrap();
            let driving = async { assert!(long.outcome().await.unwrap().output().is_some()) };
            let others = async {
                world.nap(SECOND).await;
                let run = first.start(&flow("dropped", 1), ()).await.unwrap();
                fails.store(true, Ordering::Relaxed);
                run.outcome().await.unwrap_err();
                fails.store(false, Ordering::Relaxed);
                let (id, began) = (run.id().clone(), world.time.now());
                drop(run);
                world.nap(2 * LEASE).await;
                let took = world.ended_at(&id).await.since(began);
                assert!(took <= LEASE, "{took:?}");
            };
            join(driving, others).await;
        })
        .unwrap();
    assert_eq!(world.who_began("dropped"), ["second"]);
}

#[test]
fn a_run_stays_where_it_was_begun_if_there_is_no_other_engine() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let only = world.engine("only");
            let long = only.start(&flow("long", 300), ()).await.unwrap();
            let id = only.start(&flow("later", 1), ()).await.unwrap().id().clone();
            assert!(long.outcome().await.unwrap().output().is_some());
            assert!(matches!(world.stored(&id).await.holding, Holding::Held(_)));
            let later = only.run(&id).await.unwrap();
            assert!(later.outcome().await.unwrap().output().is_some());
        })
        .unwrap();
}

#[test]
fn after_an_outage_however_long_work_goes_on_within_part_of_a_lease() {
    let world = World::new();
    let (engine, is_cut) = world.cut_off("only", |_| true);
    world
        .time
        .block_on(async {
            let _serving = serve(&world, engine.clone());
            // One that has its step under way, and one that is parked.
            let under_way = engine.start(&flow("a", 60), ()).await.unwrap().id().clone();
            let nap = Step::wait("nap", Wait::For(60 * SECOND));
            let nap = Workflow::builder("nap").step(nap).build().unwrap();
            let parked = engine.start(&nap, ()).await.unwrap().id().clone();
            world.nap(SECOND).await;
            is_cut.store(true, Ordering::Relaxed);
            world.nap(Duration::from_secs(1_801)).await;
            is_cut.store(false, Ordering::Relaxed);
            let healed = world.time.now();
            world.nap(LEASE).await;
            for id in [under_way, parked] {
                let took = world.ended_at(&id).await.since(healed);
                assert!(took <= LEASE / 2, "{id}: {took:?}");
            }
        })
        .unwrap();
}

/// A run that waits for a signal, on an engine that nobody hears for longer than a lease; what its outcome
/// is to who has waited for it all the while, and when.
fn silent_for_a_while(is_served: bool) {
    let world = World::new();
    let (first, is_cut) = world.cut_off("first", |_| true);
    world
        .time
        .block_on(async {
            let workflow = waits_for_go();
            let run = first.start(&workflow, ()).await.unwrap();
            let _serving = is_served.then(|| serve(&world, first.clone()));
            let second = world.engine("second");
            let _other = serve(&world, second.clone());
            let others = async {
                world.nap(SECOND).await;
                is_cut.store(true, Ordering::Relaxed);
                world.nap(3 * LEASE).await;
                is_cut.store(false, Ordering::Relaxed);
                let stored = world.stored(run.id()).await;
                assert!(matches!(stored.holding, Holding::Parked(_)), "the other one had it");
                // The first one is heard again before anything happens to the run.
                world.nap(2 * LEASE).await;
                second.run(run.id()).await.unwrap().signal("go", 7).await.unwrap();
                world.nap(2 * LEASE).await;
            };
            let outcome = heard(&run, others).await;
            assert_eq!(**outcome.output().unwrap(), 7);
        })
        .unwrap();
}

#[test]
fn who_was_silent_and_waits_hears_of_what_others_have_done_since() {
    silent_for_a_while(true);
    silent_for_a_while(false);
}

#[test]
fn who_waits_for_a_parked_run_hears_of_what_others_do_with_it() {
    for is_served in [true, false] {
        let world = World::new();
        world
            .time
            .block_on(async {
                let (first, second) = (world.engine("first"), world.engine("second"));
                let _serving = is_served.then(|| serve(&world, first.clone()));
                let _other = serve(&world, second.clone());
                let workflow = waits_for_go();
                let id = second.start(&workflow, ()).await.unwrap().id().clone();
                world.nap(SECOND).await;
                assert!(matches!(world.stored(&id).await.holding, Holding::Parked(_)));
                let run = first.run(&id).await.unwrap();
                let others = async {
                    world.nap(LEASE).await;
                    second.run(&id).await.unwrap().signal("go", 7).await.unwrap();
                    world.nap(2 * LEASE).await;
                };
                let outcome = heard(&run, others).await;
                assert_eq!(**outcome.output().unwrap(), 7, "served: {is_served}");
            })
            .unwrap();
    }
}

#[test]
fn who_can_run_nothing_leaves_runs_to_whoever_serves() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let web = world.bare();
            let missing = web.start(&flow("a", 1), ()).await.map(drop).unwrap_err();
            assert_eq!(missing.kind(), ErrorKind::NotFound);
            let id = web.enqueue(&flow("a", 1), (), StartOptions::id("r")).await.unwrap();
            let held = world.stored(&id).await.holding;
            assert_eq!(held, Holding::Parked(Some(world.time.now())), "nobody's, and due");
            let again = web.enqueue(&flow("a", 1), (), StartOptions::id("r")).await.unwrap();
            assert_eq!(again, id, "it is started once");
            let other = web.enqueue(&flow("b", 1), (), StartOptions::id("r")).await.unwrap_err();
            assert_eq!(other.kind(), ErrorKind::AlreadyExists);
            let began = world.time.now();
            let _serving = serve(&world, world.engine("worker"));
            world.nap(POLL).await;
            assert!(world.ended_at(&id).await.since(began) <= 2 * SECOND);
            // While it serves, it looks as often as any.
            let began = world.time.now();
            let id = web.enqueue(&flow("b", 1), (), StartOptions::default()).await.unwrap();
            world.nap(2 * POLL).await;
            assert!(world.ended_at(&id).await.since(began) <= POLL + SECOND);
        })
        .unwrap();
    assert_eq!(world.who_began("a"), ["worker"]);
}

#[test]
fn who_serves_takes_what_it_enqueues_at_once_if_it_can_run_it() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let engine = world.engine("only");
            let _serving = serve(&world, engine.clone());
            world.nap(SECOND).await;
            let began = world.time.now();
            let id = engine.enqueue(&flow("a", 1), (), StartOptions::default()).await.unwrap();
            world.nap(5 * SECOND).await;
            assert_eq!(world.ended_at(&id).await.since(began), SECOND);
        })
        .unwrap();
}

#[test]
fn what_cannot_begin_is_not_enqueued() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let web = world.bare();
            let sub = Workflow::builder("w").step(Step::workflow("s", "nowhere")).build().unwrap();
            let unknown = web.enqueue(&sub, (), StartOptions::default()).await.unwrap_err();
            assert_eq!(unknown.kind(), ErrorKind::InvalidWorkflow, "{unknown}");
            let options = StartOptions::default().variable("none", 1);
            let variable = web.enqueue(&flow("a", 1), (), options).await.unwrap_err();
            assert_eq!(variable.kind(), ErrorKind::Configuration, "{variable}");
            let bad = StartOptions::id("");
            let id = web.enqueue(&flow("a", 1), (), bad).await.unwrap_err();
            assert_eq!(id.kind(), ErrorKind::Configuration, "{id}");
            assert!(world.storage.list(Default::default()).await.unwrap().is_empty());
        })
        .unwrap();
}

/// A parked run, as an engine has loaded it that is told late what was said to it; another engine, which
/// is served, is quicker.
async fn told_late(world: &World) -> (RunHandle, oneshot::Sender<()>) {
    let first = world.told_late("first", 4 * POLL + POLL / 2);
    let second = world.engine("second");
    let serving = serve(world, second.clone());
    let id = second.start(&waits_for_go(), ()).await.unwrap().id().clone();
    world.nap(SECOND).await;
    assert!(matches!(world.stored(&id).await.holding, Holding::Parked(_)));
    (first.run(&id).await.unwrap(), serving)
}

/// What becomes of what is said, in the end.
async fn answer(world: &World, said: impl Future<Output = Result<()>>) -> Result<()> {
    match select(pin!(said), pin!(world.nap(LEASE))).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => panic!("nobody says what has become of it"),
    }
}

#[test]
fn who_says_something_to_a_parked_run_hears_what_others_have_answered() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let (run, _serving) = told_late(&world).await;
            answer(&world, run.signal("go", 7)).await.unwrap();
        })
        .unwrap();
}

#[test]
fn who_answers_something_hears_what_others_have_answered_before() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let (run, serving) = told_late(&world).await;
            // The run is as it was when that is refused.
            let refused = answer(&world, run.approve("nothing", Vote::approve("ann")));
            let others = async {
                // Just before the first engine is told what was said.
                world.nap(4 * POLL).await;
                drop(serving);
                let later = Message::Signal(Signal::new("later", 7));
                world.storage.post(run.id(), later).await.unwrap();
            };
            let (refused, ()) = join(refused, others).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Rejected);
        })
        .unwrap();
}

#[test]
fn who_can_run_nothing_says_things_to_runs_and_hears_what_becomes_of_them() {
    for is_served in [false, true] {
        let world = World::new();
        world
            .time
            .block_on(async {
                let web = world.bare();
                let _looks = is_served.then(|| serve(&world, web.clone()));
                let steps = [
                    Step::wait("go", Wait::signal("go")),
                    Step::task("a", "work").input("seconds", "1").after("go"),
                ];
                let workflow = Workflow::builder("w").steps(steps).build().unwrap();
                let id = web.enqueue(&workflow, (), StartOptions::id("r")).await.unwrap();
                let run = web.run(&id).await.unwrap();
                // There is nobody else, and it is accepted.
                answer(&world, run.signal("go", 7)).await.unwrap();
                let refused = answer(&world, run.approve("none", Vote::approve("ann"))).await;
                assert_eq!(refused.unwrap_err().kind(), ErrorKind::Rejected);
                let others = async {
                    world.nap(2 * LEASE).await;
                    let holding = world.stored(&id).await.holding;
                    assert!(!matches!(holding, Holding::Held(_)), "{holding:?}");
                    let began = world.time.now();
                    let _serving = serve(&world, world.engine("worker"));
                    world.nap(3 * LEASE).await;
                    let took = world.ended_at(&id).await.since(began);
                    // Who served, and could not run it, has set it aside for a minute.
                    let most = if is_served { 2 * LEASE + 5 * POLL } else { 2 * POLL + SECOND };
                    assert!(took <= most, "{took:?}");
                };
                assert!(heard(&run, others).await.output().is_some());
                // What has ended goes on when it is to, by others.
                let again = Operation::rerun("a");
                let run = answer(&world, async {
                    web.reopen(&id, again, Reason::default()).await.map(drop)
                });
                run.await.unwrap();
                let _serving = serve(&world, world.engine("worker"));
                let run = web.run(&id).await.unwrap();
                assert!(heard(&run, world.nap(3 * LEASE)).await.output().is_some());
            })
            .unwrap();
        assert_eq!(world.who_began("a"), ["worker"; 2], "served: {is_served}");
    }
}

#[test]
fn who_can_run_nothing_leaves_a_run_of_one_that_is_gone_to_others() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let (web, (gone, is_cut)) = (world.bare(), world.cut_off("gone", |_| true));
            let _dead = serve(&world, gone.clone());
            let id = gone.start(&flow("a", 20), ()).await.unwrap().id().clone();
            world.nap(SECOND).await;
            is_cut.store(true, Ordering::Relaxed);
            let run = web.run(&id).await.unwrap();
            let began = world.time.now();
            run.signal("later", 7).await.unwrap();
            assert!(world.time.now().since(began) < 3 * LEASE);
            assert_eq!(world.stored(&id).await.recoveries, 1, "it has not got on by that");
            let others = async {
                world.nap(SECOND).await;
                let holding = world.stored(&id).await.holding;
                assert!(matches!(holding, Holding::Parked(Some(_))), "{holding:?}");
                let _serving = serve(&world, world.engine("worker"));
                world.nap(LEASE).await;
            };
            assert!(heard(&run, others).await.output().is_some());
        })
        .unwrap();
    assert_eq!(world.who_began("a"), ["gone", "worker"]);
}

#[test]
fn a_run_that_nobody_looks_at_any_more_is_not_kept_as_it_was() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let (first, second) = (world.engine("first"), world.engine("second"));
            let _serving = serve(&world, second.clone());
            let id = second.start(&flow("a", 5), ()).await.unwrap().id().clone();
            let status = async || first.run(&id).await.unwrap().status();
            assert_eq!(status().await, RunStatus::Running);
            world.nap(6 * SECOND).await;
            assert_eq!(status().await, RunStatus::Succeeded);
        })
        .unwrap();
}

#[test]
fn who_can_run_nothing_sees_what_happens_to_a_run_elsewhere() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let (web, worker) = (world.bare(), world.engine("worker"));
            let _serving = serve(&world, worker.clone());
            let id = worker.start(&flow("a", 5), ()).await.unwrap().id().clone();
            world.nap(SECOND).await;
            let seen = web.run(&id).await.unwrap().events();
            let run = web.run(&id).await.unwrap();
            assert!(heard(&run, world.nap(LEASE)).await.output().is_some());
            let seen: Vec<RunEvent> = seen.collect().await;
            let ended = |event: &RunEvent| match event {
                RunEvent::Journal { recorded, .. } => {
                    matches!(recorded.event, Event::RunFinished { .. })
                }
                _ => false,
            };
            assert!(seen.len() > 1 && seen.iter().any(ended), "{seen:?}");
        })
        .unwrap();
}

#[test]
fn what_is_said_twice_to_a_run_that_gets_on_is_done_at_once_each_time() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let (web, worker) = (world.bare(), world.engine("worker"));
            let _looks = serve(&world, web.clone());
            let _serving = serve(&world, worker.clone());
            let steps =
                ["one", "two", "three", "four"].map(|name| Step::wait(name, Wait::signal(name)));
            let workflow = Workflow::builder("w").step(Step::sequence("s", steps)).build().unwrap();
            let id = web.enqueue(&workflow, (), StartOptions::default()).await.unwrap();
            world.nap(5 * SECOND).await;
            let began = world.time.now();
            for name in ["one", "two", "three", "four"] {
                web.run(&id).await.unwrap().signal(name, ()).await.unwrap();
                world.nap(5 * SECOND).await;
            }
            world.nap(LEASE).await;
            assert!(world.ended_at(&id).await.since(began) <= 20 * SECOND);
        })
        .unwrap();
}

#[test]
fn who_reopens_a_run_does_not_wait_for_its_end_if_others_have_it_go_on() {
    const LAST: u64 = 6;
    let late = [SECOND, 5 * SECOND, 40 * SECOND];
    let late = late.into_iter().flat_map(|by| [Fault::AnswersLate(by), Fault::DoneLate(by)]);
    let faults: Vec<Fault> = [Fault::Before, Fault::After, Fault::Hangs, Fault::HangsAfter]
        .into_iter()
        .chain(late)
        .collect();
    // Whichever of its calls goes wrong, and none of them.
    let faults = (0..=LAST).flat_map(|number| faults.iter().map(move |fault| (number, *fault)));
    let mut calls = 0;
    for (number, fault) in faults {
        let world = World::new();
        let goes_wrong = move |call: Call| (call.number == number).then_some(fault);
        let storage = Faulty::new(world.storage.clone(), goes_wrong).runtime(world.time.clone());
        let first = world.engine_on("first", storage.clone());
        let when = format!("call {number}, {fault:?}");
        world
            .time
            .block_on(async {
                let second = world.engine("second");
                let _serving = serve(&world, second.clone());
                let id = second.start(&flow("a", 1_000), ()).await.unwrap().id().clone();
                world.nap(1_001 * SECOND).await;
                assert_eq!(world.stored(&id).await.status, RunStatus::Succeeded);
                let again = first.reopen(&id, Operation::rerun("a"), Reason::default());
                let waits = world.nap(120 * SECOND);
                let Either::Left((again, _)) = select(pin!(again), pin!(waits)).await else {
                    panic!("{when}: it waits for the end");
                };
                // It may fail, if the storage does not say that it was done.
                assert!(number > 0 || again.is_ok_and(|run| run.status() == RunStatus::Running));
                world.nap(LEASE).await;
            })
            .unwrap();
        if number == 0 {
            assert_eq!(world.who_began("a"), ["second"; 2]);
        }
        calls = calls.max(storage.calls());
    }
    assert!(calls >= LAST, "there are only {calls} calls");
}
