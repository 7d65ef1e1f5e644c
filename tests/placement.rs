//! Heavy steps use every core, light ones stay where they are.
#![cfg(all(feature = "tokio", feature = "smol", feature = "threads"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::collections::HashSet;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use serde_json::json;
use stepwell::engine::Placement;
use stepwell::runtime::{Host, Smol, threads};
use stepwell::workflow::Limits;
use stepwell::{Engine, EngineBuilder, Step, StepError, Workflow, executor_fn};

const STEPS: usize = 64;

type Threads = Arc<Mutex<Vec<ThreadId>>>;

/// Some milliseconds of work that no compiler can leave out.
fn work() -> u64 {
    (0..1_000_000_u64).fold(1, |sum, at| black_box(sum.wrapping_mul(31).wrapping_add(at)))
}

/// An engine whose `heavy` and `light` steps note the thread that they ran on.
fn engine(builder: EngineBuilder) -> (Engine, Threads) {
    let seen = Threads::default();
    let (heavy, light) = (Arc::clone(&seen), Arc::clone(&seen));
    let engine = builder
        .executor(
            "heavy",
            executor_fn(move |_| {
                let seen = Arc::clone(&heavy);
                async move {
                    let sum = work();
                    seen.lock().unwrap().push(std::thread::current().id());
                    Ok(json!(sum))
                }
            }),
        )
        .executor(
            "light",
            executor_fn(move |_| {
                let seen = Arc::clone(&light);
                async move {
                    seen.lock().unwrap().push(std::thread::current().id());
                    Ok(())
                }
            }),
        )
        .build()
        .unwrap();
    (engine, seen)
}

fn workflow(steps: impl Iterator<Item = Step>) -> Workflow {
    let limits = Limits { max_cpu_percent: 100, max_concurrent_steps: 64, ..Limits::default() };
    Workflow::builder("w").limits(limits).steps(steps).build().unwrap()
}

fn side_by_side() -> Workflow {
    workflow((0..STEPS).map(|at| Step::task(format!("s{at}"), "heavy")))
}

fn chain() -> Workflow {
    workflow((0..1_000).map(|at: usize| {
        let before = at.checked_sub(1).map(|before| format!("s{before}"));
        Step::task(format!("s{at}"), "light").after_all(before)
    }))
}

/// Runs the heavy steps and the chain, and looks at where they ran.
async fn uses_all_cores(name: &str, builder: EngineBuilder) {
    let (engine, seen) = engine(builder);
    let begin = Instant::now();
    engine.execute(&side_by_side(), ()).await.unwrap();
    let here = begin.elapsed();
    let used: HashSet<ThreadId> = seen.lock().unwrap().drain(..).collect();
    let one = one_after_the_other().await;
    println!(
        "{name}: {STEPS} heavy steps in {here:.0?} on {} threads, {one:.0?} in place: {:.2} x",
        used.len(),
        one.as_secs_f64() / here.as_secs_f64()
    );
    assert!(used.len() >= 2, "all on one thread");

    engine.execute(&chain(), ()).await.unwrap();
    let elsewhere = {
        let here = std::thread::current().id();
        seen.lock().unwrap().iter().filter(|thread| **thread != here).count()
    };
    // The first two of a type that nothing is known of are tried elsewhere, and a few more after a
    // measurement that the operating system interrupted.
    assert!(elsewhere <= 100, "{elsewhere} of 1,000 light steps were moved");
}

/// The same work without another thread.
async fn one_after_the_other() -> Duration {
    let builder = Engine::builder().runtime(Host::default());
    let (engine, _) = engine(builder.placement("heavy", Placement::InPlace));
    let begin = Instant::now();
    engine.execute(&side_by_side(), ()).await.unwrap();
    begin.elapsed()
}

#[test]
fn heavy_steps_use_all_cores_and_light_ones_stay() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Found by the engine itself: it is built inside tokio.
    runtime.block_on(async { uses_all_cores("tokio", Engine::builder()).await });
    let executor = Arc::new(smol::Executor::new());
    let (stop, stopped) = smol::channel::unbounded::<()>();
    let pool: Vec<_> = (0..2)
        .map(|_| {
            let (executor, stopped) = (Arc::clone(&executor), stopped.clone());
            std::thread::spawn(move || smol::block_on(executor.run(stopped.recv())))
        })
        .collect();
    smol::block_on(uses_all_cores("smol", Engine::builder().runtime(Smol::on(executor))));
    drop(stop);
    pool.into_iter().for_each(|thread| assert!(thread.join().unwrap().is_err()));
    let pool = Engine::builder().runtime(threads(2).unwrap());
    futures::executor::block_on(uses_all_cores("thread pool", pool));
}

#[test]
fn a_step_that_needs_tokio_works_on_the_default_runtime_inside_tokio() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = runtime.block_on(async {
        let engine = Engine::builder()
            .runtime(Host::default())
            .executor(
                "echo",
                executor_fn(|_| async {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                    let address = server.local_addr()?;
                    let answers = async {
                        let (mut socket, _) = server.accept().await?;
                        socket.write_all(b"hello").await?;
                        Ok::<_, StepError>(())
                    };
                    let asks = async {
                        let mut text = String::new();
                        let mut socket = tokio::net::TcpStream::connect(address).await?;
                        socket.read_to_string(&mut text).await?;
                        Ok::<_, StepError>(text)
                    };
                    let ((), text) = futures::try_join!(answers, asks)?;
                    Ok(text)
                }),
            )
            .build()
            .unwrap();
        engine.execute(&workflow([Step::task("a", "echo")].into_iter()), ()).await.unwrap()
    });
    assert_eq!(run.output().unwrap(), "hello");
}
