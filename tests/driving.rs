//! Who drives a run, what happens when they stop, and storages that fail: in virtual time.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, unbounded};
use futures::executor::block_on;
use futures::future::{BoxFuture, Either, select};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use serde_json::json;
use stepwell::engine::EngineLimits;
use stepwell::executor::RunEvent;
use stepwell::journal::{Reason, Recorded, Signal};
use stepwell::runtime::{ProcessUsage, Runtime};
use stepwell::storage::{
    Answer, Beat, Claim, Claimed, Commit, Created, Holding, Memory, Message, NewRun, Owner, Purge,
    Reply, RunQuery, Storage, StoredRun, Summary,
};
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::Limits;
use stepwell::{
    Engine, Error, ErrorKind, Event, Outcome, RetryConfig, RunId, RunStatus, StartOptions, Step,
    StepError, StepStatus, Timestamp, Wait, Workflow, executor_fn,
};

const SECOND: Duration = Duration::from_secs(1);

fn plain(steps: impl IntoIterator<Item = Step>) -> Workflow {
    Workflow::builder("w").steps(steps).build().unwrap()
}

fn reason() -> Reason {
    Reason::new("test", "because")
}

async fn nap(engine: &Engine, length: Duration) {
    engine.runtime().sleep_until(engine.runtime().now() + length).await;
}

type Task = Box<dyn FnOnce() + Send>;

/// Memory whose commits fail when told to: before anything is written, or after.
#[derive(Clone, Default)]
struct Flaky {
    memory: Memory,
    fails_before: Arc<AtomicBool>,
    fails_after: Arc<AtomicBool>,
    /// The next journal that is loaded arrives late, as it was when it was asked for.
    loads_late: Arc<Mutex<Option<VirtualRuntime>>>,
    /// The next message is there at once, and who posted it hears so late.
    posts_late: Arc<Mutex<Option<VirtualRuntime>>>,
    /// The next run that is parked is so at once, and who parked it hears so late.
    parks_late: Arc<Mutex<Option<VirtualRuntime>>>,
    /// Done when the next run is parked, before who parks it hears so.
    on_park: Arc<Mutex<Option<Task>>>,
    /// Otherwise every second.
    polls_every: Option<Duration>,
    /// Says that something may be there.
    news: Arc<Mutex<Option<UnboundedReceiver<()>>>>,
    /// Claims fail as long as this is so.
    claims_fail: Arc<AtomicBool>,
    claims: Arc<AtomicU32>,
}

impl fmt::Debug for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flaky")
    }
}

fn late<T: Send + 'static>(time: Option<VirtualRuntime>, reply: Reply<T>) -> Reply<T> {
    let Some(time) = time else { return reply };
    let Reply::Ready(Some(found)) = reply else { panic!("memory waits") };
    Reply::later(async move {
        time.sleep_until(time.now() + 5 * SECOND).await;
        found
    })
}

impl Storage for Flaky {
    fn create(&self, run: NewRun) -> Reply<stepwell::Result<Created>> {
        self.memory.create(run)
    }

    fn commit(&self, run: &RunId, commit: Commit) -> Reply<stepwell::Result<Vec<Recorded>>> {
        let failed = || Reply::ready(Err(Error::new(ErrorKind::Storage, "no such luck")));
        if self.fails_before.swap(false, Ordering::SeqCst) {
            return failed();
        }
        let parks = matches!(commit.holding, Holding::Parked(_));
        let time = if parks { self.parks_late.lock().unwrap().take() } else { None };
        let done = late(time, self.memory.commit(run, commit));
        let on_park = if parks { self.on_park.lock().unwrap().take() } else { None };
        if let Some(on_park) = on_park {
            on_park();
        }
        if self.fails_after.swap(false, Ordering::SeqCst) { failed() } else { done }
    }

    fn load(&self, run: &RunId) -> Reply<stepwell::Result<Option<StoredRun>>> {
        late(self.loads_late.lock().unwrap().take(), self.memory.load(run))
    }

    fn events(
        &self,
        run: &RunId,
        from: u64,
        limit: usize,
    ) -> Reply<stepwell::Result<Vec<(u64, Recorded)>>> {
        self.memory.events(run, from, limit)
    }

    fn post(&self, run: &RunId, message: Message) -> Reply<stepwell::Result<u64>> {
        late(self.posts_late.lock().unwrap().take(), self.memory.post(run, message))
    }

    fn inbox(&self, run: &RunId) -> Reply<stepwell::Result<Vec<(u64, Message)>>> {
        self.memory.inbox(run)
    }

    fn acquire(
        &self,
        run: &RunId,
        asked: stepwell::storage::Acquire,
    ) -> Reply<stepwell::Result<Option<stepwell::storage::Denied>>> {
        self.memory.acquire(run, asked)
    }

    fn answer(&self, run: &RunId, number: u64) -> Reply<stepwell::Result<Option<Answer>>> {
        self.memory.answer(run, number)
    }

    fn beat(&self, owner: Owner) -> Reply<stepwell::Result<Vec<Beat>>> {
        self.memory.beat(owner)
    }

    fn retire(&self, owner: Owner) -> Reply<stepwell::Result<()>> {
        self.memory.retire(owner)
    }

    fn mail(&self, owner: Owner, limit: usize) -> Reply<stepwell::Result<Vec<RunId>>> {
        self.memory.mail(owner, limit)
    }

    fn held(
        &self,
        owner: Owner,
        after: Option<RunId>,
        limit: usize,
    ) -> Reply<stepwell::Result<Vec<RunId>>> {
        self.memory.held(owner, after, limit)
    }

    fn claim(&self, claim: Claim) -> Reply<stepwell::Result<Vec<Claimed>>> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        if self.claims_fail.load(Ordering::SeqCst) {
            return Reply::ready(Err(Error::new(ErrorKind::Storage, "no such luck")));
        }
        self.memory.claim(claim)
    }

    fn set_aside(
        &self,
        run: &RunId,
        owner: Owner,
        until: Timestamp,
        why: String,
    ) -> Reply<stepwell::Result<()>> {
        self.memory.set_aside(run, owner, until, why)
    }

    fn next_due(&self) -> Reply<stepwell::Result<Option<Timestamp>>> {
        self.memory.next_due()
    }

    fn poll_every(&self) -> Duration {
        self.polls_every.unwrap_or(SECOND)
    }

    fn news(&self, _: Owner) -> BoxStream<'static, ()> {
        match self.news.lock().unwrap().take() {
            Some(news) => news.boxed(),
            None => stream::pending().boxed(),
        }
    }

    fn purge(&self, which: Purge) -> Reply<stepwell::Result<Vec<RunId>>> {
        self.memory.purge(which)
    }

    fn clear(&self, owner: Owner, runs: Vec<RunId>) -> Reply<stepwell::Result<()>> {
        self.memory.clear(owner, runs)
    }

    fn list(&self, query: RunQuery) -> Reply<stepwell::Result<Vec<Summary>>> {
        self.memory.list(query)
    }
}

