//! Whether there is room for one more step.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::driver::Site;
use super::placement::{Measured, Placement};
use super::prepare::Task;
use super::sampler::Usage;
use super::{Inner, lock};
use crate::error::ErrorClass;
use crate::executor::{NoRoom, RunContext};
use crate::retry::{CircuitBreaker, Permit};
use crate::time::Timestamp;
use crate::workflow::{Limits, Resources};

/// Places that running steps hold, and the runs that wait for one.
#[derive(Debug)]
pub(crate) struct Slots {
    max: usize,
    used: AtomicUsize,
    waiting: Mutex<Vec<Arc<RunContext>>>,
    has_waiting: AtomicBool,
}

impl Slots {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            used: AtomicUsize::new(0),
            waiting: Mutex::default(),
            has_waiting: AtomicBool::new(false),
        }
    }

    /// Takes a place; if there is none, the run is woken when there is.
    pub(crate) fn take(&self, run: &Arc<RunContext>) -> bool {
        if self.try_take() {
            return true;
        }
        let mut waiting = lock(&self.waiting);
        if !waiting.iter().any(|other| Arc::ptr_eq(other, run)) {
            waiting.push(Arc::clone(run));
        }
        self.has_waiting.store(true, Ordering::SeqCst);
        // A place may have been given back before the run stood in the list.
        self.try_take()
    }

    fn try_take(&self) -> bool {
        let more = |used: usize| (used < self.max).then_some(used + 1);
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Whether a run waits for a place.
    pub(crate) fn is_wanted(&self) -> bool {
        self.has_waiting.load(Ordering::SeqCst)
    }

    /// Takes a place above the limit: for an attempt that runs already.
    pub(crate) fn take_anyway(&self) {
        self.used.fetch_add(1, Ordering::SeqCst);
    }

    /// Gives places back and wakes those who wait for one; whether somebody did.
    pub(crate) fn give_back(&self, places: usize) -> bool {
        if places == 0 {
            return false;
        }
        self.used.fetch_sub(places, Ordering::SeqCst);
        let wanted = self.is_wanted();
        if wanted {
            let waiting = {
                let mut waiting = lock(&self.waiting);
                // Under the lock, so that nobody who comes to wait meanwhile is forgotten.
                self.has_waiting.store(false, Ordering::SeqCst);
                std::mem::take(&mut *waiting)
            };
            waiting.iter().for_each(|run| run.wake_for_room());
        }
        wanted
    }
}

/// What is known of all steps of one executor type.
#[derive(Debug)]
pub(crate) struct TypeState {
    pub(crate) name: String,
    pub(crate) forced: Option<Placement>,
    pub(crate) measured: Measured,
    slots: Option<Slots>,
    breaker: Option<Mutex<CircuitBreaker>>,
    /// Whether there was a failure ever: before it the breaker costs nothing.
    failing: AtomicBool,
    /// Calls that went well lately, before the first failure, and what lately is.
    quiet: AtomicU32,
    quiet_since: AtomicI64,
}

/// Lately is the part of a time in microseconds above these bits: some four seconds.
const LATELY_BITS: u32 = 22;

/// How an attempt ended, as far as the health of what it talks to is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended {
    Well,
    Badly(ErrorClass),
    /// It was dropped, or waits for something.
    Unknown,
}

impl TypeState {
    pub(crate) fn new(name: &str, engine: &Inner) -> Self {
        let breaker = engine.limits.breaker.clone();
        Self {
            name: name.to_string(),
            forced: engine.placements.get(name).copied(),
            measured: Measured::default(),
            slots: engine.limits.per_type.get(name).map(|max| Slots::new(*max)),
            breaker: breaker.map(|config| Mutex::new(CircuitBreaker::new(config))),
            failing: AtomicBool::new(false),
            quiet: AtomicU32::new(0),
            quiet_since: AtomicI64::new(0),
        }
    }

