//! Drives one run: turn after turn of decide, commit, launch, until nothing is left but to wait.

use std::collections::HashMap;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use futures::Stream;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use super::admission::{Full, Held, admit};
use super::flight::{Flight, Landed};
use super::placement::place;
use super::prepare::Prepared;
use super::{Inner, lock};
use crate::error::{Error, ErrorClass, ErrorKind, Result, StepError};
use crate::executor::{Attempt, RunContext, RunEvent};
use crate::id::StepKey;
use crate::journal::{Event, Recorded, StepStatus};
use crate::run::{Command, Rejection, Report, RetryAllowance, RunState};
use crate::storage::{Commit, Holding, Message};
use crate::time::Timestamp;
use crate::value::{Json, Value};

/// Drives one run. Whoever has it may drop it at any await and drive on later.
pub(crate) struct Driver {
    engine: Arc<Inner>,
    run: Arc<RunContext>,
    prepared: Arc<Prepared>,
    flights: FuturesUnordered<Flight>,
    /// Attempts that did not come down at once.
    in_air: HashMap<StepKey, Arc<Attempt>>,
    landed: Vec<Landed>,
    held: Held,
    /// Decided, not committed.
    events: Vec<Recorded>,
    launches: Vec<(StepKey, u32)>,
    /// The journal's length as far as this driver knows.
    expected: u64,
    /// A commit was begun and its answer not seen: the state may be ahead of the journal.
    uncertain: bool,
    timer: Option<(Timestamp, BoxFuture<'static, ()>)>,
    /// Why the first ready step could not start, and when to ask again.
    full: Option<Full>,
    pub(crate) replies: Arc<Replies>,
    parallel: bool,
}

/// What became of messages to the run, for those who wait to hear.
#[derive(Default)]
pub(crate) struct Replies(Mutex<HashMap<u64, Answer>>);

enum Answer {
    Given(Result<(), Rejection>),
    Awaited(oneshot::Sender<Result<(), Rejection>>),
}

impl Replies {
    /// The answer to a message that has been posted.
    pub(crate) fn answer(&self, number: u64) -> oneshot::Receiver<Result<(), Rejection>> {
        let (sender, receiver) = oneshot::channel();
        let mut answers = lock(&self.0);
        match answers.remove(&number) {
            Some(Answer::Given(answer)) => drop(sender.send(answer)),
            _ => drop(answers.insert(number, Answer::Awaited(sender))),
        }
        receiver
    }

    fn give(&self, number: u64, answer: Result<(), Rejection>) {
        let mut answers = lock(&self.0);
        match answers.remove(&number) {
            Some(Answer::Awaited(sender)) => drop(sender.send(answer)),
            _ => drop(answers.insert(number, Answer::Given(answer))),
        }
    }
}

/// Turns in a row before others on the same thread get a chance.
const TURNS_BEFORE_YIELD: u32 = 64;
/// Ready steps looked at when the first ones have to wait for others of their type.
const READY_SCANNED: usize = 256;

impl Driver {
    pub(super) fn new(engine: Arc<Inner>, run: Arc<RunContext>, prepared: Arc<Prepared>) -> Self {
        let expected = run.state().version();
        let parallel = engine.runtime.is_parallel();
        let mut driver = Self {
            engine,
            run,
            prepared,
            flights: FuturesUnordered::new(),
            in_air: HashMap::new(),
            landed: Vec::new(),
            held: Held::default(),
            events: Vec::new(),
            launches: Vec::new(),
            expected,
            uncertain: false,
            timer: None,
            full: None,
            replies: Arc::default(),
            parallel,
        };
        driver.adopt();
        driver
    }

    /// Begins the run.
    pub(crate) async fn begin(&mut self, start: Command) -> Result<()> {
        let now = self.engine.runtime.now();
        let begun = self.run.state().decide_into(start, now, &mut self.events);
        match begun {
            Ok(()) => self.commit(Vec::new(), false).await,
            // Somebody else began it between creating it and now.
            Err(_) => Ok(()),
        }
    }

