//! What the tests share: an engine in virtual time, work that takes a while, and a record of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{Either, select};
use serde_json::json;
use stepwell::testing::VirtualRuntime;
use stepwell::workflow::{Variable, VariableType};
use stepwell::{
    Engine, ErrorClass, ExecutionContext, Json, Run, RunHandle, RunStatus, Runtime, Step,
    StepError, StepStatus, Timestamp, Value, Wait, Workflow, executor_fn,
};

/// Work that takes so many seconds; an input `takes` says otherwise, an input `fails` fails it at its
/// end. It gives back its inputs.
pub(crate) fn work(id: &str, takes: u64) -> Step {
    Step::task(id, "work").config(json!({"takes": takes}))
}

/// Work that takes as many seconds as the item of the for-each around it says.
pub(crate) fn work_item(id: &str) -> Step {
    Step::task(id, "work").input("takes", "item")
}

/// A step that ends when the signal of this name comes.
pub(crate) fn signal(name: &str) -> Step {
    Step::wait(name, Wait::signal(name))
}

pub(crate) fn workflow(steps: impl IntoIterator<Item = Step>) -> Workflow {
    Workflow::builder("w").steps(steps).build().unwrap()
}

/// The same with variables that count from 0.
pub(crate) fn counting<const N: usize>(
    variables: [&str; N],
    steps: impl IntoIterator<Item = Step>,
) -> Workflow {
    let builder = Workflow::builder("w").steps(steps);
    let zero = || Variable::of(VariableType::Integer).default_value(0);
    variables.iter().fold(builder, |builder, name| builder.variable(*name, zero())).build().unwrap()
}

/// From when until when a piece of work was done; no end for one that was stopped before it.
pub(crate) type Span = (u64, Option<u64>);

pub(crate) const fn done(from: u64, to: u64) -> Span {
    (from, Some(to))
}

pub(crate) const fn stopped(from: u64) -> Span {
    (from, None)
}

/// What happened in a run.
pub(crate) struct Story {
    /// How it ended, and when.
    pub(crate) end: (RunStatus, u64),
    pub(crate) run: Run,
    work: Vec<(String, Span)>,
}

impl Story {
    /// All work of the steps with this id, in whatever body, in the order of beginning.
    pub(crate) fn of(&self, id: &str) -> Vec<Span> {
        let named = |path: &str| path.rsplit('/').next() == Some(id);
        self.work.iter().filter(|(path, _)| named(path)).map(|(_, span)| *span).collect()
    }

    /// When it began, each time.
    pub(crate) fn began(&self, id: &str) -> Vec<u64> {
        self.of(id).into_iter().map(|(from, _)| from).collect()
    }

    pub(crate) fn status(&self, path: &str) -> StepStatus {
        self.run.step_status(path).unwrap()
    }

    pub(crate) fn output(&self, path: &str) -> Value {
        self.run.step_output(path).unwrap()
    }
}

/// Whoever is outside of a run and does something to it.
#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) handle: RunHandle,
    clock: Clock,
}

impl Outside {
    /// Waits until this second of the run.
    pub(crate) async fn at(&self, second: u64) {
        self.clock.time.sleep_until(self.clock.begin + Duration::from_secs(second)).await;
    }

    /// Sends a signal at this second.
    pub(crate) async fn signal(&self, second: u64, name: &str) {
        self.at(second).await;
        self.handle.signal(name, ()).await.unwrap();
    }

    /// What has become of a step by now.
    pub(crate) fn status(&self, path: &str) -> StepStatus {
        self.handle.snapshot().step_status(path).unwrap()
    }
}

/// Runs a workflow that nobody does anything to.
pub(crate) fn run(workflow: &Workflow, input: Json) -> Story {
    run_with(workflow, input, async |_| {})
}

/// Runs a workflow while somebody outside does something.
pub(crate) fn run_with(
    workflow: &Workflow,
    input: Json,
    script: impl AsyncFnOnce(Outside),
) -> Story {
    let time = VirtualRuntime::new(1);
    let clock = Clock { begin: time.now(), time: time.clone() };
    let log = Log::default();
    let (noted, seconds) = (Arc::clone(&log), clock.clone());
    let executor = executor_fn(move |ctx| labour(ctx, Arc::clone(&noted), seconds.clone()));
    let engine = Engine::builder()
        .runtime(time.clone())
        .executor("work", executor)
        .workflow(workflow)
        .build()
        .unwrap();
    let story = async {
        let handle = engine.start(workflow, input).await.unwrap();
        let outside = Outside { handle: handle.clone(), clock: clock.clone() };
        let outcome = async {
            handle.outcome().await.unwrap();
            clock.seconds()
        };
        let (at, ()) = futures::join!(outcome, script(outside));
        let work = log.lock().unwrap().clone();
        Story { end: (handle.status(), at), run: handle.snapshot(), work }
    };
    time.block_on(story).unwrap()
}

type Log = Arc<Mutex<Vec<(String, Span)>>>;

/// What `work` does: notes when it begins and ends, and lets itself be stopped.
async fn labour(ctx: ExecutionContext, log: Log, clock: Clock) -> Result<Value, StepError> {
    let takes: u64 = ctx.input("takes").or_else(|_| ctx.config_as("takes"))?;
    let place = {
        let mut log = log.lock().unwrap();
        log.push((ctx.step(), stopped(clock.seconds())));
        log.len() - 1
    };
    let asked = Box::pin(ctx.cancelled());
    let time = Box::pin(ctx.sleep(Duration::from_secs(takes)));
    if let Either::Left(_) = select(asked, time).await {
        return Err(StepError::new(ErrorClass::Cancelled, "stopped"));
    }
    log.lock().unwrap()[place].1.1 = Some(clock.seconds());
    if ctx.input("fails").unwrap_or(false) {
        return Err(StepError::fatal("told to"));
    }
    Ok(ctx.inputs().clone())
}

#[derive(Clone)]
struct Clock {
    begin: Timestamp,
    time: VirtualRuntime,
}

impl Clock {
    fn seconds(&self) -> u64 {
        self.time.now().since(self.begin).as_secs()
    }
}
