//! Running in memory, beside what people would write by hand for the same work in the same process:
//!
//! - *floor*: each step a boxed future that is polled once, in order, and nothing else;
//! - *hand-written*: a `FuturesUnordered` runner over the same graph that keeps results.
//!
//! `cargo bench --bench in_memory` prints a table of medians and ratios, then criterion's figures.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::alloc::System;
use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Instant;

use criterion::Criterion;
use futures::StreamExt;
use futures::executor::block_on;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use stepwell::plan::{Edge, EdgeKind, ExecutionPlan};
use stepwell::workflow::{Definition, Limits};
use stepwell::{DagResolver, Engine, RunHandle, Step, StepId, Value, Workflow, executor_fn};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A graph by parents.
struct Shape {
    name: &'static str,
    parents: Vec<Vec<u32>>,
}

impl Shape {
    fn chain(steps: u32) -> Self {
        let parents = (0..steps).map(|i| i.checked_sub(1).into_iter().collect()).collect();
        Self { name: "chain of 1,000", parents }
    }

    fn fan(width: u32) -> Self {
        let mut parents = vec![vec![]];
        parents.extend((0..width).map(|_| vec![0]));
        parents.push((1..=width).collect());
        Self { name: "1 to 10,000 to 1", parents }
    }

    fn layers(layers: u32, width: u32) -> Self {
        let mut parents = Vec::new();
        for layer in 0..layers {
            for place in 0..width {
                parents.push(match layer {
                    0 => vec![],
                    _ => {
                        (0..3).map(|p| (layer - 1) * width + (place * 7 + p * 13) % width).collect()
                    }
                });
            }
        }
        Self { name: "100 x 100 layers", parents }
    }

    fn workflow(&self) -> Workflow {
        let steps = self.parents.iter().enumerate().map(|(at, parents)| {
            Step::task(format!("s{at}"), "noop").after_all(parents.iter().map(|p| format!("s{p}")))
        });
        let limits = Limits { max_cpu_percent: 100, ..Limits::default() };
        Workflow::builder("bench").limits(limits).steps(steps).build().unwrap()
    }
}

fn noop() -> BoxFuture<'static, Value> {
    Box::pin(async { Value::NULL })
}

/// Each step a boxed future, polled once.
fn floor(steps: usize) {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..steps {
        let mut step = black_box(noop());
        assert!(Pin::new(&mut step).poll(&mut context).is_ready());
    }
}

/// What one would write for a graph: counters, results, `FuturesUnordered`.
async fn by_hand(children: &[Vec<u32>], parents: &[u32]) -> Vec<Value> {
    let mut left = parents.to_vec();
    let mut results = vec![Value::NULL; left.len()];
    let mut running = FuturesUnordered::new();
    let start = |step: u32| async move { (step, noop().await) };
    for step in 0..left.len() as u32 {
        if left[step as usize] == 0 {
            running.push(start(step));
        }
    }
    while let Some((step, value)) = running.next().await {
        results[step as usize] = value;
        for child in &children[step as usize] {
            left[*child as usize] -= 1;
            if left[*child as usize] == 0 {
                running.push(start(*child));
            }
        }
    }
    results
}

struct Prepared {
    name: &'static str,
    steps: usize,
    children: Vec<Vec<u32>>,
    parents: Vec<u32>,
    workflow: Workflow,
    engine: Engine,
}

impl Prepared {
    fn of(shape: &Shape) -> Self {
        let mut children = vec![Vec::new(); shape.parents.len()];
        for (step, parents) in shape.parents.iter().enumerate() {
            for parent in parents {
                children[*parent as usize].push(step as u32);
            }
        }
        Self {
            name: shape.name,
            steps: children.len(),
            children,
            parents: shape.parents.iter().map(|p| p.len() as u32).collect(),
            workflow: shape.workflow(),
            engine: engine(),
        }
    }

    fn ours(&self) {
        let run = block_on(self.engine.execute(&self.workflow, ())).unwrap();
        assert!(run.output().is_some());
    }
}

fn engine() -> Engine {
    // A fresh storage per engine: what has run stays in it, as a journal should.
    Engine::builder().executor("noop", executor_fn(|_| async { Ok(()) })).build().unwrap()
}

