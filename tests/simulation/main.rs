//! One to five engines on one storage, in virtual time, with everything going wrong: engines crash,
//! stop for longer than a lease, calls fail before and after they are done and hang, clocks jump. A
//! seed decides all of it. Afterwards all runs have ended, and their journals and a log that the
//! steps have kept outside agree with what is promised.
//!
//! `SIMULATION_SEEDS=1000000 cargo test --release --all-features --test simulation` runs more;
//! `SIMULATION_SEED=4711` runs one.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod anomalies;
#[cfg(feature = "sqlite")]
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures::future::{join_all, select};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use stepwell::engine::EngineLimits;
use stepwell::journal::{Recorded, Vote};
use stepwell::run::RunState;
use stepwell::runtime::Runtime as _;
use stepwell::storage::{Holding, Memory, RunQuery, Storage};
use stepwell::testing::{Call, Fault, Faulty, VirtualRuntime};
use stepwell::workflow::{Approval, Limits};
use stepwell::{
    Engine, ErrorKind, Event, Outcome, RetryConfig, RunId, StartOptions, Step, StepError, StepKey,
    StepStatus, Timestamp, Wait, Workflow, executor_fn,
};

const SECOND: Duration = Duration::from_secs(1);
/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(600);
/// How long it may take from then until all has ended.
const PEACE: Duration = Duration::from_secs(900);

/// What a step has done, as it says itself.
#[derive(Clone, Debug)]
struct Witnessed {
    run: String,
    step: String,
    attempt: u32,
    key: String,
    at: Timestamp,
}

struct World<S> {
    seed: u64,
    time: VirtualRuntime,
    storage: S,
    /// What happens to one call, if only one fails.
    single: Option<(u64, Fault)>,
    calls: AtomicU64,
    dice: Mutex<StdRng>,
    log: Mutex<Vec<Witnessed>>,
    is_calm: AtomicBool,
    all_done: AtomicBool,
    /// What may have had an attempt begun again: crashes, stops, faults, jumps.
    troubles: AtomicU32,
    jumps: AtomicU32,
}

impl<S: Storage + Clone> World<S> {
    fn new(seed: u64, storage: S, single: Option<(u64, Fault)>) -> Arc<Self> {
        Arc::new(Self {
            seed,
            time: VirtualRuntime::new(seed),
            storage,
            single,
            calls: AtomicU64::new(0),
            dice: Mutex::new(StdRng::seed_from_u64(seed ^ 0x5eed)),
            log: Mutex::default(),
            is_calm: AtomicBool::new(single.is_some()),
            all_done: AtomicBool::new(false),
            troubles: AtomicU32::new(0),
            jumps: AtomicU32::new(0),
        })
    }

    fn dice(&self, below: u32) -> u32 {
        self.dice.lock().unwrap().random_range(0..below)
    }

    fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    fn trouble(&self) {
        self.troubles.fetch_add(1, Ordering::Relaxed);
    }

    /// By the clock that nobody sets.
    async fn nap(&self, length: Duration) {
        let until = self.time.monotonic() + length;
        while let Some(left) = until.checked_sub(self.time.monotonic()).filter(|d| !d.is_zero()) {
            self.time.sleep_until(self.time.now() + left.min(SECOND)).await;
        }
    }

    fn fault(&self, call: Call, often: u32) -> Option<Fault> {
        if let Some((number, fault)) = self.single {
            let is_it = self.calls.fetch_add(1, Ordering::Relaxed) + 1 == number;
            return is_it.then(|| {
                self.trouble();
                fault
            });
        }
        if self.is_calm() || self.dice(1_000) >= often {
            return None;
        }
        self.trouble();
        let fault = match self.dice(10) {
            0..4 => Fault::Before,
            4..9 => Fault::After,
            // What hangs is only ever let go by the end of its engine.
            _ if call.method == "commit" => Fault::HangsAfter,
            _ => Fault::Hangs,
        };
        Some(fault)
    }

    fn engine(self: &Arc<Self>, often: u32) -> Engine {
        let world = Arc::clone(self);
        let storage = {
            let world = Arc::clone(self);
            Faulty::new(self.storage.clone(), move |call| world.fault(call, often))
        };
        let limits = EngineLimits {
            max_recoveries: 1_000,
            // Often, and with all events kept, so that the two can be compared.
            snapshot_every: 1 + self.seed % 9,
            history_kept: u64::MAX,
            ..EngineLimits::default()
        };
        Engine::builder()
            .runtime(self.time.clone())
            .storage(storage)
            .limits(limits)
            .executor(
                "work",
                executor_fn(move |ctx| {
                    let witnessed = Witnessed {
                        run: ctx.execution_id().to_string(),
                        step: ctx.step().to_string(),
                        attempt: ctx.attempt(),
                        key: ctx.idempotency_key(),
                        at: world.time.now(),
                    };
                    world.log.lock().unwrap().push(witnessed);
                    let slow = world.dice(8) == 0;
                    let seconds = if slow { world.dice(60) } else { world.dice(3) };
                    async move {
                        if seconds > 0 {
                            ctx.sleep(Duration::from_secs(seconds.into())).await;
                        }
                        let fails: u32 = ctx.input("fails").unwrap_or(0);
                        if ctx.attempt() <= fails {
                            return Err(StepError::retryable("not yet"));
                        }
                        Ok(json!({"by": ctx.attempt()}))
                    }
                }),
            )
            .build()
            .unwrap()
    }

