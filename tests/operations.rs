//! What operators and people do to a run, in every place where a run can wait: in virtual time.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::select;
use serde_json::json;
use stepwell::journal::{Operation, Reason, Signal, Vote};
use stepwell::storage::{Memory, Message, Storage};
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::{Approval, Case};
use stepwell::{
    Engine, ErrorKind, Event, Outcome, RunHandle, RunStatus, StartOptions, Step, StepError, Wait,
    Workflow, executor_fn,
};

const SECOND: Duration = Duration::from_secs(1);

fn reason() -> Reason {
    Reason::new("ann", "because")
}

/// Drives a run for a while, until nothing moves but time.
async fn drive(engine: &Engine, handle: &RunHandle, length: Duration) {
    let nap = engine.runtime().sleep_until(engine.runtime().now() + length);
    select(Box::pin(handle.outcome()), nap).await;
}

async fn settle(engine: &Engine, handle: &RunHandle) {
    drive(engine, handle, Duration::from_millis(1)).await;
}

/// Where a wait can stand.
const PLACES: [&str; 7] =
    ["parallel", "foreach", "while", "choice", "sub-workflow", "dynamic", "nested"];
/// What it can wait for.
const WAITS: [&str; 4] = ["signal", "approval", "timer", "first"];
/// What is done meanwhile.
const DEEDS: [&str; 5] = ["pause", "resume", "cancel", "terminate", "rerun"];

fn wait(kind: &str) -> Step {
    Step::wait(
        "w",
        match kind {
            "signal" => Wait::signal("go"),
            "approval" => Wait::approval(Approval::by(["ann", "bob"]).quorum(2)),
            "timer" => Wait::For(60 * SECOND),
            _ => Wait::first([("late", Wait::For(60 * SECOND)), ("go", Wait::signal("go"))]),
        },
    )
}

/// A workflow with the wait in this place, and the path of the wait.
fn place(kind: &str, wait: Step) -> (Step, &'static str, Workflow) {
    let body = || [wait.clone(), Step::task("next", "count").after("w")];
    let child = Workflow::builder("child").steps(body()).build().unwrap();
    let (step, path) = match kind {
        "parallel" => {
            let sequence = Step::sequence(
                "s",
                body().map(|mut step| {
                    step.after.clear();
                    step
                }),
            );
            (Step::parallel("c", [sequence, Step::task("beside", "count")]), "c/s/w")
        }
        "foreach" => (Step::for_each("c", "[1]", body()), "c[0]/w"),
        "while" => (Step::while_loop("c", "turn < 1", body()), "c[0]/w"),
        "choice" => (Step::choice("c", [Case::when("true", body())]), "c/w"),
        "sub-workflow" => (Step::workflow("c", "child"), "c/w"),
        "dynamic" => (Step::dynamic("c", "input"), "c/w"),
        _ => {
            let inner = Step::for_each("d", "[1]", body());
            let choice = Step::choice("e", [Case::when("true", [inner])]);
            (Step::while_loop("c", "turn < 1", [choice]), "c[0]/e/d[0]/w")
        }
    };
    (step, path, child)
}

struct Cell {
    engine: Engine,
    handle: RunHandle,
    wait: &'static str,
    path: &'static str,
    count: Arc<AtomicU32>,
}

impl Cell {
    async fn start(time: &VirtualRuntime, kind: &str, wait: &'static str) -> Self {
        let count = Arc::new(AtomicU32::new(0));
        let counts = Arc::clone(&count);
        let (step, path, child) = place(kind, self::wait(wait));
        let engine = Engine::builder()
            .runtime(time.clone())
            .workflow(&child)
            .executor(
                "count",
                executor_fn(move |ctx| {
                    counts.fetch_add(u32::from(!ctx.step().ends_with("beside")), Ordering::SeqCst);
                    async { Ok(()) }
                }),
            )
            .build()
            .unwrap();
        let steps = [step, Step::task("z", "count").after("c")];
        let flow = Workflow::builder("w").steps(steps).build().unwrap();
        // What the dynamic step runs.
        let made = serde_json::to_value(&child.definition().steps).unwrap();
        let handle = engine.start(&flow, made).await.unwrap();
        settle(&engine, &handle).await;
        let waits = handle.explain(path).unwrap().to_string();
        assert!(waits.starts_with("waits"), "{waits}");
        Self { engine, handle, wait, path, count }
    }

    fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    /// Lets the wait end.
    async fn release(&self, handle: &RunHandle) {
        match self.wait {
            "approval" => {
                let open = handle.approvals();
                assert_eq!(open.len(), 1, "{open:?}");
                for by in ["ann", "bob"] {
                    handle.approve(&*open[0].id, Vote::approve(by)).await.unwrap();
                }
            }
            "timer" => drive(&self.engine, handle, 61 * SECOND).await,
            _ => handle.signal("go", ()).await.unwrap(),
        }
        settle(&self.engine, handle).await;
    }

    fn status(&self) -> RunStatus {
        self.handle.status()
    }
}

async fn pause(cell: Cell) {
    cell.handle.pause(reason()).await.unwrap();
    cell.release(&cell.handle).await;
    assert_eq!((cell.status(), cell.count()), (RunStatus::Paused, 0));
    cell.handle.resume(reason()).await.unwrap();
    settle(&cell.engine, &cell.handle).await;
    assert_eq!((cell.status(), cell.count()), (RunStatus::Succeeded, 2));
}

async fn resume(cell: Cell) {
    let refused = cell.handle.resume(reason()).await.unwrap_err();
    assert!(refused.to_string().contains("not paused"), "{refused}");
    cell.handle.pause(reason()).await.unwrap();
    cell.handle.resume(reason()).await.unwrap();
    cell.release(&cell.handle).await;
    assert_eq!((cell.status(), cell.count()), (RunStatus::Succeeded, 2));
}

async fn cancel(cell: Cell, at_once: bool) {
    let approvals = cell.handle.approvals();
    match at_once {
        true => cell.handle.terminate(reason()).await.unwrap(),
        false => cell.handle.cancel(reason()).await.unwrap(),
    }
    settle(&cell.engine, &cell.handle).await;
    assert_eq!((cell.status(), cell.count()), (RunStatus::Cancelled, 0));
    assert!(cell.handle.approvals().is_empty());
    let late = match approvals.first() {
        Some(open) => cell.handle.approve(&*open.id, Vote::approve("ann")).await,
        None => cell.handle.signal("go", ()).await,
    };
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Rejected);
    // It goes on where it was, if somebody wants that.
    let again = cell.engine.reopen(cell.handle.id(), Operation::RetryFailed, reason()).await;
    let again = again.unwrap();
    settle(&cell.engine, &again).await;
    cell.release(&again).await;
    assert_eq!((again.status(), cell.count()), (RunStatus::Succeeded, 2));
}

async fn rerun(cell: Cell) {
    let operate = |step: &str| cell.handle.operate(Operation::rerun(step), reason());
    let refused = operate(cell.path).await.unwrap_err().to_string();
    assert!(refused.contains("only what has ended can run again"), "{refused}");
    let refused = operate("c").await.unwrap_err().to_string();
    assert!(refused.contains("is running; cancel it first"), "{refused}");
    let before = cell.handle.approvals();
    cell.release(&cell.handle).await;
    assert_eq!((cell.status(), cell.count()), (RunStatus::Succeeded, 2));
    let operation = Operation::rerun("c");
    let preview = cell.handle.preview(&operation).unwrap();
    assert_eq!((preview.reopens, preview.again), (true, vec!["c".to_string(), "z".into()]));
    let again = cell.engine.reopen(cell.handle.id(), operation, reason()).await.unwrap();
    settle(&cell.engine, &again).await;
    let waits = again.explain(cell.path).unwrap().to_string();
    assert!(waits.starts_with("waits"), "{waits}");
    if let Some(open) = before.first() {
        // A vote on the decision that was taken does not count for the new one.
        let late = again.approve(&*open.id, Vote::approve("ann")).await.unwrap_err();
        assert!(late.to_string().contains("no such decision"), "{late}");
    }
    cell.release(&again).await;
    assert_eq!((again.status(), cell.count()), (RunStatus::Succeeded, 4));
}

#[test]
fn every_deed_in_every_place_over_every_wait() {
    for kind in PLACES {
        for wait in WAITS {
            for deed in DEEDS {
                println!("{kind}, {wait}, {deed}");
                let time = VirtualRuntime::new(1);
                time.block_on(async {
                    let cell = Cell::start(&time, kind, wait).await;
                    match deed {
                        "pause" => pause(cell).await,
                        "resume" => resume(cell).await,
                        "cancel" => cancel(cell, false).await,
                        "terminate" => cancel(cell, true).await,
                        _ => rerun(cell).await,
                    }
                })
                .unwrap();
            }
        }
    }
}