/// Nanoseconds per unit, the median of several runs.
fn median(runs: usize, units: usize, mut work: impl FnMut()) -> f64 {
    work();
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let begin = Instant::now();
            work();
            begin.elapsed().as_nanos() as f64 / units as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn many_steps() -> Shape {
    Shape { name: "runs of 500 steps", ..Shape::layers(50, 10) }
}

fn diamond() -> Shape {
    Shape {
        name: "five-step diamonds",
        parents: vec![vec![], vec![0], vec![0], vec![1, 2], vec![3]],
    }
}

/// So many runs of this shape at once; nanoseconds for each.
fn at_once(shape: &Shape, count: usize) -> (f64, f64, f64) {
    let prepared = Prepared::of(shape);
    let low = median(5, count, || (0..count).for_each(|_| floor(prepared.steps)));
    let hand = median(5, count, || {
        block_on(async {
            let mut all: FuturesUnordered<_> =
                (0..count).map(|_| by_hand(&prepared.children, &prepared.parents)).collect();
            while all.next().await.is_some() {}
        });
    });
    let ours = median(5, count, || {
        let engine = engine();
        block_on(async {
            let handles = started(&engine, &prepared.workflow, count).await;
            let mut all: FuturesUnordered<_> = handles.iter().map(|h| h.outcome()).collect();
            while let Some(outcome) = all.next().await {
                assert!(outcome.unwrap().output().is_some());
            }
        });
    });
    (low, hand, ours)
}

async fn started(engine: &Engine, workflow: &Workflow, count: usize) -> Vec<RunHandle> {
    let mut handles = Vec::with_capacity(count);
    for _ in 0..count {
        handles.push(engine.start(workflow, ()).await.unwrap());
    }
    handles
}

/// How long it takes to accept a definition, and from then on until its first step begins, beside so many
/// runs of another one that have just begun; milliseconds.
fn newcomer(shape: &Shape, beside: usize) -> (f64, f64) {
    let accepted = median(15, 1, || drop(black_box(shape.workflow())));
    let workflow = shape.workflow();
    let late = Workflow::builder("late").step(Step::task("first", "notes")).build().unwrap();
    let began = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&began);
    let notes = executor_fn(move |_| {
        noted.lock().unwrap().get_or_insert_with(Instant::now);
        async { Ok(()) }
    });
    let noop = executor_fn(|_| async { Ok(()) });
    let engine = Engine::builder().executor("noop", noop).executor("notes", notes).build().unwrap();
    let (mut waits, runs) = (Vec::new(), 5);
    for _ in 0..runs {
        *began.lock().unwrap() = None;
        let asked = block_on(async {
            let handles = started(&engine, &workflow, beside).await;
            let newcomer;
            let mut all: FuturesUnordered<_> = handles.iter().map(|h| h.outcome()).collect();
            // All of them are under way.
            let _ = futures::poll!(all.next());
            let asked = Instant::now();
            newcomer = engine.start(&late, ()).await.unwrap();
            all.push(newcomer.outcome());
            while all.next().await.is_some() {}
            asked
        });
        waits.push((began.lock().unwrap().unwrap() - asked).as_nanos() as f64);
    }
    waits.sort_by(f64::total_cmp);
    (accepted / 1e6, waits[runs / 2] / 1e6)
}

fn plan() -> (f64, f64) {
    let (steps, per_step) = (100_000_u32, 3);
    let parents = |at: u32| (1..=per_step).filter_map(move |p| at.checked_sub(p * 7));
    let mut definition = Definition::new("large");
    definition.steps = (0..steps)
        .map(|at| {
            Step::task(format!("step-{at}"), "t")
                .after_all(parents(at).map(|p| format!("step-{p}")))
        })
        .collect();
    let ours = median(5, 1, || {
        black_box(DagResolver::create_execution_plan(&definition).unwrap());
    });
    let by_hand = median(5, 1, || {
        let index: std::collections::HashMap<&str, u32> =
            definition.steps.iter().enumerate().map(|(at, s)| (s.id.as_str(), at as u32)).collect();
        let mut edges = Vec::new();
        for (to, step) in definition.steps.iter().enumerate() {
            for parent in &step.after {
                edges.push((index[parent.as_str()], to as u32));
            }
        }
        black_box(kahn(steps as usize, &edges));
    });
    (by_hand / 1e6, ours / 1e6)
}

/// Kahn's algorithm over compressed rows.
fn kahn(steps: usize, edges: &[(u32, u32)]) -> Vec<u32> {
    let mut starts = vec![0_u32; steps + 1];
    let mut open = vec![0_u32; steps];
    for (from, to) in edges {
        starts[*from as usize + 1] += 1;
        open[*to as usize] += 1;
    }
    for i in 0..steps {
        starts[i + 1] += starts[i];
    }
    let mut next = starts.clone();
    let mut targets = vec![0_u32; edges.len()];
    for (from, to) in edges {
        targets[next[*from as usize] as usize] = *to;
        next[*from as usize] += 1;
    }
    let mut order: Vec<u32> = (0..steps as u32).filter(|s| open[*s as usize] == 0).collect();
    let mut at = 0;
    while at < order.len() {
        let step = order[at] as usize;
        for target in &targets[starts[step] as usize..starts[step + 1] as usize] {
            open[*target as usize] -= 1;
            if open[*target as usize] == 0 {
                order.push(*target);
            }
        }
        at += 1;
    }
    order
}

