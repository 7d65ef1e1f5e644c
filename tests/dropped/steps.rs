//! What steps await, and what is awaited without an engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use stepwell::engine::EngineLimits;
use stepwell::journal::Reason;
use stepwell::retry::RetryManager;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{BlobStore, Memory, MemoryBlobs};
use stepwell::testing::VirtualRuntime;
use stepwell::{Engine, Outcome, RetryConfig, Step, StepError, Workflow, executor_fn};

use super::polled::polled;
use super::slow::{Effect, Slow};
use super::world::SECOND;

/// The functions that are dropped here.
pub(crate) const FUNCTIONS: [&str; 4] = [
    "ExecutionContext::cancelled",
    "ExecutionContext::load",
    "ExecutionContext::sleep",
    "RetryManager::execute_with_retry",
];

fn engine(time: &VirtualRuntime) -> Engine {
    let blobs: Arc<dyn BlobStore> = Arc::new(MemoryBlobs::new());
    let limits = EngineLimits { spill_over: 32, ..EngineLimits::default() };
    Engine::builder()
        .runtime(time.clone())
        .storage(Memory::new())
        .blobs(Slow::new(blobs, Effect::WhenPolled, time))
        .limits(limits)
        .executor("long", executor_fn(|_| async { Ok("long ".repeat(20)) }))
        .executor(
            "loads",
            executor_fn(|ctx| async move {
                let polls: u32 = serde_json::from_value(ctx.run_input().into_json())?;
                let long = ctx.output_of("first").unwrap();
                let ended = polled(ctx.load(&long), polls).await.is_some();
                assert_eq!(ctx.load(&long).await?, "long ".repeat(20));
                Ok(json!({"ended": ended}))
            }),
        )
        .executor(
            "sleeps",
            executor_fn(|ctx| async move {
                let polls: u32 = serde_json::from_value(ctx.run_input().into_json())?;
                let ended = polled(ctx.sleep(SECOND), polls).await.is_some();
                let begin = ctx.now();
                ctx.sleep(SECOND).await;
                assert_eq!(ctx.now().since(begin), SECOND);
                Ok(json!({"ended": ended}))
            }),
        )
        .executor(
            "stops",
            executor_fn(|ctx| async move {
                let polls: u32 = serde_json::from_value(ctx.run_input().into_json())?;
                let ended = polled(ctx.cancelled(), polls).await.is_some();
                ctx.cancelled().await;
                assert!(ctx.is_cancelled());
                Ok(json!({"ended": ended}))
            }),
        )
        .build()
        .unwrap()
}

/// Runs a step for each number of polls, until what it drops ends by itself.
fn each(executor: &str, cancels: bool) {
    let steps = [Step::task("first", "long"), Step::task("second", executor).after("first")];
    let workflow = Workflow::builder("w").steps(steps).build().unwrap();
    for polls in 0..100 {
        let time = VirtualRuntime::new(1);
        let engine = engine(&time);
        let output = time.block_on(async {
            let run = engine.start(&workflow, json!(polls)).await.unwrap();
            let stop = async {
                time.sleep_until(time.now() + 5 * SECOND).await;
                if cancels {
                    run.cancel(Reason::new("ann", "enough")).await.unwrap();
                }
            };
            let (outcome, ()) = futures::future::join(run.outcome(), stop).await;
            let cancelled = matches!(outcome.unwrap(), Outcome::Cancelled);
            assert_eq!(cancelled, cancels);
            run.snapshot().step_output("second").unwrap()
        });
        if output.unwrap()["ended"] == true {
            assert!(polls > 0);
            return;
        }
    }
    panic!("it does not end");
}

#[test]
fn a_step_may_drop_what_it_loads() {
    each("loads", false);
}

#[test]
fn a_step_may_drop_a_sleep() {
    each("sleeps", false);
}

#[test]
fn a_step_may_drop_its_waiting_for_a_cancellation() {
    each("stops", true);
}

#[test]
fn an_operation_that_is_tried_again_is_not_when_it_is_dropped() {
    let retry = || RetryManager::new(RetryConfig::attempts(3).base_delay(Duration::from_secs(1)));
    for polls in 0..10 {
        let (time, tried) = (VirtualRuntime::new(1), AtomicU32::new(0));
        let work = |_| {
            tried.fetch_add(1, Ordering::Relaxed);
            async { Err::<(), _>(StepError::retryable("no")) }
        };
        let manager = retry();
        let work = manager.execute_with_retry(&time, work);
        let ended = time.block_on(polled(work, polls)).unwrap().is_some();
        assert_eq!(tried.load(Ordering::Relaxed), polls.min(3));
        assert_eq!(time.pending_timers(), 0);
        assert_eq!(ended, polls >= 3);
    }
}