#[test]
fn a_step_that_is_run_again_has_another_key() {
    let time = VirtualRuntime::new(1);
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&keys);
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor(
            "t",
            executor_fn(move |ctx| {
                seen.lock().unwrap().push(ctx.idempotency_key());
                async { Ok(()) }
            }),
        )
        .build()
        .unwrap();
    let body = Step::for_each("f", "[1]", [Step::task("x", "t")]);
    let flow = Workflow::builder("w").step(body).build().unwrap();
    time.block_on(async {
        let handle = engine.start_with(&flow, (), StartOptions::id("r")).await.unwrap();
        handle.outcome().await.unwrap();
        let again = engine.reopen(handle.id(), Operation::rerun("f"), reason()).await.unwrap();
        again.outcome().await.unwrap();
    })
    .unwrap();
    assert_eq!(*keys.lock().unwrap(), ["r/f[0]/x", "r/f#2[0]/x"]);
}

#[test]
fn an_operation_that_is_refused_leaves_a_run_ended() {
    let time = VirtualRuntime::new(1);
    let storage = Memory::new();
    let engine = Engine::builder()
        .runtime(time.clone())
        .storage(storage.clone())
        .executor("t", executor_fn(|_| async { Ok(()) }))
        .build()
        .unwrap();
    let flow = Workflow::builder("w").step(Step::task("a", "t")).build().unwrap();
    time.block_on(async {
        let run = engine.execute(&flow, ()).await.unwrap();
        for operation in [Operation::RetryFailed, Operation::rerun("b"), Operation::cancel(["a"])] {
            let refused = engine.reopen(run.id(), operation, reason()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Rejected);
        }
        let handle = engine.run(run.id()).await.unwrap();
        assert!(matches!(handle.outcome().await.unwrap(), Outcome::Succeeded(_)));
        assert!(storage.inbox(run.id()).await.unwrap().is_empty());
        let unknown = stepwell::RunId::new("nobody").unwrap();
        let missing = engine.reopen(&unknown, Operation::RetryFailed, reason()).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    })
    .unwrap();
}

#[test]
fn what_is_said_to_a_run_that_has_ended_is_consumed_by_any_engine() {
    let time = VirtualRuntime::new(1);
    let storage = Memory::new();
    let fails = Arc::new(AtomicU32::new(1));
    let engine = || {
        let fails = Arc::clone(&fails);
        let executor = executor_fn(move |_| {
            let fails = fails.swap(0, Ordering::SeqCst) > 0;
            async move { if fails { Err(StepError::fatal("no")) } else { Ok(()) } }
        });
        let builder = Engine::builder().runtime(time.clone()).storage(storage.clone());
        builder.executor("t", executor).build().unwrap()
    };
    let flow = Workflow::builder("w").step(Step::task("a", "t")).build().unwrap();
    time.block_on(async {
        let run = engine().execute(&flow, ()).await.unwrap();
        assert_eq!(run.status(), RunStatus::Failed);
        // As another process would say it.
        storage.post(run.id(), Message::Signal(Signal::new("late", ()))).await.unwrap();
        let operation = Operation::RetryFailed;
        storage.post(run.id(), Message::Operate { operation, by: reason() }).await.unwrap();
        let other = engine();
        let runtime = other.runtime();
        other.serve(runtime.sleep_until(runtime.now() + 5 * SECOND)).await.unwrap();
        let stored = storage.load(run.id()).await.unwrap().unwrap();
        assert_eq!(stored.status, RunStatus::Succeeded);
        assert!(storage.inbox(run.id()).await.unwrap().is_empty());
        let by = stored.journal.iter().find_map(|recorded| match &recorded.event {
            Event::Operated { by, .. } => Some((**by).clone()),
            _ => None,
        });
        assert_eq!(by, Some(reason()), "who did it and why");
    })
    .unwrap();
}

