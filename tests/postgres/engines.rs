//! Engines that share runs on a server while something befalls them, and what must be true of that.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Either, select};
use futures_timer::Delay;
use stepwell::engine::EngineLimits;
use stepwell::run::RunState;
use stepwell::storage::{RunQuery, Summary};
use stepwell::{Error, ErrorKind, ExecutionContext, RunHandle, StartOptions, StepError, Wait};

use super::*;

/// For anything that must come about by itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a step has done, and with what.
#[derive(Debug)]
struct Line {
    run: String,
    step: String,
    attempt: u32,
    key: String,
    /// What it has taken, when it begins.
    taken: Vec<String>,
    /// What it comes to, when it ends.
    result: Option<String>,
}

#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Vec<Line>>>);

impl Witness {
    fn note(&self, ctx: &ExecutionContext, taken: Vec<String>, result: Option<String>) {
        let (run, step) = (ctx.execution_id().to_string(), ctx.step().to_string());
        let (attempt, key) = (ctx.attempt(), ctx.idempotency_key());
        self.0.lock().unwrap().push(Line { run, step, attempt, key, taken, result });
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

async fn body(witness: Witness, ctx: ExecutionContext) -> std::result::Result<String, StepError> {
    static RESULTS: AtomicU32 = AtomicU32::new(0);
    let taken = ctx.inputs().as_object().into_iter().flatten();
    let taken = taken.filter_map(|(_, value)| value.as_str().map(String::from)).collect();
    witness.note(&ctx, taken, None);
    ctx.sleep(Duration::from_millis(20)).await;
    let result = format!("r{}", RESULTS.fetch_add(1, Ordering::Relaxed));
    witness.note(&ctx, Vec::new(), Some(result.clone()));
    Ok(result)
}

const STEPS: usize = 5;

fn shape() -> Workflow {
    let work = |id| Step::task(id, "work");
    let steps = [
        work("a"),
        work("b").input("a", "a"),
        work("c").input("a", "a"),
        Step::wait("pause", Wait::For(Duration::from_millis(200))).after("b"),
        work("d").input("b", "b").after("pause"),
        Step::wait("go", Wait::signal("go")).after("c"),
        work("e").input("c", "c").input("d", "d").after("go"),
    ];
    Workflow::builder("w").steps(steps).build().unwrap()
}

/// Does this until it goes well: only the storage may be at fault.
pub(super) fn insist<T>(mut work: impl FnMut() -> Result<T>) -> T {
    let mut done = None;
    wait_until("it goes well again", || match work() {
        Ok(work) => {
            done = Some(work);
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
            false
        }
    });
    done.unwrap()
}

/// Looks now and then, and gives up some time.
pub(super) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut end = Delay::new(DEADLINE);
    while !is_so() {
        block_on(Delay::new(Duration::from_millis(5)));
        assert!((&mut end).now_or_never().is_none(), "not within {DEADLINE:?}: {what}");
    }
}

pub(super) struct World {
    /// To the server itself.
    direct: Postgres,
    pub(super) engines: Vec<Engine>,
    witness: Witness,
}

impl World {
    /// An engine for each URL.
    pub(super) fn new(
        direct: Postgres,
        options: &PostgresOptions,
        urls: &[String],
        lease: Duration,
    ) -> Self {
        let witness = Witness::default();
        let engine = |url: &String| {
            let storage = block_on(options.clone().connect(url)).unwrap();
            let witness = witness.clone();
            let limits = EngineLimits { lease, max_recoveries: 1_000, ..EngineLimits::default() };
            let work = executor_fn(move |ctx| body(witness.clone(), ctx));
            let engine = Engine::builder().storage(storage).limits(limits);
            engine.executor("work", work).build().unwrap()
        };
        let engines = urls.iter().map(engine).collect();
        Self { direct, engines, witness }
    }

    /// What became of all runs.
    fn listed(&self) -> Vec<Summary> {
        let all = RunQuery { limit: usize::MAX, ..RunQuery::default() };
        insist(|| block_on(self.direct.list(all.clone())))
    }

    /// Waits until steps have done so much more.
    pub(super) fn let_work(&self, lines: usize) {
        let until = self.witness.len() + lines;
        wait_until("somebody goes on", || self.witness.len() >= until);
    }

