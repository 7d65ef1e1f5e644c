//! Several engines on one storage, of which some go away: in virtual time.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, join, poll_fn, select};
use serde_json::json;
use stepwell::engine::EngineLimits;
use stepwell::journal::{Reason, Signal, Vote};
use stepwell::run::{Explanation, RunExplanation};
use stepwell::runtime::Runtime as _;
use stepwell::storage::{ANSWERS_KEPT, Holding, Memory, Message, Owner, RunQuery, Storage};
use stepwell::testing::{Fault, Faulty, VirtualRuntime};
use stepwell::workflow::Limits;
use stepwell::{
    Engine, ErrorKind, Outcome, RunId, RunStatus, StartOptions, Step, StepError, Wait, Workflow,
    executor_fn,
};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

struct World {
    time: VirtualRuntime,
    storage: Memory,
    /// Which engine began which attempt.
    begun: Arc<Mutex<Vec<(&'static str, String)>>>,
}

impl World {
    fn new() -> Self {
        Self { time: VirtualRuntime::new(7), storage: Memory::new(), begun: Arc::default() }
    }

    /// An engine whose steps take as many seconds as their input says.
    fn engine(&self, name: &'static str) -> Engine {
        self.engine_on(name, self.storage.clone())
    }

    fn engine_on(&self, name: &'static str, storage: impl Storage) -> Engine {
        let begun = Arc::clone(&self.begun);
        Engine::builder()
            .runtime(self.time.clone())
            .storage(storage)
            .executor(
                "work",
                executor_fn(move |ctx| {
                    begun.lock().unwrap().push((name, ctx.step().to_string()));
                    async move {
                        let seconds: u64 = ctx.input("seconds").unwrap_or(1);
                        ctx.sleep(Duration::from_secs(seconds)).await;
                        Ok(json!({"key": ctx.idempotency_key()}))
                    }
                }),
            )
            .build()
            .unwrap()
    }

    async fn nap(&self, length: Duration) {
        self.time.sleep_until(self.time.now() + length).await;
    }

    fn begun(&self) -> Vec<(&'static str, String)> {
        self.begun.lock().unwrap().clone()
    }
}

fn flow(steps: impl IntoIterator<Item = Step>) -> Workflow {
    Workflow::builder("w").steps(steps).build().unwrap()
}

fn work(id: &str, seconds: u32) -> Step {
    Step::task(id, "work").input("seconds", seconds.to_string())
}

fn reason() -> Reason {
    Reason::new("ann", "because")
}

#[test]
fn an_engine_that_is_gone_is_replaced_after_a_lease_and_finished_steps_stay_finished() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let first = world.engine("first");
            let second = world.engine("second");
            let steps = [work("a", 1), work("b", 50).after("a"), work("c", 1).after("b")];
            let id = {
                let handle = first.start(&flow(steps), ()).await.unwrap();
                // Dropped while `b` runs, as by a crash: nobody beats for it any more.
                let crash = select(Box::pin(handle.outcome()), Box::pin(world.nap(10 * SECOND)));
                assert!(matches!(crash.await, Either::Right(_)));
                handle.id().clone()
            };
            drop(first);
            let began = world.time.now();
            let done = async {
                let handle = second.run(&id).await.unwrap();
                assert!(matches!(handle.outcome().await.unwrap(), Outcome::Succeeded(_)));
            };
            second.serve(done).await.unwrap();
            let took = world.time.now().since(began);
            assert!(took >= LEASE + 50 * SECOND && took <= LEASE + 75 * SECOND, "{took:?}");
        })
        .unwrap();
    let begun = world.begun();
    let of = |step: &str| -> Vec<&str> {
        begun.iter().filter(|(_, name)| name == step).map(|(engine, _)| *engine).collect()
    };
    assert_eq!(
        (of("a"), of("b"), of("c")),
        (vec!["first"], vec!["first", "second"], vec!["second"])
    );
}

