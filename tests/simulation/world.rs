//! Engines, and what goes wrong with them.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures::future::{Either, select};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use stepwell::engine::{EngineLimits, Retention};
use stepwell::runtime::Runtime as _;
use stepwell::storage::Storage;
use stepwell::testing::{Call, Fault, Faulty, VirtualRuntime};
use stepwell::{Engine, ExecutionContext, Json, RunId, StepError, executor_fn};

use super::client::Said;
use super::clocks::Clocks;
use super::grown::{Ends, inner};
use super::mistakes::Mistake;
use super::single::Single;
use super::tape::{Begun, Tape, Watched, What, at_once, can_be_damaged};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// When a run is damaged that is.
const DAMAGED: Range<Duration> = Duration::from_secs(20)..Duration::from_secs(400);
/// How long runs are kept that have ended, where they are not kept for ever.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(20);
/// How long a call is late at most: longer than anybody waits for it.
const LATE_MAX: u32 = 90;

pub(crate) struct World<S> {
    pub(crate) seed: u64,
    pub(crate) time: VirtualRuntime,
    pub(crate) storage: S,
    pub(crate) tape: Tape,
    mistake: Mistake,
    /// The one thing that happens, if there is only one.
    pub(crate) single: Option<Single>,
    dice: Mutex<StdRng>,
    engines: AtomicUsize,
    pub(crate) said: Mutex<Vec<Said>>,
    /// What is to become of the steps of a run, if nobody meddles.
    pub(crate) ends: Mutex<BTreeMap<RunId, Ends>>,
    pub(crate) is_calm: AtomicBool,
    pub(crate) clocks: Clocks,
    /// When the last late call has been done.
    flying_until: Mutex<Duration>,
    pub(crate) all_done: AtomicBool,
}

/// What an engine has of what runs need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Has {
    Nothing,
    Most,
    All,
}

/// An engine, and its place on the tape.
pub(crate) struct Numbered {
    pub(crate) engine: Engine,
    pub(crate) number: usize,
    tape: Tape,
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.tape.note(self.number, What::Over);
    }
}

/// A body of a step, until it has ended or is dropped.
struct Body {
    tape: Tape,
    engine: usize,
    /// Where on the tape it began.
    place: usize,
    has_ended: bool,
}

impl Body {
    fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.tape.note(self.engine, What::Left { body: self.place, has_ended: self.has_ended });
    }
}

impl<S: Storage + Clone> World<S> {
    pub(crate) fn new(
        seed: u64,
        storage: S,
        mistake: Mistake,
        single: Option<Single>,
    ) -> Arc<Self> {
        let time = VirtualRuntime::new(seed);
        Arc::new(Self {
            seed,
            tape: Tape::new(&time),
            time,
            storage,
            mistake,
            dice: Mutex::new(StdRng::seed_from_u64(seed ^ 0x5eed)),
            engines: AtomicUsize::new(0),
            said: Mutex::default(),
            ends: Mutex::default(),
            is_calm: AtomicBool::new(single.is_some()),
            single,
            clocks: Clocks::default(),
            flying_until: Mutex::default(),
            all_done: AtomicBool::new(false),
        })
    }

    pub(crate) fn dice(&self, below: u32) -> u32 {
        self.dice.lock().unwrap().random_range(0..below)
    }

    pub(crate) fn seconds(&self, least: u32, more: u32) -> Duration {
        Duration::from_secs(u64::from(least + self.dice(more)))
    }

