//! What the simulation has found, each in the fewest steps.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{Either, join, join_all, select};
use stepwell::engine::Retention;
use stepwell::journal::{Operation, Reason, Signal};
use stepwell::runtime::Runtime as _;
use stepwell::storage::{Acquire, Holding, Memory, Message, Owner, Storage};
use stepwell::testing::{Call, Fault, Faulty, VirtualRuntime};
use stepwell::workflow::Lock;
use stepwell::{
    Engine, ExecutionContext, Outcome, RetryConfig, RunStatus, Step, StepError, Wait, Workflow,
    executor_fn,
};

use super::shapes::work;
use super::tape::at_once;
use super::world::SECOND;

/// A place for engines whose steps count how often they begin.
#[derive(Clone)]
struct Place {
    time: VirtualRuntime,
    memory: Memory,
    begun: Arc<Mutex<Vec<String>>>,
}

impl Place {
    fn new() -> Self {
        Self { time: VirtualRuntime::new(3), memory: Memory::new(), begun: Arc::default() }
    }

    fn engine(&self, decide: impl FnMut(Call) -> Option<Fault> + Send + 'static) -> Engine {
        let storage = Faulty::new(self.memory.clone(), decide).runtime(self.time.clone());
        let begun = Arc::clone(&self.begun);
        Engine::builder()
            .runtime(self.time.clone())
            .storage(storage)
            .executor(
                "work",
                executor_fn(move |ctx| {
                    begun.lock().unwrap().push(ctx.step());
                    let fails: u32 = ctx.input("fails").unwrap_or(0);
                    async move {
                        if ctx.attempt() <= fails { Err(StepError::retryable("no")) } else { Ok(1) }
                    }
                }),
            )
            .build()
            .unwrap()
    }

    async fn nap(&self, length: Duration) {
        self.time.sleep_until(self.time.now() + length).await;
    }

    fn begun(&self) -> Vec<String> {
        self.begun.lock().unwrap().clone()
    }
}

fn flow(steps: impl IntoIterator<Item = Step>) -> Workflow {
    Workflow::builder("w").steps(steps).build().unwrap()
}

/// The call of this number of a method fails so.
fn nth(method: &'static str, number: u32, fault: Fault) -> impl FnMut(Call) -> Option<Fault> {
    let mut calls = 0;
    move |call| {
        calls += u32::from(call.method == method);
        (call.method == method && calls == number).then_some(fault)
    }
}

fn reason() -> Reason {
    Reason::new("ann", "because")
}

#[test]
fn a_failure_that_could_not_be_stored_is_reported_again_and_not_run_again() {
    let place = Place::new();
    // That the step has begun is the first, that it has failed the second.
    let engine = place.engine(nth("commit", 2, Fault::Before));
    let step = work("a").input("fails", "9").retry(RetryConfig::attempts(1));
    let outcome = place.time.block_on(async {
        let run = engine.start(&flow([step]), ()).await.unwrap();
        assert!(run.outcome().await.is_err());
        run.outcome().await.unwrap()
    });
    assert!(matches!(outcome.unwrap(), Outcome::Failed { .. }));
    assert_eq!(place.begun(), ["a"]);
}

#[test]
fn what_was_done_at_once_when_a_run_was_resumed_is_done_once() {
    let place = Place::new();
    let engine = place.engine(|_| None);
    let done = place.time.block_on(async {
        let steps = [Step::wait("w", Wait::For(5 * SECOND)), work("a").after("w")];
        let run = engine.start(&flow(steps), ()).await.unwrap();
        run.pause(reason()).await.unwrap();
        let resumes = async {
            place.nap(10 * SECOND).await;
            let (mut definition, revision) = run.definition();
            definition.steps.push(work("b").after("w"));
            let changed = Workflow::from_definition(definition).unwrap();
            run.operate(run.modification(&changed, revision).unwrap(), reason()).await.unwrap();
            run.resume(reason()).await.unwrap();
        };
        join(run.outcome(), resumes).await.0.unwrap()
    });
    assert!(matches!(done.unwrap(), Outcome::Succeeded(_)));
    let mut begun = place.begun();
    begun.sort_unstable();
    assert_eq!(begun, ["a", "b"]);
}