    /// A process: an engine that is served, and again after it is gone.
    async fn process(self: Arc<Self>, often: u32) {
        while !self.all_done.load(Ordering::Relaxed) {
            let born_calm = self.is_calm();
            let engine = self.engine(often);
            let stopped = Arc::new(AtomicBool::new(false));
            let gate = Arc::clone(&stopped);
            let shutdown = async {
                while !self.all_done.load(Ordering::Relaxed) {
                    self.nap(SECOND).await;
                }
            };
            let mut serving = Box::pin(engine.serve(shutdown));
            // As a machine that sleeps: nothing of it runs.
            let gated = poll_fn(move |context| {
                if gate.load(Ordering::Relaxed) {
                    return Poll::Pending;
                }
                serving.as_mut().poll(context)
            });
            let mut gated = Box::pin(gated);
            loop {
                let length = Duration::from_secs(u64::from(10 + self.dice(120)));
                let left = pin!(self.nap(length));
                // Its end may not have been heard of, which it says.
                if let futures::future::Either::Left(_) = select(&mut gated, left).await {
                    break;
                }
                if born_calm {
                    continue;
                }
                // What hangs is let go by the end of its engine only.
                if self.is_calm() {
                    break;
                }
                self.trouble();
                if self.dice(2) == 0 {
                    stopped.store(true, Ordering::Relaxed);
                    self.nap(Duration::from_secs(u64::from(20 + self.dice(60)))).await;
                    stopped.store(false, Ordering::Relaxed);
                } else {
                    break;
                }
            }
            // Everything at once, as by a kill.
            drop(gated);
            drop(engine);
            if !self.is_calm() {
                self.nap(Duration::from_secs(u64::from(self.dice(20)))).await;
            }
        }
    }

    async fn jumps(self: Arc<Self>) {
        if !self.seed.is_multiple_of(3) {
            return;
        }
        let mut off = 0_i64;
        for _ in 0..self.dice(4) {
            self.nap(Duration::from_secs(u64::from(20 + self.dice(150)))).await;
            if self.is_calm() {
                break;
            }
            let by = [3_600, -3_600, 86_400, -86_400, 1][self.dice(5) as usize];
            self.jumps.fetch_add(1, Ordering::Relaxed);
            self.trouble();
            off += by;
            self.time.set_clock(by);
        }
        // Somebody has put it right in the end.
        self.time.set_clock(-off);
    }
}

fn work(id: &str) -> Step {
    Step::task(id, "work")
}

/// The workflows of the simulation, and what each comes to.
fn shapes() -> Vec<Workflow> {
    let patient = Limits { max_duration: Duration::MAX, ..Limits::default() };
    let flow = |name: &str, steps: Vec<Step>| {
        Workflow::builder(name).limits(patient.clone()).steps(steps).build().unwrap()
    };
    let retry = RetryConfig::attempts(5);
    vec![
        flow("chain", vec![work("a"), work("b").after("a"), work("c").after("b")]),
        flow(
            "diamond",
            vec![
                work("a"),
                work("b").after("a"),
                work("c").after("a"),
                work("d").after_all(["b", "c"]),
            ],
        ),
        flow(
            "each",
            vec![
                Step::for_each("all", "[1, 2, 3, 4]", [work("x"), work("y").after("x")])
                    .concurrency(2),
            ],
        ),
        flow("retry", vec![work("a").input("fails", "2").retry(retry), work("b").after("a")]),
        flow(
            "timer",
            vec![
                work("a"),
                Step::wait("w", Wait::For(90 * SECOND)).after("a"),
                work("b").after("w"),
            ],
        ),
        flow(
            "signal",
            vec![work("a"), Step::wait("go", Wait::signal("go")).after("a"), work("b").after("go")],
        ),
        flow(
            "approval",
            vec![Step::wait("ok", Wait::approval(Approval::by(["ann"]))), work("b").after("ok")],
        ),
        flow(
            "undo",
            vec![
                work("a").compensate(work("unmake")),
                work("b").after("a").input("fails", "9").retry(RetryConfig::attempts(2)),
            ],
        ),
        flow(
            "finally",
            vec![
                work("a"),
                work("b").input("fails", "9").retry(RetryConfig::attempts(1)).after("a"),
                work("last").finally(),
            ],
        ),
    ]
}

