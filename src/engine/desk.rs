//! The half of a turn that never waits: what came in goes to the state, what may start comes out.

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::admission::{Ended, Full, Held, admit};
use super::driver::Site;
use super::flight::Landed;
use super::{Inner, lock};
use crate::error::{ErrorClass, StepError, Suspension};
use crate::executor::{Begun, NoRoom};
use crate::id::StepKey;
use crate::journal::{Event, Recorded};
use crate::run::{Command, Rejection, Report, RetryAllowance, RunState};
use crate::runtime::Runtime;
use crate::storage::{Message, RefusedWrite, StepWrites};
use crate::time::Timestamp;
use crate::value::{Json, NESTING_MAX, Value};
use crate::workflow::Node;

/// What one run has decided and not yet done, and the room that it takes.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// Attempts that ended and whose results are not stored.
    pub(crate) landed: Vec<Landed>,
    /// How many of them the run has heard of; they come first.
    reported: usize,
    /// What is written with them, and which of them that belongs to.
    writes: Vec<(StepWrites, usize)>,
    /// It could not be told whose writes were refused: those of one step at a time.
    one_by_one: bool,
    /// Decided, not committed.
    pub(crate) events: Vec<Recorded>,
    /// What the run made of messages, not stored.
    pub(crate) answers: Vec<(u64, Result<(), Rejection>)>,
    /// Decided, not started.
    pub(crate) launches: Vec<Launch>,
    /// Why the first ready step could not start, and when to ask again.
    pub(crate) full: Option<Full>,
    /// Why others could not, as far as that is something else.
    reasons: Vec<NoRoom>,
    pub(crate) held: Held,
    /// What ready steps were told that have asked for their locks.
    pub(crate) locks: FxHashMap<StepKey, Locks>,
    /// How often locks had been released when they were last asked for.
    pub(crate) releases_seen: u64,
    /// There are ready steps that have not asked for their locks.
    pub(crate) asks: bool,
    /// Steps were made that have no executors yet.
    pub(crate) grown: bool,
    /// Starts of what is not to be begun twice that may be stored, and that nobody has begun.
    unbegun: Vec<Unbegun>,
    /// What was decided last was so by who may have been taken for gone by then.
    pub(crate) may_be_gone: bool,
    /// Begun steps that the retry budget has not counted yet.
    first_attempts: u64,
}

/// What has become of the locks of a ready step.
#[derive(Debug)]
pub(crate) enum Locks {
    Granted,
    /// Why, and when to ask again.
    Denied(String, Timestamp),
}

/// An attempt to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) begun: Begun,
    /// When that was decided.
    at: Timestamp,
    pub(crate) inputs: Result<Value, StepError>,
}

/// A start that was decided here and that nothing followed from.
#[derive(Debug)]
struct Unbegun {
    step: StepKey,
    number: u32,
    body: (u32, u32),
    /// What tells it from one that another engine has decided.
    at: Timestamp,
}

/// Steps that one turn pays into the retry budget; more fill it anyway.
const DEPOSITS_MAX: u64 = 10_000;

impl Desk {
    /// Tells the run how attempts ended, frees their room, and starts what is ready as far as there
    /// is room now.
    pub(crate) fn turn(
        &mut self,
        site: &Site,
        state: &mut RunState,
        now: Timestamp,
        is_driven: bool,
    ) {
        self.report(site, state, now);
        if state.is_due(now) {
            self.tick(site, state, now);
        }
        // A step that was reset before it began has to ask again when its turn comes.
        if !self.locks.is_empty() {
            self.locks.retain(|step, locks| !locks.are_granted() || !state.has_released(*step));
        }
        let was_full = self.full.take().is_some();
        if !is_driven {
            // Somebody only says something to it; what is started now nobody would go on with.
        } else if self.held.yields(&site.engine) && state.first_ready().is_some() {
            self.full = Some(Full::Others);
        } else {
            self.dispatch(site, state, now);
        }
        if was_full || self.full.is_some() {
            let mut reasons = std::mem::take(&mut self.reasons);
            // What keeps one step back is told of that one.
            let first = self.full.as_ref().filter(|full| !matches!(full, Full::Lock(..)));
            if let (Some(full), true) = (first, reasons.is_empty()) {
                reasons.push(full.no_room());
            }
            site.run.set_full(reasons);
        }
    }

