//! The crash matrix: engines on a storage that fails, and programs on it that are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use futures::future::{Either, select};

use super::StorageFactory;
use super::given::id;
use super::trial::wait;
use crate::engine::{Engine, EngineBuilder, EngineLimits, Run, RunHandle, StartOptions};
use crate::error::{Error, ErrorClass, ErrorKind, Result, StepError};
use crate::executor::{ExecutionContext, executor_fn};
use crate::id::StepKey;
use crate::journal::{Event, Outcome, Recorded, Signal, Vote};
use crate::retry::RetryConfig;
use crate::storage::around::around_storage;
use crate::storage::{Reply, Storage};
use crate::testing::{Call, CrashTest, Fault, Faulty, Stalled, VirtualRuntime};
use crate::value::Value;
use crate::workflow::{Approval, Limits, Lock, OnUnknown, Step, Wait, Workflow};

const SECOND: Duration = Duration::from_secs(1);
/// How long a run takes at most, whatever fails.
const PATIENCE: Duration = Duration::from_secs(2 * 3_600);
/// Small enough for what comes back to be made of a snapshot and the events since.
const SNAPSHOT_EVERY: u64 = 8;

/// Kills a program that runs workflows on the storage, up to three times for each seed: before a call of
/// the storage, after it and before anybody hears so, or at any moment; and begins it again. The storage
/// itself stays open. Each seed needs one of its own.
///
/// The run waits for a timer, a signal and an approval, takes a lock, tries again, has a loop over a list
/// and a step that is begun at most once. It comes to its end; no step that has a result is begun again,
/// nor one that may be begun once; each finds what was recorded; all messages are answered; nothing is
/// locked in the end. With [`CrashTest`] your own programs are tested so.
///
/// Time is virtual, and [news](Storage::news) are not heard: what is new is found by asking.
///
/// # Panics
/// With the seed, at the first thing that is not so.
pub fn crashes(factory: &dyn StorageFactory, seeds: Range<u64>) {
    for seed in seeds {
        let story = Story::new(factory, &format!("crashes_{seed}"), format!("seed {seed}"));
        let tell = |storage| CrashTest::on(storage, seed).run(|engine| story.life(engine));
        story.check(story.within(tell));
    }
}

/// Calls that a run makes, at least: with fewer it would not say much that one of them fails.
const CALLS_MIN: u64 = 40;

/// Has each call of the storage fail once: before it is done, after it was done, and without an answer,
/// whether it is done or not; or every so many of them. Each failure needs a storage of its own: it is
/// the run of [`crashes`], and what is promised is the same.
///
/// # Panics
/// With the call and how it fails, at the first thing that is not so; and where there are fewer calls than
/// that, or than 40.
pub fn failures(factory: &dyn StorageFactory, every: u64) {
    let every = every.max(1);
    let calls = with_failure(factory, 0, Fault::Before);
    assert!(calls >= CALLS_MIN.max(every), "{calls} calls are too few for each {every}th to fail");
    for (place, fault) in (0..).zip([Fault::Before, Fault::After, Fault::Hangs, Fault::HangsAfter])
    {
        let mut failing = 1 + place % every;
        while with_failure(factory, failing, fault) >= failing {
            failing += every;
        }
    }
}

/// The run, of whose calls this one fails; how many there were.
fn with_failure(factory: &dyn StorageFactory, failing: u64, fault: Fault) -> u64 {
    let (name, when) = (format!("fails_{failing}_{fault:?}"), format!("call {failing}, {fault:?}"));
    let story = Story::new(factory, &name, when);
    let (outcome, calls) = story.within(|storage| {
        let time = VirtualRuntime::new(failing);
        let decide = move |call: Call| (call.number == failing).then_some(fault);
        let storage = Faulty::new(storage, decide);
        let engine = Engine::builder().runtime(time.clone()).storage(storage.clone());
        (time.block_on(story.life(engine)), storage.calls())
    });
    story.check(outcome);
    calls
}

/// A call of the storage, to be made on the thread of the test, where the factory waits for its answer.
type Job = Box<dyn FnOnce(&dyn StorageFactory) + Send>;

/// The storage under test, whose calls are made on the thread of the test: that of the engines is in the
/// middle of virtual time, where a storage cannot have a runtime of its own.
#[derive(Clone)]
struct Tested {
    storage: Arc<dyn Storage>,
    /// None says that no more will come.
    jobs: Sender<Option<Job>>,
}

impl Tested {
    fn call<T: Send + Unpin + 'static>(
        &self,
        method: &str,
        work: impl FnOnce(&dyn Storage) -> Reply<Result<T>> + Send + 'static,
    ) -> Reply<Result<T>> {
        let (answer, answered) = channel();
        let storage = Arc::clone(&self.storage);
        let job: Job = Box::new(move |factory| {
            // Who has asked waits.
            let _ = answer.send(wait(factory, work(&*storage)));
        });
        // What is never sent is dropped, and so never answered.
        let _ = self.jobs.send(Some(job));
        let over = |_| Err(Error::new(ErrorKind::Storage, format!("nobody answers `{method}`")));
        Reply::ready(answered.recv().unwrap_or_else(over))
    }
}