#[test]
fn a_living_engine_keeps_its_runs_however_long_they_take() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let (first, second) = (world.engine("first"), world.engine("second"));
            let handle = first.start(&flow([work("a", 1_000)]), ()).await.unwrap();
            // Nobody serves the first one: driving the run is what keeps it alive.
            let other = second.serve(world.nap(900 * SECOND));
            let (outcome, served) = join(handle.outcome(), other).await;
            served.unwrap();
            assert!(matches!(outcome.unwrap(), Outcome::Succeeded(_)));
        })
        .unwrap();
    assert_eq!(world.begun(), [("first", "a".to_string())]);
}

#[test]
fn a_clock_that_is_set_back_makes_no_engine_look_gone() {
    for served in [true, false] {
        let world = World::new();
        let beats = async || {
            let all = world.storage.beat(Owner(7)).await.unwrap();
            all.iter().find(|beat| beat.owner != Owner(7)).unwrap().count
        };
        let test = async {
            let engine = world.engine("first");
            let handle = engine.start(&flow([work("long", 3600)]), ()).await.unwrap();
            let watch = async {
                world.nap(10 * SECOND).await;
                world.time.set_clock(-3600);
                let before = beats().await;
                world.time.sleep(10 * LEASE).await;
                assert!(beats().await >= before + 29, "three beats in each lease");
            };
            if served {
                engine.serve(watch).await.unwrap();
            } else {
                select(Box::pin(handle.outcome()), Box::pin(watch)).await;
            }
        };
        world.time.block_on(test).unwrap();
    }
}

#[test]
fn who_looks_at_another_engine_s_run_waits_for_it_and_is_answered() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let (first, second) = (world.engine("first"), world.engine("second"));
            let steps = [work("a", 100), Step::wait("go", Wait::signal("go")).after("a")];
            let mine = first.start(&flow(steps), ()).await.unwrap();
            let watch = async {
                world.nap(SECOND).await;
                let theirs = second.run(mine.id()).await.unwrap();
                let watching = theirs.outcome();
                let says = async {
                    world.nap(20 * SECOND).await;
                    assert_eq!(theirs.explain_run(), RunExplanation::Elsewhere);
                    let refused = theirs.resume(reason()).await.unwrap_err();
                    assert_eq!(refused.kind(), ErrorKind::Rejected);
                    assert!(refused.to_string().contains("not paused"), "{refused}");
                    theirs.signal("go", "from afar").await.unwrap();
                };
                join(watching, says).await.0.unwrap()
            };
            let (here, there) = join(mine.outcome(), watch).await;
            assert_eq!(here.unwrap(), there);
            assert_eq!(there.output().unwrap(), &"from afar");
        })
        .unwrap();
    assert_eq!(world.begun(), [("first", "a".to_string())]);
}

#[test]
fn who_asks_for_an_answer_that_nobody_keeps_is_told_so() {
    let world = World::new();
    let test = async {
        let (first, second) = (world.engine("first"), world.engine("second"));
        let steps = [work("a", 100), Step::wait("go", Wait::signal("go")).after("a")];
        let mine = first.start(&flow(steps), ()).await.unwrap();
        let watch = async {
            world.nap(SECOND).await;
            let theirs = second.run(mine.id()).await.unwrap();
            // More than the storage keeps the answers of are answered in one commit.
            let others = async {
                for _ in 0..=ANSWERS_KEPT {
                    let pause = Message::Resume(reason());
                    world.storage.post(mine.id(), pause).await.unwrap();
                }
            };
            join(theirs.signal("go", 1), others).await.0.unwrap_err()
        };
        match select(Box::pin(mine.outcome()), Box::pin(watch)).await {
            Either::Left(_) => panic!("the run ended without an answer"),
            Either::Right((error, _)) => error,
        }
    };
    let error = world.time.block_on(test).unwrap();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains("not kept any more"), "{error}");
}

