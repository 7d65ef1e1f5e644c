//! The same tests of the engine on every runtime: the default one under `block_on`, a thread pool,
//! tokio with one thread and with several, smol, and virtual time.
#![cfg(all(feature = "testing", feature = "tokio", feature = "smol", feature = "threads"))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use serde_json::json;
use stepwell::engine::EngineLimits;
use stepwell::executor::{LogLevel, RunEvent};
use stepwell::journal::Reason;
use stepwell::run::Explanation;
use stepwell::runtime::{Runtime, Smol, threads};
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::{Limits, Resources};
use stepwell::{
    Engine, EngineBuilder, ErrorClass, ErrorKind, Outcome, RetryConfig, RunStatus, StartOptions,
    Step, StepError, StepStatus, Wait, Workflow, executor_fn,
};

type Test = fn(EngineBuilder) -> BoxFuture<'static, ()>;

fn on_block_on(test: Test) {
    futures::executor::block_on(test(Engine::builder()));
}

fn on_threads(test: Test) {
    futures::executor::block_on(test(Engine::builder().runtime(threads(2).unwrap())));
}

fn on_tokio_current_thread(test: Test) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move { test(Engine::builder()).await });
}

fn on_tokio_multi_thread(test: Test) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async move { test(Engine::builder()).await });
}

fn on_smol(test: Test) {
    smol::block_on(test(Engine::builder().runtime(Smol::default())));
}

fn in_virtual_time(test: Test) {
    let time = VirtualRuntime::new(7);
    time.block_on(test(Engine::builder().runtime(time.clone()))).unwrap();
}

macro_rules! on_every_runtime {
    ($($test:ident)*) => {$(
        mod $test {
            #[test]
            fn block_on() {
                super::on_block_on(|builder| Box::pin(super::tests::$test(builder)));
            }
            #[test]
            fn threads() {
                super::on_threads(|builder| Box::pin(super::tests::$test(builder)));
            }
            #[test]
            fn tokio_current_thread() {
                super::on_tokio_current_thread(|builder| Box::pin(super::tests::$test(builder)));
            }
            #[test]
            fn tokio_multi_thread() {
                super::on_tokio_multi_thread(|builder| Box::pin(super::tests::$test(builder)));
            }
            #[test]
            fn smol() {
                super::on_smol(|builder| Box::pin(super::tests::$test(builder)));
            }
            #[test]
            fn virtual_time() {
                super::in_virtual_time(|builder| Box::pin(super::tests::$test(builder)));
            }
        }
    )*};
}

on_every_runtime! {
    a_diamond_runs_each_step_once_and_in_order
    a_step_starts_when_its_own_dependencies_are_met
    a_step_is_tried_again
    a_panic_fails_the_step_only
    a_step_that_never_returns_is_timed_out
    a_step_that_ignores_cancellation_is_dropped
    a_step_that_heeds_cancellation_ends_by_itself
    a_signal_reaches_a_wait
    a_signal_reaches_a_suspended_step
    pause_holds_back_and_resume_lets_go
    limits_are_kept
    a_limit_per_type_lets_others_pass
    declared_memory_is_counted
    an_open_circuit_breaker_holds_back
    a_dropped_outcome_can_be_awaited_again
    two_waiters_see_the_same_outcome
    serve_drives_everything
    parked_runs_leave_memory_and_come_back
    events_progress_and_logs_are_seen
    starting_twice_under_one_id_is_starting_once
    blocking_steps_stall_nobody
    the_context_knows_the_run
    sub_workflows_run
    explain_names_the_limit
    bad_input_fails_without_a_call
    runs_take_turns_at_a_full_engine
    room_is_given_back_by_a_run_that_timed_out
}

fn plain(steps: impl IntoIterator<Item = Step>) -> Workflow {
    let limits = Limits { max_cpu_percent: 100, ..Limits::default() };
    Workflow::builder("w").limits(limits).steps(steps).build().unwrap()
}