impl fmt::Debug for Tested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.storage.fmt(f)
    }
}

impl Storage for Tested {
    around_storage!(owned);

    fn poll_every(&self) -> Duration {
        self.storage.poll_every()
    }

    fn takes_writes(&self) -> bool {
        self.storage.takes_writes()
    }
}

/// However it ends, whoever makes its calls is to hear so.
struct Over(Sender<Option<Job>>);

impl Drop for Over {
    fn drop(&mut self) {
        // Nobody makes any more if one of them has panicked.
        let _ = self.0.send(None);
    }
}

/// What steps have noted where no engine can lose it.
#[derive(Debug, Default)]
struct Notes {
    /// How often steps were begun, by their keys.
    begun: BTreeMap<String, u32>,
    /// What they were given.
    given: BTreeMap<String, BTreeSet<String>>,
}

impl Notes {
    /// Compares them with what was recorded.
    fn check(&self, when: &str, events: &[(u64, Recorded)]) {
        let (results, finished) = results(when, events);
        assert_eq!(finished, 1, "{when}: the run ends once");
        for (key, count) in &self.begun {
            let is_once = key.ends_with("/once");
            assert!(*count == 1 || !is_once, "{when}: {key} was begun {count} times");
            let is_known = results.contains_key(key) || is_once && is_unknown(events);
            assert!(is_known, "{when}: nothing came of {key}");
        }
        for (key, number) in &results {
            let begun = self.begun.get(key).copied().unwrap_or_default();
            assert!((1..=begun).contains(number), "{when}: {key} says {number} of {begun}");
        }
        let recorded: BTreeSet<String> =
            results.iter().map(|(key, number)| token(key, *number)).collect();
        for (key, given) in &self.given {
            let is_recorded = given.len() == 1 && given.is_subset(&recorded);
            assert!(is_recorded, "{when}: {key} was given {given:?}");
        }
    }
}

/// One run, from its beginning to its end, on a storage of its own.
struct Story<'a> {
    factory: &'a dyn StorageFactory,
    storage: Arc<dyn Storage>,
    /// What is done to it.
    when: String,
    workflow: Workflow,
    notes: Arc<Mutex<Notes>>,
}

const RUN: &str = "order";

impl Drop for Story<'_> {
    // For who reads what a test says when the storage has panicked.
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("it fails at {}", self.when);
        }
    }
}