/// Bytes that one parked five-step run holds.
fn parked() -> usize {
    let count = 10_000;
    let workflow = Workflow::builder("parked")
        .step(Step::task("a", "noop"))
        .step(Step::wait("b", stepwell::Wait::signal("go")).after("a"))
        .step(Step::task("c", "noop").after("b"))
        .step(Step::task("d", "noop").after("c"))
        .step(Step::task("e", "noop").after("d"))
        .build()
        .unwrap();
    let engine = engine();
    let region = Region::new(ALLOCATOR);
    block_on(async {
        for _ in 0..count {
            engine.start(&workflow, ()).await.unwrap();
        }
        // Long enough to park them all.
        let runtime = std::sync::Arc::clone(engine.runtime());
        let soon = runtime.now() + std::time::Duration::from_millis(500);
        engine.serve(runtime.sleep_until(soon)).await.unwrap();
    });
    let change = region.change();
    (change.bytes_allocated - change.bytes_deallocated) / count
}

fn table() {
    println!("| work | floor | hand-written | ours | ours / hand-written | allocations per step |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for shape in [Shape::chain(1_000), Shape::fan(10_000), Shape::layers(100, 100)] {
        let work = Prepared::of(&shape);
        let low = median(15, work.steps, || floor(work.steps));
        let hand = median(15, work.steps, || {
            black_box(block_on(by_hand(&work.children, &work.parents)));
        });
        let ours = median(15, work.steps, || work.ours());
        let region = Region::new(ALLOCATOR);
        work.ours();
        let allocations = region.change().allocations as f64 / work.steps as f64;
        println!(
            "| {}, per step | {low:.0} ns | {hand:.0} ns | {ours:.0} ns | {:.2} | {allocations:.1} |",
            work.name,
            ours / hand
        );
    }
    for (shape, count) in [(diamond(), 10_000), (many_steps(), 1_000)] {
        let (low, hand, ours) = at_once(&shape, count);
        println!(
            "| {count} {} at once, each | {:.2} us | {:.2} us | {:.2} us | {:.2} | |",
            shape.name,
            low / 1e3,
            hand / 1e3,
            ours / 1e3,
            ours / hand
        );
    }
    let (hand, ours) = plan();
    println!(
        "| plan 100,000 steps, 300,000 edges, text ids | | {hand:.1} ms | {ours:.1} ms | {:.2} | |",
        ours / hand
    );
    let (accepted, begins) = newcomer(&many_steps(), 1_000);
    println!(
        "\na definition of 500 steps is accepted in {accepted:.2} ms; beside 1,000 runs of it that have just \
         begun, the first step of another run begins after {begins:.2} ms"
    );
    println!("memory of a parked five-step run: {} bytes", parked());
}

fn criterion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("in_memory");
    group.sample_size(10);
    for shape in [Shape::chain(1_000), Shape::fan(10_000), Shape::layers(100, 100)] {
        let work = Prepared::of(&shape);
        group.bench_function(format!("{}/floor", work.name), |b| b.iter(|| floor(work.steps)));
        group.bench_function(format!("{}/by hand", work.name), |b| {
            b.iter(|| block_on(by_hand(&work.children, &work.parents)));
        });
        group.bench_function(format!("{}/ours", work.name), |b| b.iter(|| work.ours()));
    }
    let ids: Vec<StepId> = (0..100_000).map(|at| format!("step-{at}").into()).collect();
    let edges: Vec<Edge> = (1..100_000_u32)
        .flat_map(|to| (1..=3).filter_map(move |p| Some((to.checked_sub(p * 7)?, to))))
        .map(|(from, to)| Edge { from, to, kind: EdgeKind::After })
        .collect();
    group.bench_function("order 100,000 steps by number", |b| {
        b.iter(|| ExecutionPlan::new(ids.clone(), edges.clone()).unwrap());
    });
    group.finish();
}

fn main() {
    if std::env::args().any(|word| word == "--test") {
        for shape in [Shape::chain(1_000), Shape::fan(100), Shape::layers(10, 10)] {
            Prepared::of(&shape).ours();
        }
        newcomer(&diamond(), 10);
        return;
    }
    table();
    // Criterion refuses arguments that it does not know.
    if std::env::var_os("TABLE_ONLY").is_none() {
        criterion(&mut Criterion::default().configure_from_args());
    }
}
