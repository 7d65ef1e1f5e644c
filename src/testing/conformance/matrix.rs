//! The crash matrix: engines on a storage that fails, and programs on it that are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{Either, select};
use futures::stream::BoxStream;

use super::StorageFactory;
use super::given::id;
use super::trial::wait;
use crate::engine::{Engine, EngineBuilder, EngineLimits, RunHandle, StartOptions};
use crate::error::{Error, ErrorClass, ErrorKind, Result, StepError};
use crate::executor::{ExecutionContext, executor_fn};
use crate::id::StepKey;
use crate::journal::{Event, Outcome, Recorded, Signal, Vote};
use crate::retry::RetryConfig;
use crate::storage::around::around_storage;
use crate::storage::{Owner, Reply, Storage};
use crate::testing::{Call, CrashTest, Fault, Faulty, Stalled, VirtualRuntime};
use crate::value::Value;
use crate::workflow::{Approval, Limits, Lock, OnUnknown, Step, Wait, Workflow};

const SECOND: Duration = Duration::from_secs(1);
/// How long a run takes at most, whatever fails.
const PATIENCE: Duration = Duration::from_secs(2 * 3_600);
/// Small enough for what comes back to be made of a snapshot and the events since.
const SNAPSHOT_EVERY: u64 = 8;

/// Kills a program that runs workflows on the storage, up to three times for each seed: before a call of
/// the storage, after it and before anybody hears so, or at any moment; and begins it again. Each seed
/// needs a storage of its own.
///
/// The run waits for a timer, a signal and an approval, takes a lock, tries again, has a loop over a list
/// and a step that is begun at most once. It comes to its end; no step that has a result is begun again,
/// nor one that may be begun once; each finds what was recorded; all messages are answered; nothing is
/// locked in the end. With [`CrashTest`] your own programs are tested so.
///
/// # Panics
/// With the seed, at the first thing that is not so.
pub fn crashes(factory: &dyn StorageFactory, seeds: Range<u64>) {
    for seed in seeds {
        let story = Story::new(factory, format!("crashes_{seed}"));
        let test = CrashTest::on(story.storage.clone(), seed);
        let outcome = story.within(|| test.run(|engine| story.life(engine)));
        story.check(&format!("seed {seed}"), outcome);
    }
}

/// Has each call of the storage fail once: before it is done, after it was done, and without an answer,
/// whether it is done or not; or every so many of them. Each failure needs a storage of its own: it is
/// the run of [`crashes`], and what is promised is the same.
///
/// # Panics
/// With the call and how it fails, at the first thing that is not so; and where so few calls are made that
/// it says nothing.
pub fn failures(factory: &dyn StorageFactory, every: u64) {
    let faults = [Fault::Before, Fault::After, Fault::Hangs, Fault::HangsAfter];
    for (place, fault) in (0..).zip(faults) {
        let first = 1 + place % every.max(1);
        let mut failed = 0;
        for number in (first..).step_by(usize::try_from(every.max(1)).unwrap_or(usize::MAX)) {
            let story = Story::new(factory, format!("failures_{place}_{number}"));
            let time = VirtualRuntime::new(number);
            let decide = move |call: Call| (call.number == number).then_some(fault);
            let storage = Faulty::new(story.storage.clone(), decide);
            let engine = Engine::builder().runtime(time.clone()).storage(storage.clone());
            let outcome = story.within(|| time.block_on(story.life(engine)));
            story.check(&format!("call {number}, {fault:?}"), outcome);
            if storage.calls() < number {
                break;
            }
            failed += 1;
        }
        assert!(failed * every.max(1) >= 40, "{failed} calls have failed: too few to say anything");
    }
}

/// The storage under test, to be shared by lives.
#[derive(Clone)]
struct Tested(Arc<dyn Storage>);

impl Tested {
    fn call<T>(&self, _: &str, work: impl FnOnce(&dyn Storage) -> Reply<T>) -> Reply<T> {
        work(&*self.0)
    }
}

impl fmt::Debug for Tested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Storage for Tested {
    around_storage!();

    fn poll_every(&self) -> Duration {
        self.0.poll_every()
    }

    fn news(&self, owner: Owner) -> BoxStream<'static, ()> {
        self.0.news(owner)
    }

    fn takes_writes(&self) -> bool {
        self.0.takes_writes()
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
    storage: Tested,
    workflow: Workflow,
    notes: Arc<Mutex<Notes>>,
}

const RUN: &str = "order";

impl<'a> Story<'a> {
    fn new(factory: &'a dyn StorageFactory, name: String) -> Self {
        let storage = Tested(factory.open(&name));
        Self { factory, storage, workflow: workflow(), notes: Arc::default() }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With whatever the storage needs around.
    fn within<T: Send>(&self, run: impl FnOnce() -> T) -> T {
        let mut done = None;
        self.factory.block_on(Box::pin(async { done = Some(run()) }));
        done.expect("`block_on` came back before the future had ended")
    }

    /// What a program does each time that it begins.
    async fn life(&self, engine: EngineBuilder) -> Result<Outcome> {
        let notes = Arc::clone(&self.notes);
        let work = executor_fn(move |ctx| work(ctx, Arc::clone(&notes)));
        let limits = EngineLimits { snapshot_every: SNAPSHOT_EVERY, ..EngineLimits::default() };
        let engine = engine.limits(limits).executor("work", work).build()?;
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

    fn check(&self, when: &str, outcome: Result<Result<Outcome>, Stalled>) {
        let is_good = matches!(outcome, Ok(Ok(Outcome::Succeeded(_))));
        assert!(is_good, "{when}: the run comes to {outcome:?}");
        let run = id(RUN);
        let events = wait(self.factory, self.storage.0.events(&run, 0, usize::MAX));
        let events = events.expect("the journal can be read");
        self.notes().check(when, &events);
        let inbox = wait(self.factory, self.storage.0.inbox(&run)).expect("the inbox can be read");
        assert!(inbox.is_empty(), "{when}: nobody answers {inbox:?}");
        self.check_lock(when);
    }

    /// The next one gets the lock.
    fn check_lock(&self, when: &str) {
        let step = locked("last");
        let next = Workflow::builder("next").limits(patient()).step(step).build();
        let next = next.expect("the workflow is a good one");
        let time = VirtualRuntime::new(1);
        let notes = Arc::clone(&self.notes);
        let work = executor_fn(move |ctx| work(ctx, Arc::clone(&notes)));
        let storage = Faulty::new(self.storage.clone(), |_| None);
        let engine = Engine::builder().runtime(time.clone()).storage(storage);
        let engine = engine.executor("work", work).build().expect("the engine is a good one");
        let outcome = self.within(|| time.block_on(engine.execute(&next, ())));
        let is_free = matches!(&outcome, Ok(Ok(run)) if run.output().is_some());
        assert!(is_free, "{when}: the lock is not free: {outcome:?}");
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
