//! What a step sees of its run while it works.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures::channel::mpsc::UnboundedSender;
use futures::task::AtomicWaker;
use serde::de::DeserializeOwned;

use super::facilities::Facilities;
use super::observed::{LogLevel, RunEvent};
use super::writes::Pending;
use crate::error::{ErrorClass, StepError};
use crate::id::{RunId, StepKey};
use crate::journal::StepStatus;
use crate::plan::ExecutionPlan;
use crate::run::{AttemptRecord, RunState, blob_name};
use crate::runtime::Runtime;
#[cfg(feature = "secrets")]
use crate::secret::{Scrubber, Secret};
use crate::storage::Statement;
use crate::time::Timestamp;
use crate::value::{Json, NESTING_MAX, Value};
use crate::workflow::Metadata;

/// One run, as its steps, its handles and its driver share it.
#[derive(Debug)]
pub(crate) struct RunContext {
    pub(crate) id: RunId,
    /// None is nobody, and nothing.
    started_with: Option<Box<(Option<String>, Metadata)>>,
    pub(crate) facilities: Arc<Facilities>,
    /// The secrets that steps of this run have opened here, to be kept out of what they say.
    #[cfg(feature = "secrets")]
    opened: Mutex<Scrubber>,
    /// Whether there are any.
    #[cfg(feature = "secrets")]
    has_opened: AtomicBool,
    state: Mutex<RunState>,
    observers: Mutex<Vec<UnboundedSender<RunEvent>>>,
    observed: AtomicBool,
    /// Wakes whoever drives the run: a message came, or room.
    pub(crate) driver: AtomicWaker,
    pub(crate) has_mail: AtomicBool,
    elsewhere: AtomicBool,
    doubted: AtomicBool,
    pub(crate) has_room: AtomicBool,
    /// Handles that somebody has.
    pub(crate) handles: AtomicUsize,
    /// Those who drive the run now; without one nothing new is started.
    pub(crate) drivers: AtomicUsize,
    /// Those who are about to say something to it although it has ended.
    pub(crate) revivers: AtomicUsize,
    /// The run's end is stored.
    ended: AtomicBool,
    /// The storage has this engine for the one that holds it.
    held: AtomicBool,
    /// Why ready steps wait, as the driver last saw it.
    waits: Mutex<Option<Box<Waits>>>,
}

#[derive(Debug, Default)]
struct Waits {
    /// For room.
    full: Vec<NoRoom>,
    /// Those that wait for a lock, each with its reason.
    denied: BTreeMap<StepKey, String>,
}

impl RunContext {
    pub(crate) fn new(
        state: RunState,
        user: Option<String>,
        metadata: Metadata,
        facilities: Arc<Facilities>,
    ) -> Self {
        Self {
            id: state.id().clone(),
            started_with: (user.is_some() || !metadata.is_empty())
                .then(|| Box::new((user, metadata))),
            facilities,
            #[cfg(feature = "secrets")]
            opened: Mutex::new(Scrubber::new()),
            #[cfg(feature = "secrets")]
            has_opened: AtomicBool::new(false),
            observers: Mutex::new(Vec::new()),
            observed: AtomicBool::new(false),
            driver: AtomicWaker::new(),
            has_mail: AtomicBool::new(false),
            elsewhere: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            has_room: AtomicBool::new(false),
            handles: AtomicUsize::new(0),
            drivers: AtomicUsize::new(0),
            revivers: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            held: AtomicBool::new(false),
            waits: Mutex::default(),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.facilities.runtime
    }

    /// The state; never held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, RunState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A text without the secrets that steps have opened.
    #[cfg(feature = "secrets")]
    pub(crate) fn scrub_text(&self, text: String) -> String {
        if !self.has_opened.load(Ordering::Acquire) {
            return text;
        }
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.text(&text).into_owned()
    }

    #[cfg(feature = "secrets")]
    fn learn(&self, secret: &Secret) {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).learn(secret);
        self.has_opened.store(true, Ordering::Release);
    }

    /// Takes the secrets that steps have opened out of a value.
    #[cfg(feature = "secrets")]
    #[inline]
    pub(crate) fn scrub(&self, value: &mut Value) {
        if self.has_opened.load(Ordering::Acquire) {
            let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(scrubbed) = opened.json(value) {
                *value = scrubbed.into();
            }
        }
    }

