//! A server under the runtimes that programs have: whoever drives, it is the same.

use stepwell::runtime::Runtime;
use stepwell::{Engine, executor_fn};

use super::runs::workflow;
use super::*;

/// Runs of two steps, started at the same time, on connections of the host's own.
async fn runs(runtime: impl Runtime, url: String, name: &str) {
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(3).connect(&url).await.unwrap();
    let options = PostgresOptions::new().schema(fresh(name));
    let storage = options.with_pool(pool).await.unwrap();
    storage.migrate().await.unwrap();
    let engine = Engine::builder()
        .storage(storage.clone())
        .runtime(runtime)
        .executor("t", executor_fn(|_| async { Ok(1) }))
        .build()
        .unwrap();
    let flow = workflow("w");
    let all = (0..20).map(|_| engine.execute(&flow, ()));
    for run in futures::future::join_all(all).await {
        assert_eq!(run.unwrap().status(), RunStatus::Succeeded);
    }
    // Somebody else goes on with what nobody here waits for.
    let left = engine.start(&flow, ()).await.unwrap().id().clone();
    let until_done =
        async { while !storage.load(&left).await.unwrap().unwrap().status.is_end() {} };
    engine.serve(until_done).await.unwrap();
}

#[cfg(feature = "tokio")]
#[test]
fn runs_end_inside_of_tokio() {
    let Some(server) = server() else { return };
    let of = |mut builder: tokio::runtime::Builder, name: &'static str| {
        let runtime = builder.enable_all().build().unwrap();
        let url = server.url();
        runtime.block_on(async move {
            let here = stepwell::runtime::Tokio::current().unwrap();
            // On a thread of the runtime, where it has several.
            tokio::spawn(runs(here, url, name)).await.unwrap();
        });
    };
    of(tokio::runtime::Builder::new_current_thread(), "tokio_one");
    of(tokio::runtime::Builder::new_multi_thread(), "tokio_many");
}

#[cfg(feature = "smol")]
#[test]
fn runs_end_on_an_executor_of_smol() {
    let Some(server) = server() else { return };
    let executor = std::sync::Arc::new(smol::Executor::new());
    let here = stepwell::runtime::Smol::on(std::sync::Arc::clone(&executor));
    let work = executor.spawn(runs(here, server.url(), "smol"));
    smol::block_on(executor.run(work));
}
