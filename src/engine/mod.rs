//! The shell: starts what the core calls ready, and tells it what became of it.
//!
//! Nothing here decides what a workflow means; see [`crate::run`]. An [`Engine`] spawns nothing
//! behind your back: awaiting [`Engine::execute`] or [`RunHandle::outcome`] drives that run, and
//! [`Engine::serve`] drives all.

mod admission;
mod aside;
mod audience;
mod builder;
mod defaults;
mod desk;
mod doubt;
mod driver;
mod flight;
mod giving;
mod handle;
mod known;
mod migrate;
mod patient;
mod placement;
mod prepare;
mod removal;
mod report;
#[cfg(feature = "secrets")]
mod reseal;
mod retention;
mod retrying;
mod sampler;
mod serve;
mod slot;
mod start;
mod stored;
mod tend;
mod trials;

pub use builder::{EngineBuilder, EngineLimits};
pub use handle::{RunHandle, StartOptions};
pub use migrate::{RunMigration, Verdict};
pub use placement::Placement;
pub use report::Run;
pub use retention::Retention;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::executor::{ExecutorRegistry, Facilities, RunContext};
use crate::id::RunId;
use crate::journal::{Operation, Reason};
use crate::retry::{ErrorClassifier, RetryBudget};
use crate::runtime::Runtime;
use crate::storage::{Holding, RunQuery, Storage, Summary};
use crate::workflow::{Program, Workflow, resolve};
use admission::{Slots, TypeState};
use known::Known;
use patient::Patient;
use prepare::Prepared;
use slot::{Inherited, Slot};

/// Runs workflows. Cloning shares it.
///
/// ```
/// use serde_json::json;
/// use stepwell::{Engine, Step, Workflow, executor_fn};
///
/// let engine = Engine::builder()
///     .executor("greet", executor_fn(|ctx| async move {
///         let name: String = ctx.input("name")?;
///         Ok(format!("Hello, {name}!"))
///     }))
///     .build()?;
/// let workflow = Workflow::builder("greeting")
///     .step(Step::task("hello", "greet").input("name", "input.name"))
///     .build()?;
/// let run = futures::executor::block_on(engine.execute(&workflow, json!({"name": "Ada"})))?;
/// assert_eq!(run.output().unwrap(), "Hello, Ada!");
/// # Ok::<(), stepwell::Error>(())
/// ```
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

pub(crate) struct Inner {
    pub(crate) storage: Patient,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) facilities: Arc<Facilities>,
    registry: ExecutorRegistry,
    workflows: Mutex<Known>,
    capabilities: BTreeSet<String>,
    pub(crate) classifier: ErrorClassifier,
    pub(crate) limits: EngineLimits,
    pub(crate) budget: Mutex<RetryBudget>,
    pub(crate) slots: Slots,
    pub(crate) sampler: sampler::Sampler,
    types: Mutex<BTreeMap<String, Arc<TypeState>>>,
    placements: BTreeMap<String, Placement>,
    prepared: Mutex<FxHashMap<usize, ForProgram>>,
    incarnation: tend::Incarnation,
    pub(crate) pulse: tend::Pulse,
    retention: Vec<Retention>,
    /// When something is to be removed next, by the clock that only goes forward.
    purge_at: Mutex<Duration>,
    /// Held by who removes runs.
    purging: futures::lock::Mutex<()>,
    /// Something was put there that this engine may take.
    looks_soon: AtomicBool,
    pub(crate) runs: Mutex<FxHashMap<RunId, Arc<Slot>>>,
    /// Runs that wait for a lock.
    lock_waiters: Mutex<Vec<Arc<RunContext>>>,
    lock_releases: AtomicU64,
    /// Whether [`Engine::serve`] is at work.
    pub(crate) is_served: AtomicBool,
    pub(crate) doubts: doubt::Doubts,
    aside: aside::Aside,
    pub(crate) trials: trials::Trials,
    /// Runs that it has not seen.
    pub(crate) fresh: Mutex<Vec<Arc<Slot>>>,
    /// Wakes [`Engine::serve`] when there is something new.
    pub(crate) serving: futures::task::AtomicWaker,
}

/// Executors made for a program, by its address, as long as it lives.
type ForProgram = (std::sync::Weak<Program>, Arc<Prepared>);