    /// Runs go on all the while that this happens, and to their ends. Then it is looked what became of
    /// them.
    pub(super) fn goes_on(&self, meanwhile: impl FnOnce(&mut Vec<Serving>)) {
        let started = thread::scope(|scope| {
            // Those that wait for them hear it also when a test fails.
            let mut serving = Vec::new();
            let mut threads = Vec::new();
            for engine in &self.engines {
                let (stop, stopped) = oneshot::channel();
                let (crash, crashed) = oneshot::channel();
                serving.push(Serving { stop, crash });
                threads.push(scope.spawn(|| block_on(serve(engine, stopped, crashed))));
            }
            let (enough, until) = mpsc::channel();
            let calling = scope.spawn(|| call(&self.engines, until));
            meanwhile(&mut serving);
            drop(enough);
            let started = calling.join().unwrap();
            wait_until("all come to their ends", || {
                self.listed().iter().all(|run| run.status == RunStatus::Succeeded)
            });
            drop(serving);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            started
        });
        check(self, started);
    }
}

/// An engine that is served. It ends well with this.
pub(super) struct Serving {
    stop: oneshot::Sender<()>,
    crash: oneshot::Sender<()>,
}

impl Serving {
    /// It is not served any more, and says so to nobody.
    pub(super) fn crash(self) {
        self.crash.send(()).unwrap();
        drop(self.stop);
    }
}

async fn serve(engine: &Engine, stopped: oneshot::Receiver<()>, crashed: oneshot::Receiver<()>) {
    let crashed = async {
        if crashed.await.is_err() {
            futures::future::pending().await
        }
    };
    let served = engine.serve(stopped.map(drop));
    if let Either::Right((served, _)) = select(Box::pin(crashed), Box::pin(served)).await {
        served.unwrap();
    }
}

/// Runs that are started and given their signals, one after the other, until it is enough. How many
/// there are.
fn call(engines: &[Engine], enough: mpsc::Receiver<()>) -> usize {
    let mut started = 0;
    while enough.try_recv() == Err(mpsc::TryRecvError::Empty) {
        let id = format!("r{started}");
        let engine = &engines[started % engines.len()];
        let start = || block_on(engine.start_with(&shape(), (), StartOptions::id(&id)));
        drop(insist(start));
        // Through the other, sometimes.
        let engine = &engines[started / 2 % engines.len()];
        let mut asked = 0;
        insist(|| {
            let run: RunHandle = block_on(engine.run(&RunId::new(&id).unwrap()))?;
            asked += 1;
            match block_on(run.signal("go", started as u64)) {
                // One that had no answer has come through.
                Err(error) if is_over(&error) && asked > 1 => Ok(()),
                said => said,
            }
        });
        started += 1;
    }
    started
}

fn is_over(error: &Error) -> bool {
    error.kind() == ErrorKind::Rejected
}

/// What is stored, and what steps have done.
fn check(world: &World, started: usize) {
    assert_eq!(world.listed().len(), started);
    let lines = world.witness.0.lock().unwrap();
    // The keys of steps, by what they have come to.
    let results: BTreeMap<&str, &str> =
        lines.iter().filter_map(|line| Some((line.result.as_deref()?, &*line.key))).collect();
    let mut stored = BTreeSet::new();
    for number in 0..started {
        let name = format!("r{number}");
        let journal = journal(&world.direct, &name);
        let mut keys = BTreeSet::new();
        for recorded in &journal {
            match &recorded.event {
                Event::StepSucceeded { output, .. } => {
                    let Some(result) = output.as_str() else { continue };
                    assert!(keys.insert(results[result]), "{name}: one result for each step");
                    stored.insert(result.to_owned());
                }
                Event::StepFailed { .. } => panic!("{name}: {recorded:?}"),
                _ => {}
            }
        }
        assert_eq!(keys.len(), STEPS, "{name}");
        assert!(keys.iter().all(|key| key.starts_with(&format!("{name}/"))));
        let count = |is: fn(&Event) -> bool| journal.iter().filter(|it| is(&it.event)).count();
        assert_eq!(count(|event| matches!(event, Event::SignalTaken { .. })), 1, "{name}");
        assert_eq!(count(|event| matches!(event, Event::WaitStarted { .. })), 2, "{name}");
        assert_eq!(count(|event| matches!(event, Event::RunFinished { .. })), 1, "{name}");
    }
    agree(&lines, &results, &stored);
}

/// A run's journal, which is whole, and is what the engine would go on from.
fn journal(storage: &Postgres, name: &str) -> Vec<Recorded> {
    let events = block_on(storage.events(&id(name), 0, usize::MAX)).unwrap();
    assert!(events.iter().map(|(position, _)| *position).eq(0..events.len() as u64), "{name}");
    let journal: Vec<Recorded> = events.into_iter().map(|(_, recorded)| recorded).collect();
    let run = load(storage, name);
    assert_eq!((&run.journal, run.holding), (&journal, Holding::Finished), "{name}");
    let state = RunState::replay(id(name), Arc::clone(run.workflow.program()), &journal);
    assert_eq!(state.status(), RunStatus::Succeeded, "{name}");
    journal
}

/// Steps have seen only what is stored, are not begun again after that, and keep their keys.
fn agree(lines: &[Line], results: &BTreeMap<&str, &str>, stored: &BTreeSet<String>) {
    let mut keys: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for line in lines {
        assert_eq!(*keys.entry((&line.run, &line.step)).or_insert(&line.key), line.key);
        assert_eq!(line.attempt, 1, "nothing has failed: {line:?}");
        if line.result.is_none() {
            assert!(!known.contains(&*line.key), "it has a result: {line:?}");
        }
        for taken in &line.taken {
            assert!(stored.contains(taken), "it is not stored: {line:?}");
            known.insert(results[&**taken]);
        }
    }
}