    /// Drives the run until it has ended, or, when `park` says so, until only time or a message can
    /// move it and nobody else holds it. Whether it has ended.
    pub(crate) async fn drive(&mut self, park: impl Fn() -> bool) -> Result<bool> {
        let mut turns = 0;
        loop {
            if self.uncertain {
                self.recover().await?;
            }
            self.turn().await?;
            if self.run.has_ended() {
                self.end();
                return Ok(true);
            }
            if !self.landed.is_empty() {
                turns += 1;
                if turns % TURNS_BEFORE_YIELD == 0 {
                    yield_now().await;
                }
                continue;
            }
            let parked = self.flights.is_empty() && self.run.state().is_parked();
            if parked && park() && self.park().await? {
                return Ok(false);
            }
            self.rest().await;
        }
    }

    /// One turn: what came in, what is due, what can start, as one commit; then the starts.
    pub(crate) async fn turn(&mut self) -> Result<()> {
        let mail = self.mail().await?;
        let now = self.engine.runtime.now();
        let (mut consumed, mut answers) = (Vec::new(), Vec::new());
        {
            let run = Arc::clone(&self.run);
            let mut state = run.state();
            for (number, message) in mail {
                let command = self.command(message);
                let answer = state.decide_into(command, now, &mut self.events);
                consumed.push(number);
                answers.push((number, answer));
            }
            self.report(&mut state, now);
            if state.next_due(now).is_some_and(|at| at <= now) {
                // Refused only when the run has just ended.
                let _ = state.decide_into(Command::Tick, now, &mut self.events);
            }
            let was_full = self.full.is_some();
            self.dispatch(&mut state, now);
            if was_full || self.full.is_some() {
                self.run.set_full(self.full.as_ref().map(|full| full.reason().to_string()));
            }
        }
        if !self.events.is_empty() || !consumed.is_empty() {
            self.commit(consumed, false).await?;
        }
        for (number, answer) in answers {
            self.replies.give(number, answer);
        }
        self.launch();
        Ok(())
    }

    async fn mail(&mut self) -> Result<Vec<(u64, Message)>> {
        if !self.run.has_mail.swap(false, Ordering::AcqRel) {
            return Ok(Vec::new());
        }
        self.engine.storage.inbox(&self.run.id).await
    }

    fn command(&self, message: Message) -> Command {
        match message {
            Message::Signal(signal) => Command::Signal(signal),
            Message::Pause(reason) => Command::Pause(reason),
            Message::Resume(reason) => Command::Resume(reason),
            Message::Cancel(reason) => {
                Command::Cancel { reason, grace: self.engine.limits.cancel_grace }
            }
        }
    }

    /// Tells the run how attempts ended.
    fn report(&mut self, state: &mut RunState, now: Timestamp) {
        let mut landed = std::mem::take(&mut self.landed);
        for Landed { attempt, result } in landed.drain(..) {
            self.give_back(&attempt);
            let Some(result) = result else { continue };
            let failed = result.as_ref().err().map(|error| self.engine.classifier.classify(error));
            if let Some(task) = self.prepared.task(attempt.body, attempt.key.step) {
                task.kind.ended(failed, now);
            }
            let result = self.judge(result, failed, now);
            let (step, attempt) = (attempt.key, attempt.number);
            let report = Command::Report { step, attempt, result };
            if let Err(refused) = state.decide_into(report, now, &mut self.events) {
                // The step was stopped, or timed out, before its result came.
                tracing::debug!(target: "stepwell", run_id = %self.run.id, %refused, "late report");
            }
        }
        self.landed = landed;
    }

    fn judge(
        &self,
        result: Result<Value, StepError>,
        class: Option<ErrorClass>,
        now: Timestamp,
    ) -> Report {
        let error = match result {
            Ok(output) => return Report::Succeeded(output),
            Err(error) => error,
        };
        match error.into_failure() {
            Err(suspension) => Report::Suspended(suspension),
            Ok(mut failure) => {
                failure.class = class.unwrap_or(failure.class);
                let retry = if self.may_retry(now) {
                    RetryAllowance::Allowed
                } else {
                    RetryAllowance::Denied
                };
                Report::Failed { failure, retry }
            }
        }
    }