#[test]
fn a_run_can_be_cancelled_while_its_outcome_is_set_aside() {
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor("never", executor_fn(|_| std::future::pending::<Result<(), StepError>>()))
        .build()
        .unwrap();
    let outcome = time.block_on(async {
        let handle = engine.start(&plain([Step::task("a", "never")]), ()).await.unwrap();
        let outcome = Box::pin(handle.outcome());
        // As in a `select!` with ctrl-c: the outcome is kept, and not polled.
        match select(outcome, Box::pin(nap(&engine, SECOND))).await {
            Either::Left(_) => panic!("it never ends by itself"),
            Either::Right(((), outcome)) => {
                handle.cancel(reason()).await.unwrap();
                outcome.await.unwrap()
            }
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Cancelled);
}

#[test]
fn a_run_that_is_due_before_its_engine_hears_that_it_is_parked_goes_on() {
    let time = VirtualRuntime::new(1);
    let storage = Flaky::default();
    *storage.parks_late.lock().unwrap() = Some(time.clone());
    let engine = Engine::builder()
        .runtime(time.clone())
        .storage(storage.clone())
        .executor("t", executor_fn(|_| async { Ok(()) }))
        .build()
        .unwrap();
    let flow = plain([Step::wait("w", Wait::For(SECOND)), Step::task("a", "t").after("w")]);
    time.block_on(async {
        drop(engine.start(&flow, ()).await.unwrap());
        engine.serve(nap(&engine, 60 * SECOND)).await.unwrap();
        let run = engine.list(RunQuery::default()).await.unwrap().remove(0);
        assert_eq!(run.status, RunStatus::Succeeded);
    })
    .unwrap();
    assert!(storage.parks_late.lock().unwrap().is_none());
}

#[test]
fn a_run_that_was_looked_at_before_it_was_taken_over_is_driven_once() {
    let time = VirtualRuntime::new(1);
    let storage = Flaky { polls_every: Some(8 * SECOND), ..Flaky::default() };
    let begun = Arc::new(AtomicU32::new(0));
    let engine = || {
        let count = Arc::clone(&begun);
        Engine::builder()
            .runtime(time.clone())
            .storage(storage.clone())
            .executor(
                "t",
                executor_fn(move |ctx| {
                    count.fetch_add(1, Ordering::SeqCst);
                    async move {
                        ctx.sleep(100 * SECOND).await;
                        Ok(())
                    }
                }),
            )
            .build()
            .unwrap()
    };
    let flow = plain([Step::wait("w", Wait::For(92 * SECOND)), Step::task("a", "t").after("w")]);
    time.block_on(async {
        let first = engine();
        let id = first.start(&flow, ()).await.unwrap().id().clone();
        drop(first);
        let second = engine();
        // It hears of the one that is gone, and from a minute later on, a lease long, no more.
        let now = Step::wait("now", Wait::For(Duration::ZERO));
        second.execute(&plain([now]), ()).await.unwrap();
        nap(&second, 60 * SECOND).await;
        drop(second.run(&id).await.unwrap());
        *storage.parks_late.lock().unwrap() = Some(time.clone());
        let done = async {
            nap(&second, 80 * SECOND).await;
            assert!(storage.parks_late.lock().unwrap().is_none());
            assert_eq!(begun.load(Ordering::SeqCst), 1);
            second.run(&id).await.unwrap().outcome().await.unwrap();
        };
        second.serve(done).await.unwrap();
    })
    .unwrap();
    assert_eq!(begun.load(Ordering::SeqCst), 1);
}

/// Does something when it is woken for the first time.
struct Alarm(Mutex<Option<Task>>);

impl std::task::Wake for Alarm {
    fn wake(self: Arc<Self>) {
        let task = self.0.lock().unwrap().take();
        task.into_iter().for_each(|task| task());
    }
}

#[test]
fn a_run_that_somebody_moves_as_it_is_let_go_stays() {
    let time = VirtualRuntime::new(1);
    let storage = Flaky::default();
    let engine = Engine::builder()
        .runtime(time.clone())
        .storage(storage.clone())
        .executor(
            "t",
            executor_fn(|ctx| async move {
                ctx.sleep(SECOND).await;
                Ok(())
            }),
        )
        .build()
        .unwrap();
    // When nobody looks any more for what was held before.
    let later = 100 * SECOND;
    let wait = Step::wait("go", Wait::signal("go")).after("later");
    let flow =
        plain([Step::wait("later", Wait::For(later)), wait, Step::task("a", "t").after("go")]);
    time.block_on(async {
        let id = engine.start(&flow, ()).await.unwrap().id().clone();
        let find = {
            let engine = engine.clone();
            move || engine.run(&id).now_or_never().unwrap().unwrap()
        };
        let on_park = Box::new(move || {
            // Who looks from another thread finds the driver busy, and is woken when it is not any more.
            let looks = std::thread::spawn(move || {
                let waits: Arc<Mutex<Option<BoxFuture<'static, _>>>> = Arc::default();
                let (gone, run) = (Arc::clone(&waits), find());
                let moves: Task = Box::new(move || {
                    drop(gone.lock().unwrap().take());
                    block_on(find().signal("go", ())).unwrap();
                });
                let waker = Arc::new(Alarm(Mutex::new(Some(moves)))).into();
                let mut outcome = async move { run.outcome().await }.boxed();
                let mut context = std::task::Context::from_waker(&waker);
                assert!(outcome.as_mut().poll(&mut context).is_pending());
                *waits.lock().unwrap() = Some(outcome);
            });
            looks.join().unwrap();
        });
        let served = async {
            nap(&engine, later / 2).await;
            *storage.on_park.lock().unwrap() = Some(on_park);
            nap(&engine, later).await;
        };
        engine.serve(served).await.unwrap();
        let run = engine.list(RunQuery::default()).await.unwrap().remove(0);
        assert_eq!(run.status, RunStatus::Succeeded);
    })
    .unwrap();
    assert!(storage.on_park.lock().unwrap().is_none());
}

#[test]
fn a_step_may_speak_to_its_own_run() {
    let time = VirtualRuntime::new(1);
    let shared: Arc<Mutex<Option<stepwell::RunHandle>>> = Arc::default();
    let handle = Arc::clone(&shared);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "speaks",
            executor_fn(move |_| {
                let handle = handle.lock().unwrap().clone().unwrap();
                async move {
                    handle.signal("go", 7).await.map_err(|e| StepError::fatal(e.to_string()))?;
                    Ok(())
                }
            }),
        )
        .build()
        .unwrap();
    let flow = plain([Step::task("a", "speaks"), Step::wait("b", Wait::signal("go"))]);
    let run = time.block_on(async {
        let handle = engine.start(&flow, ()).await.unwrap();
        *shared.lock().unwrap() = Some(handle.clone());
        handle.outcome().await.unwrap()
    });
    shared.lock().unwrap().take();
    assert_eq!(run.unwrap().output().unwrap()["b"], 7);
}

#[test]
fn a_run_that_a_message_ends_is_over_for_everybody() {
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder().runtime(time.clone()).build().unwrap();
    let events = time.block_on(async {
        let flow = plain([Step::wait("a", Wait::signal("go"))]);
        let handle = engine.start(&flow, ()).await.unwrap();
        let events = handle.events();
        // Nobody drives it; the message does.
        handle.signal("go", ()).await.unwrap();
        assert_eq!(handle.status(), RunStatus::Succeeded);
        assert_eq!(handle.outcome().await.unwrap(), Outcome::Succeeded(().into()));
        events.collect::<Vec<_>>().await
    });
    let last = events.unwrap().pop().unwrap();
    let finished = |recorded: &Recorded| matches!(recorded.event, Event::RunFinished { .. });
    assert!(matches!(&last, RunEvent::Journal { recorded, .. } if finished(recorded)), "{last:?}");
}

#[test]
fn a_message_starts_nothing_that_nobody_would_go_on_with() {
    let time = VirtualRuntime::new(1);
    let begun = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&begun);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "t",
            executor_fn(move |ctx| {
                count.fetch_add(1, Ordering::SeqCst);
                async move {
                    ctx.sleep(SECOND).await;
                    Ok(())
                }
            }),
        )
        .build()
        .unwrap();
    let flow = plain([Step::wait("w", Wait::signal("go")), Step::task("a", "t").after("w")]);
    let outcome = time.block_on(async {
        let handle = engine.start(&flow, ()).await.unwrap();
        handle.signal("go", ()).await.unwrap();
        assert_eq!(handle.snapshot().step_status("a"), Some(StepStatus::Ready));
        assert_eq!(begun.load(Ordering::SeqCst), 0);
        handle.outcome().await.unwrap()
    });
    assert!(outcome.unwrap().output().is_some());
    assert_eq!(begun.load(Ordering::SeqCst), 1);
}