#[test]
fn a_graceful_end_hands_over_at_once() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let (first, second) = (world.engine("first"), world.engine("second"));
            let id = first.start(&flow([work("a", 30)]), ()).await.unwrap().id().clone();
            first.serve(world.nap(5 * SECOND)).await.unwrap();
            let began = world.time.now();
            let done = async {
                let handle = second.run(&id).await.unwrap();
                handle.outcome().await.unwrap();
            };
            second.serve(done).await.unwrap();
            assert_eq!(world.time.now().since(began), 30 * SECOND);
            // The first one may come back.
            let again = first.execute(&flow([work("b", 1)]), ()).await.unwrap();
            assert!(again.output().is_some());
        })
        .unwrap();
}

#[test]
fn who_was_taken_over_writes_nothing_more() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let (first, second) = (world.engine("first"), world.engine("second"));
            let steps = [work("a", 300), work("b", 1).after("a")];
            let handle = first.start(&flow(steps), ()).await.unwrap();
            let id = handle.id().clone();
            let mut outcome = Box::pin(handle.outcome());
            // Polled, then not for longer than a lease, as a machine that sleeps.
            assert!((&mut outcome).now_or_never().is_none());
            let taken = async {
                world.nap(LEASE + 30 * SECOND).await;
            };
            second.serve(taken).await.unwrap();
            let other = second.run(&id).await.unwrap();
            let (woken, driven) = join(outcome, other.outcome()).await;
            assert_eq!(woken.unwrap(), driven.unwrap());
        })
        .unwrap();
    let begun = world.begun();
    let of_b = begun.iter().filter(|(_, step)| step == "b").count();
    assert_eq!(of_b, 1, "{begun:?}");
}

#[test]
fn a_step_that_takes_its_process_along_is_put_in_quarantine() {
    let world = World::new();
    let crashes = Arc::new(AtomicU32::new(0));
    let limits = EngineLimits { max_recoveries: 2, ..EngineLimits::default() };
    let engine = || {
        let crashes = Arc::clone(&crashes);
        Engine::builder()
            .runtime(world.time.clone())
            .storage(world.storage.clone())
            .limits(limits.clone())
            .executor(
                "poison",
                executor_fn(move |_| {
                    crashes.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<Result<(), StepError>>()
                }),
            )
            .build()
            .unwrap()
    };
    world
        .time
        .block_on(async {
            let id = {
                let first = engine();
                let handle = first.start(&flow([Step::task("a", "poison")]), ()).await.unwrap();
                assert!(handle.outcome().now_or_never().is_none());
                handle.id().clone()
            };
            let mut last = None;
            for _ in 0..4 {
                let next = engine();
                // The storage hears of no end: the process is just gone.
                let serving = Box::pin(next.serve(std::future::pending()));
                drop(select(serving, Box::pin(world.nap(2 * LEASE))).await);
                last = Some(next);
            }
            assert_eq!(crashes.load(Ordering::SeqCst), 3, "the first time, and twice after");
            let last = last.unwrap();
            let handle = last.run(&id).await.unwrap();
            assert_eq!(handle.status(), RunStatus::Paused);
            let why = handle.explain_run();
            assert_eq!(why, RunExplanation::Quarantined { running: vec!["a".into()] });
            assert!(why.to_string().contains("quarantine"), "{why}");
            // It can be tried again, and it can be cancelled.
            handle.resume(reason()).await.unwrap();
            assert!(handle.outcome().now_or_never().is_none());
            assert_eq!(crashes.load(Ordering::SeqCst), 4);
            handle.cancel_within(SECOND, reason()).await.unwrap();
            assert_eq!(handle.outcome().await.unwrap(), Outcome::Cancelled);
        })
        .unwrap();
}