#[test]
fn votes_from_several_people_and_places() {
    let time = VirtualRuntime::new(1);
    let engine = Engine::builder().runtime(time.clone()).build().unwrap();
    let ask = |id: &str| {
        let approval = Approval::by_those_of("item.who").quorum(1).prompt("Pay?").show("item.sum");
        Step::wait(id, Wait::approval(approval))
    };
    let flow = Workflow::builder("w").step(Step::for_each("pay", "input", [ask("ok")])).build();
    let flow = flow.unwrap();
    let input = json!([{"who": ["ann"], "sum": 5}, {"who": ["bob", "cem"], "sum": 7}]);
    time.block_on(async {
        let handle = engine.start(&flow, input).await.unwrap();
        settle(&engine, &handle).await;
        let open = handle.approvals();
        let shown: Vec<_> = open.iter().map(|open| (&*open.id, &*open.show)).collect();
        assert_eq!(shown, [("pay[0]/ok", &json!(5)), ("pay[1]/ok", &json!(7))]);
        assert_eq!(open[1].approvers, ["bob", "cem"]);
        let wrong = handle.approve("pay[0]/ok", Vote::approve("bob")).await.unwrap_err();
        assert!(wrong.to_string().contains("`bob` has no vote"), "{wrong}");
        handle.approve("pay[1]/ok", Vote::approve("cem").comment("fine")).await.unwrap();
        handle.approve("pay[0]/ok", Vote::approve("ann").payload(json!({"n": 1}))).await.unwrap();
        let outcome = handle.outcome().await.unwrap();
        let output = outcome.output().unwrap();
        assert_eq!(output[1]["votes"][0]["comment"], "fine");
        assert_eq!(output[0]["votes"][0]["payload"]["n"], 1);
    })
    .unwrap();
}

#[test]
fn planned_steps_that_this_engine_cannot_run_fail_one_by_one() {
    let time = VirtualRuntime::new(1);
    let storage = Memory::new();
    let engine = || {
        let builder = Engine::builder().runtime(time.clone()).storage(storage.clone());
        builder.executor("t", executor_fn(|_| async { Ok(1) })).build().unwrap()
    };
    let flow = Workflow::builder("w").step(Step::dynamic("d", "input")).build().unwrap();
    let wait = json!({"id": "w", "wait": {"signal": "go"}});
    let plan = json!([
        {"id": "good", "task": "t", "after": "w"},
        {"id": "unknown", "task": "tt", "on_error": {"configuration": "caught"}},
        {"id": "caught", "task": "t"},
        wait,
        {"id": "gpu", "task": "t", "after": "w", "capability": "gpu"},
    ]);
    time.block_on(async {
        let first = engine();
        let handle = first.start(&flow, plan).await.unwrap();
        settle(&first, &handle).await;
        let why = handle.explain("d/unknown").unwrap().to_string();
        assert!(why.contains("tt") && why.contains("configuration"), "{why}");
        assert_eq!(handle.explain("d/caught").unwrap().to_string(), "succeeded");
        let id = handle.id().clone();
        drop((handle, first));
        // Another engine makes the same of the journal.
        let second = engine();
        let handle = second.run(&id).await.unwrap();
        handle.signal("go", ()).await.unwrap();
        let outcome = handle.outcome().await.unwrap();
        assert!(outcome.to_string().contains("does not offer `gpu`"), "{outcome}");
        assert_eq!(handle.status(), RunStatus::Failed);
    })
    .unwrap();
}

#[test]
fn a_run_plans_only_so_many_lists_of_steps() {
    let time = VirtualRuntime::new(1);
    let executor = executor_fn(|_| async { Ok(1) });
    let engine = Engine::builder().runtime(time.clone()).executor("t", executor).build().unwrap();
    let plans = Step::for_each("all", "input", [Step::dynamic("d", "item")]);
    let flow = Workflow::builder("w").step(plans).build().unwrap();
    let most = stepwell::run::UNITS_MAX - 1;
    let run = |count| {
        let input = vec![json!([{"id": "a", "task": "t"}]); count];
        time.block_on(engine.execute(&flow, json!(input))).unwrap().unwrap()
    };
    assert_eq!(run(most).status(), RunStatus::Succeeded, "with its own there are {most} more");
    let many = run(most + 1);
    assert_eq!(many.status(), RunStatus::Failed);
    let why = many.outcome().unwrap().to_string();
    assert!(why.contains("more than 2000 lists of steps"), "{why}");
}