#[test]
fn who_stops_waiting_gives_back_what_was_running() {
    let time = VirtualRuntime::new(1);
    let limits = EngineLimits { max_concurrent_steps: 1, ..EngineLimits::default() };
    let engine = Engine::builder()
        .runtime(time.clone())
        .limits(limits)
        .executor(
            "t",
            executor_fn(|ctx| async move {
                ctx.sleep(60 * SECOND).await;
                Ok(ctx.attempt())
            }),
        )
        .build()
        .unwrap();
    let flow = plain([Step::task("a", "t")]);
    let (first, second) = time
        .block_on(async {
            let options = StartOptions::id("first");
            drop(engine.start_with(&flow, (), options).await.unwrap());
            let id = RunId::new("first").unwrap();
            let handle = engine.run(&id).await.unwrap();
            // A time-out around it, as everybody writes it.
            let outcome = Box::pin(async move { handle.outcome().await });
            let waited = select(outcome, Box::pin(nap(&engine, SECOND))).await;
            assert!(matches!(waited, Either::Right(_)));
            drop(waited);
            let second = engine.execute(&flow, ()).await.unwrap();
            let first = engine.run(&id).await.unwrap().outcome().await.unwrap();
            (first, second)
        })
        .unwrap();
    assert_eq!(second.output().unwrap(), 1);
    assert_eq!(first.output().unwrap(), &1, "the same attempt, run again");
}

#[test]
fn an_engine_that_is_dropped_drops_its_runs() {
    struct OnDrop(Arc<AtomicU32>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&dropped);
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "never",
            executor_fn(move |_| {
                let guard = OnDrop(Arc::clone(&counter));
                async move {
                    let _guard = guard;
                    std::future::pending::<Result<(), StepError>>().await
                }
            }),
        )
        .build()
        .unwrap();
    time.block_on(async {
        let handle = engine.start(&plain([Step::task("a", "never")]), ()).await.unwrap();
        assert!(handle.outcome().now_or_never().is_none());
        let kept = handle.clone();
        drop(handle);
        assert_eq!(dropped.load(Ordering::SeqCst), 0, "somebody may go on with it");
        let other = engine.clone();
        drop(engine);
        drop(other);
        drop(kept);
    })
    .unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn a_destructor_that_panics_fails_nothing_else() {
    struct Bad;
    impl Drop for Bad {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "dropped badly");
        }
    }
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "bad",
            executor_fn(|_| async {
                let _bad = Bad;
                std::future::pending::<Result<(), StepError>>().await
            }),
        )
        .build()
        .unwrap();
    let limits = Limits { max_duration: SECOND, ..Limits::default() };
    let flow = Workflow::builder("w").limits(limits).step(Step::task("a", "bad")).build().unwrap();
    let run = time.block_on(engine.execute(&flow, ())).unwrap().unwrap();
    assert_eq!(run.outcome(), Some(Outcome::TimedOut));
}

#[test]
fn quick_steps_do_not_keep_waiting_ones_back() {
    let time = VirtualRuntime::new(1);
    let woken = Arc::new(AtomicBool::new(false));
    let (wakes, sees) = (Arc::clone(&woken), Arc::clone(&woken));
    let (sender, receiver) = futures::channel::oneshot::channel::<()>();
    let (sender, receiver) = (Mutex::new(Some(sender)), Mutex::new(Some(receiver)));
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "waits",
            executor_fn(move |_| {
                let (receiver, wakes) = (receiver.lock().unwrap().take(), Arc::clone(&wakes));
                async move {
                    receiver.unwrap().await.unwrap();
                    wakes.store(true, Ordering::SeqCst);
                    Ok(())
                }
            }),
        )
        .executor(
            "quick",
            executor_fn(move |ctx| {
                if ctx.step() == "s1" {
                    sender.lock().unwrap().take().unwrap().send(()).unwrap();
                }
                let seen = sees.load(Ordering::SeqCst);
                async move { Ok(seen) }
            }),
        )
        .build()
        .unwrap();
    let quick = (0..500).map(|at: usize| {
        let before = at.checked_sub(1).map(|before| format!("s{before}"));
        Step::task(format!("s{at}"), "quick").after_all(before)
    });
    let flow = plain([Step::task("slow", "waits")].into_iter().chain(quick));
    let run = time.block_on(engine.execute(&flow, ())).unwrap().unwrap();
    let first = (0..500).find(|at| run.step_output(&format!("s{at}")).unwrap() == true);
    assert!(first.is_some_and(|first| first < 10), "it went on after step {first:?}");
}

#[test]
fn a_failed_commit_leaves_no_gap_and_loses_no_result() {
    for after in [false, true] {
        let time = VirtualRuntime::new(1);
        let storage = Flaky::default();
        let calls = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&calls);
        let breaks = if after { &storage.fails_after } else { &storage.fails_before };
        let breaks = Arc::clone(breaks);
        let engine = Engine::builder()
            .runtime(time.clone())
            .storage(storage.clone())
            .executor(
                "t",
                executor_fn(move |ctx| {
                    count.fetch_add(1, Ordering::SeqCst);
                    // The commit with the result of `a`, and the start of `b`, fails.
                    breaks.store(ctx.step() == "a", Ordering::SeqCst);
                    async { Ok(5) }
                }),
            )
            .build()
            .unwrap();
        let flow = plain([Step::task("a", "t"), Step::task("b", "t").after("a")]);
        let outcome = time
            .block_on(async {
                let handle = engine.start(&flow, ()).await.unwrap();
                let failed = handle.outcome().await.unwrap_err();
                assert_eq!(failed.kind(), ErrorKind::Storage);
                // Something said to it must not be written over what was lost.
                handle.signal("x", ()).await.unwrap();
                let outcome = handle.outcome().await.unwrap();
                let stored = storage.load(handle.id()).await.unwrap().unwrap();
                let program = Arc::clone(flow.program());
                let replayed =
                    stepwell::run::RunState::replay(handle.id().clone(), program, &stored.journal);
                assert_eq!(replayed.outcome(), Some(&outcome), "{:#?}", stored.journal);
                let succeeded = stored
                    .journal
                    .iter()
                    .filter(|recorded| matches!(recorded.event, Event::StepSucceeded { .. }));
                assert_eq!(succeeded.count(), 2);
                outcome
            })
            .unwrap();
        assert_eq!(outcome.output().unwrap(), &5);
        assert_eq!(calls.load(Ordering::SeqCst), 2, "a result was thrown away (after: {after})");
    }
}

