//! Delays between attempts, in virtual time: what the formulas say is what passes.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepwell::retry::{Jitter, RetryBudget, RetryManager};
use stepwell::runtime::Runtime;
use stepwell::testing::VirtualRuntime;
use stepwell::{
    Engine, ErrorClass, Outcome, RetryConfig, Run, Step, StepError, Timestamp, Workflow,
    executor_fn,
};

type Begun = Arc<Mutex<Vec<Timestamp>>>;

/// Runs a step that always fails so, and the seconds between its attempts.
fn gaps(
    retry: RetryConfig,
    fail: impl Fn() -> StepError + Send + Sync + 'static,
) -> (Run, Vec<f64>) {
    let time = VirtualRuntime::new(11);
    let begun = Begun::default();
    let seen = Arc::clone(&begun);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "fails",
            executor_fn(move |ctx| {
                seen.lock().unwrap().push(ctx.now());
                let error = fail();
                async move { Err::<(), _>(error) }
            }),
        )
        .build()
        .unwrap();
    let flow = Workflow::builder("w").step(Step::task("a", "fails").retry(retry)).build().unwrap();
    let run = time.block_on(engine.execute(&flow, ())).unwrap().unwrap();
    let begun = begun.lock().unwrap();
    let gaps = begun.windows(2).map(|pair| pair[1].since(pair[0]).as_secs_f64()).collect();
    (run, gaps)
}

#[test]
fn without_jitter_each_delay_is_twice_the_last_up_to_the_longest() {
    let retry = RetryConfig::attempts(9).jitter(Jitter::None);
    let (run, gaps) = gaps(retry, || StepError::retryable("down"));
    assert_eq!(gaps, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
    let history = run.error_history();
    let attempts: Vec<u32> = history.iter().map(|(_, record)| record.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn with_jitter_each_delay_is_inside_its_range() {
    let full = |n: i32| 2_f64.powi(n).min(60.0);
    for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
        let retry = RetryConfig::attempts(10).jitter(jitter);
        let (_, gaps) = gaps(retry, || StepError::retryable("down"));
        assert_eq!(gaps.len(), 9);
        for (n, gap) in gaps.iter().enumerate() {
            let (low, high) = match jitter {
                Jitter::Full => (0.0, full(n as i32)),
                Jitter::Equal => (full(n as i32) / 2.0, full(n as i32)),
                // A random delay between the base and three times the last one.
                _ => (1.0, (3.0 * n.checked_sub(1).map_or(1.0, |last| gaps[last])).min(60.0)),
            };
            let tolerance = 1e-5;
            assert!((low - tolerance..=high + tolerance).contains(gap), "{jitter:?} {n}: {gaps:?}");
        }
    }
}

#[test]
fn a_server_that_asks_to_be_left_alone_is() {
    let retry = RetryConfig::attempts(3).jitter(Jitter::None);
    let asked = Duration::from_secs(300);
    let (_, gaps) = gaps(retry, move || StepError::retryable("busy").after(asked));
    assert_eq!(gaps, [300.0, 300.0]);
}

#[test]
fn errors_that_do_not_pass_by_themselves_fail_at_once() {
    for class in [ErrorClass::Validation, ErrorClass::Permission, ErrorClass::Configuration] {
        let retry = RetryConfig::attempts(5);
        let (run, gaps) = gaps(retry, move || StepError::new(class, "no"));
        assert!(gaps.is_empty());
        let Some(Outcome::Failed { failure, .. }) = run.outcome() else { panic!("{run:?}") };
        assert_eq!(failure.class, class);
    }
}

#[test]
fn a_retry_budget_stops_a_storm() {
    let time = VirtualRuntime::new(5);
    let calls = Arc::new(Mutex::new(0_u32));
    let count = Arc::clone(&calls);
    let engine = Engine::builder()
        .runtime(time.clone())
        .limits(stepwell::engine::EngineLimits { breaker: None, ..Default::default() })
        .retry_budget(RetryBudget::new(0.1, 10.0))
        .executor(
            "fails",
            executor_fn(move |_| {
                *count.lock().unwrap() += 1;
                async { Err::<(), _>(StepError::retryable("down")) }
            }),
        )
        .build()
        .unwrap();
    let retry = RetryConfig::attempts(10).jitter(Jitter::None);
    let steps = (0..1_000).map(|n| Step::task(format!("s{n}"), "fails").retry(retry.clone()));
    let flow = Workflow::builder("w").steps(steps).build().unwrap();
    time.block_on(engine.execute(&flow, ())).unwrap().unwrap();
    let calls = *calls.lock().unwrap();
    // 1,000 first attempts pay for 100 retries, the reserve for some more; without a budget 9,000.
    assert!((1_050..=1_300).contains(&calls), "{calls} calls");
}

#[test]
fn an_operation_of_ones_own_is_tried_again_by_the_same_rules() {
    let time = VirtualRuntime::new(2);
    let begin = time.now();
    let retry = RetryManager::new(RetryConfig::attempts(4).jitter(Jitter::None));
    let log = Mutex::new(Vec::new());
    let work = retry.execute_with_retry(&time, |attempt| {
        log.lock().unwrap().push((attempt, time.now().since(begin).as_secs()));
        async move { Err::<(), _>(StepError::retryable(format!("attempt {attempt}"))) }
    });
    let last = time.block_on(work).unwrap().unwrap_err();
    assert_eq!(last.to_string(), "temporary: attempt 4");
    assert_eq!(*log.lock().unwrap(), [(1, 0), (2, 1), (3, 3), (4, 7)]);

    let once = retry.execute_with_retry(&time, |_| async {
        Err::<(), _>(StepError::new(ErrorClass::Permission, "no"))
    });
    assert!(time.block_on(once).unwrap().is_err());
    assert_eq!(time.now().since(begin).as_secs(), 7, "no time passed");
}
