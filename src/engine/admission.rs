//! Whether there is room for one more step.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::placement::{Measured, Placement};
use super::{Inner, lock};
use crate::error::ErrorClass;
use crate::executor::RunContext;
use crate::retry::{CircuitBreaker, Permit};
use crate::time::Timestamp;
use crate::workflow::{Limits, Node};

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
    fn take(&self, run: &Arc<RunContext>) -> bool {
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
        self.used.fetch_update(Ordering::SeqCst, Ordering::Relaxed, more).is_ok()
    }

    /// Takes a place above the limit: for an attempt that runs already.
    pub(crate) fn take_anyway(&self) {
        self.used.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::SeqCst);
        if self.has_waiting.load(Ordering::SeqCst) {
            let waiting = std::mem::take(&mut *lock(&self.waiting));
            self.has_waiting.store(false, Ordering::SeqCst);
            waiting.iter().for_each(|run| run.wake_for_room());
        }
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
    /// Whether the breaker has anything to count: before the first failure it costs nothing.
    failing: AtomicBool,
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
        }
    }

    /// Notes how an attempt ended, for the breaker.
    pub(crate) fn ended(&self, failed: Option<ErrorClass>, now: Timestamp) {
        let Some(breaker) = &self.breaker else { return };
        match failed {
            // Wrong data says nothing of a service's health.
            Some(class) if class.is_retryable() => {
                self.failing.store(true, Ordering::Relaxed);
                lock(breaker).failed(now);
            }
            Some(_) => {}
            None if self.failing.load(Ordering::Relaxed) => lock(breaker).succeeded(now),
            None => {}
        }
    }

    fn denied(&self, now: Timestamp) -> Option<Timestamp> {
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

    pub(crate) fn give_back(&self) {
        if let Some(slots) = &self.slots {
            slots.give_back();
        }
    }
}

/// What one run's steps hold now.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) steps: u32,
    pub(crate) memory_mb: u64,
    pub(crate) cpu_percent: u32,
}

/// Why a step has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// A limit of the run: nothing more of this run can start before something of it ends.
    Run(String),
    /// A limit of this step's type; other steps may go first.
    Type(String),
    /// Until a time.
    Until(String, Timestamp),
}

impl Full {
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Run(reason) | Self::Type(reason) | Self::Until(reason, _) => reason,
        }
    }
}

/// How often the process is looked at again when it was over a limit.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Takes room for a step, or says why there is none.
pub(crate) fn admit(
    engine: &Inner,
    run: &Arc<RunContext>,
    limits: &Limits,
    held: &Held,
    node: &Node,
    kind: &TypeState,
    now: Timestamp,
) -> Result<(), Full> {
    if held.steps >= limits.max_concurrent_steps {
        let max = limits.max_concurrent_steps;
        return Err(Full::Run(format!("{max} steps of this run are running")));
    }
    // A step of a run of which nothing runs is always let in, so that a limit below what one step
    // needs slows a run down and never stops it.
    if held.steps > 0 {
        within_resources(engine, limits, held, node, now)?;
    }
    if let Some(until) = kind.denied(now) {
        let reason = format!("the circuit breaker of `{}` is open until {until}", kind.name);
        return Err(Full::Until(reason, until));
    }
    if let Some(slots) = kind.slots.as_ref().filter(|slots| !slots.take(run)) {
        let max = slots.max;
        return Err(Full::Type(format!("{max} steps of type `{}` are running", kind.name)));
    }
    if !engine.slots.take(run) {
        kind.give_back();
        let max = engine.slots.max;
        return Err(Full::Run(format!("{max} steps of this engine are running")));
    }
    Ok(())
}

fn within_resources(
    engine: &Inner,
    limits: &Limits,
    held: &Held,
    node: &Node,
    now: Timestamp,
) -> Result<(), Full> {
    let memory = held.memory_mb.saturating_add(node.resources.memory_mb);
    if memory > limits.max_memory_mb {
        let max = limits.max_memory_mb;
        return Err(Full::Run(format!(
            "its running steps and this one need {memory} MiB of {max}"
        )));
    }
    let cpu = held.cpu_percent.saturating_add(node.resources.cpu_percent);
    if node.resources.cpu_percent > 0 && cpu > limits.max_cpu_percent {
        let max = limits.max_cpu_percent;
        return Err(Full::Run(format!(
            "its running steps and this one need {cpu} % CPU of {max} %"
        )));
    }
    let usage = engine.sampler.usage(&*engine.runtime);
    if usage.memory_mb > limits.max_memory_mb {
        let reason =
            format!("the process uses {} MiB of {}", usage.memory_mb, limits.max_memory_mb);
        return Err(Full::Until(reason, now + LOOK_AGAIN));
    }
    if usage.cpu_percent > limits.max_cpu_percent && limits.max_cpu_percent < 100 {
        let (used, max) = (usage.cpu_percent, limits.max_cpu_percent);
        return Err(Full::Until(
            format!("the process uses {used} % CPU of {max} %"),
            now + LOOK_AGAIN,
        ));
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