    fn may_retry(&self, now: Timestamp) -> bool {
        let mut budget = lock(&self.engine.budget);
        // First attempts are only counted where they happen; they pay in when somebody asks.
        for _ in 0..self.engine.first_attempts.swap(0, Ordering::Relaxed).min(10_000) {
            budget.deposit(now);
        }
        budget.withdraw(now)
    }

    /// Starts what is ready, as far as there is room.
    fn dispatch(&mut self, state: &mut RunState, now: Timestamp) {
        self.full = None;
        while state.may_dispatch() {
            let Some(first) = state.first_ready() else { return };
            let step = match self.admit(state, first, now) {
                Ok(()) => first,
                Err(Full::Run(reason)) => {
                    self.full = Some(Full::Run(reason));
                    return;
                }
                Err(full) => {
                    let others: Vec<StepKey> = state.ready().skip(1).take(READY_SCANNED).collect();
                    let next =
                        others.into_iter().find(|step| self.admit(state, *step, now).is_ok());
                    self.full = Some(full);
                    match next {
                        Some(step) => step,
                        None => return,
                    }
                }
            };
            if state.decide_into(Command::Dispatch { step }, now, &mut self.events).is_err() {
                return;
            }
            self.hold(state, step);
            self.launches.push((step, state.attempt(step)));
        }
    }

    fn admit(&self, state: &RunState, step: StepKey, now: Timestamp) -> Result<(), Full> {
        let unknown = || Full::Run("its definition is gone".into());
        let node = state.node(step).ok_or_else(unknown)?;
        let task = self.prepared.task(state.body_of(step), step.step).ok_or_else(unknown)?;
        let limits = &state.program().unit(0).limits;
        admit(&self.engine, &self.run, limits, &self.held, node, &task.kind, now)
    }