/// What the engines that a host has share; the runs of the last one go with it.
struct Shared(Arc<Inner>);

impl std::ops::Deref for Shared {
    type Target = Arc<Inner>;

    fn deref(&self) -> &Arc<Inner> {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Each run's driver holds the engine, too: without this they would keep each other.
        let runs = std::mem::take(&mut *lock(&self.0.runs));
        let fresh = std::mem::take(&mut *lock(&self.0.fresh));
        drop((runs, fresh));
    }
}

/// A run that is not over as long as this is there, although it may have ended.
pub(crate) struct Revived(Arc<RunContext>);

impl Revived {
    fn new(context: &Arc<RunContext>) -> Self {
        context.revivers.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(context))
    }

    fn of(handle: &RunHandle) -> Self {
        Self::new(handle.context())
    }

    /// All is said. A run that still has ended stays so, and says so.
    pub(crate) async fn leave(self, handle: &RunHandle) -> Result<()> {
        drop(self);
        let mut outcome = pin!(handle.outcome());
        poll_fn(|context| {
            if !handle.status().is_end() {
                return Poll::Ready(Ok(()));
            }
            match outcome.as_mut().poll(context) {
                // Others may have had it go on.
                Poll::Pending if !handle.status().is_end() => Poll::Ready(Ok(())),
                ended => ended.map_ok(drop),
            }
        })
        .await
    }
}

impl Drop for Revived {
    fn drop(&mut self) {
        self.0.revivers.fetch_sub(1, Ordering::SeqCst);
        self.0.wake_driver();
    }
}

impl Inner {
    /// Has a run look again when a lock may be free.
    pub(crate) fn wait_for_locks(&self, run: &Arc<RunContext>) {
        let mut waiters = lock(&self.lock_waiters);
        if !waiters.iter().any(|other| Arc::ptr_eq(other, run)) {
            waiters.push(Arc::clone(run));
        }
    }

    /// How often a lock may have become free.
    pub(crate) fn lock_releases(&self) -> u64 {
        self.lock_releases.load(Ordering::SeqCst)
    }

    /// A lock may be free.
    pub(crate) fn wake_for_locks(&self) {
        self.lock_releases.fetch_add(1, Ordering::SeqCst);
        let waiters = std::mem::take(&mut *lock(&self.lock_waiters));
        waiters.iter().for_each(|run| run.wake_for_room());
    }

    /// Takes a run out of memory, unless that run is there in another slot by now.
    pub(crate) fn forget(&self, run: &Arc<RunContext>) {
        self.forget_if(run, || true);
    }

    /// The same if it may go, and whether it may: that is asked while nobody can make a handle for it.
    pub(crate) fn forget_if(&self, run: &Arc<RunContext>, may_go: impl FnOnce() -> bool) -> bool {
        let mut runs = lock(&self.runs);
        let goes = may_go();
        let slot = if goes && is_in(&runs, run) { runs.remove(&run.id) } else { None };
        drop(runs);
        // Dropped after the lock is free: dropping a driver runs destructors of steps.
        drop(slot);
        goes
    }

    /// Whether this is where the run is, and not another slot.
    fn has(&self, run: &Arc<RunContext>) -> bool {
        is_in(&lock(&self.runs), run)
    }
}

fn is_in(runs: &FxHashMap<RunId, Arc<Slot>>, run: &Arc<RunContext>) -> bool {
    runs.get(&run.id).is_some_and(|slot| Arc::ptr_eq(&slot.context, run))
}

impl Engine {
    /// Begins to configure an engine.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// Makes a workflow known, for sub-workflow steps of runs that start from now on: by its id and
    /// version beside the other versions, or by its id alone instead of the one without a version. Runs
    /// that have begun keep what they began with.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] for a version that is known with another content.
    pub fn define(&self, workflow: &Workflow) -> Result<()> {
        lock(&self.0.workflows).add(workflow)
    }