#[test]
fn serve_goes_on_with_a_run_whose_storage_failed() {
    let time = VirtualRuntime::new(1);
    let storage = Flaky::default();
    let breaks = Arc::clone(&storage.fails_before);
    let engine = Engine::builder()
        .runtime(time.clone())
        .storage(storage)
        .executor(
            "t",
            executor_fn(move |_| {
                breaks.store(true, Ordering::SeqCst);
                async { Ok(()) }
            }),
        )
        .build()
        .unwrap();
    time.block_on(async {
        let handle = engine.start(&plain([Step::task("a", "t")]), ()).await.unwrap();
        let ended = async {
            while !handle.status().is_end() {
                nap(&engine, SECOND).await;
            }
        };
        engine.serve(ended).await.unwrap();
        assert_eq!(handle.status(), RunStatus::Succeeded);
    })
    .unwrap();
}

#[test]
fn a_run_is_parked_when_its_last_handle_goes() {
    let time = VirtualRuntime::new(1);
    let storage = Memory::new();
    let engine = Engine::builder().runtime(time.clone()).storage(storage.clone()).build().unwrap();
    let month = Duration::from_secs(30 * 86_400);
    let limits = Limits { max_duration: 2 * month, ..Limits::default() };
    let flow =
        Workflow::builder("w").limits(limits).step(Step::wait("a", Wait::For(month))).build();
    let flow = flow.unwrap();
    time.block_on(async {
        let handle = engine.start(&flow, ()).await.unwrap();
        let id = handle.id().clone();
        let begin = time.now();
        let looks = async {
            nap(&engine, SECOND).await;
            let held = storage.next_due().await.unwrap();
            drop(handle);
            nap(&engine, SECOND).await;
            let parked = storage.next_due().await.unwrap();
            nap(&engine, month).await;
            (held, parked)
        };
        let (sender, receiver) = futures::channel::oneshot::channel();
        let looks = looks.map(|seen| sender.send(seen).unwrap());
        engine.serve(looks).await.unwrap();
        let (held, parked) = receiver.await.unwrap();
        assert_eq!((held, parked), (None, Some(begin + month)));
        assert_eq!(engine.run(&id).await.unwrap().status(), RunStatus::Succeeded);
    })
    .unwrap();
}

#[test]
fn attempts_of_a_run_that_is_over_are_not_taken_over() {
    let time = VirtualRuntime::new(1);
    let storage = Memory::new();
    let calls = Arc::new(AtomicU32::new(0));
    let engine = || {
        let count = Arc::clone(&calls);
        Engine::builder()
            .runtime(time.clone())
            .storage(storage.clone())
            .executor(
                "t",
                executor_fn(move |ctx| {
                    count.fetch_add(1, Ordering::SeqCst);
                    async move {
                        ctx.sleep(60 * SECOND).await;
                        Ok(())
                    }
                }),
            )
            .build()
            .unwrap()
    };
    let limits = Limits { max_duration: 200 * SECOND, ..Limits::default() };
    let step = Step::task("a", "t").attempt_timeout(90 * SECOND).retry(RetryConfig::attempts(1));
    let flow = Workflow::builder("w").limits(limits).step(step).build().unwrap();
    time.block_on(async {
        let first = engine();
        let handle = first.start(&flow, ()).await.unwrap();
        assert!(handle.outcome().now_or_never().is_none());
        let id = handle.id().clone();
        drop(handle);
        drop(first);
        let second = engine();
        nap(&second, 95 * SECOND).await;
        let claims = async {
            nap(&second, SECOND).await;
        };
        second.serve(claims).await.unwrap();
        let run = second.run(&id).await.unwrap();
        let _ = run.outcome().await;
        assert_eq!(run.status(), RunStatus::Failed);
    })
    .unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 1, "it had timed out while nobody drove it");
}

#[test]
fn another_engine_goes_on_with_what_is_being_undone() {
    let time = VirtualRuntime::new(1);
    let storage = Memory::new();
    let begun = Arc::new(Mutex::new(Vec::new()));
    let engine = |name: &'static str| {
        let begun = Arc::clone(&begun);
        Engine::builder()
            .runtime(time.clone())
            .storage(storage.clone())
            .executor("works", executor_fn(|ctx| async move { Ok(ctx.step()) }))
            .executor("fails", executor_fn(|_| async { Err::<(), _>(StepError::fatal("no")) }))
            .executor(
                "undoes",
                executor_fn(move |ctx| {
                    let what: String = ctx.input("what").unwrap();
                    let this = (name, what.clone(), ctx.idempotency_key(), ctx.attempt());
                    begun.lock().unwrap().push(this);
                    async move {
                        ctx.sleep(10 * SECOND).await;
                        match what.as_str() {
                            "b" if ctx.attempt() == 1 => Err(StepError::retryable("busy")),
                            _ => Ok(()),
                        }
                    }
                }),
            )
            .build()
            .unwrap()
    };
    let undo =
        || Step::task("undo", "undoes").input("what", "output").retry(RetryConfig::attempts(3));
    let flow = plain([
        Step::task("a", "works").compensate(undo()),
        Step::task("b", "works").after("a").compensate(undo()),
        Step::task("c", "fails").after("b"),
    ]);
    let outcome = time.block_on(async {
        let first = engine("first");
        let handle = first.start_with(&flow, (), StartOptions::id("r")).await.unwrap();
        let waited = select(Box::pin(handle.outcome()), Box::pin(nap(&first, 5 * SECOND))).await;
        assert!(matches!(waited, Either::Right(_)), "it is undoing");
        drop(waited);
        drop((handle, first));
        let second = engine("second");
        // It says nothing any more; after that long others know that it is gone.
        let lease = EngineLimits::default().lease;
        second.serve(nap(&second, 2 * lease + 60 * SECOND)).await.unwrap();
        let run = second.run(&RunId::new("r").unwrap()).await.unwrap();
        assert_eq!(run.status(), RunStatus::Failed, "nobody else drove it");
        run.outcome().await.unwrap().to_string()
    });
    assert_eq!(outcome.unwrap(), "failed: step c: fatal: no");
    let (b, a) = ("r/b[undo]/undo@1".to_string(), "r/a[undo]/undo@2".to_string());
    let expected = [
        ("first", "b".to_string(), b.clone(), 1),
        ("second", "b".into(), b.clone(), 1),
        ("second", "b".into(), b, 2),
        ("second", "a".into(), a, 1),
    ];
    assert_eq!(*begun.lock().unwrap(), expected);
}