#[test]
fn a_lock_that_a_crashed_engine_has_taken_is_used_by_the_step_that_has_it() {
    let place = Place::new();
    // Nothing is committed but that the first is ready; the second step gets the lock, and no more.
    let locked = |id| work(id).lock(Lock::new("one"));
    let workflow = flow([work("z"), locked("a").after("z"), locked("b").after("z")]);
    let outcome = place.time.block_on(async {
        let first = place.engine(|_| None);
        let run = first.start(&workflow, ()).await.unwrap();
        let id = run.id().clone();
        drop((run, first));
        // As if it had been given to `b` just before.
        let step = stepwell::StepKey::root(2);
        let stored = place.memory.load(&id).await.unwrap().unwrap();
        let Holding::Held(owner) = stored.holding else { panic!("{:?}", stored.holding) };
        let asked = Acquire {
            owner,
            expected: stored.length(),
            step,
            wants: vec![stepwell::run::Want::new("one")],
            now: place.time.now(),
        };
        let denied = place.memory.acquire(&id, asked).await.unwrap();
        assert_eq!(denied, None);
        let second = place.engine(|_| None);
        let found = async { second.run(&id).await.unwrap().outcome().await.unwrap() };
        let served = second.serve(place.nap(200 * SECOND));
        let both = join(select(Box::pin(found), Box::pin(place.nap(150 * SECOND))), served);
        matches!(both.await.0, Either::Left((Outcome::Succeeded(_), _)))
    });
    assert!(outcome.unwrap(), "nobody used the lock");
}

#[test]
fn a_question_for_locks_that_is_heard_late_gives_them_to_nobody() {
    let place = Place::new();
    let engine = place.engine(nth("acquire", 1, Fault::DoneLate(50 * SECOND)));
    let locked = |id| work(id).lock(Lock::new("one"));
    // When the first question is heard `a` has asked again, and ended.
    let wait = Step::wait("w", Wait::For(100 * SECOND)).after("a");
    let status = place.time.block_on(async {
        let steps = [locked("a"), wait, locked("b").after("w")];
        // As long as there is a handle the engine holds the run all the time.
        let run = engine.start(&flow(steps), ()).await.unwrap();
        engine.serve(place.nap(300 * SECOND)).await.unwrap();
        place.memory.load(run.id()).await.unwrap().unwrap().status
    });
    assert_eq!(status.unwrap(), RunStatus::Succeeded);
    assert_eq!(place.begun(), ["a", "b"]);
}

#[test]
fn a_step_that_is_reset_before_it_begins_asks_for_its_locks_again() {
    let place = Place::new();
    // `c` is given its lock, and `b` is not.
    let asked = Arc::new(AtomicU32::new(0));
    let asks = Arc::clone(&asked);
    let engine = place.engine(move |call| {
        let number = u32::from(call.method == "acquire");
        let before = asks.fetch_add(number, Ordering::Relaxed);
        (number == 1 && before == 1).then_some(Fault::Before)
    });
    let locked = |id: &str| work(id).after("a").lock(Lock::new(id));
    let outcome = place.time.block_on(async {
        let run = engine.start(&flow([work("a"), locked("c"), locked("b")]), ()).await.unwrap();
        assert!(run.outcome().await.is_err());
        run.operate(Operation::rerun("a"), reason()).await.unwrap();
        run.outcome().await.unwrap()
    });
    assert!(matches!(outcome.unwrap(), Outcome::Succeeded(_)));
    assert_eq!(asked.load(Ordering::Relaxed), 4, "each of them, before and after");
}

