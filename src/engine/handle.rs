//! A run from outside: look at it, wait for it, say something to it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use futures::Stream;
use futures::channel::mpsc;

use super::Engine;
use super::driver::is_among;
use super::report::Run;
use super::slot::{Slot, Waits};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::RunEvent;
use crate::id::RunId;
use crate::journal::{
    Mapping, OpenApproval, Operation, Outcome, Reason, Recorded, RunStatus, Signal, StepStatus,
    Vote,
};
use crate::run::{Explanation, OpenWait, Preview, Progress, Rejection, RunExplanation};
use crate::storage::{ANSWERS_KEPT, Answer, Message, Storage};
use crate::value::{NESTING_MAX, Value};
use crate::workflow::{Definition, Metadata, Workflow};

/// Steps that an explanation names as holding what another waits for.
const HOLDERS_NAMED: usize = 5;

/// How a run is started.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    /// Its id; none makes a new one.
    pub id: Option<String>,
    /// For whom.
    pub user: Option<String>,
    /// Values of the workflow's variables.
    pub variables: BTreeMap<String, Value>,
    /// Values of the workflow's variables that are secrets; they are sealed before anything else is
    /// done with them.
    #[cfg(feature = "secrets")]
    #[cfg_attr(docsrs, doc(cfg(feature = "secrets")))]
    pub secrets: BTreeMap<String, crate::secret::Secret>,
    /// Free data, which steps can read.
    pub metadata: Metadata,
}

impl StartOptions {
    /// A run of this id.
    #[must_use]
    pub fn id(id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..Self::default() }
    }

    /// The value of a variable.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// The value of a variable that is a secret.
    #[cfg(feature = "secrets")]
    #[cfg_attr(docsrs, doc(cfg(feature = "secrets")))]
    #[must_use]
    pub fn secret(
        mut self,
        name: impl Into<String>,
        secret: impl Into<crate::secret::Secret>,
    ) -> Self {
        self.secrets.insert(name.into(), secret.into());
        self
    }

    /// For whom.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }
}

/// A run of this engine. Cloning shares it.
///
/// A run goes on while somebody drives it: by awaiting [`outcome`](Self::outcome), or with
/// [`Engine::serve`]. When nobody does, it stands still; when besides nobody has a handle any more,
/// what it was running is dropped, and is run again, as the same attempts, when it goes on.
///
/// Whoever keeps a handle keeps the run from other programs as long as its engine is alive, be it for
/// another run: what they say to it waits until it is driven here, or something is said to it here, or
/// the last handle goes. So let go of what you do not drive.
///
/// Every future that a handle gives may be dropped. What was to be said to the run has then been said
/// once or not at all; if it has, whoever drives the run next finds it.
pub struct RunHandle {
    engine: Engine,
    slot: Arc<Slot>,
}

impl Clone for RunHandle {
    fn clone(&self) -> Self {
        Self::new(self.engine.clone(), Arc::clone(&self.slot))
    }
}

impl Drop for RunHandle {
    fn drop(&mut self) {
        let context = &self.slot.context;
        if context.handles.fetch_sub(1, Ordering::SeqCst) == 1 {
            // It may be parked now, or let go.
            context.wake_for_room();
            if context.drivers.load(Ordering::SeqCst) == 0 && !self.slot.is_served() {
                self.slot.abandon();
                self.engine.inner().forget_unheld(&self.slot);
            }
        }
    }
}

impl RunHandle {
    pub(super) fn new(engine: Engine, slot: Arc<Slot>) -> Self {
        slot.context.handles.fetch_add(1, Ordering::SeqCst);
        Self { engine, slot }
    }

    /// The run's id.
    #[must_use]
    pub fn id(&self) -> &RunId {
        &self.slot.context.id
    }

    /// What has become of it.
    #[must_use]
    pub fn status(&self) -> RunStatus {
        self.slot.context.state().status()
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let now = self.engine.runtime().now();
        self.slot.context.state().progress(now)
    }

    /// Everything that happens from now on; ends with the run. Nothing is lost to a slow reader: it
    /// costs memory instead.
    pub fn events(&self) -> impl Stream<Item = RunEvent> + Send + Unpin + use<> {
        let (sender, receiver) = mpsc::unbounded();
        self.slot.context.observe(sender);
        receiver
    }