#[test]
fn what_was_taken_over_counts_until_it_ends_however_often_the_journal_is_looked_at() {
    let world = World::new();
    let (time, calm) = (world.time.clone(), world.time.now() + 80 * SECOND);
    let mut is_lost = false;
    // A word of the second engine that is lost, long after it has taken the run over.
    let storage = Faulty::new(world.storage.clone(), move |call| {
        let loses = call.method == "commit" && time.now() > calm && !is_lost;
        is_lost |= loses;
        loses.then_some(Fault::After)
    });
    let (first, second) = (world.engine("first"), world.engine_on("second", storage));
    let steps = [
        work("long", 500),
        Step::wait("pause", Wait::For(90 * SECOND)),
        work("quick", 1).after("pause"),
    ];
    let recoveries = async |id: &RunId| world.storage.load(id).await.unwrap().unwrap().recoveries;
    world
        .time
        .block_on(async {
            let handle = first.start(&flow(steps), ()).await.unwrap();
            let id = handle.id().clone();
            let crash = select(Box::pin(handle.outcome()), Box::pin(world.nap(10 * SECOND)));
            assert!(matches!(crash.await, Either::Right(_)));
            drop((handle, first));
            let waits = async {
                world.nap(70 * SECOND).await;
                assert_eq!(recoveries(&id).await, 1, "it was taken over");
                world.nap(40 * SECOND).await;
                assert!(world.begun().contains(&("second", "quick".into())));
                assert_eq!(recoveries(&id).await, 1, "`long` may be what kills it");
                let handle = second.run(&id).await.unwrap();
                assert!(matches!(handle.outcome().await.unwrap(), Outcome::Succeeded(_)));
                assert_eq!(recoveries(&id).await, 0);
            };
            second.serve(waits).await.unwrap();
        })
        .unwrap();
    let begun = world.begun();
    assert_eq!(begun.iter().filter(|(_, step)| step == "long").count(), 2, "{begun:?}");
}

#[test]
fn a_run_in_quarantine_can_be_cancelled_and_its_neighbours_go_on() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let limits = EngineLimits { max_recoveries: 0, ..EngineLimits::default() };
            let engine = || {
                Engine::builder()
                    .runtime(world.time.clone())
                    .storage(world.storage.clone())
                    .limits(limits.clone())
                    .executor(
                        "poison",
                        executor_fn(|_| std::future::pending::<Result<(), StepError>>()),
                    )
                    .build()
                    .unwrap()
            };
            let (id, other) = {
                let first = engine();
                let poisoned = first.start(&flow([Step::task("a", "poison")]), ()).await.unwrap();
                assert!(poisoned.outcome().now_or_never().is_none());
                let waits = flow([Step::wait("w", Wait::signal("go"))]);
                let other = first.start(&waits, ()).await.unwrap();
                (poisoned.id().clone(), other.id().clone())
            };
            let second = engine();
            let operator = async {
                world.nap(2 * LEASE).await;
                let handle = second.run(&id).await.unwrap();
                assert!(matches!(handle.explain_run(), RunExplanation::Quarantined { .. }));
                handle.cancel(reason()).await.unwrap();
                assert_eq!(handle.outcome().await.unwrap(), Outcome::Cancelled);
                let other = second.run(&other).await.unwrap();
                assert_eq!(other.status(), RunStatus::Running);
                other.signal("go", ()).await.unwrap();
                other.outcome().await.unwrap();
            };
            second.serve(operator).await.unwrap();
        })
        .unwrap();
}

#[test]
fn a_run_that_no_engine_can_read_is_set_aside_and_says_why() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let first = world.engine("first");
            let id = first
                .start(&flow([Step::wait("w", Wait::For(SECOND)), work("a", 1).after("w")]), ())
                .await
                .unwrap()
                .id()
                .clone();
            first.serve(std::future::ready(())).await.unwrap();
            let stranger = Engine::builder()
                .runtime(world.time.clone())
                .storage(world.storage.clone())
                .build()
                .unwrap();
            stranger.serve(world.nap(5 * SECOND)).await.unwrap();
            let summary = world.storage.list(RunQuery::default()).await.unwrap().remove(0);
            assert!(summary.problem.unwrap().contains("work"), "it names the executor");
            // Somebody who can goes on with it when its time has come.
            let second = world.engine("second");
            let done = async {
                world.nap(61 * SECOND).await;
                second.run(&id).await.unwrap().outcome().await.unwrap();
            };
            second.serve(done).await.unwrap();
            let summary = world.storage.list(RunQuery::default()).await.unwrap().remove(0);
            assert_eq!((summary.problem, summary.status), (None, RunStatus::Succeeded));
        })
        .unwrap();
}