    /// The workflow of this name: the version that it ends in, as in `review@3`, or the highest.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] saying which versions there are, or which names.
    ///
    /// ```
    /// use stepwell::{Engine, Step, Workflow};
    ///
    /// let review = |version| {
    ///     Workflow::builder("review").version(version).step(Step::task("a", "process")).build()
    /// };
    /// let engine = Engine::builder().workflow(&review(1)?).workflow(&review(2)?).build()?;
    /// assert_eq!(engine.workflow("review")?.version(), Some(2));
    /// let gone = engine.workflow("review@3").unwrap_err();
    /// assert!(gone.to_string().contains("it has `review@1`, `review@2`"));
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    pub fn workflow(&self, name: &str) -> Result<Workflow> {
        lock(&self.0.workflows).get(name)
    }

    /// A handle for a run that was started before, here or elsewhere. Only one engine may drive a run
    /// at a time: what another one has begun and not ended is run again here. Dropping the future changes
    /// nothing.
    ///
    /// An engine that lacks what the run needs, executors above all, has a handle for it, too, to say
    /// something to the run and to wait for its end. Other engines have to run it. Changing its definition
    /// takes an engine that has what the new one needs.
    ///
    /// What a handle shows is what this engine has last seen: it looks while somebody awaits the
    /// [outcome](RunHandle::outcome), or an answer.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none.
    pub async fn run(&self, id: &RunId) -> Result<RunHandle> {
        if let Some(slot) = lock(&self.0.runs).get(id) {
            return Ok(RunHandle::new(self.clone(), Arc::clone(slot)));
        }
        self.load(id).await
    }