#[test]
fn steps_that_take_too_long_open_the_breaker_and_waits_do_not() {
    let time = VirtualRuntime::new(1);
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "hangs",
            executor_fn(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<Result<(), StepError>>()
            }),
        )
        .build()
        .unwrap();
    let step = |at| {
        let id = format!("s{at}");
        Step::task(id, "hangs").attempt_timeout(SECOND).retry(RetryConfig::attempts(1))
    };
    let first = plain((0..12).map(step));
    time.block_on(engine.execute(&first, ())).unwrap().unwrap();
    let begin = time.now();
    time.block_on(engine.execute(&plain([step(0)]), ())).unwrap().unwrap();
    assert!(time.now().since(begin) >= 29 * SECOND, "the breaker was not open");
    assert_eq!(calls.load(Ordering::SeqCst), 13);

    // Twenty people are asked; that is no failure of asking.
    let asks = plain((0..20).map(|at| Step::task(format!("ask{at}"), "input")));
    let begin = time.now();
    time.block_on(async {
        let handle = engine.start(&asks, ()).await.unwrap();
        let answers = async {
            nap(&engine, SECOND).await;
            for at in 0..20 {
                handle.signal(format!("ask{at}"), at).await.unwrap();
            }
        };
        let (outcome, ()) = futures::join!(handle.outcome(), answers);
        assert!(outcome.unwrap().output().is_some());
    })
    .unwrap();
    assert!(time.now().since(begin) < 2 * SECOND);
}

#[test]
fn only_retries_take_from_the_retry_budget() {
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder()
        .runtime(time.clone())
        .limits(EngineLimits { breaker: None, ..EngineLimits::default() })
        .retry_budget(stepwell::retry::RetryBudget::new(0.0, 0.1))
        .executor(
            "t",
            executor_fn(|ctx| async move {
                match (ctx.step().as_str(), ctx.attempt()) {
                    ("flaky", 1) => Err(StepError::retryable("once")),
                    ("flaky", _) => Ok(()),
                    _ => Err(StepError::fatal("wrong data")),
                }
            }),
        )
        .build()
        .unwrap();
    // The budget holds one retry. A hundred failures that nobody tries again leave it alone.
    let bad = plain((0..100).map(|at| Step::task(format!("s{at}"), "t")));
    time.block_on(engine.execute(&bad, ())).unwrap().unwrap();
    let flaky = || plain([Step::task("flaky", "t").retry(RetryConfig::attempts(3))]);
    let run = time.block_on(engine.execute(&flaky(), ())).unwrap().unwrap();
    assert_eq!(run.status(), RunStatus::Succeeded);
    let run = time.block_on(engine.execute(&flaky(), ())).unwrap().unwrap();
    let Some(Outcome::Failed { failure, .. }) = run.outcome() else { panic!("{run:?}") };
    assert_eq!(failure.causes, ["the engine's retry budget is used up"]);
}

#[test]
fn a_full_type_keeps_no_other_type_back() {
    let time = VirtualRuntime::new(1);
    let limits = EngineLimits { per_type: [("slow".to_string(), 1)].into(), ..Default::default() };
    let engine = Engine::builder()
        .runtime(time.clone())
        .limits(limits)
        .executor(
            "slow",
            executor_fn(|ctx| async move {
                ctx.sleep(SECOND).await;
                Ok(())
            }),
        )
        .executor("free", executor_fn(|ctx| async move { Ok(ctx.now().to_string()) }))
        .build()
        .unwrap();
    let slow = (0..400).map(|at| Step::task(format!("s{at}"), "slow"));
    let begin = time.now();
    let flow = plain(slow.chain([Step::task("free", "free")]));
    let run = time.block_on(engine.execute(&flow, ())).unwrap().unwrap();
    assert_eq!(run.step_output("free").unwrap(), begin.to_string());
    assert_eq!(time.now().since(begin), 400 * SECOND);
}

#[test]
fn a_process_that_is_over_its_limits_starts_one_step_at_a_time() {
    for (usage, word) in [
        (
            ProcessUsage { memory_mb: 5_000, ..Default::default() },
            "the process uses 5000 MiB of 2048",
        ),
        (ProcessUsage::default(), "% CPU of 80 %"),
    ] {
        let time = VirtualRuntime::new(1);
        time.set_usage(usage);
        let most = Arc::new(AtomicU32::new(0));
        let now = Arc::new(AtomicU32::new(0));
        let (running, seen, clock) = (Arc::clone(&now), Arc::clone(&most), time.clone());
        let engine = Engine::builder()
            .runtime(time.clone())
            .executor(
                "t",
                executor_fn(move |ctx| {
                    seen.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let (running, clock) = (Arc::clone(&running), clock.clone());
                    async move {
                        ctx.sleep(SECOND).await;
                        // All cores and more were busy meanwhile.
                        let before = clock.usage();
                        let cpu_time = before.cpu_time + 1_000 * SECOND;
                        clock.set_usage(ProcessUsage { cpu_time, ..before });
                        running.fetch_sub(1, Ordering::SeqCst);
                        Ok(())
                    }
                }),
            )
            .build()
            .unwrap();
        let steps = (0..6).map(|at| Step::task(format!("s{at}"), "t"));
        let limits = Limits { max_concurrent_steps: 2, ..Limits::default() };
        let flow = Workflow::builder("w").limits(limits).steps(steps).build().unwrap();
        let explained = time
            .block_on(async {
                let handle = engine.start(&flow, ()).await.unwrap();
                let looks = async {
                    nap(&engine, SECOND + SECOND / 5).await;
                    let ready = (0..6).map(|at| handle.explain(&format!("s{at}")).unwrap());
                    ready.map(|why| why.to_string()).collect::<Vec<_>>().join("\n")
                };
                let (outcome, explained) = futures::join!(handle.outcome(), looks);
                assert!(outcome.unwrap().output().is_some());
                explained
            })
            .unwrap();
        assert!(explained.contains(word), "{explained}");
        if usage.memory_mb > 0 {
            assert_eq!(most.load(Ordering::SeqCst), 1);
        }
    }
}

#[test]
fn what_happens_inside_bodies_has_its_path_and_its_key() {
    let time = VirtualRuntime::new(1);
    let keys = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&keys);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "t",
            executor_fn(move |ctx| {
                let seen = Arc::clone(&seen);
                async move {
                    ctx.sleep(SECOND).await;
                    seen.lock().unwrap().push((ctx.step(), ctx.idempotency_key()));
                    if ctx.attempt() == 1 && ctx.step().ends_with("[1]/x") {
                        return Err(StepError::retryable("once"));
                    }
                    Ok(())
                }
            }),
        )
        .build()
        .unwrap();
    let retry = RetryConfig::attempts(2).base_delay(SECOND);
    let flow = plain([Step::for_each("each", "input", [Step::task("x", "t").retry(retry)])]);
    let (events, history) = time
        .block_on(async {
            let handle =
                engine.start_with(&flow, json!([1, 2]), StartOptions::id("r")).await.unwrap();
            let events = handle.events();
            handle.outcome().await.unwrap();
            (events.collect::<Vec<_>>().await, handle.snapshot().error_history())
        })
        .unwrap();
    let mut paths: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            RunEvent::Journal { step, recorded } => match recorded.event {
                Event::StepSucceeded { .. } | Event::AttemptFailed { .. } => Some(step.clone()),
                _ => None,
            },
            _ => None,
        })
        .collect();
    paths.sort();
    assert_eq!(paths, ["each", "each[0]/x", "each[1]/x", "each[1]/x"]);
    let keys = keys.lock().unwrap();
    assert!(keys.iter().all(|(step, key)| *key == format!("r/{step}")), "{keys:?}");
    // What failed is still known when the body is gone.
    assert_eq!(history.len(), 1);
    assert_eq!((history[0].0.as_str(), history[0].1.attempt), ("each[1]/x", 1));
}