    #[cfg(not(feature = "secrets"))]
    pub(crate) fn scrub_text(&self, text: String) -> String {
        text
    }

    #[cfg(not(feature = "secrets"))]
    pub(crate) const fn scrub(&self, _: &mut Value) {}

    pub(crate) fn observe(&self, observer: UnboundedSender<RunEvent>) {
        let mut observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock, as the end takes the list under it.
        if !self.has_ended() {
            observers.push(observer);
            self.observed.store(true, Ordering::Release);
        }
    }

    pub(crate) fn is_observed(&self) -> bool {
        self.observed.load(Ordering::Acquire)
    }

    /// The same, of those that have not gone: [`is_observed`](Self::is_observed) may be behind.
    pub(crate) fn has_observers(&self) -> bool {
        if !self.is_observed() {
            return false;
        }
        let mut observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner);
        observers.retain(|observer| !observer.is_closed());
        self.observed.store(!observers.is_empty(), Ordering::Release);
        !observers.is_empty()
    }

    pub(crate) fn publish(&self, event: &RunEvent) {
        if self.is_observed() {
            let mut observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner);
            observers.retain(|observer| observer.unbounded_send(event.clone()).is_ok());
            self.observed.store(!observers.is_empty(), Ordering::Release);
        }
    }

    /// Ends the streams of all observers.
    pub(crate) fn end_observation(&self) {
        self.observers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.observed.store(false, Ordering::Release);
    }

    pub(crate) fn set_full(&self, reasons: Vec<NoRoom>) {
        self.waits().get_or_insert_default().full = reasons;
    }

    /// Why a step of this type waits; none for what is no task.
    pub(crate) fn full(&self, kind: Option<&str>) -> Option<NoRoom> {
        let waits = self.waits();
        let about = |full: &&NoRoom| full.kind.is_none() || full.kind.as_deref() == kind;
        waits.as_ref()?.full.iter().find(about).cloned()
    }

    pub(crate) fn set_denied(&self, denied: BTreeMap<StepKey, String>) {
        let mut waits = self.waits();
        if waits.is_some() || !denied.is_empty() {
            waits.get_or_insert_default().denied = denied;
        }
    }

    /// Which lock a step waits for, if it does.
    pub(crate) fn denied(&self, step: StepKey) -> Option<String> {
        self.waits().as_ref()?.denied.get(&step).cloned()
    }

    fn waits(&self) -> MutexGuard<'_, Option<Box<Waits>>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the storage has this engine for the one that holds it.
    pub(crate) fn set_held(&self, is_held: bool) {
        self.held.store(is_held, Ordering::Relaxed);
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether somebody drives it, so that what is started goes on.
    pub(crate) fn is_driven(&self) -> bool {
        self.drivers.load(Ordering::Acquire) > 0
    }

    /// Whether another engine holds it, as far as its driver knows.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.elsewhere.load(Ordering::Acquire)
    }

    pub(crate) fn set_elsewhere(&self, elsewhere: bool) {
        self.elsewhere.store(elsewhere, Ordering::Release);
    }

    /// Whether somebody is about to say something to it, so that its end is not the last word.
    pub(crate) fn is_revived(&self) -> bool {
        self.revivers.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn wake_for_room(&self) {
        self.has_room.store(true, Ordering::Release);
        self.driver.wake();
    }

    /// What is known of the run may be old: another engine may have had it.
    pub(crate) fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
    }

    pub(crate) fn take_doubt(&self) -> bool {
        self.doubted.load(Ordering::Relaxed) && self.doubted.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn wake_driver(&self) {
        self.has_mail.store(true, Ordering::Release);
        self.driver.wake();
    }
}

/// Why ready steps wait for room.
#[derive(Clone, Debug)]
pub(crate) struct NoRoom {
    /// The step type that waits; none for all.
    pub(crate) kind: Option<String>,
    pub(crate) reason: String,
    /// Whether it waits for what runs.
    pub(crate) is_held: bool,
}

#[cfg(feature = "secrets")]
const NO_KEYS: &str = "the engine has no keys; give it some with EngineBuilder::keys";