#[test]
fn a_claim_that_is_done_after_its_engine_gave_it_up_is_found() {
    let place = Place::new();
    let status = place.time.block_on(async {
        let first = place.engine(|_| None);
        let steps = [Step::wait("w", Wait::signal("go")), work("a").after("w")];
        let run = first.start(&flow(steps), ()).await.unwrap();
        let id = run.id().clone();
        drop(run);
        // Parks it.
        first.serve(place.nap(SECOND)).await.unwrap();
        drop(first);
        let second = place.engine(nth("claim", 1, Fault::DoneLate(50 * SECOND)));
        let says = async {
            // Just before the claim is done, which takes the run then.
            place.nap(Duration::from_millis(49_900)).await;
            let message = Message::Signal(Signal::new("go", ()));
            place.memory.post(&id, message).await.unwrap();
            place.nap(300 * SECOND).await;
        };
        second.serve(says).await.unwrap();
        place.memory.load(&id).await.unwrap().unwrap().status
    });
    assert_eq!(status.unwrap(), RunStatus::Succeeded);
}

#[test]
fn an_engine_that_has_retired_and_is_served_again_is_not_who_was_silent() {
    let place = Place::new();
    let begun = Arc::new(AtomicU32::new(0));
    let counts = Arc::clone(&begun);
    let slow = move |ctx: ExecutionContext| {
        counts.fetch_add(1, Ordering::Relaxed);
        async move {
            ctx.sleep(100 * SECOND).await;
            Ok(1)
        }
    };
    let engine = || {
        let engine = Engine::builder().runtime(place.time.clone()).storage(place.memory.clone());
        engine.executor("slow", executor_fn(slow.clone())).build().unwrap()
    };
    let (one, two, three) = (engine(), engine(), engine());
    let recoveries = place.time.block_on(async {
        // Silent from its first beat until just after the second engine takes it for gone; then it retires,
        // and is back before that listens again.
        let stopped = AtomicBool::new(false);
        let mut serving = Box::pin(one.serve(place.nap(32 * SECOND)));
        let gated = std::future::poll_fn(|context| match stopped.load(Ordering::Relaxed) {
            true => std::task::Poll::Pending,
            false => serving.as_mut().poll(context),
        });
        let sleeps = async {
            place.nap(SECOND).await;
            stopped.store(true, Ordering::Relaxed);
            place.nap(30 * SECOND).await;
            stopped.store(false, Ordering::Relaxed);
        };
        let story = async {
            let (served, ()) = join(gated, sleeps).await;
            served.unwrap();
            place.nap(3 * SECOND).await;
            let works = async {
                let run = one.start(&flow([Step::task("a", "slow")]), ()).await.unwrap();
                run.outcome().await.unwrap();
                place.memory.load(run.id()).await.unwrap().unwrap().recoveries
            };
            let served = one.serve(place.nap(200 * SECOND));
            join(served, works).await.1
        };
        let listens = two.serve(place.nap(250 * SECOND));
        // Its look for runs in between has the storage forget who has retired.
        let forgets = async {
            place.nap(3 * SECOND).await;
            three.serve(place.nap(250 * SECOND)).await
        };
        join(story, join(listens, forgets)).await.0
    });
    assert_eq!((recoveries.unwrap(), begun.load(Ordering::Relaxed)), (0, 1), "it was alive");
}

