//! Recorded workflows of scientists, and large random ones.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::Value as Json;
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::Limits;
use stepwell::{Engine, RunStatus, Runtime, Step, Workflow, executor_fn};

fn limits(steps: u32) -> Limits {
    Limits {
        max_concurrent_steps: steps,
        max_duration: Duration::from_secs(1_000 * 86_400),
        max_cpu_percent: 100,
        ..Limits::default()
    }
}

/// Tasks with their parents and times, from WfFormat.
fn read(path: &Path) -> Vec<(String, Vec<String>, Duration)> {
    let json: Json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let times: BTreeMap<&str, f64> = json["workflow"]["execution"]["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["id"].as_str().unwrap(), t["runtimeInSeconds"].as_f64().unwrap()))
        .collect();
    json["workflow"]["specification"]["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| {
            let id = task["id"].as_str().unwrap();
            let parents = task["parents"].as_array().unwrap().iter();
            let parents = parents.map(|p| p.as_str().unwrap().to_string()).collect();
            (id.to_string(), parents, Duration::from_secs_f64(times[id]))
        })
        .collect()
}

/// Runs tasks in virtual time: every one once, none before its parents, in a makespan that no
/// schedule can beat and no greedy one exceed.
fn run(tasks: &[(String, Vec<String>, Duration)], workers: u32, seed: u64) {
    let steps = tasks.iter().map(|(id, parents, _)| {
        Step::task(id.as_str(), "t").after_all(parents.iter().map(String::as_str))
    });
    let workflow = Workflow::builder("trace").limits(limits(workers)).steps(steps).build().unwrap();
    let times: BTreeMap<String, Duration> =
        tasks.iter().map(|(id, _, t)| (id.clone(), *t)).collect();
    let parents: BTreeMap<String, Vec<String>> =
        tasks.iter().map(|(id, parents, _)| (id.clone(), parents.clone())).collect();
    let done = Arc::new(Mutex::new(BTreeSet::new()));
    let log = Arc::clone(&done);
    let clock = VirtualRuntime::new(seed);
    let lengths = times.clone();
    let engine = Engine::builder()
        .runtime(clock.clone())
        .executor(
            "t",
            executor_fn(move |ctx| {
                let id = ctx.step();
                for parent in &parents[&id] {
                    assert!(log.lock().unwrap().contains(parent), "{id} before {parent}");
                }
                let (log, length) = (Arc::clone(&log), lengths[&id]);
                async move {
                    ctx.sleep(length).await;
                    assert!(log.lock().unwrap().insert(id), "twice");
                    Ok(())
                }
            }),
        )
        .build()
        .unwrap();
    let begin = clock.now();
    let run = clock.block_on(engine.execute(&workflow, ())).unwrap().unwrap();
    assert_eq!(run.status(), RunStatus::Succeeded, "{}", run.summary());
    assert_eq!(done.lock().unwrap().len(), tasks.len());
    let makespan = clock.now().since(begin);
    let plan = workflow.plan();
    let time = |step| times[plan.id(step).as_str()];
    // Sleeps end on whole microseconds, at most one late each.
    let slack = Duration::from_micros(plan.batches().count() as u64 + 1);
    assert!(makespan + slack >= plan.lower_bound(time, workers), "{makespan:?}");
    assert!(makespan <= plan.graham_bound(time, workers) + slack, "{makespan:?}");
}

#[test]
fn recorded_workflows_run_within_the_bounds_of_list_scheduling() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/wfinstances");
    // Only where the traces lie beside the checkout; they are not part of it.
    let Ok(files) = std::fs::read_dir(folder) else { return };
    for file in files.map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|ending| ending == "json") {
            let tasks = read(&file);
            for workers in [1, 4, 50] {
                run(&tasks, workers, 3);
            }
        }
    }
}

/// A linear congruential generator, for graphs that are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

fn random(steps: usize, seed: u64) -> Vec<(String, Vec<String>, Duration)> {
    let mut dice = Dice(seed);
    (0..steps)
        .map(|at| {
            let count = dice.roll(4).min(at);
            let parents: BTreeSet<usize> = (0..count).map(|_| dice.roll(at)).collect();
            let parents = parents.into_iter().map(|parent| format!("s{parent}")).collect();
            (format!("s{at}"), parents, Duration::from_millis(dice.roll(5_000) as u64))
        })
        .collect()
}

#[test]
fn random_graphs_run_within_the_bounds_of_list_scheduling() {
    for seed in 0..20 {
        for workers in [1, 3, 16] {
            run(&random(120, seed), workers, seed);
        }
    }
}

#[test]
fn a_graph_of_5000_steps_runs() {
    run(&random(5_000, 99), 50, 1);
}

#[test]
fn a_thousand_runs_of_500_steps_at_once_finish() {
    let steps = random(500, 7);
    let steps = steps.iter().map(|(id, parents, _)| {
        Step::task(id.as_str(), "t").after_all(parents.iter().map(String::as_str))
    });
    let workflow = Workflow::builder("many").limits(limits(50)).steps(steps).build().unwrap();
    let engine =
        Engine::builder().executor("t", executor_fn(|_| async { Ok(()) })).build().unwrap();
    futures::executor::block_on(async {
        let mut handles = Vec::new();
        for _ in 0..1_000 {
            handles.push(engine.start(&workflow, ()).await.unwrap());
        }
        let mut all: FuturesUnordered<_> = handles.iter().map(|handle| handle.outcome()).collect();
        let mut finished = 0;
        while let Some(outcome) = all.next().await {
            assert_eq!(outcome.unwrap().status(), RunStatus::Succeeded);
            finished += 1;
        }
        assert_eq!(finished, 1_000);
    });
}

#[test]
fn a_thirty_day_wait_is_over_at_once_in_virtual_time() {
    let clock = VirtualRuntime::new(1);
    let month = Duration::from_secs(30 * 86_400);
    let workflow = Workflow::builder("month")
        .limits(limits(1))
        .step(Step::wait("w", stepwell::Wait::For(month)))
        .build()
        .unwrap();
    let engine = Engine::builder().runtime(clock.clone()).build().unwrap();
    let begin = clock.now();
    clock.block_on(engine.execute(&workflow, ())).unwrap().unwrap();
    assert_eq!(clock.now().since(begin), month);
}