    pub(crate) fn has_ended(&self, run: &RunId) -> bool {
        let stored = at_once(self.storage.load(run)).unwrap();
        stored.is_some_and(|stored| stored.status.is_end())
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    pub(crate) fn is_single(&self) -> bool {
        self.single.is_some()
    }

    pub(crate) fn has_flown(&self) -> bool {
        self.time.monotonic() > *self.flying_until.lock().unwrap()
    }

    pub(crate) fn history_kept(&self) -> u64 {
        if self.is_single() || self.seed.is_multiple_of(2) { u64::MAX } else { 5 + self.seed % 20 }
    }

    /// How often a run may be taken over in vain.
    pub(crate) fn max_recoveries(&self) -> u32 {
        if self.is_single() || !(self.seed / 2).is_multiple_of(3) { 1_000 } else { 1 }
    }

    /// In some seeds as often as a database is, which engines take for one that other processes are on.
    fn poll_every(&self) -> Option<Duration> {
        self.some_only_say().then_some(SECOND)
    }

    /// Whether some engines can run nothing.
    pub(crate) fn some_only_say(&self) -> bool {
        !self.is_single() && self.seed.is_multiple_of(3)
    }

    /// A run that cannot be read for a while, in some seeds.
    pub(crate) fn is_damaged(&self, run: &RunId) -> bool {
        let now = self.time.monotonic();
        let may_be = !self.is_single() && self.seed % 6 == 1;
        may_be && can_be_damaged(run) && DAMAGED.contains(&now)
    }

    /// By what runs are removed, if they are.
    pub(crate) fn retention(&self) -> Option<Retention> {
        if self.is_single() || !(self.seed / 7).is_multiple_of(4) {
            return None;
        }
        let by_age = Retention::new().finished_for(KEPT_FOR);
        Some(if self.seed.is_multiple_of(2) { by_age } else { by_age.keep_at_most(2) })
    }

    /// Somebody removes runs now and then.
    pub(crate) async fn tidy(self: Arc<Self>, often: u32) {
        let Some(retention) = self.retention() else { return };
        let machine = self.machine();
        while !self.is_over() {
            self.nap(self.seconds(5, 100)).await;
            let numbered = self.engine(&machine, often, Has::All);
            let life = pin!(self.nap(self.seconds(0, 60)));
            // Whoever has begun in vain is followed by others.
            drop(select(pin!(numbered.engine.purge(&retention)), life).await);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.all_done.load(Ordering::Relaxed)
    }

    /// By the clock that nobody sets.
    pub(crate) async fn nap(&self, length: Duration) {
        self.time.sleep(length).await;
    }

    fn fault(&self, engine: usize, call: Call, often: u32) -> Option<Fault> {
        if let Some(single) = &self.single {
            let fault = self.single_fault(single, call.method)?;
            return Some(self.note(engine, call.method, fault));
        }
        if self.is_calm() || self.dice(1_000) >= often {
            return None;
        }
        // Most are a little late; some are so late that nobody waits for them.
        let late = |most| self.seconds(1, most);
        let fault = match self.dice(20) {
            0..6 => Fault::Before,
            6..12 => Fault::After,
            12 if call.method == "commit" => Fault::HangsAfter,
            12 => Fault::Hangs,
            13..15 => Fault::AnswersLate(late(5)),
            15..16 => Fault::AnswersLate(late(LATE_MAX)),
            16..18 => Fault::DoneLate(late(5)),
            _ => Fault::DoneLate(late(LATE_MAX)),
        };
        Some(self.note(engine, call.method, fault))
    }

    fn note(&self, engine: usize, method: &'static str, fault: Fault) -> Fault {
        if let Fault::DoneLate(by) = fault {
            let mut until = self.flying_until.lock().unwrap();
            *until = (*until).max(self.time.monotonic() + by + 5 * SECOND);
        }
        self.tape.note(engine, What::Faulty(method, fault));
        fault
    }

    /// An engine on a machine, whose calls fail so often in a thousand.
    pub(crate) fn engine(
        self: &Arc<Self>,
        machine: &VirtualRuntime,
        often: u32,
        has: Has,
    ) -> Numbered {
        let number = self.engines.fetch_add(1, Ordering::Relaxed);
        let world = Arc::clone(self);
        let damaged = Arc::downgrade(self);
        let storage = Watched {
            inner: self.storage.clone(),
            is_damaged: Some(Arc::new(move |run| {
                damaged.upgrade().is_some_and(|world| world.is_damaged(run))
            })),
            machine: machine.clone(),
            engine: number,
            tape: Some(self.tape.clone()),
            mistake: self.mistake,
            poll_every: self.poll_every(),
        };
        let faulty = Faulty::new(storage, move |call| world.fault(number, call, often));
        let around = Watched {
            inner: faulty.runtime(machine.clone()),
            is_damaged: None,
            machine: machine.clone(),
            engine: number,
            tape: None,
            mistake: self.mistake,
            poll_every: self.poll_every(),
        };
        let limits = EngineLimits {
            max_recoveries: self.max_recoveries(),
            lease: LEASE,
            snapshot_every: 1 + self.seed % 19,
            history_kept: self.history_kept(),
            ..EngineLimits::default()
        };
        let body = || {
            let world = Arc::clone(self);
            executor_fn(move |ctx| Arc::clone(&world).body(number, ctx))
        };
        let mut builder = Engine::builder().runtime(machine.clone()).limits(limits);
        builder = match self.mistake.is_around() {
            true => builder.storage(around),
            false => builder.storage(around.inner),
        };
        if has >= Has::Most {
            builder = builder.executor("work", body());
        }
        if has == Has::All {
            builder = builder.executor("rare", body());
        }
        for grown in inner() {
            builder = builder.workflow(&grown.workflow);
        }
        if let Some(retention) = self.retention() {
            builder = builder.retention(retention);
        }
        Numbered { engine: builder.build().unwrap(), number, tape: self.tape.clone() }
    }

    /// What every step does; it notes that it does, and comes to something else each time.
    fn body(
        self: Arc<Self>,
        engine: usize,
        ctx: ExecutionContext,
    ) -> impl Future<Output = Result<Json, StepError>> + Send {
        let is_once = ctx.config_as("once").unwrap_or(false);
        let begun = Begun {
            run: ctx.execution_id().clone(),
            path: ctx.step(),
            attempt: ctx.attempt(),
            key: ctx.idempotency_key(),
            is_once,
            read: ctx.inputs().clone(),
        };
        let place = self.tape.note(engine, What::Begun(Box::new(begun)));
        let body = Body { tape: self.tape.clone(), engine, place, has_ended: false };
        let slow = self.dice(8) == 0 && !self.is_calm();
        let seconds = if slow { self.dice(60) } else { self.dice(3) };
        async move {
            if ctx.attempt() <= ctx.input("hangs").unwrap_or(0) {
                std::future::pending::<()>().await;
            }
            if seconds > 0 {
                ctx.sleep(Duration::from_secs(seconds.into())).await;
            }
            let fails: u32 = ctx.input("fails").unwrap_or(0);
            if ctx.attempt() <= fails {
                let error = StepError::retryable("not yet");
                return Err(if is_once { error.nothing_done() } else { error });
            }
            let steps: Json = ctx.config_as("steps").unwrap_or_default();
            body.end();
            Ok(json!({"said": place, "steps": steps}))
        }
    }

    /// A process: an engine that is served, and another one after it is gone.
    pub(crate) async fn process(self: Arc<Self>, place: u64, often: u32) {
        if place > 0 && self.dice(3) == 0 {
            // It comes later.
            self.nap(self.seconds(0, 300)).await;
        }
        // Others have what this one lacks.
        let has = match place {
            // One that only says things, and is served all the same.
            4 if self.some_only_say() => Has::Nothing,
            0 => Has::All,
            _ if self.dice(2) == 0 => Has::All,
            _ => Has::Most,
        };
        let machine = self.machine();
        while !self.is_over() {
            let numbered = self.engine(&machine, often, has);
            let stopped = AtomicBool::new(false);
            while self.serve(&numbered, &stopped).await {
                self.nap(self.seconds(0, 50)).await;
            }
            drop(numbered);
            if !self.is_calm() {
                self.nap(self.seconds(0, 20)).await;
            }
        }
    }

    /// Serves an engine until it crashes or its service ends; whether it may be served again.
    async fn serve(self: &Arc<Self>, numbered: &Numbered, stopped: &AtomicBool) -> bool {
        let ends = AtomicBool::new(false);
        let shutdown = async {
            while !self.is_over() && !ends.load(Ordering::Relaxed) {
                self.nap(SECOND).await;
            }
        };
        let mut serving = Box::pin(numbered.engine.serve(shutdown));
        // As a machine that sleeps: nothing of it runs.
        let gated = poll_fn(|context| {
            if stopped.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            serving.as_mut().poll(context)
        });
        let mut gated = Box::pin(gated);
        loop {
            let left = pin!(self.nap(self.seconds(10, 120)));
            if let Either::Left(_) = select(&mut gated, left).await {
                // What nobody had a handle for is dropped; the engine may be served again.
                self.tape.note(numbered.number, What::Over);
                return !self.is_over();
            }
            if self.is_calm() {
                continue;
            }
            match self.dice(5) {
                0 | 1 => {
                    stopped.store(true, Ordering::Relaxed);
                    self.tape.note(numbered.number, What::Stopped(true));
                    self.nap(self.seconds(20, 60)).await;
                    self.tape.note(numbered.number, What::Stopped(false));
                    stopped.store(false, Ordering::Relaxed);
                }
                2 => ends.store(true, Ordering::Relaxed),
                // Everything at once, as by a kill.
                _ => return false,
            }
        }
    }
}