fn expected(shape: &str) -> fn(&Outcome) -> bool {
    match shape {
        "undo" | "finally" => {
            |outcome| matches!(outcome, Outcome::Failed { step, .. } if step == "b")
        }
        _ => |outcome| matches!(outcome, Outcome::Succeeded(_)),
    }
}

/// Starts a run, asks for what it waits for, and sees it end; only through engines that fail.
async fn client<S: Storage + Clone>(
    world: Arc<World<S>>,
    number: u32,
    workflow: Workflow,
    often: u32,
) -> RunId {
    let id = format!("{}-{number}", workflow.id());
    world.nap(Duration::from_secs(u64::from(world.dice(200)))).await;
    let said = AtomicBool::new(false);
    loop {
        // A process of its own, that others cannot see into.
        let engine = world.engine(often);
        let life = Duration::from_secs(u64::from(20 + world.dice(200)));
        let visit = async {
            let handle = engine.start_with(&workflow, (), StartOptions::id(&id)).await?;
            if !said.load(Ordering::Relaxed) {
                match workflow.id() {
                    "signal" => handle.signal("go", 1).await?,
                    "approval" => {
                        while handle.approvals().is_empty() && !handle.status().is_end() {
                            let looks = Box::pin(handle.outcome());
                            let nap = Box::pin(world.nap(5 * SECOND));
                            drop(select(looks, nap).await);
                        }
                        for open in handle.approvals() {
                            handle.approve(&open.id, Vote::approve("ann")).await?;
                        }
                    }
                    _ => {}
                }
                said.store(true, Ordering::Relaxed);
            }
            handle.outcome().await
        };
        let ended = {
            let visit = pin!(visit);
            match select(visit, pin!(world.nap(life))).await {
                futures::future::Either::Left((Ok(_), _)) => true,
                futures::future::Either::Left((Err(error), _)) => {
                    // The vote or signal may have come through although nobody said so.
                    said.fetch_or(error.kind() == ErrorKind::Rejected, Ordering::Relaxed);
                    false
                }
                futures::future::Either::Right(_) => false,
            }
        };
        drop(engine);
        if ended {
            return RunId::new(&id).unwrap();
        }
        world.trouble();
        world.nap(SECOND).await;
    }
}

fn simulate<S: Storage + Clone>(seed: u64, storage: S) {
    let world = World::new(seed, storage, None);
    let engines = 1 + seed % 5;
    let often = [0, 5, 30, 100][(seed / 5 % 4) as usize];
    let shapes = shapes();
    let runs = world.time.block_on(async {
        let processes = (0..engines).map(|_| Arc::clone(&world).process(often));
        let clients = async {
            let clients = (0..8).map(|number| {
                let shape = shapes[world.dice(shapes.len() as u32) as usize].clone();
                client(Arc::clone(&world), number, shape, often)
            });
            let runs = join_all(clients).await;
            world.all_done.store(true, Ordering::Relaxed);
            runs
        };
        let calm = async {
            world.nap(TROUBLE).await;
            world.is_calm.store(true, Ordering::Relaxed);
        };
        let all =
            futures::future::join4(clients, join_all(processes), calm, Arc::clone(&world).jumps());
        // What was set while the clock was ahead comes when the clock is there again.
        let patience = if seed.is_multiple_of(3) { 5 * 86_400 * SECOND } else { Duration::ZERO };
        let limit = world.nap(TROUBLE + PEACE + patience);
        match select(Box::pin(all), Box::pin(limit)).await {
            futures::future::Either::Left(((runs, ..), _)) => runs,
            futures::future::Either::Right(_) => {
                let stored = world.storage.list(RunQuery::default()).await.unwrap();
                let open: Vec<_> = stored.iter().filter(|run| !run.status.is_end()).collect();
                panic!("not all has ended in time, of {}: {open:#?}", stored.len());
            }
        }
    });
    let runs = runs.unwrap();
    futures::executor::block_on(check(&world, &runs));
}