#[test]
fn a_live_run_is_modified_while_its_steps_run() {
    let time = VirtualRuntime::new(1);
    let storage = Memory::new();
    let begun: Arc<Mutex<Vec<String>>> = Arc::default();
    let engine = || {
        let begun = Arc::clone(&begun);
        let works = executor_fn(move |ctx| {
            begun.lock().unwrap().push(ctx.step());
            async move {
                ctx.sleep(10 * SECOND).await;
                // What it is called and what it depends on it can say, wherever it stands by now.
                Ok(json!([ctx.step(), ctx.step_dependencies(&ctx.step())]))
            }
        });
        let builder = Engine::builder().runtime(time.clone()).storage(storage.clone());
        builder.executor("works", works).build().unwrap()
    };
    let flow = |steps: Vec<Step>| Workflow::builder("w").steps(steps).build().unwrap();
    let task = |id: &str| Step::task(id, "works");
    let before = flow(vec![task("a"), task("b").after("a"), task("c").after("b")]);
    time.block_on(async {
        let first = engine();
        let handle = first.start(&before, ()).await.unwrap();
        drive(&first, &handle, 12 * SECOND).await;
        let (mut definition, revision) = handle.definition();
        assert_eq!((definition.steps.len(), revision), (3, 0));
        // `b` runs; another step comes before it in the list, and `c` waits for that instead.
        definition.steps =
            vec![task("new").after("a"), task("c").after("new"), task("b").after("a"), task("a")];
        let changed = Workflow::from_definition(definition.clone()).unwrap();
        let modification = handle.modification(&changed, revision).unwrap();
        let preview = handle.preview(&modification).unwrap();
        assert_eq!(preview.starts, ["new"]);
        handle.operate(modification.clone(), reason()).await.unwrap();
        // Another editor, who has seen the same.
        let late = handle.operate(modification, reason()).await.unwrap_err();
        assert!(late.to_string().contains("at revision 1 by now"), "{late}");
        definition.steps.push(Step::task("x", "wroks"));
        let unknown = Workflow::from_definition(definition).unwrap();
        assert_eq!(handle.modification(&unknown, 1).unwrap_err().kind(), ErrorKind::NotFound);
        drive(&first, &handle, 2 * SECOND).await;
        let id = handle.id().clone();
        drop((handle, first));
        // Another engine goes on with the changed definition.
        let second = engine();
        let handle = second.run(&id).await.unwrap();
        let outcome = handle.outcome().await.unwrap();
        let output = outcome.output().unwrap();
        assert_eq!(output["b"], json!(["b", ["a"]]));
        assert_eq!(output["c"], json!(["c", ["new"]]));
        assert_eq!(handle.definition().1, 1);
    })
    .unwrap();
    // What ran when the first engine went is run again, and nothing else.
    let mut begun = begun.lock().unwrap().clone();
    begun.sort();
    assert_eq!(begun, ["a", "b", "b", "c", "new", "new"]);
}

#[test]
fn a_step_that_moved_is_told_to_stop_beside_the_one_that_has_its_place() {
    let time = VirtualRuntime::new(1);
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&told);
    let waits = executor_fn(move |ctx| {
        let heard = Arc::clone(&heard);
        async move {
            ctx.cancelled().await;
            heard.lock().unwrap().push(ctx.step());
            Ok(())
        }
    });
    let builder = Engine::builder().runtime(time.clone()).executor("waits", waits);
    let engine = builder.build().unwrap();
    let task = |id: &str| Step::task(id, "waits");
    let before = Workflow::builder("w").step(task("old")).build().unwrap();
    time.block_on(async {
        let handle = engine.start(&before, ()).await.unwrap();
        drive(&engine, &handle, SECOND).await;
        let (mut definition, revision) = handle.definition();
        // It runs where `old` has stood, and both are tried for the first time.
        definition.steps.insert(0, task("new"));
        let changed = Workflow::from_definition(definition).unwrap();
        let modification = handle.modification(&changed, revision).unwrap();
        handle.operate(modification, reason()).await.unwrap();
        drive(&engine, &handle, SECOND).await;
        for step in ["old", "new"] {
            handle.operate(Operation::cancel([step]), reason()).await.unwrap();
            settle(&engine, &handle).await;
            assert_eq!(told.lock().unwrap().last().map(String::as_str), Some(step));
        }
        handle.outcome().await.unwrap();
    })
    .unwrap();
}