fn reason() -> Reason {
    Reason::new("test", "because")
}

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn a_condition_on_the_clock_is_asked_again_and_again() {
    let time = VirtualRuntime::new(3);
    let engine = Engine::builder().runtime(time.clone()).build().unwrap();
    let begin = time.now();
    let until = begin.as_micros() / 1_000_000 + 90;
    let wait = Wait::condition(format!("now() >= {until}"));
    let run =
        time.block_on(async { engine.execute(&plain([Step::wait("w", wait)]), ()).await.unwrap() });
    assert_eq!(run.unwrap().status(), RunStatus::Succeeded);
    let waited = time.now().since(begin);
    assert!((89..=91).contains(&waited.as_secs()), "{waited:?}");
}

mod tests {
    use super::*;

    pub(super) async fn a_diamond_runs_each_step_once_and_in_order(builder: EngineBuilder) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&log);
        let engine = builder
            .executor(
                "t",
                executor_fn(move |ctx| {
                    let seen = Arc::clone(&seen);
                    async move {
                        ctx.sleep(MILLISECOND).await;
                        seen.lock().unwrap().push(ctx.step());
                        Ok(ctx.step())
                    }
                }),
            )
            .build()
            .unwrap();
        let workflow = plain([
            Step::task("a", "t"),
            Step::task("b", "t").after("a"),
            Step::task("c", "t").after("a"),
            Step::task("d", "t").after("b").after("c"),
        ]);
        let run = engine.execute(&workflow, ()).await.unwrap();
        assert_eq!(run.output().unwrap(), "d");
        let log = log.lock().unwrap();
        assert_eq!(log.len(), 4);
        assert_eq!((log[0].as_str(), log[3].as_str()), ("a", "d"));
    }

    pub(super) async fn a_step_starts_when_its_own_dependencies_are_met(builder: EngineBuilder) {
        // `late` holds up its own successor, not the other branch's.
        let open = Arc::new(AtomicU32::new(0));
        let gate = Arc::clone(&open);
        let engine = builder
            .executor("quick", executor_fn(|_| async { Ok(()) }))
            .executor(
                "opens",
                executor_fn({
                    let gate = Arc::clone(&gate);
                    move |_| {
                        gate.store(1, Ordering::SeqCst);
                        async { Ok(()) }
                    }
                }),
            )
            .executor(
                "late",
                executor_fn(move |ctx| {
                    let gate = Arc::clone(&gate);
                    async move {
                        while gate.load(Ordering::SeqCst) == 0 {
                            ctx.sleep(MILLISECOND).await;
                        }
                        Ok(())
                    }
                }),
            )
            .build()
            .unwrap();
        let workflow = plain([
            Step::task("late", "late"),
            Step::task("quick", "quick"),
            Step::task("second", "opens").after("quick"),
        ]);
        assert_eq!(engine.execute(&workflow, ()).await.unwrap().status(), RunStatus::Succeeded);
    }

    pub(super) async fn a_step_is_tried_again(builder: EngineBuilder) {
        let engine = builder
            .executor(
                "flaky",
                executor_fn(|ctx| async move {
                    assert_eq!(ctx.error_history().len() as u32, ctx.retry_count());
                    match ctx.attempt() {
                        1 => Err(StepError::retryable("first")),
                        2 => Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()),
                        attempt => Ok(attempt),
                    }
                }),
            )
            .build()
            .unwrap();
        let retry = RetryConfig::attempts(3).base_delay(MILLISECOND);
        let run =
            engine.execute(&plain([Step::task("a", "flaky").retry(retry)]), ()).await.unwrap();
        assert_eq!(run.output().unwrap(), 3);
        let classes: Vec<ErrorClass> =
            run.error_history().iter().map(|(_, record)| record.failure.class).collect();
        assert_eq!(classes, [ErrorClass::Temporary, ErrorClass::Connection]);
    }

    pub(super) async fn a_panic_fails_the_step_only(builder: EngineBuilder) {
        let engine = builder
            .executor(
                "panics",
                executor_fn(|_| async {
                    if true {
                        panic!("no such luck");
                    }
                    Ok(())
                }),
            )
            .executor(
                "panics_early",
                executor_fn(|ctx| {
                    assert!(ctx.attempt() > 9, "before there is a future");
                    async { Ok(()) }
                }),
            )
            .executor("fine", executor_fn(|_| async { Ok("fine") }))
            .build()
            .unwrap();
        let workflow = plain([
            Step::task("a", "panics").on_failure("c"),
            Step::task("b", "panics_early").on_failure("c"),
            Step::task("c", "fine").trigger(stepwell::Trigger::AllDone),
        ]);
        let run = engine.execute(&workflow, ()).await.unwrap();
        assert_eq!(run.status(), RunStatus::Succeeded, "{}", run.summary());
        let history = run.error_history();
        assert!(history[0].1.failure.message.contains("no such luck"), "{history:?}");
        assert!(history[1].1.failure.message.contains("before there is a future"), "{history:?}");
        let again = engine.execute(&plain([Step::task("c", "fine")]), ()).await.unwrap();
        assert_eq!(again.output().unwrap(), "fine");
    }

    pub(super) async fn a_step_that_never_returns_is_timed_out(builder: EngineBuilder) {
        let engine = builder
            .executor("never", executor_fn(|_| std::future::pending::<Result<(), _>>()))
            .build()
            .unwrap();
        let limit = Duration::from_millis(20);
        let workflow = plain([Step::task("a", "never").attempt_timeout(limit)]);
        let run = engine.execute(&workflow, ()).await.unwrap();
        let Some(Outcome::Failed { failure, .. }) = run.outcome() else { panic!("{run:?}") };
        assert_eq!(failure.class, ErrorClass::Timeout);
    }

    pub(super) async fn a_step_that_ignores_cancellation_is_dropped(builder: EngineBuilder) {
        let dropped = Arc::new(AtomicU32::new(0));
        struct OnDrop(Arc<AtomicU32>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let counter = Arc::clone(&dropped);
        let limits = EngineLimits { cancel_grace: Duration::from_millis(10), ..Default::default() };
        let engine = builder
            .limits(limits)
            .executor(
                "stubborn",
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
        let handle = engine.start(&plain([Step::task("a", "stubborn")]), ()).await.unwrap();
        let cancel = async {
            handle.cancel(reason()).await.unwrap();
            let again = handle.cancel(reason()).await.unwrap_err();
            assert_eq!(again.kind(), ErrorKind::Rejected);
        };
        let (outcome, ()) = futures::join!(handle.outcome(), cancel);
        assert_eq!(outcome.unwrap(), Outcome::Cancelled);
        // A spawned future is dropped by its runtime, soon.
        while dropped.load(Ordering::SeqCst) == 0 {
            engine.runtime().sleep_until(engine.runtime().now() + MILLISECOND).await;
        }
    }

    pub(super) async fn a_step_that_heeds_cancellation_ends_by_itself(builder: EngineBuilder) {
        let engine = builder
            .executor(
                "polite",
                executor_fn(|ctx| async move {
                    ctx.cancelled().await;
                    assert!(ctx.is_cancelled());
                    Err::<(), _>(StepError::new(ErrorClass::Cancelled, "as you wish"))
                }),
            )
            .build()
            .unwrap();
        let handle = engine.start(&plain([Step::task("a", "polite")]), ()).await.unwrap();
        let (outcome, cancelled) = futures::join!(handle.outcome(), handle.cancel(reason()));
        cancelled.unwrap();
        assert_eq!(outcome.unwrap(), Outcome::Cancelled);
        assert_eq!(handle.signal("x", ()).await.unwrap_err().kind(), ErrorKind::Rejected);
    }

    pub(super) async fn a_signal_reaches_a_wait(builder: EngineBuilder) {
        let engine = builder.build().unwrap();
        let workflow = plain([Step::wait("w", Wait::signal("go"))]);
        // While somebody drives, and while nobody does.
        let driven = engine.start(&workflow, ()).await.unwrap();
        let (outcome, sent) =
            futures::join!(driven.outcome(), driven.signal("go", json!({"n": 1})));
        sent.unwrap();
        assert_eq!(outcome.unwrap().output().unwrap()["n"], 1);
        let alone = engine.start(&workflow, ()).await.unwrap();
        alone.signal("go", 2).await.unwrap();
        assert_eq!(alone.outcome().await.unwrap().output().unwrap(), &2);
    }

    pub(super) async fn a_signal_reaches_a_suspended_step(builder: EngineBuilder) {
        let engine = builder.build().unwrap();
        let ask = json!({"prompt": "Deploy?", "signal": "answer", "required": ["yes"]});
        let workflow = plain([Step::task("ask", "input").config(ask)]);
        let handle = engine.start(&workflow, ()).await.unwrap();
        let answers = async {
            handle.signal("answer", json!({"no": true})).await.unwrap();
            handle.signal("answer", json!({"yes": true})).await.unwrap();
        };
        let (outcome, ()) = futures::join!(handle.outcome(), answers);
        assert_eq!(outcome.unwrap().output().unwrap()["yes"], true);
    }

    pub(super) async fn pause_holds_back_and_resume_lets_go(builder: EngineBuilder) {
        let engine = builder.executor("t", executor_fn(|_| async { Ok(()) })).build().unwrap();
        let workflow =
            plain([Step::wait("w", Wait::signal("go")), Step::task("a", "t").after("w")]);
        let handle = engine.start(&workflow, ()).await.unwrap();
        handle.pause(reason()).await.unwrap();
        handle.signal("go", ()).await.unwrap();
        assert_eq!(handle.status(), RunStatus::Paused);
        assert!(matches!(handle.explain("a"), Some(Explanation::Paused { .. })));
        let (outcome, resumed) = futures::join!(handle.outcome(), handle.resume(reason()));
        resumed.unwrap();
        assert_eq!(outcome.unwrap().status(), RunStatus::Succeeded);
    }

    pub(super) async fn limits_are_kept(builder: EngineBuilder) {
        let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let seen = Arc::clone(&most);
        let limits = EngineLimits { max_concurrent_steps: 3, ..Default::default() };
        let engine = builder
            .limits(limits)
            .executor(
                "t",
                executor_fn(move |ctx| {
                    let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                    async move {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        ctx.sleep(MILLISECOND).await;
                        now.fetch_sub(1, Ordering::SeqCst);
                        Ok(())
                    }
                }),
            )
            .build()
            .unwrap();
        let workflow = |most| {
            let limits =
                Limits { max_concurrent_steps: most, max_cpu_percent: 100, ..Limits::default() };
            let steps = (0..20).map(|at| Step::task(format!("s{at}"), "t"));
            Workflow::builder("w").limits(limits).steps(steps).build().unwrap()
        };
        engine.execute(&workflow(2), ()).await.unwrap();
        assert_eq!(seen.swap(0, Ordering::SeqCst), 2, "the run's limit");
        let two = workflow(2);
        let runs = (0..3).map(|_| engine.execute(&two, ()));
        for run in futures::future::join_all(runs.collect::<Vec<_>>()).await {
            assert_eq!(run.unwrap().status(), RunStatus::Succeeded);
        }
        assert_eq!(seen.load(Ordering::SeqCst), 3, "the engine's limit");
    }

    pub(super) async fn a_limit_per_type_lets_others_pass(builder: EngineBuilder) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let executor = |log: &Arc<Mutex<Vec<String>>>| {
            let log = Arc::clone(log);
            executor_fn(move |ctx| {
                let log = Arc::clone(&log);
                async move {
                    ctx.sleep(5 * MILLISECOND).await;
                    log.lock().unwrap().push(ctx.step());
                    Ok(())
                }
            })
        };
        let limits =
            EngineLimits { per_type: [("slow".to_string(), 1)].into(), ..Default::default() };
        let engine = builder
            .limits(limits)
            .executor("slow", executor(&log))
            .executor("other", executor(&log))
            .build()
            .unwrap();
        let workflow = plain([
            Step::task("s1", "slow"),
            Step::task("s2", "slow"),
            Step::task("s3", "slow"),
            Step::task("o", "other"),
        ]);
        engine.execute(&workflow, ()).await.unwrap();
        let log = log.lock().unwrap();
        assert!(log.iter().position(|step| step == "o").unwrap() < 2, "{log:?}");
    }

    pub(super) async fn declared_memory_is_counted(builder: EngineBuilder) {
        let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let seen = Arc::clone(&most);
        let engine = builder
            .executor(
                "big",
                executor_fn(move |ctx| {
                    let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                    async move {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        ctx.sleep(MILLISECOND).await;
                        now.fetch_sub(1, Ordering::SeqCst);
                        Ok(())
                    }
                }),
            )
            .build()
            .unwrap();
        let needs = Resources { memory_mb: 1_000, cpu_percent: 0 };
        let steps = (0..6).map(|at| Step::task(format!("s{at}"), "big").resources(needs.clone()));
        let run = engine.execute(&plain(steps), ()).await.unwrap();
        assert_eq!(run.status(), RunStatus::Succeeded);
        assert_eq!(seen.load(Ordering::SeqCst), 2, "two of 1,000 MiB fit into 2,048");
    }

    pub(super) async fn runs_take_turns_at_a_full_engine(builder: EngineBuilder) {
        let limits = EngineLimits { max_concurrent_steps: 1, ..Default::default() };
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&log);
        let engine = builder
            .limits(limits)
            .executor(
                "t",
                executor_fn(move |ctx| {
                    seen.lock().unwrap().push(ctx.execution_id().clone());
                    async move {
                        ctx.sleep(MILLISECOND).await;
                        Ok(())
                    }
                }),
            )
            .build()
            .unwrap();
        let workflow = plain((0..8).map(|at| Step::task(format!("s{at}"), "t")));
        let a = engine.start(&workflow, ()).await.unwrap();
        let b = engine.start(&workflow, ()).await.unwrap();
        let (one, other) = futures::join!(a.outcome(), b.outcome());
        assert!(one.unwrap().output().is_some() && other.unwrap().output().is_some());
        let log = log.lock().unwrap();
        let changes = log.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(log.len(), 16);
        assert!(changes >= 8, "one run had to wait for the whole other: {log:?}");
    }

    pub(super) async fn room_is_given_back_by_a_run_that_timed_out(builder: EngineBuilder) {
        let limits = EngineLimits {
            max_concurrent_steps: 2,
            per_type: [("t".to_string(), 1)].into(),
            ..Default::default()
        };
        let engine = builder
            .limits(limits)
            .executor(
                "t",
                executor_fn(|ctx| async move {
                    match ctx.run_input().as_bool() {
                        Some(true) => std::future::pending().await,
                        _ => Ok(()),
                    }
                }),
            )
            .build()
            .unwrap();
        let limits = Limits {
            max_cpu_percent: 100,
            max_duration: Duration::from_millis(5),
            ..Default::default()
        };
        let hangs = Workflow::builder("hangs").limits(limits).step(Step::task("a", "t"));
        let hangs = hangs.build().unwrap();
        for _ in 0..3 {
            let run = engine.execute(&hangs, true).await.unwrap();
            assert_eq!(run.outcome(), Some(Outcome::TimedOut));
        }
        let run = engine.execute(&plain([Step::task("a", "t")]), false).await.unwrap();
        assert_eq!(run.status(), RunStatus::Succeeded);
    }

    pub(super) async fn an_open_circuit_breaker_holds_back(builder: EngineBuilder) {
        let breaker = stepwell::retry::BreakerConfig {
            minimum_calls: 3,
            open_for: Duration::from_millis(30),
            ..Default::default()
        };
        let limits = EngineLimits { breaker: Some(breaker), ..Default::default() };
        let calls = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&calls);
        let engine = builder
            .limits(limits)
            .executor(
                "down",
                executor_fn(move |_| {
                    let call = counter.fetch_add(1, Ordering::SeqCst);
                    async move { if call < 3 { Err(StepError::retryable("down")) } else { Ok(()) } }
                }),
            )
            .build()
            .unwrap();
        let retry = RetryConfig::attempts(5).base_delay(Duration::ZERO);
        let begin = engine.runtime().now();
        let run = engine.execute(&plain([Step::task("a", "down").retry(retry)]), ()).await.unwrap();
        assert_eq!(run.status(), RunStatus::Succeeded, "{}", run.summary());
        assert_eq!(calls.load(Ordering::SeqCst), 4);
        assert!(engine.runtime().now().since(begin) >= Duration::from_millis(30));
    }

    pub(super) async fn a_dropped_outcome_can_be_awaited_again(builder: EngineBuilder) {
        let engine = builder
            .executor(
                "t",
                executor_fn(|ctx| async move {
                    ctx.sleep(2 * MILLISECOND).await;
                    Ok(ctx.attempt())
                }),
            )
            .build()
            .unwrap();
        let handle = engine.start(&plain([Step::task("a", "t")]), ()).await.unwrap();
        for _ in 0..3 {
            let mut outcome = Box::pin(handle.outcome());
            let _ = futures::poll!(&mut outcome);
            drop(outcome);
        }
        assert_eq!(handle.outcome().await.unwrap().output().unwrap(), &1);
    }

    pub(super) async fn two_waiters_see_the_same_outcome(builder: EngineBuilder) {
        let engine = builder
            .executor(
                "t",
                executor_fn(|ctx| async move {
                    ctx.sleep(MILLISECOND).await;
                    Ok(5)
                }),
            )
            .build()
            .unwrap();
        let handle = engine.start(&plain([Step::task("a", "t")]), ()).await.unwrap();
        let other = handle.clone();
        let (a, b) = futures::join!(handle.outcome(), other.outcome());
        assert_eq!(a.unwrap(), b.unwrap());
    }

    pub(super) async fn serve_drives_everything(builder: EngineBuilder) {
        let done = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&done);
        let engine = builder
            .executor(
                "t",
                executor_fn(move |ctx| {
                    let counter = Arc::clone(&counter);
                    async move {
                        ctx.sleep(MILLISECOND).await;
                        counter.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    }
                }),
            )
            .build()
            .unwrap();
        let workflow = plain([Step::task("a", "t"), Step::task("b", "t").after("a")]);
        let (stop, stopped) = futures::channel::oneshot::channel::<()>();
        let starts = async {
            for _ in 0..20 {
                engine.start(&workflow, ()).await.unwrap();
            }
            while done.load(Ordering::SeqCst) < 40 {
                engine.runtime().sleep_until(engine.runtime().now() + MILLISECOND).await;
            }
            stop.send(()).unwrap();
        };
        let shutdown = async {
            let _ = stopped.await;
        };
        let (served, ()) = futures::join!(engine.serve(shutdown), starts);
        served.unwrap();
    }

    pub(super) async fn parked_runs_leave_memory_and_come_back(builder: EngineBuilder) {
        let engine = builder.executor("t", executor_fn(|_| async { Ok("done") })).build().unwrap();
        let workflow = plain([
            Step::wait("timer", Wait::For(30 * MILLISECOND)),
            Step::wait("signal", Wait::signal("go")).after("timer"),
            Step::task("t", "t").after("signal"),
        ]);
        let id = engine.start(&workflow, ()).await.unwrap().id().clone();
        let (stop, stopped) = futures::channel::oneshot::channel::<()>();
        let steers = async {
            // By now it is parked, woken by its timer, and parked again.
            engine.runtime().sleep_until(engine.runtime().now() + 120 * MILLISECOND).await;
            let handle = engine.run(&id).await.unwrap();
            assert_eq!(handle.snapshot().step_status("timer"), Some(StepStatus::Succeeded));
            handle.signal("go", ()).await.unwrap();
            let outcome = handle.outcome().await.unwrap();
            assert_eq!(outcome.output().unwrap(), "done");
            stop.send(()).unwrap();
        };
        let shutdown = async {
            let _ = stopped.await;
        };
        let (served, ()) = futures::join!(engine.serve(shutdown), steers);
        served.unwrap();
    }

    pub(super) async fn events_progress_and_logs_are_seen(builder: EngineBuilder) {
        let engine = builder
            .executor(
                "t",
                executor_fn(|ctx| async move {
                    ctx.progress(0.5, "half");
                    ctx.log(LogLevel::Info, "hello");
                    Ok(())
                }),
            )
            .build()
            .unwrap();
        let handle = engine.start(&plain([Step::task("a", "t")]), ()).await.unwrap();
        let events = handle.events();
        assert!(handle.progress().percent() < 1.0);
        let (outcome, events) = futures::join!(handle.outcome(), events.collect::<Vec<_>>());
        outcome.unwrap();
        let kinds: Vec<String> = events
            .iter()
            .map(|event| match event {
                RunEvent::Journal { step, recorded } => {
                    let text = format!("{:?}", recorded.event);
                    format!("{step} {}", text.split([' ', '{']).next().unwrap())
                }
                RunEvent::Progress { step, fraction, .. } => format!("{step} progress {fraction}"),
                RunEvent::Log { step, message, .. } => format!("{step} log {message}"),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected =
            ["a StepStarted", "a progress 0.5", "a log hello", "a StepSucceeded", " RunFinished"];
        assert_eq!(kinds, expected);
        assert!((handle.progress().percent() - 100.0).abs() < 1e-9);
        assert_eq!(handle.progress().eta(), Some(Duration::ZERO));
    }

    pub(super) async fn starting_twice_under_one_id_is_starting_once(builder: EngineBuilder) {
        let engine = builder.executor("t", executor_fn(|_| async { Ok(()) })).build().unwrap();
        let workflow = plain([Step::task("a", "t")]);
        let options = || StartOptions::id("order-1");
        let first = engine.start_with(&workflow, 1, options()).await.unwrap();
        let second = engine.start_with(&workflow, 2, options()).await.unwrap();
        assert_eq!(first.id(), second.id());
        first.outcome().await.unwrap();
        assert_eq!(second.outcome().await.unwrap().status(), RunStatus::Succeeded);
        let late = engine.start_with(&workflow, 3, options()).await.unwrap();
        assert_eq!(late.outcome().await.unwrap().status(), RunStatus::Succeeded);
        let other = Workflow::builder("other").step(Step::task("a", "t")).build().unwrap();
        let error = engine.start_with(&other, (), options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }

    pub(super) async fn blocking_steps_stall_nobody(builder: EngineBuilder) {
        // Each blocks until the other is there, which needs two threads besides this one.
        let pair = Arc::new(std::sync::Barrier::new(2));
        let together = Arc::clone(&pair);
        let engine = builder
            .executor(
                "blocks",
                executor_fn(move |_| {
                    let pair = Arc::clone(&together);
                    async move {
                        pair.wait();
                        Ok(())
                    }
                }),
            )
            .build()
            .unwrap();
        if format!("{:?}", engine.runtime()).starts_with("Virtual") {
            return;
        }
        let steps = ["a", "b"].map(|id| Step::task(id, "blocks").blocking());
        let run = engine.execute(&plain(steps), ()).await.unwrap();
        assert_eq!(run.status(), RunStatus::Succeeded);
    }

    pub(super) async fn the_context_knows_the_run(builder: EngineBuilder) {
        let engine = builder
            .executor("first", executor_fn(|_| async { Ok(json!({"n": 1})) }))
            .executor(
                "looks",
                executor_fn(|ctx| async move {
                    assert_eq!(ctx.workflow_id(), "w");
                    assert_eq!(ctx.execution_id().as_str(), "r-1");
                    assert_eq!(ctx.user_id(), Some("ann"));
                    assert_eq!(ctx.step(), "b");
                    assert_eq!(ctx.idempotency_key(), "r-1/b");
                    assert_eq!(ctx.run_input()["x"], 5);
                    assert_eq!(ctx.step_dependencies("b"), ["a"]);
                    assert_eq!(ctx.results()[0].1["n"], 1);
                    assert_eq!(ctx.output_of("a").unwrap()["n"], 1);
                    assert_eq!(ctx.plan().len(), 2);
                    assert!(!ctx.is_step_ready("a"));
                    assert_eq!(ctx.config_as::<String>("mode").unwrap(), "fast");
                    assert!(ctx.config_as::<u8>("mode").is_err());
                    ctx.input::<u32>("sum").map(|sum| sum + 1)
                }),
            )
            .build()
            .unwrap();
        let workflow = plain([
            Step::task("a", "first"),
            Step::task("b", "looks").config(json!({"mode": "fast"})).input("sum", "a.n + input.x"),
        ]);
        let options = StartOptions::id("r-1").user("ann");
        let handle = engine.start_with(&workflow, json!({"x": 5}), options).await.unwrap();
        assert_eq!(handle.outcome().await.unwrap().output().unwrap(), &7);
    }

    pub(super) async fn sub_workflows_run(builder: EngineBuilder) {
        let double = Workflow::builder("double")
            .step(Step::task("d", "process").config(json!({"value": "input * 2"})))
            .build()
            .unwrap();
        let engine = builder.workflow(&double).build().unwrap();
        let workflow = plain([Step::for_each(
            "all",
            "input",
            [Step::workflow("one", "double").workflow_input("item")],
        )]);
        let run = engine.execute(&workflow, json!([1, 2, 3])).await.unwrap();
        assert_eq!(run.output().unwrap(), json!([2, 4, 6]), "{}", run.summary());
        let unknown = plain([Step::workflow("s", "doubel")]);
        let error = engine.start(&unknown, ()).await.unwrap_err();
        assert!(error.to_string().contains("did you mean `double`?"), "{error}");
    }

    pub(super) async fn explain_names_the_limit(builder: EngineBuilder) {
        let engine = builder
            .executor(
                "t",
                executor_fn(|ctx| async move {
                    ctx.sleep(20 * MILLISECOND).await;
                    Ok(())
                }),
            )
            .build()
            .unwrap();
        let limits = Limits { max_concurrent_steps: 1, max_cpu_percent: 100, ..Limits::default() };
        let steps = ["a", "b"].map(|id| Step::task(id, "t"));
        let workflow = Workflow::builder("w").limits(limits).steps(steps).build().unwrap();
        let handle = engine.start(&workflow, ()).await.unwrap();
        let looks = async {
            engine.runtime().sleep_until(engine.runtime().now() + 5 * MILLISECOND).await;
            handle.explain("b").unwrap().to_string()
        };
        let (outcome, explained) = futures::join!(handle.outcome(), looks);
        outcome.unwrap();
        assert!(explained.contains("1 steps of this run are running"), "{explained}");
        assert_eq!(handle.explain("b"), Some(Explanation::Succeeded));
    }

    pub(super) async fn bad_input_fails_without_a_call(builder: EngineBuilder) {
        let calls = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&calls);
        let engine = builder
            .executor(
                "t",
                executor_fn(move |_| {
                    counter.fetch_add(1, Ordering::SeqCst);
                    async { Ok(()) }
                }),
            )
            .build()
            .unwrap();
        let workflow = plain([Step::task("a", "t").input("x", "1 / input.zero")]);
        let run = engine.execute(&workflow, json!({"zero": 0})).await.unwrap();
        let Some(Outcome::Failed { failure, .. }) = run.outcome() else { panic!("{run:?}") };
        assert_eq!(failure.class, ErrorClass::Validation);
        assert!(failure.message.contains("division by zero"));
        assert_eq!(calls.load(Ordering::SeqCst), 0);
    }
}