async fn check<S: Storage + Clone>(world: &World<S>, runs: &[RunId]) {
    let listed = world.storage.list(RunQuery::default()).await.unwrap();
    let names: BTreeSet<&str> = runs.iter().map(RunId::as_str).collect();
    let stored: BTreeSet<&str> = listed.iter().map(|run| run.id.as_str()).collect();
    assert_eq!(names, stored, "runs are neither lost nor made up");
    let log = world.log.lock().unwrap().clone();
    let troubles = world.troubles.load(Ordering::Relaxed);
    for id in runs {
        let run = world.storage.load(id).await.unwrap().unwrap();
        assert_eq!(run.holding, Holding::Finished, "{id} is held no more");
        assert!(world.storage.inbox(id).await.unwrap().iter().all(|(_, message)| {
            // A signal that was sent twice because nobody heard of the first.
            matches!(
                message,
                stepwell::storage::Message::Signal(_) | stepwell::storage::Message::Vote { .. }
            )
        }));
        let whole = world.storage.events(id, 0, usize::MAX).await.unwrap();
        assert!((0..run.length()).eq(whole.iter().map(|(position, _)| *position)), "{id}");
        let whole: Vec<Recorded> = whole.into_iter().map(|(_, recorded)| recorded).collect();
        let program = run.workflow.program();
        let state = RunState::replay(id.clone(), Arc::clone(program), &whole);
        assert!(run.snapshot.is_some() || run.length() < 25, "{id}: it has no snapshot");
        if let Some(snapshot) = &run.snapshot {
            let mut since = RunState::restore(id, Arc::clone(program), snapshot).unwrap();
            run.journal.iter().for_each(|recorded| since.apply(recorded.at, &recorded.event));
            assert_eq!(since, state, "{id}: its snapshot comes to something else");
        }
        let outcome = state.outcome().unwrap();
        assert!(expected(run.workflow.id())(outcome), "{id}: {outcome}");
        journal(id, &whole);
        let jumped = world.jumps.load(Ordering::Relaxed) > 0;
        witnesses(id, &state, &whole, &log, troubles, jumped);
    }
    assert_eq!(world.storage.next_due().await.unwrap(), None, "nothing is left to be done");
}

/// What every journal keeps to.
fn journal(id: &RunId, journal: &[Recorded]) {
    let finished = |recorded: &Recorded| matches!(recorded.event, Event::RunFinished { .. });
    let ends = journal.iter().filter(|recorded| finished(recorded)).count();
    assert_eq!(ends, 1, "{id} ends once");
    assert!(journal.last().is_some_and(finished), "{id}: its end is the last of it");
    let mut done: BTreeSet<StepKey> = BTreeSet::new();
    for recorded in journal {
        match &recorded.event {
            Event::StepSucceeded { step, .. } => {
                assert!(done.insert(*step), "{id}: {step:?} has succeeded twice");
            }
            Event::StepStarted { step, .. } => {
                assert!(!done.contains(step), "{id}: {step:?} began after it had succeeded");
            }
            _ => {}
        }
    }
}

/// What the steps say themselves: no more than was recorded, and nothing after the end.
fn witnesses(
    id: &RunId,
    state: &RunState,
    journal: &[Recorded],
    log: &[Witnessed],
    troubles: u32,
    jumped: bool,
) {
    let mine: Vec<&Witnessed> = log.iter().filter(|entry| entry.run == id.as_str()).collect();
    let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
    let mut begun: BTreeMap<(&str, u32), u32> = BTreeMap::new();
    for entry in &mine {
        *begun.entry((entry.step.as_str(), entry.attempt)).or_default() += 1;
        let known = keys.entry(entry.step.as_str()).or_insert(&entry.key);
        assert_eq!(*known, entry.key, "{id}: one step instance, one key");
    }
    for ((step, attempt), times) in &begun {
        assert!(*times <= 1 + troubles, "{id}: {step} attempt {attempt} began {times} times");
    }
    if troubles == 0 {
        assert!(begun.values().all(|times| *times == 1), "{id}: nothing was begun twice");
    }
    // Nothing is begun that was never recorded, and nothing after its success was.
    for recorded in journal {
        let Event::StepSucceeded { step, .. } = &recorded.event else { continue };
        if state.step_status(*step) != Some(StepStatus::Succeeded) || step.scope != 0 || jumped {
            continue;
        }
        let path = state.path(*step);
        let late = mine.iter().find(|entry| entry.step == path && entry.at > recorded.at);
        assert!(late.is_none(), "{id}: {late:?} after success at {}", recorded.at);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// `count` seeds, or what the environment says.
fn seeds(count: u64, simulate: impl Fn(u64)) {
    if let Some(seed) = number("SIMULATION_SEED") {
        return simulate(seed);
    }
    let first = number("SIMULATION_FROM").unwrap_or(0);
    for seed in first..first + number("SIMULATION_SEEDS").unwrap_or(count) {
        let done = catch_unwind(AssertUnwindSafe(|| simulate(seed)));
        if let Err(panic) = done {
            eprintln!("the simulation fails with SIMULATION_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn nothing_is_lost_whatever_goes_wrong() {
    seeds(2_000, |seed| simulate(seed, Memory::new()));
}

#[cfg(feature = "sqlite")]
#[test]
fn nothing_is_lost_in_a_file_whatever_goes_wrong() {
    seeds(40, |seed| {
        let file = files::File::new();
        simulate(seed, file.open());
    });
}
