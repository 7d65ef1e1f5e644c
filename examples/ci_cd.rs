//! A ready-made CI/CD workflow: two releases, of which the second is rolled back.
//!
//! The servers are a map in memory. People approve from the program: two of three.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use stepwell::journal::Vote;
use stepwell::ready::{CiCd, Environment};
use stepwell::workflow::Approval;
use stepwell::{
    Engine, ExecutionContext, RetryConfig, Step, StepError, StepExecutor, Workflow, executor_fn,
};

/// What has been deployed to each environment, the newest last.
type Servers = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

fn pipeline() -> stepwell::Result<Workflow> {
    let two_of_three = Approval::by(["ann", "bob", "cem"]).quorum(2);
    // The ready-made health check takes its time.
    let at_once = RetryConfig::attempts(3).base_delay(Duration::ZERO);
    CiCd::new("shop")
        .gate("tests.coverage > 80%")
        .integration_test(Step::task("browser_tests", "tests"))
        .environment("staging")
        .environment(Environment::new("production").approval(two_of_three))
        .task(Step::task("health_check", "health_check").retry(at_once))
        .build()
}

/// An executor that does something with what is deployed to its environment.
fn on(
    servers: &Servers,
    act: fn(&ExecutionContext, &str, &mut Vec<String>) -> Result<(), StepError>,
) -> impl StepExecutor {
    let servers = Arc::clone(servers);
    executor_fn(move |ctx| {
        let done = ctx.input::<String>("environment").and_then(|name| {
            let mut servers = servers.lock().unwrap_or_else(PoisonError::into_inner);
            act(&ctx, &name, servers.entry(name.clone()).or_default())
        });
        async { done }
    })
}

fn engine(servers: &Servers) -> stepwell::Result<Engine> {
    Engine::builder()
        .executor("checkout", executor_fn(|ctx| async move { Ok(ctx.run_input()) }))
        .executor("lint", executor_fn(|_| async { Ok(()) }))
        .executor("security_scan", executor_fn(|_| async { Ok(()) }))
        .executor("tests", executor_fn(|_| async { Ok(json!({"coverage": 91.5})) }))
        .executor("build", executor_fn(|ctx| async move { ctx.input::<String>("workspace") }))
        .executor(
            "deploy",
            on(servers, |ctx, _, there| ctx.input("artifact").map(|it| there.push(it))),
        )
        .executor(
            "health_check",
            on(servers, |_, name, there| match there.last() {
                Some(newest) if newest == "shop-2.0" && name == "production" => {
                    Err(StepError::retryable(format!("{newest} answers with 502")))
                }
                _ => Ok(()),
            }),
        )
        .executor(
            "rollback",
            on(servers, |_, name, there| {
                println!("rolling back {name}: {} goes", there.pop().unwrap_or_default());
                Ok(())
            }),
        )
        .executor(
            "notify",
            executor_fn(|ctx| async move {
                println!("to #releases: {}", ctx.inputs());
                Ok(())
            }),
        )
        .build()
}

async fn release(engine: &Engine, workflow: &Workflow, version: &str) -> stepwell::Result<()> {
    let handle = engine.start(workflow, version).await?;
    // Before the run is driven, or the question has passed.
    let mut events = handle.events();
    // A program would show it to people; here two of them agree at once.
    let people = async {
        while events.next().await.is_some() {
            for asked in handle.approvals() {
                println!("{} {}", asked.prompt.as_deref().unwrap_or_default(), asked.show);
                handle.approve(&asked.id, Vote::approve("ann").comment("looks good")).await?;
                handle.approve(&asked.id, Vote::approve("cem")).await?;
            }
        }
        Ok(())
    };
    let (outcome, voted) = futures::join!(handle.outcome(), people);
    println!("{}\n{}\n", outcome?, handle.snapshot().summary());
    voted
}

fn main() -> stepwell::Result<()> {
    let servers = Servers::default();
    let (engine, workflow) = (engine(&servers)?, pipeline()?);
    futures::executor::block_on(async {
        release(&engine, &workflow, "shop-1.9").await?;
        release(&engine, &workflow, "shop-2.0").await
    })?;
    println!("deployed: {:?}", servers.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}