    /// Tells errors apart, and takes opened secrets out of what has come. The classifier, and the error
    /// itself, are the host's code, so that the state is not locked meanwhile, and a panic is theirs
    /// alone.
    pub(crate) fn classify(&mut self, site: &Site) {
        // What could not be stored was told apart before.
        let landed = self.landed[self.reported..].iter_mut();
        for landed in landed.filter(|landed| landed.class.is_none()) {
            match &mut landed.result {
                Some(Ok(output)) => site.run.scrub(output),
                Some(Err(error)) => landed.class = class_of(error, site),
                None => {}
            }
        }
    }

    /// Does what messages say, or notes why not.
    pub(crate) fn answer(
        &mut self,
        state: &mut RunState,
        mail: Vec<(u64, Message)>,
        now: Timestamp,
    ) {
        for (number, message) in mail {
            let answer = state.decide_into(command(message), now, &mut self.events);
            self.answers.push((number, answer));
        }
    }

    fn report(&mut self, site: &Site, state: &mut RunState, now: Timestamp) {
        let mut count = self.landed.len();
        if self.one_by_one {
            count = self.all_but_one_that_writes();
        }
        for at in self.reported..count {
            let Landed { step, number, body, class, .. } = self.landed[at];
            // From here on it holds no room.
            self.reported = at + 1;
            let Some(task) = site.prepared.task(body, step.step) else { continue };
            self.held.give_back(task);
            let result = &self.landed[at].result;
            let failed = matches!(result, Some(Err(_)));
            task.kind.ended(
                match (result, class) {
                    (Some(Ok(_)), _) => Ended::Well,
                    (Some(Err(_)), Some(class)) => Ended::Badly(class),
                    _ => Ended::Unknown,
                },
                now,
            );
            let report = match result {
                Some(Ok(output)) if !output.nests_too_deep() => Report::Succeeded(output.clone()),
                Some(_) => self.judge(at, &site.engine, now),
                // It was dropped on purpose, and the run knows already.
                None => continue,
            };
            // The definition may have been changed since.
            let step = state.current(step, body).unwrap_or(step);
            let before = self.events.len();
            let reported = state.report(step, number, report, now, &mut self.events);
            if let Err(refused) = reported {
                // The step was stopped, or timed out, before its result came.
                tracing::debug!(target: "stepwell", run_id = %site.run.id, %refused, "late report");
            }
            if failed {
                self.pay_for_retries(&site.engine, before..self.events.len(), now);
            }
            if let Some(statements) = &self.landed[at].writes {
                let statements = Arc::clone(statements);
                self.note_writes(StepWrites { step, statements }, at, before);
            }
        }
    }

    /// Puts those behind the others whose writes are to be tried later, with another commit. Where they
    /// begin.
    fn all_but_one_that_writes(&mut self) -> usize {
        let mut one = false;
        let writes =
            |landed: &mut Landed| landed.writes.is_some() && std::mem::replace(&mut one, true);
        let later: Vec<Landed> = self.landed.extract_if(self.reported.., writes).collect();
        self.one_by_one = !later.is_empty();
        let count = self.landed.len();
        self.landed.extend(later);
        count
    }

    /// Notes what a step writes if the events from this place on say that it has succeeded: what it
    /// came to may have been refused, or nobody wants it any more.
    fn note_writes(&mut self, writes: StepWrites, place: usize, from: usize) {
        let is_success = |recorded: &Recorded| matches!(recorded.event, Event::StepSucceeded { step, .. } if step == writes.step);
        if self.events[from..].iter().any(is_success) {
            self.writes.push((writes, place));
        }
    }

    /// What steps write whose success is among the events.
    pub(crate) fn take_writes(&self) -> Option<Box<[StepWrites]>> {
        let writes = self.writes.iter().map(|(writes, _)| writes.clone());
        (!self.writes.is_empty()).then(|| writes.collect())
    }

    /// The storage has refused what a step writes, and with it the commit: that step has failed. Whether
    /// another commit will not be refused for the same.
    pub(crate) fn refuse(&mut self, refused: &RefusedWrite) -> bool {
        let whose = match (refused.step, self.writes.as_slice()) {
            (Some(step), writes) => writes.iter().find(|(writes, _)| writes.step == step),
            (None, [only]) => Some(only),
            (None, several) => {
                self.one_by_one = !several.is_empty();
                return self.one_by_one;
            }
        };
        let Some(landed) = whose.and_then(|(_, at)| self.landed.get_mut(*at)) else {
            return false;
        };
        landed.result = Some(Err(StepError::new(refused.class, refused.to_string())));
        landed.writes = None;
        true
    }

