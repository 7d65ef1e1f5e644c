//! Plans, draws and runs recorded scientific workflows.
//!
//! ```text
//! cargo run --release --example wfcommons --features testing -- [options] FILE...
//!   --workers N     steps at once (default 8)
//!   --real FACTOR   run in real time, recorded times multiplied by FACTOR; default: virtual time
//!   --svg FILE      write the plan as a picture
//! ```
//!
//! The files are in WfFormat (<https://wfcommons.org/format>): tasks with parents, and how long each
//! took when it was recorded.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::Limits;
use stepwell::{Engine, EngineBuilder, Step, Workflow, executor_fn};

#[derive(Deserialize)]
struct Document {
    name: String,
    workflow: Recorded,
}

#[derive(Deserialize)]
struct Recorded {
    specification: Specification,
    execution: Execution,
}

#[derive(Deserialize)]
struct Specification {
    tasks: Vec<Task>,
}

#[derive(Deserialize)]
struct Task {
    id: String,
    parents: Vec<String>,
}

#[derive(Deserialize)]
struct Execution {
    tasks: Vec<Execed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Execed {
    id: String,
    runtime_in_seconds: f64,
}

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    let (mut workers, mut real, mut svg, mut files) = (8, None, None, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--workers" => workers = value()?.parse()?,
            "--real" => real = Some(value()?.parse::<f64>()?),
            "--svg" => svg = Some(value()?),
            _ => files.push(word),
        }
    }
    if files.is_empty() {
        println!("no files given: running the small one that comes with this example");
        return run("example", EXAMPLE, workers, real, svg.as_deref());
    }
    for file in files {
        run(&file, &std::fs::read_to_string(&file)?, workers, real, svg.as_deref())?;
    }
    Ok(())
}

fn run(
    file: &str,
    text: &str,
    workers: u32,
    real: Option<f64>,
    svg: Option<&str>,
) -> Result<(), AnyError> {
    let document: Document = serde_json::from_str(text)?;
    let recorded = document.workflow.execution.tasks;
    let times: HashMap<String, Duration> = recorded
        .into_iter()
        .map(|task| Ok((task.id, Duration::try_from_secs_f64(task.runtime_in_seconds)?)))
        .collect::<Result<_, AnyError>>()?;
    let workflow = Workflow::builder(document.name)
        .limits(Limits {
            max_concurrent_steps: workers,
            max_duration: Duration::from_secs(365 * 86_400),
            max_cpu_percent: 100,
            ..Limits::default()
        })
        .steps(
            document
                .workflow
                .specification
                .tasks
                .into_iter()
                .map(|task| Step::task(task.id, "recorded").after_all(task.parents)),
        )
        .build()?;
    if let Some(file) = svg {
        std::fs::write(file, workflow.plan().to_svg())?;
    }

    let scale = real.unwrap_or(1.0);
    let time = |id: &str| times.get(id).copied().unwrap_or_default().mul_f64(scale);
    let plan = workflow.plan();
    let of_step = |step| time(plan.id(step).as_str());
    let (ran, makespan) = match real {
        None => {
            let clock = VirtualRuntime::new(1);
            let begin = clock_now(&clock);
            let (engine, ran) = engine(Engine::builder().runtime(clock.clone()), &times, scale)?;
            let run = clock.block_on(engine.execute(&workflow, ()))??;
            assert!(run.output().is_some(), "{}", run.summary());
            (ran, clock_now(&clock).since(begin))
        }
        Some(_) => {
            let (engine, ran) = engine(Engine::builder(), &times, scale)?;
            let run = futures::executor::block_on(engine.execute(&workflow, ()))?;
            assert!(run.output().is_some(), "{}", run.summary());
            (ran, run.progress().elapsed)
        }
    };
    let ran = ran.load(Ordering::Relaxed);
    println!("{file}");
    println!(
        "  {} tasks in {} batches, {} edges",
        plan.len(),
        plan.batches().count(),
        plan.edge_count()
    );
    println!("  ran {ran} tasks on {workers} workers: makespan {:.1} s", makespan.as_secs_f64());
    println!(
        "  critical path {:.1} s, total work {:.1} s, bounds {:.1} to {:.1} s",
        plan.critical_path(of_step).length.as_secs_f64(),
        plan.total_work(of_step).as_secs_f64(),
        plan.lower_bound(of_step, workers).as_secs_f64(),
        plan.graham_bound(of_step, workers).as_secs_f64(),
    );
    assert_eq!(ran, plan.len(), "every task runs once");
    Ok(())
}

fn clock_now(clock: &VirtualRuntime) -> stepwell::Timestamp {
    stepwell::Runtime::now(clock)
}

/// An engine whose one executor takes as long as was recorded, and counts.
fn engine(
    builder: EngineBuilder,
    times: &HashMap<String, Duration>,
    scale: f64,
) -> stepwell::Result<(Engine, Arc<AtomicUsize>)> {
    let ran = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(Mutex::new(std::collections::HashSet::new()));
    let (times, count) = (times.clone(), Arc::clone(&ran));
    let recorded = executor_fn(move |ctx| {
        let id = ctx.step();
        let length = times.get(&id).copied().unwrap_or_default().mul_f64(scale);
        let (count, done) = (Arc::clone(&count), Arc::clone(&done));
        async move {
            let early = ctx
                .step_dependencies(&id)
                .into_iter()
                .find(|parent| !done.lock().is_ok_and(|done| done.contains(parent)));
            assert!(early.is_none(), "{id} started before {early:?}");
            ctx.sleep(length).await;
            count.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut done) = done.lock() {
                assert!(done.insert(id), "a task ran twice");
            }
            Ok(())
        }
    });
    Ok((builder.executor("recorded", recorded).build()?, ran))
}

const EXAMPLE: &str = r#"{"name": "diamond", "workflow": {
    "specification": {"tasks": [
        {"id": "split", "parents": []},
        {"id": "left", "parents": ["split"]},
        {"id": "right", "parents": ["split"]},
        {"id": "merge", "parents": ["left", "right"]}
    ]},
    "execution": {"tasks": [
        {"id": "split", "runtimeInSeconds": 1.5},
        {"id": "left", "runtimeInSeconds": 20},
        {"id": "right", "runtimeInSeconds": 30},
        {"id": "merge", "runtimeInSeconds": 2}
    ]}
}}"#;