impl<'a> Story<'a> {
    fn new(factory: &'a dyn StorageFactory, name: &str, when: String) -> Self {
        let storage = factory.open(name);
        Self { factory, storage, when, workflow: workflow(), notes: Arc::default() }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it on a thread of its own, and makes the calls of the storage on this one.
    fn within<T: Send>(&self, tell: impl FnOnce(Tested) -> T + Send) -> T {
        let (jobs, asked) = channel();
        let tested = Tested { storage: Arc::clone(&self.storage), jobs: jobs.clone() };
        thread::scope(|scope| {
            let story = scope.spawn(move || {
                let _over = Over(jobs);
                tell(tested)
            });
            asked.iter().map_while(|job| job).for_each(|job| job(self.factory));
            drop(asked);
            story.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn engine(&self, engine: EngineBuilder) -> Result<Engine> {
        let notes = Arc::clone(&self.notes);
        let work = executor_fn(move |ctx| work(ctx, Arc::clone(&notes)));
        let limits = EngineLimits { snapshot_every: SNAPSHOT_EVERY, ..EngineLimits::default() };
        engine.limits(limits).executor("work", work).build()
    }

    /// What a program does each time that it begins.
    async fn life(&self, engine: EngineBuilder) -> Result<Outcome> {
        let engine = self.engine(engine)?;
        let (runs, over) = (pin!(self.runs(&engine)), engine.runtime().sleep(2 * PATIENCE));
        match select(runs, over).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(((), _)) => Err(Error::new(
                ErrorKind::Storage,
                "it does not come to its end, nor does it time out",
            )),
        }
    }

    /// What has failed is done again, as whoever embeds an engine would, a few times.
    async fn runs(&self, engine: &Engine) -> Result<Outcome> {
        let mut outcome = self.run(engine).await;
        for _ in 0..100 {
            if outcome.is_ok() {
                break;
            }
            engine.runtime().sleep(SECOND).await;
            outcome = self.run(engine).await;
        }
        outcome
    }

    async fn run(&self, engine: &Engine) -> Result<Outcome> {
        let run = engine.start_with(&self.workflow, (), StartOptions::id(RUN)).await?;
        let (ends, says) = (pin!(run.outcome()), pin!(says(engine, &run)));
        match select(ends, says).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right((never, _)) => match never {},
        }
    }

    fn check(&self, outcome: Result<Result<Outcome>, Stalled>) {
        let when = &*self.when;
        let is_good = matches!(outcome, Ok(Ok(Outcome::Succeeded(_))));
        assert!(is_good, "{when}: the run comes to {outcome:?}");
        let run = id(RUN);
        let failed = |error| panic!("{when}: the storage has failed: {error}");
        let events = wait(self.factory, self.storage.events(&run, 0, usize::MAX));
        self.notes().check(when, &events.unwrap_or_else(failed));
        let inbox = wait(self.factory, self.storage.inbox(&run));
        let inbox = inbox.unwrap_or_else(|error| panic!("{when}: the storage has failed: {error}"));
        assert!(inbox.is_empty(), "{when}: nobody answers {inbox:?}");
        let next = self.within(|storage| self.next(storage));
        let is_free = matches!(&next, Ok(Ok(run)) if run.output().is_some());
        assert!(is_free, "{when}: a lock is not free: the next run comes to {next:?}");
    }

    /// A run that takes the lock that this one had.
    fn next(&self, storage: Tested) -> Result<Result<Run>, Stalled> {
        let next = Workflow::builder("next").limits(patient()).step(locked("last")).build();
        let next = next.expect("the workflow is a good one");
        let time = VirtualRuntime::new(1);
        let engine = Engine::builder().runtime(time.clone()).storage(storage);
        let engine = self.engine(engine).expect("the engine is a good one");
        time.block_on(engine.execute(&next, ()))
    }
}

fn patient() -> Limits {
    Limits { max_duration: PATIENCE, ..Limits::default() }
}

fn locked(id: &str) -> Step {
    Step::task(id, "work").lock(Lock::new("crane"))
}

fn workflow() -> Workflow {
    let work = |id: &str| Step::task(id, "work");
    let often = RetryConfig::attempts(4);
    let once = work("once").at_most_once().on_unknown(OnUnknown::Fail);
    let steps = [
        work("reserve"),
        work("retried").config("twice").retry(often).after("reserve").input("found", "reserve"),
        Step::wait("cools", Wait::For(90 * SECOND)).after("reserve"),
        Step::wait("paid", Wait::signal("paid")).after("cools"),
        Step::wait("release", Wait::approval(Approval::by(["ann"]))).after("retried"),
        Step::for_each("ship", "[1, 2, 3]", [locked("parcel")]).after_all(["paid", "release"]),
        once.after("ship").on_error(ErrorClass::OutcomeUnknown, "look"),
        work("look"),
        work("close").after("ship").input("found", "retried"),
    ];
    let workflow = Workflow::builder("order").limits(patient()).steps(steps).build();
    workflow.expect("the workflow is a good one")
}

fn token(key: &str, number: u32) -> String {
    format!("{key}@{number}")
}

/// Comes to another text each time that it is begun.
async fn work(ctx: ExecutionContext, notes: Arc<Mutex<Notes>>) -> Result<String, StepError> {
    let key = ctx.idempotency_key();
    let number = {
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = ctx.inputs().get("found") {
            let given = notes.given.entry(key.clone()).or_default();
            given.insert(found.as_str().unwrap_or_default().to_string());
        }
        let count = notes.begun.entry(key.clone()).or_default();
        *count += 1;
        *count
    };
    ctx.sleep(10 * SECOND).await;
    if ctx.config() == &Value::from("twice") && ctx.attempt() < 3 {
        return Err(StepError::new(ErrorClass::Temporary, "not yet"));
    }
    Ok(token(&key, number))
}

/// Says all that the run waits for, as long as it goes on. Who was killed cannot know what was heard.
async fn says(engine: &Engine, run: &RunHandle) -> Infallible {
    let mut is_heard = false;
    loop {
        if !is_heard {
            let paid = Signal::new("paid", ()).id("4711");
            is_heard = run.signal_with(paid).await.is_ok();
        }
        for open in run.approvals() {
            // It may be decided by now.
            let _ = run.approve(&open.id, Vote::approve("ann")).await;
        }
        engine.runtime().sleep(60 * SECOND).await;
    }
}

/// The attempts that have given steps their results, by the steps' keys, and how often the run ended. No
/// step has two, or is begun when it has one.
fn results(when: &str, events: &[(u64, Recorded)]) -> (BTreeMap<String, u32>, u32) {
    let (mut results, mut ended, mut finished) = (BTreeMap::new(), BTreeSet::new(), 0);
    for (_, Recorded { event, .. }) in events {
        match event {
            Event::StepSucceeded { step, output } => {
                assert!(ended.insert(*step), "{when}: {step:?} has two results");
                let token = output.as_str().and_then(|token| token.rsplit_once('@'));
                if let Some((key, number)) = token {
                    results.insert(key.to_string(), number.parse().unwrap_or_default());
                }
            }
            Event::StepStarted { step, .. } => {
                assert!(!ended.contains::<StepKey>(step), "{when}: {step:?} is begun again");
            }
            Event::RunFinished { .. } => finished += 1,
            _ => {}
        }
    }
    (results, finished)
}

/// Whether nobody knows what has become of the step that is begun at most once.
fn is_unknown(events: &[(u64, Recorded)]) -> bool {
    let unknown = |(_, recorded): &(u64, Recorded)| match &recorded.event {
        Event::StepFailed { failure, .. } => failure.class == ErrorClass::OutcomeUnknown,
        _ => false,
    };
    events.iter().any(unknown)
}