    /// What is to be said of an attempt that did not end with a result, or with one that cannot be
    /// kept. What is left in its place is what has to be said once more if that cannot be stored.
    #[cold]
    fn judge(&mut self, at: usize, engine: &Inner, now: Timestamp) -> Report {
        let landed = &mut self.landed[at];
        let error = match landed.result.take() {
            Some(Err(error)) => error,
            _ => {
                let message = format!("the output nests deeper than {NESTING_MAX}");
                StepError::new(ErrorClass::Validation, message)
            }
        };
        match error.into_failure() {
            Err(suspension) => {
                let Suspension { signal, prompt, timeout } = suspension.clone();
                landed.result = Some(Err(StepError::wait_for_signal(signal, prompt, timeout)));
                Report::Suspended(Box::new(suspension))
            }
            Ok(mut failure) => {
                failure.class = landed.class.unwrap_or(failure.class);
                landed.result = Some(Err(failure.clone().into()));
                let retry = self.allowance(engine, now);
                Report::Failed { failure: Box::new(failure), retry }
            }
        }
    }

    fn tick(&mut self, site: &Site, state: &mut RunState, now: Timestamp) {
        let retry = self.allowance(&site.engine, now);
        let before = self.events.len();
        // Refused only when the run has just ended.
        let _ = state.decide_into(Command::Tick { retry }, now, &mut self.events);
        for recorded in &self.events[before..] {
            let (step, class) = match &recorded.event {
                Event::AttemptFailed { step, failed } => (*step, failed.failure.class),
                Event::StepFailed { step, failure } => (*step, failure.class),
                _ => continue,
            };
            // A service that does not answer is as unwell as one that says so.
            if class == ErrorClass::Timeout
                && let Some(task) = site.prepared.task(state.body_of(step), step.step)
            {
                task.kind.ended(Ended::Badly(class), now);
            }
        }
        self.pay_for_retries(&site.engine, before..self.events.len(), now);
    }

    fn allowance(&mut self, engine: &Inner, now: Timestamp) -> RetryAllowance {
        self.count_first_attempts(engine, now);
        if lock(&engine.budget).allows(now) {
            RetryAllowance::Allowed
        } else {
            RetryAllowance::Denied
        }
    }

    /// Only what is tried again takes from the budget.
    fn pay_for_retries(&self, engine: &Inner, events: Range<usize>, now: Timestamp) {
        let retried = |recorded: &&Recorded| matches!(recorded.event, Event::AttemptFailed { .. });
        for _ in self.events[events].iter().filter(retried) {
            lock(&engine.budget).withdraw(now);
        }
    }

    /// First attempts pay into the retry budget when somebody asks for a retry, or at rest.
    pub(crate) fn count_first_attempts(&mut self, engine: &Inner, now: Timestamp) {
        if self.first_attempts == 0 {
            return;
        }
        let mut budget = lock(&engine.budget);
        for _ in 0..std::mem::take(&mut self.first_attempts).min(DEPOSITS_MAX) {
            budget.deposit(now);
        }
    }

    fn dispatch(&mut self, site: &Site, state: &mut RunState, now: Timestamp) {
        self.grown = state.program().units().len() > site.prepared.len();
        if self.grown {
            return;
        }
        while state.may_dispatch() {
            let Some(first) = state.first_ready() else { return };
            match self.start(site, state, first, now) {
                Ok(true) => {}
                Ok(false) => return,
                Err(full @ Full::Run(_)) => {
                    self.full = Some(full);
                    return;
                }
                Err(full) => return self.dispatch_around(site, state, full, now),
            }
        }
    }

    /// The first ready step has to wait for others of its type; steps of other types may go first.
    fn dispatch_around(&mut self, site: &Site, state: &mut RunState, first: Full, now: Timestamp) {
        let ready: Vec<StepKey> = state.ready().collect();
        let mut full_types = BTreeSet::new();
        let mut soonest = first;
        for step in ready {
            let task = site.prepared.task(state.body_of(step), step.step);
            let kind = task.map(|task| task.kind.name.as_str());
            if kind.is_some_and(|kind| full_types.contains(kind)) {
                continue;
            }
            match self.start(site, state, step, now) {
                Ok(_) => {}
                Err(full @ Full::Run(_)) => {
                    self.reasons.push(full.no_room());
                    break;
                }
                Err(full) => {
                    // A lock keeps one step back, and not its type.
                    if !matches!(full, Full::Lock(..)) {
                        self.reasons.push(full.no_room());
                        full_types.extend(kind);
                    }
                    soonest = soonest.or_sooner(full);
                }
            }
        }
        self.full = Some(soonest);
    }