#[test]
fn timers_and_decisions_outlive_the_engine_that_began_them() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let first = world.engine("first");
            let steps = [
                Step::wait("month", Wait::For(30 * 24 * 3600 * SECOND)),
                Step::wait("yes", Wait::approval(stepwell::workflow::Approval::by(["ann"]))),
            ];
            let limits = Limits { max_duration: Duration::MAX, ..Limits::default() };
            let flow = Workflow::builder("w").limits(limits).steps(steps).build().unwrap();
            let id = first.start(&flow, ()).await.unwrap().id().clone();
            first.serve(world.nap(SECOND)).await.unwrap();
            drop(first);
            let second = world.engine("second");
            let votes = async {
                world.nap(24 * 3600 * SECOND).await;
                let handle = second.run(&id).await.unwrap();
                let open = handle.approvals();
                assert!(!open.is_empty(), "{} {:?}", handle.explain_run(), handle.explain("yes"));
                handle.approve(&open[0].id, Vote::approve("ann")).await.unwrap();
                drop(handle);
                world.nap(29 * 24 * 3600 * SECOND).await;
                second.run(&id).await.unwrap().outcome().await.unwrap();
            };
            let began = world.time.now();
            second.serve(votes).await.unwrap();
            assert_eq!(world.time.now().since(began).as_secs() / 3600, 30 * 24);
        })
        .unwrap();
}

#[test]
fn a_run_says_where_it_is_in_every_state() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let engine = world.engine("one");
            let steps = [work("a", 10), Step::wait("go", Wait::signal("go")).after("a")];
            let handle =
                engine.start_with(&flow(steps), (), StartOptions::id("r")).await.unwrap();
            assert_eq!(handle.explain_run(), RunExplanation::NotDriven);
            let looks = async {
                world.nap(SECOND).await;
                let RunExplanation::UnderWay { running, ready, waiting } = handle.explain_run()
                else {
                    panic!("it runs");
                };
                assert_eq!((running, ready, waiting), (vec!["a".into()], vec![], vec![]));
                handle.pause(reason()).await.unwrap();
                let RunExplanation::Paused { by, .. } = handle.explain_run() else {
                    panic!("it is paused");
                };
                assert_eq!(by, reason());
                handle.resume(reason()).await.unwrap();
                world.nap(10 * SECOND).await;
                let RunExplanation::UnderWay { waiting, .. } = handle.explain_run() else {
                    panic!("it waits");
                };
                assert!(matches!(&waiting[0], (step, Explanation::WaitsForSignal { .. }) if step == "go"));
                handle.operate(stepwell::journal::Operation::rerun("a"), reason()).await.unwrap();
                world.nap(SECOND).await;
                handle.cancel_within(5 * SECOND, Reason::new("bob", "no more")).await.unwrap();
                let RunExplanation::Stopping { by, running, outcome, .. } = handle.explain_run() else {
                    panic!("it stops: {}", handle.explain_run());
                };
                assert_eq!((by.unwrap().by.as_str(), outcome), ("bob", Outcome::Cancelled));
                assert_eq!(running, ["a"]);
            };
            let began = world.time.now();
            let (outcome, ()) = join(handle.outcome(), looks).await;
            assert_eq!(outcome.unwrap(), Outcome::Cancelled);
            assert!(world.time.now().since(began) <= 18 * SECOND, "its own grace period");
            assert!(matches!(handle.explain_run(), RunExplanation::Ended { .. }));
        })
        .unwrap();
}