#[test]
fn an_explanation_names_the_limit_of_its_own_type_and_who_holds_it() {
    let time = VirtualRuntime::new(1);
    let limits = EngineLimits { per_type: [("one".to_string(), 1)].into(), ..Default::default() };
    let wait = || {
        executor_fn(|ctx| async move {
            ctx.sleep(10 * SECOND).await;
            Ok(())
        })
    };
    let engine = Engine::builder()
        .runtime(time.clone())
        .limits(limits)
        .executor("one", wait())
        .executor("many", wait())
        .build()
        .unwrap();
    let flow = plain([Step::task("a", "one"), Step::task("b", "one"), Step::task("c", "many")]);
    let (b, c) = time
        .block_on(async {
            let handle = engine.start(&flow, ()).await.unwrap();
            let looks = async {
                nap(&engine, SECOND).await;
                ["b", "c"].map(|step| handle.explain(step).unwrap().to_string())
            };
            let (_, [b, c]) = futures::join!(handle.outcome(), looks);
            (b, c)
        })
        .unwrap();
    assert!(b.ends_with("waits for room: 1 steps of type `one` are running; held by a"), "{b}");
    assert!(c.starts_with("attempt 1 runs"), "{c}");
}

#[test]
fn each_step_that_is_held_back_is_told_its_own_reason() {
    let time = VirtualRuntime::new(1);
    let breaker = stepwell::retry::BreakerConfig {
        minimum_calls: 1,
        open_for: 60 * SECOND,
        ..Default::default()
    };
    let per_type = [("one".to_string(), 1)].into();
    let limits = EngineLimits { per_type, breaker: Some(breaker), ..Default::default() };
    let works = executor_fn(|ctx| async move {
        ctx.sleep(10 * SECOND).await;
        Ok(())
    });
    let engine = Engine::builder()
        .runtime(time.clone())
        .limits(limits)
        .executor("one", works)
        .executor("down", executor_fn(|_| async { Err::<(), _>(StepError::retryable("down")) }))
        .build()
        .unwrap();
    let retry = RetryConfig::attempts(2).base_delay(Duration::ZERO);
    let flow = plain([
        Step::task("calls", "down").retry(retry),
        Step::task("a", "one"),
        Step::task("b", "one"),
    ]);
    let told = time.block_on(async {
        let handle = engine.start(&flow, ()).await.unwrap();
        let looks = async {
            nap(&engine, SECOND).await;
            ["calls", "b"].map(|step| handle.explain(step).unwrap().to_string())
        };
        futures::join!(handle.outcome(), looks).1
    });
    let [calls, b] = told.unwrap();
    let open = "the circuit breaker of `down` is open until 2026-01-01T00:01:00Z";
    assert!(calls.ends_with(open), "{calls}");
    assert!(b.ends_with("1 steps of type `one` are running; held by a"), "{b}");
}

#[test]
fn blocking_steps_wait_for_virtual_time_like_others() {
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "blocks",
            executor_fn(|ctx| async move {
                ctx.sleep(60 * SECOND).await;
                Ok(())
            }),
        )
        .build()
        .unwrap();
    let steps = ["a", "b"].map(|id| Step::task(id, "blocks").blocking());
    let begin = time.now();
    let run = time.block_on(engine.execute(&plain(steps), ())).unwrap().unwrap();
    assert_eq!(run.status(), RunStatus::Succeeded);
    assert_eq!(time.now().since(begin), 60 * SECOND);
}

#[test]
fn a_sub_workflow_that_needs_what_nobody_can_give_is_refused() {
    let time = VirtualRuntime::new(1);
    let variable =
        stepwell::workflow::Variable { required: true, ..stepwell::workflow::Variable::default() };
    let child = Workflow::builder("child")
        .variable("region", variable)
        .step(Step::wait("a", Wait::For(SECOND)))
        .build()
        .unwrap();
    let engine = Engine::builder().runtime(time.clone()).workflow(&child).build().unwrap();
    let flow = plain([Step::workflow("sub", "child")]);
    let refused = time.block_on(engine.start(&flow, ())).unwrap().unwrap_err();
    assert!(refused.to_string().contains("requires the variable `region`"), "{refused}");
}

#[test]
fn the_latest_time_and_the_longest_delay_can_be_written_and_read() {
    let limits = Limits { max_duration: Duration::MAX, ..Limits::default() };
    let retry = RetryConfig::attempts(2).base_delay(Duration::ZERO);
    let step = Step::task("a", "t").retry(retry);
    let flow = Workflow::builder("w").limits(limits).step(step).build().unwrap();
    let storage = Memory::new();
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder()
        .runtime(time.clone())
        .storage(storage.clone())
        .executor(
            "t",
            executor_fn(|ctx| async move {
                if ctx.attempt() == 1 {
                    return Err(StepError::retryable("busy").after(Duration::MAX));
                }
                Ok(json!([0.1 + 0.2, 1e-7, f64::MAX]))
            }),
        )
        .build()
        .unwrap();
    let journal = time
        .block_on(async {
            let run = engine.execute(&flow, ()).await.unwrap();
            storage.load(run.id()).await.unwrap().unwrap().journal
        })
        .unwrap();
    let text = serde_json::to_string(&journal).unwrap();
    let back: Vec<Recorded> = serde_json::from_str(&text).unwrap();
    assert_eq!(back, journal);
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
}