    fn hold(&mut self, state: &RunState, step: StepKey) {
        self.held.steps += 1;
        if let Some(node) = state.node(step) {
            self.held.memory_mb += node.resources.memory_mb;
            self.held.cpu_percent += node.resources.cpu_percent;
        }
        if state.attempt(step) == 1 {
            self.engine.first_attempts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives back what an attempt held, wherever its step is now.
    fn give_back(&mut self, attempt: &Attempt) {
        if let Some(airborne) = self.in_air.get(&attempt.key)
            && airborne.number == attempt.number
        {
            self.in_air.remove(&attempt.key);
        }
        self.held.steps = self.held.steps.saturating_sub(1);
        self.engine.slots.give_back();
        let resources = attempt.resources;
        self.held.memory_mb = self.held.memory_mb.saturating_sub(resources.0);
        self.held.cpu_percent = self.held.cpu_percent.saturating_sub(resources.1);
        if let Some(task) = self.prepared.task(attempt.body, attempt.key.step) {
            task.kind.give_back();
        }
    }

    /// Stores what was decided, and only then lets it have effects.
    async fn commit(&mut self, consumed: Vec<u64>, park: bool) -> Result<()> {
        let (status, holding) = {
            let state = self.run.state();
            let status = state.status();
            let holding = match (status.is_end(), park) {
                (true, _) => Holding::Finished,
                (false, true) => Holding::Parked(state.next_due(self.engine.runtime.now())),
                (false, false) => Holding::Held(self.engine.owner),
            };
            (status, holding)
        };
        let count = self.events.len() as u64;
        let observed = self.run.is_observed().then(|| self.events.clone());
        let disturbed = !self.in_air.is_empty() && self.events.iter().any(disturbs);
        let commit = Commit {
            run: self.run.id.clone(),
            expected: self.expected,
            events: std::mem::take(&mut self.events),
            status,
            consumed,
            holding,
        };
        self.uncertain = true;
        self.events = self.engine.storage.commit(commit).await?;
        self.uncertain = false;
        self.events.clear();
        self.expected += count;
        if disturbed {
            self.disturb();
        }
        if let Some(events) = observed {
            self.publish(events);
        }
        if status.is_end() {
            self.run.set_ended();
        }
        Ok(())
    }

    /// Cancels and aborts attempts that the run no longer wants.
    fn disturb(&mut self) {
        let run = Arc::clone(&self.run);
        let state = run.state();
        self.in_air.retain(|step, attempt| {
            let wanted = state.is_running(*step, attempt.number);
            if !wanted {
                attempt.abort();
            } else if state.is_cancelling(*step) {
                attempt.cancel();
            }
            wanted
        });
    }

    fn publish(&self, events: Vec<Recorded>) {
        for recorded in events {
            let step = about(&recorded.event).map(|step| self.run.state().path(step));
            self.run.publish(&RunEvent::Journal { step: step.unwrap_or_default(), recorded });
        }
    }

    /// Starts the attempts that were committed, and polls each once where it is.
    fn launch(&mut self) {
        if self.launches.is_empty() {
            return;
        }
        let mut launches = std::mem::take(&mut self.launches);
        for (step, number) in launches.drain(..) {
            let run = Arc::clone(&self.run);
            let state = run.state();
            let body = state.body_of(step);
            let (Some(node), Some(task)) = (state.node(step), self.prepared.task(body, step.step))
            else {
                continue;
            };
            let inputs = inputs(&state, step, self.engine.runtime.as_ref());
            let placed = place(self.parallel, node, &task.kind);
            let resources = (node.resources.memory_mb, node.resources.cpu_percent);
            drop(state);
            let (inputs, wrong) = match inputs {
                Ok(inputs) => (inputs, None),
                Err(error) => (Value::NULL, Some(error)),
            };
            let config = task.config.clone();
            let attempt =
                Attempt::new(Arc::clone(&run), step, number, body, resources, config, inputs);
            if let Some(error) = wrong {
                self.landed.push(Landed { attempt, result: Some(Err(error)) });
                continue;
            }
            let (executor, kind) = (Arc::clone(&task.executor), Arc::clone(&task.kind));
            let flight = Flight::launch(attempt, executor, kind, &self.engine.runtime, placed);
            self.first_poll(flight);
        }
        self.launches = launches;
    }

    /// Most steps are done at once; only one that is not costs a place among the waiting.
    fn first_poll(&mut self, mut flight: Flight) {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut flight).poll(&mut context) {
            Poll::Ready(landed) => self.landed.push(landed),
            Poll::Pending => {
                let attempt = Arc::clone(flight.attempt());
                self.in_air.insert(attempt.key, attempt);
                // Polled again with the real waker when the driver rests.
                self.flights.push(flight);
            }
        }
    }

    /// Waits until something has landed, is due, has come by mail, or there is room again.
    async fn rest(&mut self) {
        let due = {
            let state = self.run.state();
            let now = self.engine.runtime.now();
            let room = match &self.full {
                Some(Full::Until(_, at)) => Some(*at),
                _ => None,
            };
            [state.next_due(now), room].into_iter().flatten().min()
        };
        match (&self.timer, due) {
            (Some((at, _)), Some(due)) if *at == due => {}
            (_, due) => {
                self.timer = due.map(|at| (at, self.engine.runtime.sleep_until(at)));
            }
        }
        poll_fn(|context| {
            self.run.driver.register(context.waker());
            let mut moved = self.run.has_mail.load(Ordering::Acquire);
            moved |= self.run.has_room.swap(false, Ordering::AcqRel);
            while let Poll::Ready(Some(landed)) = Pin::new(&mut self.flights).poll_next(context) {
                self.landed.push(landed);
                moved = true;
            }
            if let Some((_, timer)) = &mut self.timer
                && timer.as_mut().poll(context).is_ready()
            {
                self.timer = None;
                moved = true;
            }
            if moved { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Gives the run out of hand. Not when mail has come meanwhile.
    async fn park(&mut self) -> Result<bool> {
        if self.run.has_mail.load(Ordering::Acquire) {
            return Ok(false);
        }
        self.commit(Vec::new(), true).await?;
        Ok(true)
    }

    /// After a commit whose answer was not seen, or a conflict: what the journal says is true.
    async fn recover(&mut self) -> Result<()> {
        let Some(stored) = self.engine.storage.load(&self.run.id).await? else {
            let gone = Error::new(ErrorKind::NotFound, "the run is gone from the storage");
            return Err(gone.of_run(&self.run.id));
        };
        {
            let mut state = self.run.state();
            let program = Arc::clone(state.program());
            *state = RunState::replay(self.run.id.clone(), program, &stored.journal);
            self.expected = state.version();
            if state.status().is_end() {
                self.run.set_ended();
            }
        }
        self.events.clear();
        self.launches.clear();
        self.uncertain = false;
        self.run.has_mail.store(true, Ordering::Release);
        self.disturb();
        self.adopt();
        Ok(())
    }

    /// Runs attempts again that were begun and whose end nobody recorded: as the same attempts.
    fn adopt(&mut self) {
        let run = Arc::clone(&self.run);
        let state = run.state();
        let lost: Vec<(StepKey, u32)> = state
            .steps()
            .filter(|(step, status)| {
                *status == StepStatus::Running
                    && !self.in_air.contains_key(step)
                    && self.prepared.task(state.body_of(*step), step.step).is_some()
            })
            .map(|(step, _)| (step, state.attempt(step)))
            .collect();
        for (step, number) in lost {
            self.hold(&state, step);
            self.engine.slots.take_anyway();
            if let Some(task) = self.prepared.task(state.body_of(step), step.step) {
                task.kind.take_anyway();
            }
            self.launches.push((step, number));
        }
    }

    fn end(&mut self) {
        for (_, attempt) in self.in_air.drain() {
            attempt.abort();
        }
        self.flights = FuturesUnordered::new();
        for _ in 0..std::mem::take(&mut self.held).steps {
            self.engine.slots.give_back();
        }
        self.run.end_observation();
        lock(&self.engine.runs).remove(&self.run.id);
        tracing::debug!(target: "stepwell", run_id = %self.run.id, "run ended");
    }
}

/// The value of a step's inputs.
fn inputs(
    state: &RunState,
    step: StepKey,
    runtime: &dyn crate::runtime::Runtime,
) -> Result<Value, StepError> {
    let Some(node) = state.node(step).filter(|node| !node.inputs.is_empty()) else {
        return Ok(Value::NULL);
    };
    let now = runtime.now();
    let mut values = serde_json::Map::new();
    for (name, expr) in &node.inputs {
        let value = state.evaluate(step, expr, now).map_err(|error| {
            StepError::new(ErrorClass::Validation, format!("input `{name}`: {error}"))
        })?;
        values.insert(name.clone(), value);
    }
    Ok(Json::Object(values).into())
}

/// Whether an event can make a running attempt unwanted.
const fn disturbs(recorded: &Recorded) -> bool {
    matches!(
        recorded.event,
        Event::StepFailed { .. }
            | Event::AttemptFailed { .. }
            | Event::StepCancelled { .. }
            | Event::StepCancelRequested { .. }
            | Event::RunCancelRequested { .. }
            | Event::RunFinished { .. }
    )
}

/// The step that an event is about.
const fn about(event: &Event) -> Option<StepKey> {
    match event {
        Event::StepReady { step }
        | Event::StepStarted { step, .. }
        | Event::StepSucceeded { step, .. }
        | Event::AttemptFailed { step, .. }
        | Event::StepFailed { step, .. }
        | Event::StepSkipped { step, .. }
        | Event::StepCancelRequested { step, .. }
        | Event::StepCancelled { step, .. }
        | Event::WaitStarted { step, .. }
        | Event::StepSuspended { step, .. }
        | Event::SignalTaken { step, .. }
        | Event::ItemsListed { step, .. } => Some(*step),
        Event::RunStarted(_)
        | Event::SignalReceived { .. }
        | Event::ScopeOpened { .. }
        | Event::ScopeClosed { .. }
        | Event::RunStopping
        | Event::RunPaused { .. }
        | Event::RunResumed { .. }
        | Event::RunCancelRequested { .. }
        | Event::RunFinished { .. } => None,
    }
}

/// Lets the executor run something else.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