#[test]
fn each_wait_has_an_id_by_which_it_alone_is_signalled() {
    let world = World::new();
    let outcome = world
        .time
        .block_on(async {
            let engine = world.engine("one");
            let body = Step::wait("w", Wait::signal("go").schema(json!({"type": "integer"})));
            let each = Step::for_each("each", "input", [body]);
            let handle = engine.start(&flow([each]), json!(["x", "y", "z"])).await.unwrap();
            let says = async {
                world.nap(SECOND).await;
                let waits = handle.waits();
                let ids: std::collections::BTreeSet<_> =
                    waits.iter().map(|wait| &wait.id).collect();
                assert_eq!((waits.len(), ids.len()), (3, 3));
                assert_eq!(waits[0].schema, Some(json!({"type": "integer"})));
                for (number, wait) in waits.iter().enumerate().rev() {
                    let signal = Signal::new("go", number as u64).to(&wait.id);
                    handle.signal_with(signal.clone()).await.unwrap();
                    if number > 0 {
                        let twice = handle.signal_with(signal).await.unwrap_err();
                        assert_eq!(twice.kind(), ErrorKind::Rejected, "it waits no more");
                    }
                }
            };
            join(handle.outcome(), says).await.0.unwrap()
        })
        .unwrap();
    assert_eq!(**outcome.output().unwrap(), json!([0, 1, 2]));
}

#[test]
fn a_message_begins_nothing_that_nobody_goes_on_with() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let (first, second) = (world.engine("first"), world.engine("second"));
            let steps = [work("a", 50), Step::wait("go", Wait::signal("go"))];
            let id = {
                let handle = first.start(&flow(steps), ()).await.unwrap();
                assert!(handle.outcome().now_or_never().is_none());
                handle.id().clone()
            };
            drop(first);
            // Nobody drives it here: it is only told something.
            second.run(&id).await.unwrap().signal("go", ()).await.unwrap();
            assert_eq!(world.begun(), [("first", "a".to_string())]);
            let done = async {
                second.run(&id).await.unwrap().outcome().await.unwrap();
            };
            second.serve(done).await.unwrap();
        })
        .unwrap();
    let begun: Vec<&str> = world.begun().iter().map(|(engine, _)| *engine).collect();
    assert_eq!(begun, ["first", "second"]);
}

#[test]
fn an_engine_that_is_served_again_goes_on_with_what_it_held() {
    let world = World::new();
    world
        .time
        .block_on(async {
            let engine = world.engine("one");
            let id = engine.start(&flow([work("a", 30)]), ()).await.unwrap().id().clone();
            engine.serve(world.nap(5 * SECOND)).await.unwrap();
            engine.serve(world.nap(40 * SECOND)).await.unwrap();
            let stored = world.storage.load(&id).await.unwrap().unwrap();
            assert_eq!(stored.status, RunStatus::Succeeded);
        })
        .unwrap();
}

#[test]
fn a_run_that_was_let_go_is_not_driven_beside_the_one_that_is_loaded_next() {
    let world = World::new();
    let wait = 1_000 * SECOND;
    world
        .time
        .block_on(async {
            let steps = [Step::wait("w", Wait::For(wait)), work("b", 1).after("w")];
            let (first, second) = (world.engine("first"), world.engine("second"));
            let handle = first.start(&flow(steps), ()).await.unwrap();
            let id = handle.id().clone();
            // Held while it waits, as somebody has a handle; then it is gone, as by a crash.
            let crash = select(Box::pin(handle.outcome()), Box::pin(world.nap(SECOND)));
            assert!(matches!(crash.await, Either::Right(_)));
            let holding = async || world.storage.load(&id).await.unwrap().unwrap().holding;
            let before = holding().await;
            drop((handle, first));

            let served = async {
                // So late that it is not this run which asks for itself when the first one is gone.
                world.nap(LEASE - SECOND).await;
                let looks = second.run(&id).await.unwrap();
                while holding().await == before {
                    pending_once().await;
                }
                // Taken over a moment ago, with somebody looking; now nobody is, and it is parked.
                drop(looks);
                while !matches!(holding().await, Holding::Parked(_)) {
                    pending_once().await;
                }
                // Due at once: whoever drives it goes on.
                world.time.advance(wait);
                pending_once().await;
                second.run(&id).await.unwrap().outcome().await.unwrap();
            };
            second.serve(served).await.unwrap();
        })
        .unwrap();
    assert_eq!(world.begun(), [("second", "b".to_string())]);
}

/// Lets go of the thread until somebody is woken who is polled with this.
async fn pending_once() {
    let mut was = false;
    poll_fn(|_| if std::mem::replace(&mut was, true) { Poll::Ready(()) } else { Poll::Pending })
        .await;
}