#[test]
fn an_engine_that_did_not_listen_takes_nobody_for_gone_who_slept_as_long() {
    let place = Place::new();
    let (one, two) = (place.engine(|_| None), place.engine(|_| None));
    let asleep = [AtomicBool::new(false), AtomicBool::new(false)];
    let recoveries = place.time.block_on(async {
        let slow = Step::wait("w", Wait::For(300 * SECOND));
        let run = one.start(&flow([work("a"), slow]), ()).await.unwrap();
        let [first, second] = [(&one, &asleep[0]), (&two, &asleep[1])].map(|(engine, asleep)| {
            let mut serving = Box::pin(engine.serve(place.nap(100 * SECOND)));
            std::future::poll_fn(move |context| match asleep.load(Ordering::Relaxed) {
                true => std::task::Poll::Pending,
                false => serving.as_mut().poll(context),
            })
        });
        let sleeps = async {
            let sleep = |engine: usize, on| asleep[engine].store(on, Ordering::Relaxed);
            place.nap(15 * SECOND).await;
            sleep(0, true);
            sleep(1, true);
            // Both machines were suspended; who wakes first has heard nobody for as long.
            place.nap(40 * SECOND).await;
            sleep(1, false);
            place.nap(SECOND).await;
            sleep(0, false);
        };
        let served = join(join(first, second), sleeps).await.0;
        served.0.unwrap();
        served.1.unwrap();
        place.memory.load(run.id()).await.unwrap().unwrap().recoveries
    });
    assert_eq!(recoveries.unwrap(), 0, "it was as silent as who listened");
}

#[test]
fn engines_whose_clocks_are_ahead_keep_no_run_from_those_that_can_run_it() {
    for ahead in [&[3_600][..], &[5, 4], &[3_600, 60], &[90, 60, 30], &[9, 8, 7, 6, 5]] {
        assert_eq!(status_beside(ahead), RunStatus::Succeeded, "{ahead:?}");
    }
}

/// What becomes of a run that one engine can run, beside others that cannot, with clocks that are so
/// many seconds ahead of its clock.
fn status_beside(ahead: &[i64]) -> RunStatus {
    let place = Place::new();
    let rare = || executor_fn(|_| async { Ok(1) });
    let engine = |time: &VirtualRuntime| {
        Engine::builder().runtime(time.clone()).storage(place.memory.clone())
    };
    let status = place.time.block_on(async {
        let first = engine(&place.time).executor("rare", rare()).build().unwrap();
        let id = first.start(&flow([Step::task("a", "rare")]), ()).await.unwrap().id().clone();
        first.serve(async {}).await.unwrap();
        // Those that lack the executor are the first to see that the run may be tried again.
        let lack = ahead.iter().map(|ahead| async {
            let clock = place.time.own_clock();
            clock.set_clock(*ahead);
            let lacks = engine(&clock).build().unwrap();
            lacks.serve(place.nap(610 * SECOND)).await
        });
        let has = engine(&place.time).executor("rare", rare()).build().unwrap();
        let comes = async {
            place.nap(10 * SECOND).await;
            has.serve(place.nap(600 * SECOND)).await
        };
        let (lack, has) = join(join_all(lack), comes).await;
        lack.into_iter().chain([has]).for_each(|served| served.unwrap());
        place.memory.load(&id).await.unwrap().unwrap().status
    });
    status.unwrap()
}

#[test]
fn an_engine_that_removes_runs_claims_none_before_it_was_heard_of() {
    let place = Place::new();
    let (memory, heard) = (place.memory.clone(), Arc::new(Mutex::new(Vec::new())));
    let hears = Arc::clone(&heard);
    // Its first word, said before it looks for runs to remove, is late.
    let mut late = nth("beat", 1, Fault::DoneLate(4 * SECOND));
    let storage = Faulty::new(place.memory.clone(), move |call| {
        if call.method == "claim" {
            let alive = at_once(memory.beat(Owner(9))).unwrap();
            hears.lock().unwrap().push(alive.len());
        }
        late(call)
    });
    let engine = Engine::builder()
        .runtime(place.time.clone())
        .storage(storage.runtime(place.time.clone()))
        .retention(Retention::new().keep_at_most(9))
        .build()
        .unwrap();
    let served = place.time.block_on(engine.serve(place.nap(20 * SECOND)));
    served.unwrap().unwrap();
    let heard = heard.lock().unwrap();
    assert!(!heard.is_empty() && heard.iter().all(|alive| *alive == 2), "{heard:?}");
}