/// What a step sees of its run while it works. Cloning shares it.
#[derive(Clone)]
pub struct ExecutionContext(Arc<Attempt>);

/// Which attempt of which step.
#[derive(Clone, Debug)]
pub(crate) struct Begun {
    pub(crate) key: StepKey,
    pub(crate) number: u32,
    /// The body that the step stands in, known even when its scope is gone.
    pub(crate) body: (u32, u32),
    /// Its path and its instance, where they cannot be asked for later: a body's steps are forgotten
    /// with it.
    pub(crate) names: Option<Box<(String, String)>>,
}

/// One attempt of one step.
pub(crate) struct Attempt {
    pub(crate) run: Arc<RunContext>,
    pub(crate) begun: Begun,
    config: Value,
    inputs: Value,
    /// The same with values that were kept elsewhere.
    loaded: OnceLock<Value>,
    cancelled: AtomicBool,
    aborted: AtomicBool,
    /// The step that waits for its cancellation.
    listener: AtomicWaker,
    /// The driver's place for this attempt.
    pub(crate) holder: AtomicWaker,
    pub(super) writes: Pending,
}

impl Attempt {
    /// An attempt, in the memory of another that is over unless somebody kept a hold of it.
    pub(crate) fn again(
        spare: Option<Arc<Self>>,
        run: &Arc<RunContext>,
        begun: Begun,
        config: Value,
        inputs: Value,
    ) -> Arc<Self> {
        if let Some(mut spare) = spare
            && let Some(old) = Arc::get_mut(&mut spare)
        {
            (old.begun, old.config, old.inputs) = (begun, config, inputs);
            old.loaded = OnceLock::new();
            (*old.cancelled.get_mut(), *old.aborted.get_mut()) = (false, false);
            (old.listener, old.holder) = (AtomicWaker::new(), AtomicWaker::new());
            old.writes = Pending::default();
            return spare;
        }
        Arc::new(Self {
            run: Arc::clone(run),
            begun,
            config,
            inputs,
            loaded: OnceLock::new(),
            cancelled: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            listener: AtomicWaker::new(),
            holder: AtomicWaker::new(),
            writes: Pending::default(),
        })
    }

    /// Asks the step to stop.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.listener.wake();
    }

    /// Has the step's future dropped.
    pub(crate) fn abort(&self) {
        self.cancel();
        self.aborted.store(true, Ordering::Release);
        self.holder.wake();
    }

    /// The step, which may stand elsewhere by now: the definition can be changed while it runs.
    pub(crate) fn key(&self, state: &RunState) -> StepKey {
        state.current(self.begun.key, self.begun.body).unwrap_or(self.begun.key)
    }

    /// The inputs as they were given, with references to what is kept elsewhere.
    pub(crate) const fn given(&self) -> &Value {
        &self.inputs
    }

    /// Whether values may have to be loaded before the step begins, or kept elsewhere when it is done.
    pub(crate) fn has_store(&self) -> bool {
        self.run.facilities.blobs.is_some()
    }

    /// Loads inputs that are kept elsewhere.
    pub(crate) async fn load_inputs(&self) -> Result<(), StepError> {
        let loaded = self.run.facilities.load_inputs(&self.run.id, &self.inputs).await?;
        if let Some(loaded) = loaded {
            // Once for each attempt.
            let _ = self.loaded.set(loaded);
        }
        Ok(())
    }

    /// What the step came to, as the journal is to keep it.
    pub(crate) async fn keep(&self, mut output: Value) -> Result<Value, StepError> {
        let facilities = &self.run.facilities;
        // What the journal would refuse goes to the store, too.
        let most = facilities.spill_over.min(self.run.state().most_value_bytes());
        if output.bytes() <= most {
            return Ok(output);
        }
        let invalid = |why: String| StepError::new(ErrorClass::Validation, why);
        if output.nests_too_deep() {
            return Err(invalid(format!("the output nests deeper than {NESTING_MAX}")));
        }
        // Before anything quotes it.
        self.run.scrub(&mut output);
        // Nobody can look into it afterwards.
        let schema = {
            let state = self.run.state();
            state.node(self.key(&state)).and_then(|node| node.schema().cloned())
        };
        if let Some(schema) = schema {
            schema.check(&output, "output").map_err(|wrong| invalid(wrong.to_string()))?;
        }
        // An attempt that is late must not write over what another one has kept.
        let tag = self.run.runtime().random();
        let name = blob_name(&self.instance(), self.begun.number, tag);
        facilities.spill(&self.run.id, &name, output, most).await
    }

    /// What the step has said that it writes; it can say no more.
    pub(crate) fn take_writes(&self) -> Option<Arc<[Statement]>> {
        self.writes.take()
    }

    /// Whether the step writes in the transaction that records its success.
    pub(super) fn is_transactional(&self) -> bool {
        let state = self.run.state();
        state.node(self.key(&state)).is_some_and(|node| node.is_transactional())
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }

    pub(crate) fn path(&self) -> String {
        if let Some(names) = &self.begun.names {
            return names.0.clone();
        }
        let state = self.run.state();
        state.path(self.key(&state))
    }

    /// The path, told apart from earlier runs of the same step.
    pub(crate) fn instance(&self) -> String {
        if let Some(names) = &self.begun.names {
            return names.1.clone();
        }
        let state = self.run.state();
        state.instance(self.key(&state))
    }
}