    /// Starts a step if there is room. Whether the run let it.
    fn start(
        &mut self,
        site: &Site,
        state: &mut RunState,
        step: StepKey,
        now: Timestamp,
    ) -> Result<bool, Full> {
        let locks = |node: &Node| !node.locks().is_empty();
        let locked = site.prepared.has_locks && state.node(step).is_some_and(locks);
        if locked {
            match self.locks.get(&step) {
                Some(Locks::Granted) => {}
                Some(Locks::Denied(why, at)) => return Err(Full::Lock(why.clone(), *at)),
                None => {
                    self.asks = true;
                    return Err(Full::Lock("its locks".into(), now));
                }
            }
        }
        match site.prepared.task(state.body_of(step), step.step) {
            Some(task) => admit(site, &mut self.held, task, now)?,
            // A composite step that was ready for its locks only.
            None if locked => {
                self.locks.remove(&step);
                return Ok(state.dispatch(step, now, &mut self.events).is_ok());
            }
            None => return Err(Full::Run("its definition is gone".into())),
        }
        if locked {
            self.locks.remove(&step);
        }
        if state.dispatch(step, now, &mut self.events).is_err() {
            return Ok(false);
        }
        self.launch(state, step, &*site.engine.runtime);
        Ok(true)
    }

    /// Before the run is as the journal says: what was decided and not done is forgotten. Results that
    /// were not stored, or not reported, are kept.
    pub(crate) fn reset(&mut self, site: &Site) {
        for landed in &self.landed[self.reported..] {
            if let Some(task) = site.prepared.task(landed.body, landed.step.step) {
                self.held.give_back(task);
            }
        }
        // What was dropped on purpose has no result.
        self.landed.retain(|landed| landed.result.is_some());
        // None holds room any more.
        self.reported = self.landed.len();
        self.forget_launches(site);
        self.writes.clear();
    }

    /// Results that were kept are reported again, if the run still wants them.
    pub(crate) fn report_again(&mut self, site: &Site, state: &RunState) {
        self.reported = 0;
        for landed in std::mem::take(&mut self.landed) {
            let step = state.current(landed.step, landed.body).unwrap_or(landed.step);
            if state.is_running(step, landed.number)
                && let Some(task) = site.prepared.task(landed.body, landed.step.step)
            {
                self.held.take_anyway(&site.engine, task);
                self.landed.push(landed);
            }
        }
    }

    /// Whether there is something that the run has not heard of.
    pub(crate) const fn has_news(&self) -> bool {
        self.landed.len() > self.reported
    }

    /// What was reported is stored.
    pub(crate) fn stored(&mut self) {
        // Nearly always that is all of it, which is quicker to forget.
        if self.has_news() {
            self.landed.drain(..self.reported);
        } else {
            self.landed.clear();
        }
        self.reported = 0;
        if !self.writes.is_empty() {
            self.writes.clear();
        }
    }

    /// Whether a result of this attempt waits to be reported.
    pub(crate) fn has_landed(&self, state: &RunState, step: StepKey, number: u32) -> bool {
        let is_it = |landed: &Landed| {
            landed.number == number && state.current(landed.step, landed.body) == Some(step)
        };
        self.landed[self.reported..].iter().any(is_it)
    }

    /// Forgets what was decided and not done, and takes back all room that is not in the air.
    pub(crate) fn forget_launches(&mut self, site: &Site) {
        self.events.clear();
        let once = self.launches.iter().filter(|launch| {
            let Begun { body, key, .. } = &launch.begun;
            site.prepared.task(*body, key.step).is_some_and(|task| task.at_most_once)
        });
        let ours = !std::mem::take(&mut self.may_be_gone);
        self.unbegun.extend(once.filter(|_| ours).map(|Launch { begun, at, .. }| Unbegun {
            step: begun.key,
            number: begun.number,
            body: begun.body,
            at: *at,
        }));
        let begun = self.launches.drain(..).map(|launch| (launch.begun.body, launch.begun.key));
        let ended = self.landed.drain(self.reported..).map(|landed| (landed.body, landed.step));
        for (body, step) in begun.chain(ended) {
            if let Some(task) = site.prepared.task(body, step.step) {
                self.held.give_back(task);
            }
        }
    }