    /// Notes how an attempt ended, for the breaker.
    pub(crate) fn ended(&self, how: Ended, now: Timestamp) {
        let Some(breaker) = &self.breaker else { return };
        match how {
            // Before the first failure nothing is locked, only counted.
            Ended::Well if !self.failing.load(Ordering::Relaxed) => {
                let lately = now.as_micros() >> LATELY_BITS;
                if self.quiet_since.load(Ordering::Relaxed) != lately {
                    self.quiet_since.store(lately, Ordering::Relaxed);
                    self.quiet.store(0, Ordering::Relaxed);
                }
                let calls = self.quiet.load(Ordering::Relaxed);
                // Updates that race lose a call, which changes nothing.
                self.quiet.store(calls.saturating_add(1), Ordering::Relaxed);
            }
            Ended::Well => lock(breaker).succeeded(now),
            Ended::Badly(class) if class.is_retryable() && class != ErrorClass::Panic => {
                let mut breaker = lock(breaker);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let before = self.quiet.swap(0, Ordering::Relaxed);
                    breaker.succeeded_often(before, now);
                }
                breaker.failed(now);
            }
            // Wrong data: the other side was there to say so.
            Ended::Badly(class) if class != ErrorClass::Panic => lock(breaker).succeeded(now),
            Ended::Badly(_) | Ended::Unknown => lock(breaker).unheard(now),
        }
    }

    /// Until when the breaker lets nothing through, if it does not.
    fn closed_until(&self, now: Timestamp) -> Option<Timestamp> {
        if !self.failing.load(Ordering::Relaxed) {
            return None;
        }
        lock(self.breaker.as_ref()?).open_until().filter(|until| *until > now)
    }

    /// Asks the breaker for one call.
    fn permit(&self, now: Timestamp) -> Option<Timestamp> {
        if !self.failing.load(Ordering::Relaxed) {
            return None;
        }
        match lock(self.breaker.as_ref()?).permit(now) {
            Permit::Allowed | Permit::Probe => None,
            Permit::Denied { until } => Some(until),
        }
    }

    pub(crate) fn take_anyway(&self) {
        if let Some(slots) = &self.slots {
            slots.take_anyway();
        }
    }

    fn give_back(&self) -> bool {
        self.slots.as_ref().is_some_and(|slots| slots.give_back(1))
    }
}

/// What one run's steps hold now.
#[derive(Debug, Default)]
pub(crate) struct Held {
    steps: u32,
    memory_mb: u64,
    cpu_percent: u32,
    /// Places in the engine that steps of this run have left in this turn, for the next ones.
    spare: usize,
    /// Somebody else was waiting for what a step of this run gave back.
    was_wanted: bool,
    /// What the process uses, if this turn has looked.
    usage: Option<Usage>,
}

impl Held {
    fn take(&mut self, task: &Task) {
        self.steps += 1;
        self.memory_mb = self.memory_mb.saturating_add(task.resources.memory_mb);
        self.cpu_percent = self.cpu_percent.saturating_add(task.resources.cpu_percent);
    }

    /// Takes room above every limit: for an attempt that runs already.
    pub(crate) fn take_anyway(&mut self, engine: &Inner, task: &Task) {
        self.take(task);
        engine.slots.take_anyway();
        task.kind.take_anyway();
    }

    /// Gives back what an attempt of a task held.
    pub(crate) fn give_back(&mut self, task: &Task) {
        self.steps = self.steps.saturating_sub(1);
        self.memory_mb = self.memory_mb.saturating_sub(task.resources.memory_mb);
        self.cpu_percent = self.cpu_percent.saturating_sub(task.resources.cpu_percent);
        self.spare += 1;
        self.was_wanted |= task.kind.give_back();
    }

    /// Whether runs that were waiting should get a chance before this one takes room again.
    pub(crate) fn yields(&mut self, engine: &Inner) -> bool {
        if engine.slots.is_wanted() {
            self.settle(engine);
        }
        std::mem::take(&mut self.was_wanted)
    }

    /// Gives the engine what this turn's steps left and did not take again.
    pub(crate) fn settle(&mut self, engine: &Inner) {
        self.usage = None;
        self.was_wanted |= engine.slots.give_back(std::mem::take(&mut self.spare));
    }

    fn take_place(&mut self, site: &Site) -> bool {
        if self.spare > 0 {
            self.spare -= 1;
            return true;
        }
        site.engine.slots.take(&site.run)
    }
}

/// Why a step has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// A limit of the run: nothing more of this run can start before something of it ends.
    Run(String),
    /// A limit of this step type, and which; other steps may go first.
    Type(String, String),
    /// Until a time: steps of this type, or all.
    Until(Option<String>, String, Timestamp),
    /// A lock of this step, and when to ask for it again; other steps may go first.
    Lock(String, Timestamp),
    /// Other runs that were waiting go first, once.
    Others,
}

