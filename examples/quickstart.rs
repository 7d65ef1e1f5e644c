//! A review of a change: lint, test with retries, then deploy or write a ticket.
//!
//! Shows live progress on the terminal. Run it with `cargo run --example quickstart`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use stepwell::executor::RunEvent;
use stepwell::{Engine, RetryConfig, Step, StepError, Workflow, executor_fn};

fn main() -> stepwell::Result<()> {
    let workflow = Workflow::builder("review")
        .step(Step::task("checkout", "work"))
        .step(Step::task("lint", "work").after("checkout"))
        .step(
            Step::task("test", "run_tests")
                .after("checkout")
                .retry(RetryConfig::attempts(3).base_delay(Duration::from_millis(100))),
        )
        .step(
            Step::task("deploy", "work")
                .after("lint")
                .when("test.coverage > 80%")
                .otherwise("ticket"),
        )
        .step(Step::task("ticket", "work"))
        .build()?;

    let tries = AtomicU32::new(0);
    let engine = Engine::builder()
        .executor(
            "work",
            executor_fn(|ctx| async move {
                for part in 1..=4 {
                    ctx.sleep(Duration::from_millis(25)).await;
                    ctx.progress(f64::from(part) / 4.0, "working");
                }
                Ok(json!({"done": ctx.step()}))
            }),
        )
        .executor(
            "run_tests",
            executor_fn(move |ctx| {
                let first = tries.fetch_add(1, Ordering::Relaxed) == 0;
                async move {
                    ctx.sleep(Duration::from_millis(60)).await;
                    if first {
                        return Err(StepError::retryable("the test server does not answer"));
                    }
                    Ok(json!({"coverage": 91.5}))
                }
            }),
        )
        .build()?;

    futures::executor::block_on(async {
        let handle = engine.start(&workflow, json!({"change": 4711})).await?;
        let events = handle.events();
        let watched = events.for_each(|event| {
            match event {
                RunEvent::Journal { step, recorded } if !step.is_empty() => {
                    println!(
                        "{:>3.0} %  {step:<9} {}",
                        handle.progress().percent(),
                        name(&recorded.event)
                    );
                }
                RunEvent::Progress { step, fraction, .. } if fraction < 1.0 => {
                    println!("       {step:<9} {:.0} %", fraction * 100.0);
                }
                _ => {}
            }
            futures::future::ready(())
        });
        let (outcome, ()) = futures::join!(handle.outcome(), watched);
        outcome?;
        println!("\n{}", handle.snapshot().summary());
        Ok(())
    })
}

fn name(event: &stepwell::Event) -> String {
    use stepwell::Event;
    match event {
        Event::StepStarted { attempt, .. } => format!("attempt {attempt} started"),
        Event::StepSucceeded { .. } => "succeeded".into(),
        Event::AttemptFailed { failed, .. } => {
            format!("failed, will try again: {}", failed.failure)
        }
        Event::StepFailed { failure, .. } => format!("failed: {failure}"),
        Event::StepSkipped { reason, .. } => format!("skipped: {reason}"),
        Event::StepReady { .. } => "ready".into(),
        other => format!("{other:?}"),
    }
}