    /// How long ago what is not launched yet was decided.
    pub(crate) fn decided_ago(&self, now: Timestamp) -> Duration {
        self.launches.first().map_or(Duration::ZERO, |launch| now.since(launch.at))
    }

    /// Whether the start of this attempt was decided here, and nobody has begun it.
    pub(crate) fn is_unbegun(&self, state: &RunState, step: StepKey, number: u32) -> bool {
        self.unbegun.iter().any(|start| {
            start.number == number
                && start.at == state.since(step)
                && state.current(start.step, start.body) == Some(step)
        })
    }

    /// Another engine may have begun what was not begun here, or it is begun now.
    pub(crate) fn forget_unbegun(&mut self) {
        self.unbegun.clear();
    }

    /// Forgets attempts that were taken over to be run again and that the run no longer wants.
    pub(crate) fn forget_unwanted(&mut self, site: &Site, state: &RunState) {
        let wanted = |launch: &Launch| {
            let step = state.current(launch.begun.key, launch.begun.body);
            step.is_some_and(|step| state.is_running(step, launch.begun.number))
        };
        for launch in self.launches.extract_if(.., |launch| !wanted(launch)) {
            if let Some(task) = site.prepared.task(launch.begun.body, launch.begun.key.step) {
                self.held.give_back(task);
            }
        }
    }

    /// Notes an attempt that has been begun.
    pub(crate) fn launch(&mut self, state: &RunState, key: StepKey, runtime: &dyn Runtime) {
        let number = state.attempt(key);
        self.first_attempts += u64::from(number == 1);
        let body = state.body_of(key);
        let inputs = match state.node(key) {
            Some(node) if !node.inputs.is_empty() => inputs(state, node, key, runtime.now()),
            _ => Ok(Value::NULL),
        };
        let names = (key.scope > 0).then(|| Box::new((state.path(key), state.instance(key))));
        let at = state.since(key);
        self.launches.push(Launch { begun: Begun { key, number, body, names }, at, inputs });
    }
}

impl Locks {
    pub(crate) const fn are_granted(&self) -> bool {
        matches!(self, Self::Granted)
    }
}

fn command(message: Message) -> Command {
    match message {
        Message::Signal(signal) => Command::Signal(signal),
        Message::Vote { approval, vote } => Command::Vote { approval, vote: Box::new(vote) },
        Message::Pause(reason) => Command::Pause(Box::new(reason)),
        Message::Resume(reason) => Command::Resume(Box::new(reason)),
        Message::Operate { operation, by } => {
            Command::Operate { operation: Box::new(operation), by: Box::new(by) }
        }
        Message::Cancel { by, grace } => Command::Cancel { by: Box::new(by), grace },
        Message::Terminate(reason) => Command::Terminate(Box::new(reason)),
    }
}

/// What kind of failure an error is; none for a wish to wait.
#[cold]
fn class_of(error: &mut StepError, site: &Site) -> Option<ErrorClass> {
    error.scrub(|text| site.run.scrub_text(text), |value| site.run.scrub(value));
    if error.is_wait() {
        if error.nests_too_deep() {
            let message = format!("the prompt nests deeper than {NESTING_MAX}");
            *error = StepError::new(ErrorClass::Validation, message);
        }
        return None;
    }
    let class = catch_unwind(AssertUnwindSafe(|| {
        let class = site.engine.classifier.classify(error);
        error.forget_source();
        class
    }));
    if class.is_err() {
        tracing::warn!(
            target: "stepwell",
            run_id = %site.run.id,
            "the error classifier panicked; the error keeps its own class",
        );
    }
    class.ok()
}

/// The value of a step's inputs.
fn inputs(
    state: &RunState,
    node: &Node,
    step: StepKey,
    now: Timestamp,
) -> Result<Value, StepError> {
    let mut values = serde_json::Map::new();
    for (name, formula) in &node.inputs {
        let value = state.give(step, formula, now).map_err(|error| {
            StepError::new(ErrorClass::Validation, format!("input `{name}`: {error}"))
        })?;
        values.insert(name.clone(), value);
    }
    Ok(Json::Object(values).into())
}