/// Notes that it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Says that it was woken, and then keeps whoever woke it.
struct Doorbell {
    rung: std::sync::mpsc::Sender<()>,
    may_go: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl std::task::Wake for Doorbell {
    fn wake(self: Arc<Self>) {
        if self.rung.send(()).is_ok() {
            let _ = self.may_go.lock().unwrap().recv();
        }
    }
}

#[test]
fn who_finds_the_driver_busy_is_woken_when_it_is_free() {
    let waits: Arc<Mutex<Option<std::task::Waker>>> = Arc::default();
    let step = Arc::clone(&waits);
    let engine = Engine::builder()
        .runtime(VirtualRuntime::new(1))
        .executor(
            "never",
            executor_fn(move |_| {
                let step = Arc::clone(&step);
                std::future::poll_fn(move |context| {
                    *step.lock().unwrap() = Some(context.waker().clone());
                    std::task::Poll::<Result<(), StepError>>::Pending
                })
            }),
        )
        .build()
        .unwrap();
    let handle = engine.start(&plain([Step::task("a", "never")]), ()).now_or_never().unwrap();
    let handle = handle.unwrap();
    let (rung, is_busy) = std::sync::mpsc::channel();
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let (polled, was_polled) = std::sync::mpsc::channel();
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    let other = handle.clone();
    let thread = std::thread::spawn(move || {
        // Polls twice, and then never again; it is not dropped either. The second time, what it polls
        // wakes everybody in the middle.
        let waker = Arc::new(Doorbell { rung, may_go: Mutex::new(may_go) }).into();
        let mut outcome = Box::pin(other.outcome());
        assert!((&mut outcome).now_or_never().is_none());
        waits.lock().unwrap().take().unwrap().wake();
        let mut context = std::task::Context::from_waker(&waker);
        assert!(outcome.as_mut().poll(&mut context).is_pending());
        polled.send(()).unwrap();
        is_over.recv().unwrap();
    });
    is_busy.recv().unwrap();
    let flag = Arc::new(Flag::default());
    let waker = std::task::Waker::from(Arc::clone(&flag));
    let mut context = std::task::Context::from_waker(&waker);
    let mut signal = Box::pin(handle.signal("x", ()));
    assert!(signal.as_mut().poll(&mut context).is_pending());
    drop((is_busy, go));
    was_polled.recv().unwrap();
    loop {
        assert!(flag.0.swap(false, Ordering::SeqCst), "nobody told it that the driver is free");
        if signal.as_mut().poll(&mut context).is_ready() {
            break;
        }
    }
    over.send(()).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_step_that_waits_for_its_own_run_does_not_spin() {
    let time = VirtualRuntime::new(1);
    let shared: Arc<Mutex<Option<stepwell::RunHandle>>> = Arc::default();
    let (handle, polls) = (Arc::clone(&shared), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&polls);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "waits",
            executor_fn(move |_| {
                let handle = handle.lock().unwrap().clone().unwrap();
                let count = Arc::clone(&count);
                async move {
                    let mut outcome = Box::pin(handle.outcome());
                    std::future::poll_fn(|context| {
                        assert!(count.fetch_add(1, Ordering::SeqCst) < 100, "it spins");
                        outcome.as_mut().poll(context).map(drop)
                    })
                    .await;
                    Ok(())
                }
            }),
        )
        .build()
        .unwrap();
    let limits = Limits { max_duration: SECOND, ..Limits::default() };
    let flow = Workflow::builder("w").limits(limits).step(Step::task("a", "waits")).build();
    let outcome = time.block_on(async {
        let handle = engine.start(&flow.unwrap(), ()).await.unwrap();
        *shared.lock().unwrap() = Some(handle.clone());
        handle.outcome().await.unwrap()
    });
    shared.lock().unwrap().take();
    assert_eq!(outcome.unwrap(), Outcome::TimedOut);
}

#[test]
fn what_runs_goes_on_while_the_storage_is_not_well() {
    let time = VirtualRuntime::new(1);
    let storage = Flaky::default();
    let (breaks, begun) = (Arc::clone(&storage.fails_before), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&begun);
    let engine = Engine::builder()
        .runtime(time.clone())
        .storage(storage)
        .executor(
            "quick",
            executor_fn(move |ctx| {
                let breaks = Arc::clone(&breaks);
                async move {
                    ctx.sleep(SECOND).await;
                    breaks.store(true, Ordering::SeqCst);
                    Ok(())
                }
            }),
        )
        .executor(
            "long",
            executor_fn(move |ctx| {
                count.fetch_add(1, Ordering::SeqCst);
                ctx.sleep(10 * SECOND).map(Ok)
            }),
        )
        .build()
        .unwrap();
    time.block_on(async {
        let flow = plain([Step::task("a", "quick"), Step::task("b", "long")]);
        let id = engine.start(&flow, ()).await.unwrap().id().clone();
        engine.serve(nap(&engine, 60 * SECOND)).await.unwrap();
        assert_eq!(engine.run(&id).await.unwrap().status(), RunStatus::Succeeded);
    })
    .unwrap();
    assert_eq!(begun.load(Ordering::SeqCst), 1);
}

#[test]
fn a_message_for_a_run_that_cannot_be_loaded_does_not_keep_the_engine_busy() {
    let time = VirtualRuntime::new(1);
    let storage = Memory::new();
    let knows = Engine::builder()
        .runtime(time.clone())
        .storage(storage.clone())
        .executor("t", executor_fn(|_| async { Ok(()) }))
        .build()
        .unwrap();
    let other = Engine::builder().runtime(time.clone()).storage(storage.clone()).build().unwrap();
    let flow = plain([Step::wait("a", Wait::signal("go")), Step::task("b", "t").after("a")]);
    time.block_on(async {
        let id = knows.start(&flow, ()).await.unwrap().id().clone();
        knows.serve(nap(&knows, SECOND)).await.unwrap();
        let go = stepwell::journal::Signal::new("go", ());
        storage.post(&id, Message::Signal(go)).await.unwrap();
        other.serve(nap(&other, 100 * SECOND)).await.unwrap();
        knows.serve(nap(&knows, 100 * SECOND)).await.unwrap();
        assert_eq!(knows.run(&id).await.unwrap().status(), RunStatus::Succeeded);
    })
    .unwrap();
}

#[test]
fn a_journal_that_came_late_runs_nothing_again() {
    let time = VirtualRuntime::new(1);
    let storage = Flaky::default();
    let begun = Arc::new(AtomicU32::new(0));
    let engine = || {
        let count = Arc::clone(&begun);
        let executor = executor_fn(move |ctx| {
            count.fetch_add(1, Ordering::SeqCst);
            ctx.sleep(SECOND).map(Ok)
        });
        let builder = Engine::builder().runtime(time.clone()).storage(storage.clone());
        builder.executor("t", executor).build().unwrap()
    };
    time.block_on(async {
        let first = engine();
        let handle = first.start(&plain([Step::task("a", "t")]), ()).await.unwrap();
        let id = handle.id().clone();
        assert!(handle.outcome().now_or_never().is_none());
        drop((handle, first));
        let second = engine();
        *storage.loads_late.lock().unwrap() = Some(time.clone());
        let late = async { second.run(&id).await.unwrap().outcome().await.unwrap() };
        let soon = async { second.run(&id).await.unwrap().outcome().await.unwrap() };
        let (late, soon) = futures::join!(late, soon);
        assert_eq!(late, soon);
        assert!(matches!(soon, Outcome::Succeeded { .. }), "{soon:?}");
    })
    .unwrap();
    assert_eq!(begun.load(Ordering::SeqCst), 2);
}

#[test]
fn a_message_whose_commit_was_not_heard_of_is_answered_once_it_is_known() {
    let time = VirtualRuntime::new(1);
    let storage = Flaky::default();
    let engine = Engine::builder().runtime(time.clone()).storage(storage.clone()).build().unwrap();
    let flow =
        plain([Step::wait("a", Wait::signal("go")), Step::wait("b", Wait::For(60 * SECOND))]);
    time.block_on(async {
        let handle = engine.start(&flow, ()).await.unwrap();
        let begin = time.now();
        *storage.posts_late.lock().unwrap() = Some(time.clone());
        let mut go = Box::pin(handle.signal("go", ()));
        assert!((&mut go).now_or_never().is_none());
        // One commit consumes both, and its answer is lost.
        storage.fails_after.store(true, Ordering::SeqCst);
        handle.signal("x", ()).await.unwrap_err();
        go.await.unwrap();
        let at = time.now();
        assert!(at <= begin + 6 * SECOND, "answered at {at}, after {begin}");
    })
    .unwrap();
}

#[test]
fn a_classifier_that_panics_costs_its_answer_only() {
    let time = VirtualRuntime::new(1);
    let classifier =
        stepwell::retry::ErrorClassifier::default().rule(|_| panic!("the classifier is broken"));
    let engine = Engine::builder()
        .runtime(time.clone())
        .classifier(classifier)
        .executor("t", executor_fn(|_| async { Err::<(), _>(StepError::fatal("no")) }))
        .build()
        .unwrap();
    let run = time.block_on(engine.execute(&plain([Step::task("a", "t")]), ())).unwrap().unwrap();
    assert_eq!(run.status(), RunStatus::Failed);
}

#[test]
fn runs_that_are_over_leave_nothing_in_the_engine() {
    let runtime = VirtualRuntime::new(1);
    let engine = Engine::builder().runtime(runtime.clone()).build().unwrap();
    let before = Arc::strong_count(engine.runtime());
    for _ in 0..10 {
        let flow = plain([Step::wait("a", Wait::For(SECOND))]);
        runtime.block_on(engine.execute(&flow, ())).unwrap().unwrap();
    }
    assert_eq!(Arc::strong_count(engine.runtime()), before);
}

#[test]
fn an_engine_is_served_once_at_a_time() {
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder().runtime(time.clone()).build().unwrap();
    time.block_on(async {
        let mut first = Box::pin(engine.serve(nap(&engine, SECOND)));
        assert!((&mut first).now_or_never().is_none());
        let second = engine.serve(nap(&engine, SECOND)).await.unwrap_err();
        assert_eq!(second.kind(), ErrorKind::Rejected);
        first.await.unwrap();
        engine.serve(nap(&engine, SECOND)).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_run_that_is_reopened_is_not_ended_under_ones_hands() {
    let time = VirtualRuntime::new(1);
    let storage = Flaky::default();
    let fails = Arc::new(AtomicBool::new(true));
    let once = Arc::clone(&fails);
    let engine = Engine::builder()
        .runtime(time.clone())
        .storage(storage.clone())
        .executor(
            "t",
            executor_fn(move |_| {
                let fails = once.swap(false, Ordering::SeqCst);
                async move { if fails { Err(StepError::fatal("no")) } else { Ok(()) } }
            }),
        )
        .build()
        .unwrap();
    time.block_on(async {
        let run = engine.execute(&plain([Step::task("a", "t")]), ()).await.unwrap();
        // What is said to it takes a while to be said, and `serve` looks at the run meanwhile.
        *storage.posts_late.lock().unwrap() = Some(time.clone());
        let again = async {
            let operation = stepwell::journal::Operation::RetryFailed;
            engine.reopen(run.id(), operation, reason()).await.unwrap().outcome().await.unwrap()
        };
        let (served, outcome) = futures::join!(engine.serve(nap(&engine, 60 * SECOND)), again);
        served.unwrap();
        assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome}");
        assert!(storage.inbox(run.id()).await.unwrap().is_empty());
    })
    .unwrap();
}

#[test]
fn steps_that_were_made_and_not_stored_are_made_again() {
    let time = VirtualRuntime::new(1);
    let storage = Flaky::default();
    let breaks = Arc::clone(&storage.fails_before);
    let engine = || {
        let breaks = Arc::clone(&breaks);
        Engine::builder()
            .runtime(time.clone())
            .storage(storage.clone())
            .executor(
                "plans",
                executor_fn(move |_| {
                    breaks.store(true, Ordering::SeqCst);
                    async { Ok(json!([{"id": "w", "wait": {"signal": "go"}}, {"id": "x", "task": "t", "after": "w"}])) }
                }),
            )
            .executor("t", executor_fn(|_| async { Ok(7) }))
            .build()
            .unwrap()
    };
    let flow = plain([Step::task("plan", "plans"), Step::dynamic("work", "plan")]);
    time.block_on(async {
        let first = engine();
        let handle = first.start(&flow, ()).await.unwrap();
        let id = handle.id().clone();
        assert_eq!(handle.outcome().await.unwrap_err().kind(), ErrorKind::Storage);
        select(Box::pin(handle.outcome()), Box::pin(nap(&first, SECOND))).await;
        drop((handle, first));
        // Whoever reads the journal makes the same of it.
        let second = engine();
        let handle = second.run(&id).await.unwrap();
        handle.signal("go", ()).await.unwrap();
        assert_eq!(handle.outcome().await.unwrap().output().unwrap(), &json!(7));
    })
    .unwrap();
}

#[test]
fn what_a_storage_hints_at_is_looked_for_at_once() {
    let time = VirtualRuntime::new(1);
    let (says, hears) = unbounded();
    let storage = Flaky { polls_every: Some(3600 * SECOND), ..Flaky::default() };
    *storage.news.lock().unwrap() = Some(hears);
    let engine = Engine::builder().runtime(time.clone()).storage(storage.clone()).build().unwrap();
    let waits = plain([Step::wait("go", Wait::signal("go"))]);
    let test = async {
        let handle = engine.start(&waits, ()).await.unwrap();
        let outcome = async {
            let from_afar = Message::Signal(Signal::new("go", 1));
            nap(&engine, SECOND).await;
            storage.post(handle.id(), from_afar).await.unwrap();
            says.unbounded_send(()).unwrap();
            assert!(matches!(handle.outcome().await.unwrap(), Outcome::Succeeded(_)));
        };
        engine.serve(outcome).await.unwrap();
    };
    let began = time.now();
    time.block_on(test).unwrap();
    assert!(time.now().since(began) < 60 * SECOND, "it did not wait for the hour");
}

#[test]
fn a_storage_that_fails_is_left_alone_whatever_it_hints_at() {
    let time = VirtualRuntime::new(1);
    let (says, hears) = unbounded();
    let storage = Flaky { polls_every: Some(3600 * SECOND), ..Flaky::default() };
    *storage.news.lock().unwrap() = Some(hears);
    storage.claims_fail.store(true, Ordering::SeqCst);
    let engine = Engine::builder().runtime(time.clone()).storage(storage.clone()).build().unwrap();
    let test = async {
        let hints = async {
            for _ in 0..600 {
                says.unbounded_send(()).unwrap();
                nap(&engine, SECOND).await;
            }
            // After 1, 2, 4 seconds and so on, up to once in a third of a lease.
            let asked = storage.claims.load(Ordering::SeqCst);
            assert!((55..70).contains(&asked), "it was asked {asked} times in ten minutes");
            let told = storage.beat(Owner(7)).await.unwrap();
            let beats = told.iter().filter(|beat| beat.owner != Owner(7)).map(|beat| beat.count);
            assert!(beats.sum::<u64>() >= 59, "the others take it for gone: {told:?}");
            storage.claims_fail.store(false, Ordering::SeqCst);
            nap(&engine, 11 * SECOND).await;
            let before = storage.claims.load(Ordering::SeqCst);
            says.unbounded_send(()).unwrap();
            nap(&engine, SECOND).await;
            let now = storage.claims.load(Ordering::SeqCst);
            assert!(now > before, "it is well again, and hints count");
        };
        engine.serve(hints).await.unwrap();
    };
    time.block_on(test).unwrap();
}