    /// Summaries of runs, newest first. Dropping the future changes nothing.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn list(&self, query: RunQuery) -> Result<Vec<Summary>> {
        self.0.storage.list(query).await
    }

    /// The runtime that the engine uses.
    #[must_use]
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.0.runtime
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0.0
    }

    /// Takes a stored run into memory.
    pub(crate) async fn load(&self, id: &RunId) -> Result<RunHandle> {
        let (slot, holding) = self.slot_of(id).await?;
        // What was said to it after its end may have it go on.
        if holding == Holding::Finished && self.0.storage.inbox(id).await?.is_empty() {
            slot.context.set_ended();
        }
        Ok(self.keep(slot))
    }

    /// A stored run, which this engine may be able to run or not.
    async fn slot_of(&self, id: &RunId) -> Result<(Arc<Slot>, Holding)> {
        let Some(stored) = self.0.storage.load(id).await? else {
            return Err(Error::new(ErrorKind::NotFound, "there is no such run").of_run(id));
        };
        let program = stored::program_of(&stored)?;
        let prepared = self.prepare(&program);
        let state = self.0.state_of(id, program, &stored).await?;
        let prepared = match state.program().units().len() > prepared.len() {
            true => Arc::new(prepared.grown(state.program(), &self.0)),
            false => prepared,
        };
        let context =
            RunContext::new(state, stored.user, stored.metadata, Arc::clone(&self.0.facilities));
        context.wake_driver();
        let owner = self.0.owner();
        let is_ours = stored.holding == Holding::Held(owner) && !self.0.trials.is_claiming();
        let held = is_ours.then_some(owner);
        let elsewhere = held.is_none() && matches!(stored.holding, Holding::Held(_));
        let inherited = Inherited { elsewhere, held, recoveries: stored.recoveries };
        Ok((Slot::new(context, prepared, inherited), stored.holding))
    }

    /// Does something to a run that has ended, so that it goes on, or to one that has not. Nothing of
    /// it runs before it is driven. Dropping the future leaves it done once, or not at all, or for
    /// [`serve`](Self::serve) to do.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such run, and as
    /// [`RunHandle::operate`](RunHandle::operate).
    ///
    /// ```
    /// # use std::sync::atomic::{AtomicBool, Ordering};
    /// use stepwell::journal::{Operation, Reason};
    /// use stepwell::{Engine, Outcome, Step, StepError, Workflow, executor_fn};
    ///
    /// # let broken = AtomicBool::new(true);
    /// let engine = Engine::builder()
    ///     .executor("upload", executor_fn(move |_| {
    ///         let fails = broken.swap(false, Ordering::SeqCst);
    ///         async move { if fails { Err(StepError::fatal("disk full")) } else { Ok(()) } }
    ///     }))
    ///     .build()?;
    /// let workflow = Workflow::builder("backup").step(Step::task("a", "upload")).build()?;
    /// # futures::executor::block_on(async {
    /// let failed = engine.execute(&workflow, ()).await?;
    /// let reason = Reason::new("ann", "made room");
    /// let run = engine.reopen(failed.id(), Operation::RetryFailed, reason).await?;
    /// assert!(matches!(run.outcome().await?, Outcome::Succeeded(_)));
    /// # Ok::<(), stepwell::Error>(())
    /// # })?;
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    pub async fn reopen(
        &self,
        id: &RunId,
        operation: Operation,
        reason: Reason,
    ) -> Result<RunHandle> {
        let (handle, revived) = self.revive(id).await?;
        let done = handle.operate(operation, reason).await;
        revived.leave(&handle).await?;
        done.map(|()| handle)
    }

    /// A run in memory to which something can be said although it may have ended.
    pub(crate) async fn revive(&self, id: &RunId) -> Result<(RunHandle, Revived)> {
        let live = lock(&self.0.runs).get(id).filter(|slot| !slot.context.has_ended()).cloned();
        let slot = match live {
            Some(slot) => slot,
            None => self.slot_of(id).await?.0,
        };
        let revived = Revived::new(&slot.context);
        let handle = self.keep(slot);
        // Somebody else may have been quicker.
        let revived = if handle.is_of(&revived.0) { revived } else { Revived::of(&handle) };
        Ok((handle, revived))
    }

    /// Keeps a run in memory until it has ended or is parked, and gives a handle for it.
    fn keep(&self, slot: Arc<Slot>) -> RunHandle {
        if slot.context.has_ended() {
            return RunHandle::new(self.clone(), slot);
        }
        let mut runs = lock(&self.0.runs);
        // One that has ended is on its way out.
        if runs.get(&slot.context.id).is_some_and(|other| other.context.has_ended()) {
            runs.remove(&slot.context.id);
        }
        // Somebody else may have loaded it in between; there must be one driver only.
        let kept = runs.entry(slot.context.id.clone()).or_insert_with(|| {
            if self.0.is_served.load(Ordering::SeqCst) {
                lock(&self.0.fresh).push(Arc::clone(&slot));
            }
            Arc::clone(&slot)
        });
        // Made under the lock, so that it is not parked meanwhile.
        let handle = RunHandle::new(self.clone(), Arc::clone(kept));
        drop(runs);
        self.0.serving.wake();
        handle
    }

    /// Whether this engine could run a workflow; the workflows that it links to.
    pub(crate) fn check(&self, workflow: &Workflow) -> Result<Vec<Workflow>> {
        let (program, linked) = self.link(workflow)?;
        self.prepare(&program).check()?;
        Ok(linked)
    }

    fn link(&self, workflow: &Workflow) -> Result<(Arc<Program>, Vec<Workflow>)> {
        let known = lock(&self.0.workflows);
        known.agrees(workflow)?;
        let linked = RefCell::new(Vec::<Workflow>::new());
        let find = |name: &str| {
            let found = resolve(name, workflow, known.iter())?;
            let mut linked = linked.borrow_mut();
            if found != workflow && !linked.contains(found) {
                linked.push(found.clone());
            }
            Some(found.clone())
        };
        let program = Program::link(workflow, find, || known.names())?;
        Ok((program, linked.into_inner()))
    }

    /// The executors of a program's steps, made once as long as the program lives.
    fn prepare(&self, program: &Arc<Program>) -> Arc<Prepared> {
        let key = Arc::as_ptr(program) as usize;
        if let Some((known, ready)) = lock(&self.0.prepared).get(&key)
            && known.upgrade().is_some_and(|known| Arc::ptr_eq(&known, program))
        {
            return Arc::clone(ready);
        }
        // Factories are a user's code; no lock is held while they run.
        let ready = Arc::new(Prepared::of(program, &self.0));
        if ready.lacks() {
            // A factory may have failed this once.
            return ready;
        }
        let mut prepared = lock(&self.0.prepared);
        prepared.retain(|_, (program, _)| program.strong_count() > 0);
        prepared.insert(key, (Arc::downgrade(program), Arc::clone(&ready)));
        ready
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic half-way runs while one of these is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("runtime", &self.0.runtime)
            .field("storage", &self.0.storage)
            .field("executors", &self.0.registry)
            .finish_non_exhaustive()
    }
}