    /// Waits for the run's end, and drives it there unless somebody else does, or this engine lacks what
    /// it needs. May be dropped and called again.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn outcome(&self) -> Result<Outcome> {
        loop {
            if self.slot.context.has_ended() {
                let outcome = self.slot.context.state().outcome().cloned();
                let message = "the storage says that the run has ended, and its journal does not";
                return outcome
                    .ok_or_else(|| Error::new(ErrorKind::Storage, message).of_run(self.id()));
            }
            self.slot.drive(self.engine.inner()).await?;
        }
    }

    /// The run, to be looked at; what it shows goes on changing until the run has ended.
    #[must_use]
    pub fn snapshot(&self) -> Run {
        Run::new(Arc::clone(&self.slot.context))
    }

    /// Why the step at this path is where it is; none when there is no such step, or not yet. For a
    /// step that waits for room, with the limit and the steps of this run that hold it.
    #[must_use]
    pub fn explain(&self, path: &str) -> Option<Explanation> {
        let state = self.slot.context.state();
        let step = state.find(path)?;
        let explanation = state.explain(step)?;
        let Explanation::Ready { since, limit: None } = explanation else {
            return Some(explanation);
        };
        if let Some(denied) = self.slot.context.denied(step) {
            return Some(Explanation::Ready { since, limit: Some(denied) });
        }
        let kind = |step| state.unit(step)?.executor_of(state.node(step)?);
        let limit = self.slot.context.full(kind(step)).map(|full| {
            let running = state.steps().filter(|(other, status)| {
                let same = full.kind.is_none() || kind(*other) == full.kind.as_deref();
                full.is_held && *status == StepStatus::Running && kind(*other).is_some() && same
            });
            let holders: Vec<String> =
                running.take(HOLDERS_NAMED).map(|(step, _)| state.path(step)).collect();
            match holders.as_slice() {
                [] => full.reason,
                holders => format!("{}; held by {}", full.reason, holders.join(", ")),
            }
        });
        Some(Explanation::Ready { since, limit })
    }

    /// Why the run is where it is.
    #[must_use]
    pub fn explain_run(&self) -> RunExplanation {
        let context = &self.slot.context;
        let explanation = context.state().explain_run();
        match &explanation {
            RunExplanation::UnderWay { .. } if context.is_elsewhere() => RunExplanation::Elsewhere,
            RunExplanation::UnderWay { .. } if !context.is_driven() => RunExplanation::NotDriven,
            _ => explanation,
        }
    }

    /// What the run waits for from outside, wherever in it: each with an id of its own, which
    /// [`Signal::to`] takes.
    #[must_use]
    pub fn waits(&self) -> Vec<OpenWait> {
        self.slot.context.state().open_waits()
    }

    /// Sends a signal that is kept until a step takes it, once or, if the future is dropped, not at all;
    /// the same as
    /// [`signal_with`](Self::signal_with) of a [`Signal::new`].
    ///
    /// # Errors
    /// As [`signal_with`](Self::signal_with).
    pub async fn signal(&self, name: impl Into<String>, payload: impl Into<Value>) -> Result<()> {
        self.signal_with(Signal::new(name, payload)).await
    }

    /// Sends a signal; a step that waits for it takes it, now or, unless it is transient, when it
    /// comes to wait. Dropping the future leaves it sent once, or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] when the run has ended, keeps too many signals, when the payload does
    /// not fit what the step wants, for names that are too long, and for a transient signal that nobody
    /// waits for;
    /// [`ErrorKind::Configuration`] for a payload that nests too deep; what the storage says.
    pub async fn signal_with(&self, signal: Signal) -> Result<()> {
        self.check(&signal.payload)?;
        self.say(Message::Signal(signal)).await
    }

    /// The decisions that people are to take now, wherever in the run they are asked for.
    #[must_use]
    pub fn approvals(&self) -> Vec<OpenApproval> {
        self.slot.context.state().approvals().map(|(_, open)| open.clone()).collect()
    }

    /// Votes on a decision that [`approvals`](Self::approvals) lists. Dropping the future leaves the vote
    /// given once, or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] when no such decision is to be taken (any more), for somebody who has
    /// no vote or has voted, and when a yes does not come with what is wanted;
    /// [`ErrorKind::Configuration`] for a payload that nests too deep; what the storage says.
    pub async fn approve(&self, approval: impl Into<String>, vote: Vote) -> Result<()> {
        self.check(&vote.payload)?;
        self.say(Message::Vote { approval: approval.into(), vote }).await
    }

    /// Up to `limit` events of the run's journal, those from this position on, each with its position:
    /// what has happened, and who did what and why.
    ///
    /// Of a run with very many events the beginning is [forgotten](Self::forgotten): there are gaps
    /// between the positions then, and only [what is kept always](crate::Event::is_kept) is there.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn journal(&self, from: u64, limit: usize) -> Result<Vec<(u64, Recorded)>> {
        self.engine.inner().storage.events(self.id(), from, limit).await
    }

    /// Events before this position are forgotten, but for
    /// [what is kept always](crate::Event::is_kept); 0 when all are there.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.slot.context.state().forgotten()
    }

    /// A value of this run that is kept in the blob store, such as a large output; others come back as
    /// they are. Dropping the future changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] with what the store says, or that the engine has none.
    pub async fn load(&self, value: &Value) -> Result<Value> {
        let loaded = self.engine.inner().facilities.load(self.id(), value).await;
        loaded
            .map(Value::from)
            .map_err(|error| Error::new(ErrorKind::Storage, error.to_string()).of_run(self.id()))
    }

    #[cfg(feature = "secrets")]
    pub(super) fn sealed_and_blobs(&self) -> Vec<Value> {
        self.slot.context.state().sealed_and_blobs()
    }

    fn check(&self, payload: &Value) -> Result<()> {
        if payload.nests_too_deep() {
            let message = format!("the payload nests deeper than {NESTING_MAX}");
            return Err(Error::new(ErrorKind::Configuration, message).of_run(self.id()));
        }
        Ok(())
    }

    /// Starts no more tasks. Running ones go on to their end; waits, the delays before retries and all
    /// time-outs of steps go on, and composite steps whose turn comes begin. The run's time limit
    /// stands still. Dropping the future leaves the run paused by it, or not.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] when it has ended, is stopping or paused; what the storage says.
    pub async fn pause(&self, reason: Reason) -> Result<()> {
        self.say(Message::Pause(reason)).await
    }

    /// Starts steps again. Dropping the future leaves the run resumed by it, or not.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] when it is not paused; what the storage says.
    pub async fn resume(&self, reason: Reason) -> Result<()> {
        self.say(Message::Resume(reason)).await
    }

    /// Stops the run: running steps are asked to stop, and dropped after the engine's grace period;
    /// nothing else is started but what cleans up: steps marked [`finally`](crate::Step::finally), steps
    /// that an `always` edge leads to, steps with the join rule `always`, and compensations. Ends a
    /// pause. Dropping the future leaves the run asked to stop, or not.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] when it has ended or is stopping; what the storage says.
    pub async fn cancel(&self, reason: Reason) -> Result<()> {
        self.say(Message::Cancel { by: reason, grace: None }).await
    }

    /// Stops the run as [`cancel`](Self::cancel) does, with another grace period for the steps that
    /// run than [`EngineLimits::cancel_grace`](crate::engine::EngineLimits::cancel_grace). Dropping the
    /// future leaves the run asked to stop, or not.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel).
    pub async fn cancel_within(&self, grace: Duration, reason: Reason) -> Result<()> {
        self.say(Message::Cancel { by: reason, grace: Some(grace) }).await
    }

    /// Stops the run at once: running steps are dropped, and nothing cleans up. Dropping the future
    /// leaves the run stopped, or as it was.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] when it has ended; what the storage says.
    pub async fn terminate(&self, reason: Reason) -> Result<()> {
        self.say(Message::Terminate(reason)).await
    }

    /// Changes the run: has steps run again, leaves them out, takes them for done, stops them, sets
    /// variables. A run that has ended is changed with [`Engine::reopen`]. Dropping the future leaves all
    /// of it done once, or nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`], saying why, when that is not possible as things stand, and nothing has
    /// changed; [`ErrorKind::Configuration`] for a value that nests too deep; what the storage says.
    pub async fn operate(&self, operation: Operation, reason: Reason) -> Result<()> {
        operation.value().map_or(Ok(()), |value| self.check(value))?;
        self.say(Message::Operate { operation, by: reason }).await
    }

    /// The definition that the run goes on with, and its revision.
    #[must_use]
    pub fn definition(&self) -> (Definition, u32) {
        let state = self.slot.context.state();
        let definition = state.definition().map(|definition| (**definition).clone());
        (definition.unwrap_or_default(), state.revision())
    }

    /// The operation that has the run go on with another definition: with steps added, removed and
    /// rewired that have not started. It is made from the revision that
    /// [`definition`](Self::definition) told, and refused if somebody has changed the definition since.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for executors and workflows that nobody registered;
    /// [`ErrorKind::Configuration`] for configurations that cannot work.
    ///
    /// ```
    /// use stepwell::journal::Reason;
    /// use stepwell::{Engine, Step, Wait, Workflow, executor_fn};
    ///
    /// let engine = Engine::builder().executor("work", executor_fn(|_| async { Ok(1) })).build()?;
    /// let workflow = Workflow::builder("w").step(Step::wait("go", Wait::signal("go"))).build()?;
    /// # futures::executor::block_on(async {
    /// let run = engine.start(&workflow, ()).await?;
    /// let (mut definition, revision) = run.definition();
    /// definition.steps.push(Step::task("more", "work").after("go"));
    /// let changed = Workflow::from_definition(definition)?;
    /// run.operate(run.modification(&changed, revision)?, Reason::new("ann", "one more")).await?;
    /// run.signal("go", ()).await?;
    /// assert_eq!(run.outcome().await?.output().unwrap(), &1);
    /// # Ok::<(), stepwell::Error>(())
    /// # })?;
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    pub fn modification(&self, workflow: &Workflow, revision: u32) -> Result<Operation> {
        let linked = self.engine.check(workflow)?;
        let workflow = Box::new(workflow.clone());
        Ok(Operation::Modify { workflow, linked, revision, mapping: None })
    }

    /// The operation that has the run go over to another version of its definition: also with steps
    /// renamed, changed and removed that have begun. What becomes of them the mapping says; what it does
    /// not name stays what it is, and what cannot be carried over is a reason to refuse the whole.
    /// Guarded by the revision like a [`modification`](Self::modification).
    ///
    /// # Errors
    /// As [`modification`](Self::modification); [`ErrorKind::Configuration`] for an output in the mapping
    /// that nests too deep.
    ///
    /// ```
    /// use stepwell::journal::{Mapping, Reason};
    /// use stepwell::{Engine, Step, Wait, Workflow, executor_fn};
    ///
    /// let engine = Engine::builder().executor("work", executor_fn(|_| async { Ok(1) })).build()?;
    /// let old = Workflow::builder("w").version(1).step(Step::wait("go", Wait::signal("go"))).build()?;
    /// let new = Workflow::builder("w")
    ///     .version(2)
    ///     .step(Step::wait("asked", Wait::signal("go")))
    ///     .step(Step::task("more", "work").after("asked"))
    ///     .build()?;
    /// # futures::executor::block_on(async {
    /// let run = engine.start(&old, ()).await?;
    /// let (_, revision) = run.definition();
    /// let migration = run.migration(&new, Mapping::new().rename("go", "asked"), revision)?;
    /// run.operate(migration, Reason::new("ann", "version 2")).await?;
    /// run.signal("go", ()).await?;
    /// assert_eq!(run.outcome().await?.output().unwrap(), &1);
    /// # Ok::<(), stepwell::Error>(())
    /// # })?;
    /// # Ok::<(), stepwell::Error>(())
    /// ```
    pub fn migration(
        &self,
        workflow: &Workflow,
        mapping: Mapping,
        revision: u32,
    ) -> Result<Operation> {
        mapping.values().try_for_each(|output| self.check(output))?;
        let linked = self.engine.check(workflow)?;
        let (workflow, mapping) = (Box::new(workflow.clone()), Some(mapping));
        Ok(Operation::Modify { workflow, linked, revision, mapping })
    }

    /// What an operation would do now, exactly.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`], saying why, when it would be refused.
    pub fn preview(&self, operation: &Operation) -> Result<Preview> {
        let now = self.engine.runtime().now();
        let preview = self.slot.context.state().preview(operation, now);
        preview.map_err(|rejection| self.rejected(&rejection))
    }

    /// Posts a message and waits for what the run makes of it. Whoever drives the run sees it; if
    /// nobody does, the run is moved on from here, as far as the message needs.
    async fn say(&self, message: Message) -> Result<()> {
        if self.slot.context.has_ended() {
            return Err(self.rejected(&Rejection::Finished));
        }
        let engine = self.engine.inner();
        // The message may be there even if this future is dropped before it hears so.
        let posted = Posted(&self.slot);
        let number = engine.storage.post(self.id(), message).await?;
        drop(posted);
        let answer = match self.answer_to(number).await? {
            Some(answer) => answer,
            // It ended before it saw the message, which may have it go on.
            None if self.has_message(number).await? => {
                let (handle, revived) = self.engine.revive(self.id()).await?;
                let answer = handle.answer_to(number).await?;
                revived.leave(&handle).await?;
                match answer {
                    Some(answer) => answer,
                    None => self.heard_elsewhere(number).await?.unwrap_or(Err(Rejection::Finished)),
                }
            }
            None => self.heard_elsewhere(number).await?.ok_or_else(|| self.unknown())?,
        };
        answer.map_err(|rejection| self.rejected(&rejection))
    }

    /// What another engine has made of a message, if it was quicker.
    async fn heard_elsewhere(&self, number: u64) -> Result<Option<Answer>> {
        self.engine.inner().storage.answer(self.id(), number).await
    }

    async fn has_message(&self, number: u64) -> Result<bool> {
        let inbox = self.engine.inner().storage.inbox(self.id()).await?;
        Ok(is_among(&inbox, number))
    }

    /// What the run makes of a message; none when it ended without having seen it.
    async fn answer_to(&self, number: u64) -> Result<Option<Result<(), Rejection>>> {
        let engine = self.engine.inner();
        let mut answer = self.slot.audience.answer(number);
        self.slot.context.wake_driver();
        let _waits = Waits(&self.slot);
        poll_fn(|context| {
            loop {
                match Pin::new(&mut answer).poll(context) {
                    Poll::Ready(Ok(answer)) => return Poll::Ready(Ok(Some(answer))),
                    // Nobody will answer it any more.
                    Poll::Ready(Err(_)) => return Poll::Ready(Ok(None)),
                    Poll::Pending => {}
                }
                match self.slot.poll_drive(engine, context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(())) => match answer.try_recv() {
                        Ok(Some(answer)) => return Poll::Ready(Ok(Some(answer))),
                        _ if self.slot.context.has_ended() => return Poll::Ready(Ok(None)),
                        // It was parked without having seen the message.
                        _ => self.slot.context.wake_driver(),
                    },
                }
            }
        })
        .await
    }

    pub(super) fn context(&self) -> &Arc<crate::executor::RunContext> {
        &self.slot.context
    }

    /// Whether this engine has all that the run needs.
    pub(super) fn can_run(&self) -> Result<()> {
        self.slot.check()
    }

    pub(super) fn is_of(&self, context: &Arc<crate::executor::RunContext>) -> bool {
        Arc::ptr_eq(&self.slot.context, context)
    }

    fn unknown(&self) -> Error {
        let message = format!(
            "the run has seen the message, but what it made of it is not kept any more (the last \
             {ANSWERS_KEPT} answers are); look at the run"
        );
        Error::new(ErrorKind::Storage, message).of_run(self.id())
    }

    fn rejected(&self, rejection: &Rejection) -> Error {
        rejection.clone().into_error().of_run(self.id())
    }
}

/// Has whoever drives the run look for messages.
struct Posted<'a>(&'a Slot);

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        self.0.context.wake_driver();
    }
}

impl fmt::Debug for RunHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunHandle({}, {})", self.id(), self.status())
    }
}