impl ExecutionContext {
    pub(crate) const fn new(attempt: Arc<Attempt>) -> Self {
        Self(attempt)
    }

    pub(super) const fn attempt_of(&self) -> &Arc<Attempt> {
        &self.0
    }

    /// The workflow's id; inside a sub-workflow that one's.
    #[must_use]
    pub fn workflow_id(&self) -> String {
        self.0
            .run
            .state()
            .unit(self.0.begun.key)
            .map_or_else(String::new, |unit| unit.workflow.clone())
    }

    /// The run's id.
    #[must_use]
    pub fn execution_id(&self) -> &RunId {
        &self.0.run.id
    }

    /// For whom the run was started.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.0.run.started_with.as_ref()?.0.as_deref()
    }

    /// The path of this step, as in `build/tests[3]/unit`.
    #[must_use]
    pub fn step(&self) -> String {
        self.0.path()
    }

    /// What the run was started with besides its input.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        static NOTHING: Metadata = Metadata::new();
        self.0.run.started_with.as_ref().map_or(&NOTHING, |with| &with.1)
    }

    /// The step's configuration.
    #[must_use]
    pub fn config(&self) -> &Value {
        &self.0.config
    }

    /// A part of the step's configuration.
    ///
    /// # Errors
    /// Class configuration, when it is missing or of another shape.
    pub fn config_as<T: DeserializeOwned>(&self, name: &str) -> Result<T, StepError> {
        part(&self.0.config, name, "config", ErrorClass::Configuration)
    }

    /// All inputs of the step, a map; null when it has none.
    #[must_use]
    pub fn inputs(&self) -> &Value {
        self.0.loaded.get().unwrap_or(&self.0.inputs)
    }

    /// One input of the step.
    ///
    /// # Errors
    /// Class validation, when it is missing or of another shape.
    pub fn input<T: DeserializeOwned>(&self, name: &str) -> Result<T, StepError> {
        part(self.inputs(), name, "input", ErrorClass::Validation)
    }

    /// A value that is kept in the blob store, such as a large output of another step; others come back
    /// as they are. Inputs need not be loaded: they are there. Dropping the future changes nothing.
    ///
    /// # Errors
    /// What the store says; class configuration when the engine has none.
    pub async fn load(&self, value: &Json) -> Result<Value, StepError> {
        self.0.run.facilities.load(&self.0.run.id, value).await.map(Value::from)
    }

    /// Opens a secret that this step takes as an input. From then on its text is kept out of the outputs,
    /// errors, log lines and prompts of all steps of this run.
    ///
    /// # Errors
    /// Class configuration when the input is missing or no secret, when the engine has no keys, or not
    /// the one that it was sealed with, and when it was sealed for another run.
    #[cfg(feature = "secrets")]
    #[cfg_attr(docsrs, doc(cfg(feature = "secrets")))]
    pub fn secret(&self, input: &str) -> Result<Secret, StepError> {
        match self.inputs().get(input) {
            Some(sealed) => self.open(input, sealed),
            None => {
                let message = format!("secret `{input}`: there is no such input");
                Err(StepError::new(ErrorClass::Configuration, message))
            }
        }
    }

    /// Opens a sealed value that this input is or holds.
    #[cfg(feature = "secrets")]
    pub(super) fn open(&self, input: &str, sealed: &Json) -> Result<Secret, StepError> {
        let wrong = |why: String| {
            StepError::new(ErrorClass::Configuration, format!("secret `{input}`: {why}"))
        };
        let run = &self.0.run;
        let keys = run.facilities.keys.as_ref().ok_or_else(|| wrong(NO_KEYS.into()))?;
        let secret = crate::secret::open(&**keys, run.id.as_str(), sealed)
            .map_err(|error| wrong(error.to_string()))?;
        run.learn(&secret);
        Ok(secret)
    }

    /// A text without the secrets that steps of this run have opened; to be asked before it is cut, as
    /// half a secret may not be found.
    #[cfg(any(feature = "shell", feature = "request"))]
    pub(super) fn scrubbed(&self, text: String) -> String {
        self.0.run.scrub_text(text)
    }

    /// Seals a text that this step has come by, so that it can be a part of its output: only steps of
    /// this run that take it as an input can open it.
    ///
    /// # Errors
    /// Class configuration, when the engine has no keys or the text is too long.
    #[cfg(feature = "secrets")]
    #[cfg_attr(docsrs, doc(cfg(feature = "secrets")))]
    pub fn seal(&self, name: &str, secret: &Secret) -> Result<Value, StepError> {
        let wrong = |why: String| {
            StepError::new(ErrorClass::Configuration, format!("secret `{name}`: {why}"))
        };
        let run = &self.0.run;
        let keys = run.facilities.keys.as_ref().ok_or_else(|| wrong(NO_KEYS.into()))?;
        let place = crate::secret::Place { run: run.id.as_str(), name };
        let sealed = crate::secret::seal(&**keys, run.facilities.nonce(), place, secret);
        run.learn(secret);
        sealed.map(Value::from).map_err(|error| wrong(error.to_string()))
    }

    /// The input of the run, or of the sub-workflow that the step belongs to.
    #[must_use]
    pub fn run_input(&self) -> Value {
        self.read("input")
    }

    /// The variables of the run, a map.
    #[must_use]
    pub fn variables(&self) -> Value {
        self.read("vars")
    }

    /// The value of an expression, as one written in this step's definition would see it.
    ///
    /// # Errors
    /// Class validation, with what is wrong with the expression.
    pub fn evaluate(&self, expression: &str) -> Result<Value, StepError> {
        let invalid = |message| StepError::new(ErrorClass::Validation, message);
        let expr =
            crate::expr::Expr::parse(expression).map_err(|error| invalid(error.to_string()))?;
        let now = self.0.run.runtime().now();
        let state = self.0.run.state();
        let value = state.evaluate(self.0.key(&state), &expr, now);
        drop(state);
        value.map(Value::from).map_err(|error| invalid(error.to_string()))
    }

    fn read(&self, root: &str) -> Value {
        self.evaluate(root).unwrap_or_default()
    }

    /// The output of a step beside or around this one; none when it has not succeeded.
    #[must_use]
    pub fn output_of(&self, step: &str) -> Option<Value> {
        let state = self.0.run.state();
        let key = state.visible(self.0.key(&state), step)?;
        (state.step_status(key)? == StepStatus::Succeeded).then(|| state.output(key))
    }

    /// The outputs of all steps that this one depends on and that succeeded, by id.
    #[must_use]
    pub fn results(&self) -> Vec<(String, Value)> {
        let ids = self.step_dependencies_of_self();
        ids.into_iter().filter_map(|id| self.output_of(&id).map(|output| (id, output))).collect()
    }

    fn step_dependencies_of_self(&self) -> Vec<String> {
        let step = {
            let state = self.0.run.state();
            self.0.key(&state).step as usize
        };
        let id = self.plan().ids().get(step).map(ToString::to_string);
        id.map_or_else(Vec::new, |id| self.step_dependencies(&id))
    }

    /// The plan that this step stands in.
    #[must_use]
    pub fn plan(&self) -> Arc<ExecutionPlan> {
        let state = self.0.run.state();
        let program = Arc::clone(state.program());
        let body = state.body_of(self.0.key(&state));
        Arc::clone(&program.unit(body.0).body(body.1).plan)
    }

    /// The ids of the steps that a step beside this one depends on.
    #[must_use]
    pub fn step_dependencies(&self, step: &str) -> Vec<String> {
        let plan = self.plan();
        let Some(at) = plan.index(step) else { return Vec::new() };
        plan.predecessors(at).iter().map(|link| plan.id(link.step).to_string()).collect()
    }

    /// Whether a step beside or around this one may start.
    #[must_use]
    pub fn is_step_ready(&self, step: &str) -> bool {
        let state = self.0.run.state();
        let status = state.visible(self.0.key(&state), step).and_then(|key| state.step_status(key));
        status == Some(StepStatus::Ready)
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.begun.number
    }

    /// How often the step was begun before.
    #[must_use]
    pub fn retry_count(&self) -> u32 {
        self.0.begun.number.saturating_sub(1)
    }

    /// The attempts of this step that failed.
    #[must_use]
    pub fn error_history(&self) -> Vec<AttemptRecord> {
        let state = self.0.run.state();
        state.error_history(self.0.key(&state)).to_vec()
    }

    /// The same text for every attempt of this step instance in this run, also after a crash: for
    /// services that do a thing once per key. An operator who has the step run again gives it another.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.0.run.id, self.0.instance())
    }

    /// The payload of the signal that this step waited for with
    /// [`StepError::wait_for_signal`], once it has come.
    #[must_use]
    pub fn signal(&self) -> Option<Value> {
        let state = self.0.run.state();
        state.taken_signal(self.0.key(&state)).cloned()
    }

    /// Whether the step has been asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Completes when the step is asked to stop. A step that goes on all the same is dropped after
    /// the grace period. One task of a step may await this at a time, and may drop it and ask again.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let attempt = Arc::clone(&self.0);
        poll_fn(move |context| {
            attempt.listener.register(context.waker());
            if attempt.cancelled.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    /// Completes after this long, by the engine's clock: virtual in tests. Dropping the future ends the
    /// sleep.
    pub fn sleep(&self, length: Duration) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.0.run.runtime().sleep(length)
    }

    /// The time, by the engine's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.run.runtime().now()
    }

    /// Tells the run's observers how far the step is, from 0 to 1.
    pub fn progress(&self, fraction: f64, message: impl Into<String>) {
        if self.0.run.is_observed() {
            let fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
            let (step, message) = (self.0.path(), self.0.run.scrub_text(message.into()));
            self.0.run.publish(&RunEvent::Progress { step, fraction, message });
        }
    }

    /// Tells the run's observers, and the `tracing` subscriber, something.
    pub fn log(&self, level: LogLevel, message: impl Into<String>) {
        let message = self.0.run.scrub_text(message.into());
        match level {
            LogLevel::Debug => tracing::debug!(target: "stepwell::step", "{message}"),
            LogLevel::Info => tracing::info!(target: "stepwell::step", "{message}"),
            LogLevel::Warning => tracing::warn!(target: "stepwell::step", "{message}"),
            LogLevel::Error => tracing::error!(target: "stepwell::step", "{message}"),
        }
        if self.0.run.is_observed() {
            let (step, attempt, at) = (self.0.path(), self.0.begun.number, self.now());
            self.0.run.publish(&RunEvent::Log { step, attempt, at, level, message });
        }
    }
}

impl fmt::Debug for ExecutionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutionContext")
            .field("run", &self.0.run.id)
            .field("step", &self.0.begun.key)
            .field("attempt", &self.0.begun.number)
            .finish_non_exhaustive()
    }
}

fn part<T: DeserializeOwned>(
    whole: &Json,
    name: &str,
    what: &str,
    class: ErrorClass,
) -> Result<T, StepError> {
    let value = whole.get(name).unwrap_or(&Json::Null);
    T::deserialize(value).map_err(|error| {
        let missing = if whole.get(name).is_none() { " is missing and" } else { "" };
        StepError::new(class, format!("{what} `{name}`{missing} does not fit: {error}"))
    })
}