impl Full {
    /// This, or the other if that one is over sooner.
    pub(crate) fn or_sooner(self, other: Self) -> Self {
        match (&self, &other) {
            (
                Self::Until(_, _, this) | Self::Lock(_, this),
                Self::Until(_, _, that) | Self::Lock(_, that),
            ) if this <= that => self,
            (_, Self::Until(..) | Self::Lock(..)) => other,
            _ => self,
        }
    }

    /// The step type that it is about; none when it is about all.
    fn kind(&self) -> Option<&str> {
        match self {
            Self::Type(kind, _) => Some(kind),
            Self::Until(kind, ..) => kind.as_deref(),
            Self::Run(_) | Self::Lock(..) | Self::Others => None,
        }
    }

    pub(crate) fn no_room(&self) -> NoRoom {
        NoRoom {
            kind: self.kind().map(str::to_string),
            reason: self.reason().to_string(),
            is_held: matches!(self, Self::Run(_) | Self::Type(..)),
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::Run(reason)
            | Self::Type(_, reason)
            | Self::Until(_, reason, _)
            | Self::Lock(reason, _) => reason,
            Self::Others => "other runs go first",
        }
    }
}

/// How often the process is looked at again when it was over a limit.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Takes room for a step, or says why there is none.
pub(crate) fn admit(site: &Site, held: &mut Held, task: &Task, now: Timestamp) -> Result<(), Full> {
    let limits = &site.prepared.limits;
    if held.steps >= limits.max_concurrent_steps {
        let max = limits.max_concurrent_steps;
        return Err(Full::Run(format!("{max} steps of this run are running")));
    }
    // A step of a run of which nothing runs is always let in, so that a limit below what one step
    // needs slows a run down and never stops it.
    if held.steps > 0 {
        within_resources(&site.engine, limits, held, &task.resources, now)?;
    }
    let kind = &task.kind;
    let open = |until| {
        let reason = format!("the circuit breaker of `{}` is open until {until}", kind.name);
        Err(Full::Until(Some(kind.name.clone()), reason, until))
    };
    if let Some(until) = kind.closed_until(now) {
        return open(until);
    }
    if let Some(slots) = kind.slots.as_ref().filter(|slots| !slots.take(&site.run)) {
        let max = slots.max;
        let reason = format!("{max} steps of type `{}` are running", kind.name);
        return Err(Full::Type(kind.name.clone(), reason));
    }
    if !held.take_place(site) {
        kind.give_back();
        let max = site.engine.slots.max;
        return Err(Full::Run(format!("{max} steps of this engine are running")));
    }
    // Last, as a half-open breaker gives one permit only.
    if let Some(until) = kind.permit(now) {
        kind.give_back();
        held.spare += 1;
        return open(until);
    }
    held.take(task);
    Ok(())
}

fn within_resources(
    engine: &Inner,
    limits: &Limits,
    held: &mut Held,
    wanted: &Resources,
    now: Timestamp,
) -> Result<(), Full> {
    let memory = held.memory_mb.saturating_add(wanted.memory_mb);
    if memory > limits.max_memory_mb {
        let max = limits.max_memory_mb;
        return Err(Full::Run(format!(
            "its running steps and this one need {memory} MiB of {max}"
        )));
    }
    let cpu = held.cpu_percent.saturating_add(wanted.cpu_percent);
    if wanted.cpu_percent > 0 && cpu > limits.max_cpu_percent {
        let max = limits.max_cpu_percent;
        return Err(Full::Run(format!(
            "its running steps and this one need {cpu} % CPU of {max} %"
        )));
    }
    let usage = *held.usage.get_or_insert_with(|| engine.sampler.usage(&*engine.runtime));
    if usage.memory_mb > limits.max_memory_mb {
        let reason =
            format!("the process uses {} MiB of {}", usage.memory_mb, limits.max_memory_mb);
        return Err(Full::Until(None, reason, now + LOOK_AGAIN));
    }
    if usage.cpu_percent > limits.max_cpu_percent && limits.max_cpu_percent < 100 {
        let (used, max) = (usage.cpu_percent, limits.max_cpu_percent);
        let reason = format!("the process uses {used} % CPU of {max} %");
        return Err(Full::Until(None, reason, now + LOOK_AGAIN));
    }
    Ok(())
}

/// Counts down to the next measurement.
#[derive(Debug, Default)]
pub(crate) struct EveryNth(AtomicU32);

impl EveryNth {
    /// True once in `n` calls, the first included.
    pub(crate) fn is_due(&self, n: u32) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(n)
    }
}
