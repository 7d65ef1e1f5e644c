//! The heart: what has become of a run, and what follows from what is asked of it.
//!
//! [`RunState::decide`] turns a [`Command`] into [`Event`]s; `apply` is the only code that changes
//! a state, and does so by one event. Everything here is pure: the same state, command and time
//! give the same events. Starting executors, waiting and storing belong to [`crate::engine`].
//!
//! A composite step opens a *scope*: one instance of one of its bodies. Step instances are named by
//! scope and step ([`StepKey`]), and for people by a path such as `build/tests[3]/unit`.

mod apply;
mod approval;
mod blobs;
mod bounds;
mod command;
mod compensate;
mod composite;
mod end;
mod expected;
mod explain;
mod explain_run;
mod join;
mod locks;
mod migration;
mod modify;
mod naming;
mod operate;
mod output;
mod progress;
mod reset;
mod scope;
mod sealed;
mod snapshot;
mod timer;
mod turn;
mod unknown;
mod view;
mod wait;

pub(crate) use blobs::blob_name;
pub use bounds::{PERSON_BYTES_MAX, REASON_BYTES_MAX, SIGNAL_ID_BYTES_MAX, SIGNAL_NAME_BYTES_MAX};
pub use command::{Command, Rejection, Report, RetryAllowance};
pub use explain::{Dependency, Explanation};
pub use explain_run::RunExplanation;
pub use locks::Want;
pub use operate::Preview;
pub use progress::Progress;
pub use scope::AttemptRecord;
#[cfg(feature = "secrets")]
pub(crate) use sealed::replace_sealed;
pub use snapshot::SNAPSHOT_FORMAT;
pub use wait::OpenWait;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorClass, Failure};
use crate::expr::{EvalError, Expr};
use crate::id::{RunId, StepKey};
use crate::journal::{Event, Outcome, Reason, Recorded, RunStatus, STATUS_SLOTS, StepStatus};
use crate::plan::Drawing;
use crate::queue::ReadyQueue;
use crate::time::Timestamp;
use crate::value::{Json, Value};
use crate::workflow::{Formula, Node, Program, Unit};
use expected::Expected;
use scope::{Cell, Scope, SharedBody, TimerKind};
use snapshot::{Kept, Made};

/// Items of one for-each. Above this a single run's journal gets slow to replay.
pub const FOR_EACH_ITEMS_MAX: usize = 10_000;
/// Sub-workflows inside each other, counted across re-entry: a workflow that names itself must end.
pub const SUB_WORKFLOW_DEPTH_MAX: u32 = 16;
/// Signals that no step waits for yet and that a run keeps.
pub const SIGNALS_KEPT_MAX: usize = 1_000;
/// Ids of signals that a run knows, of those that came last.
pub const SIGNAL_IDS_KEPT: usize = 1_000;
/// Failed attempts that a run keeps of steps whose bodies have ended; all stay in the journal.
pub const PAST_FAILURES_MAX: usize = 1_000;
/// Failed attempts that a run keeps of one step, the last ones: a step may be tried for years.
pub const ATTEMPTS_KEPT_MAX: usize = 1_000;
/// How often a waiting condition that reads `now()` is asked again.
pub const RECHECK_EVERY: Duration = Duration::from_secs(1);
/// Bodies open at once in a run: each is memory, and nested for-each steps multiply.
pub const SCOPES_OPEN_MAX: usize = 50_000;
/// Workflows, and lists of steps that dynamic steps made, of one run: all stay as long as the run.
pub const UNITS_MAX: usize = 2_000;
/// Events that follow from one command before loops have to end: what does nothing must not do it
/// for ever.
pub const EVENTS_AT_ONCE_MAX: usize = 300_000;

/// The state of one run: the fold of its events.
///
/// ```
/// use std::sync::Arc;
/// use stepwell::run::{Command, Report, RunState};
/// use stepwell::{RunId, RunStatus, Step, StepKey, Timestamp, Value, Workflow};
///
/// let workflow = Workflow::builder("w").step(Step::task("a", "work")).build()?;
/// let mut run = RunState::new(RunId::new("r").unwrap(), Arc::clone(workflow.program()));
/// let (now, input, variables) = (Timestamp::EPOCH, Value::NULL, Value::NULL);
/// let mut ask = |command| run.decide(command, now).unwrap();
///
/// ask(Command::Start { input, variables, seed: 1, grace: std::time::Duration::ZERO });
/// let step = StepKey::root(0);
/// ask(Command::Dispatch { step });
/// let report = Command::Report { step, attempt: 1, result: Report::Succeeded(7.into()) };
/// let events = ask(report);
/// assert_eq!(events.len(), 2); // the step succeeded, and with it the run
/// assert_eq!(run.status(), RunStatus::Succeeded);
/// # Ok::<(), stepwell::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RunState {
    /// What the run was started with.
    base: Arc<Program>,
    /// The same, with what was made meanwhile.
    program: Arc<Program>,
    id: RunId,
    version: u64,
    started: Option<Start>,
    paused: Option<Timestamp>,
    /// Who paused or cancelled it last.
    asked_by: Option<Box<Reason>>,
    /// Attempts that were under way are not begun again.
    quarantined: bool,
    /// What the run is asked to end as: cancelled, or timed out.
    stopping: Option<Box<Outcome>>,
    outcome: Option<Outcome>,
    finished_at: Timestamp,
    root: Scope,
    inner: BTreeMap<u32, Scope>,
    scopes_opened: u32,
    ready: ReadyQueue,
    timers: BTreeSet<(Timestamp, StepKey, TimerKind)>,
    /// None is as good as an empty one.
    expected: Option<Box<Expected>>,
    counts: [u32; STATUS_SLOTS],
    /// Tasks, as opposed to composite steps, that run.
    tasks_running: u32,
    /// Steps that hold their locks no more, for who tells the storage.
    released: Vec<StepKey>,
    has_locks: bool,
    /// Bytes of the values in the journal, also of what is forgotten of it.
    bytes: usize,
    /// What was added to the program, in order.
    made: Vec<Made>,
    /// What is kept of the journal; none is all of it, and no snapshot.
    kept: Option<Box<Kept>>,
    /// How often the definition was changed.
    revision: u32,
    /// What that did to open bodies.
    changed: Option<Box<modify::Changed>>,
    /// Failed attempts of steps whose bodies have ended, by the steps' paths.
    past: Vec<(String, AttemptRecord)>,
    /// What a turn has left to look at; empty between turns.
    work: VecDeque<turn::Work>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Start {
    input: Value,
    variables: Value,
    seed: u64,
    at: Timestamp,
    deadline: Timestamp,
    grace: Duration,
}

impl PartialEq for RunState {
    /// Everything that events make, and the same program. What is kept of the journal is not made by
    /// events.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.base, &other.base)
            && self.program.units().len() == other.program.units().len()
            && self.made.len() == other.made.len()
            && self.version == other.version
            && self.started == other.started
            && self.paused == other.paused
            && self.asked_by == other.asked_by
            && self.quarantined == other.quarantined
            && self.stopping == other.stopping
            && self.outcome == other.outcome
            && self.finished_at == other.finished_at
            && self.root == other.root
            && self.inner == other.inner
            && self.scopes_opened == other.scopes_opened
            && self.ready == other.ready
            && self.timers == other.timers
            && self.expected() == other.expected()
            && self.counts == other.counts
            && self.tasks_running == other.tasks_running
            && self.past == other.past
            && self.bytes == other.bytes
            && self.revision == other.revision
            && self.changed == other.changed
    }
}

impl RunState {
    /// A run of which nothing has happened yet.
    #[must_use]
    pub fn new(id: RunId, program: Arc<Program>) -> Self {
        let root = Scope::outermost(&program);
        let mut counts = [0; STATUS_SLOTS];
        counts[StepStatus::Pending.slot()] = root.open;
        Self {
            id,
            version: 0,
            started: None,
            paused: None,
            asked_by: None,
            quarantined: false,
            stopping: None,
            outcome: None,
            finished_at: Timestamp::EPOCH,
            root,
            inner: BTreeMap::new(),
            scopes_opened: 1,
            ready: ReadyQueue::default(),
            timers: BTreeSet::new(),
            expected: None,
            counts,
            tasks_running: 0,
            released: Vec::new(),
            has_locks: program.has_locks(),
            bytes: 0,
            made: Vec::new(),
            kept: None,
            revision: 0,
            changed: None,
            past: Vec::new(),
            work: VecDeque::new(),
            base: Arc::clone(&program),
            program,
        }
    }

    /// The state after these events.
    #[must_use]
    pub fn replay<'a>(
        id: RunId,
        program: Arc<Program>,
        journal: impl IntoIterator<Item = &'a Recorded>,
    ) -> Self {
        let mut state = Self::new(id, program);
        state.follow(journal);
        state
    }

    /// Applies what was stored.
    pub(crate) fn follow<'a>(&mut self, journal: impl IntoIterator<Item = &'a Recorded>) {
        for recorded in journal {
            self.apply(recorded.at, &recorded.event);
        }
        // The storage has heard of it long ago.
        self.released.clear();
    }

    /// What follows from `command` at `now`; the state has it applied already.
    ///
    /// # Errors
    /// A [`Rejection`], and nothing has changed.
    pub fn decide(&mut self, command: Command, now: Timestamp) -> Result<Vec<Event>, Rejection> {
        let mut events = Vec::new();
        self.decide_into(command, now, &mut events)?;
        Ok(events.into_iter().map(|recorded| recorded.event).collect())
    }

    /// The same, adding to a batch that is stored as a whole.
    ///
    /// # Errors
    /// A [`Rejection`], and nothing has changed.
    pub fn decide_into(
        &mut self,
        command: Command,
        now: Timestamp,
        events: &mut Vec<Recorded>,
    ) -> Result<(), Rejection> {
        turn::Turn::new(self, now, events).take(command)
    }

    /// [`Command::Dispatch`], for whoever has a hundred thousand of them and does without the command.
    pub(crate) fn dispatch(
        &mut self,
        step: StepKey,
        now: Timestamp,
        events: &mut Vec<Recorded>,
    ) -> Result<(), Rejection> {
        turn::Turn::new(self, now, events).take_dispatch(step)
    }

    /// [`Command::Report`], in the same way.
    pub(crate) fn report(
        &mut self,
        step: StepKey,
        attempt: u32,
        result: Report,
        now: Timestamp,
        events: &mut Vec<Recorded>,
    ) -> Result<(), Rejection> {
        turn::Turn::new(self, now, events).take_report(step, attempt, result)
    }

    /// The run's id.
    #[must_use]
    pub const fn id(&self) -> &RunId {
        &self.id
    }

    /// What it was started with.
    pub(crate) const fn base(&self) -> &Arc<Program> {
        &self.base
    }

    /// What it runs, with what was made meanwhile.
    #[must_use]
    pub const fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// How many events made this state: the journal's length.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// What has become of the run.
    #[must_use]
    pub fn status(&self) -> RunStatus {
        match (&self.outcome, &self.started) {
            (Some(outcome), _) => outcome.status(),
            (None, None) => RunStatus::Pending,
            (None, Some(_)) if self.stopping.is_some() => RunStatus::Cancelling,
            (None, Some(_)) if self.paused.is_some() => RunStatus::Paused,
            (None, Some(_)) => RunStatus::Running,
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// When it began, if it has.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        self.started.as_ref().map(|start| start.at)
    }

    /// When it ended, if it has.
    #[must_use]
    pub fn finished_at(&self) -> Option<Timestamp> {
        self.outcome.as_ref().map(|_| self.finished_at)
    }

    /// The input it was started with.
    #[must_use]
    pub fn input(&self) -> &Value {
        const NULL: &Value = &Value::NULL;
        self.started.as_ref().map_or(NULL, |start| &start.input)
    }

    /// Steps that may start, in the order in which they should.
    pub fn ready(&self) -> impl Iterator<Item = StepKey> + '_ {
        self.ready.iter()
    }

    /// The step that should start first, if any may.
    #[must_use]
    #[inline]
    pub fn first_ready(&self) -> Option<StepKey> {
        self.ready.first()
    }

    /// Whether ready steps may start now: the run is under way and not paused.
    #[must_use]
    pub const fn may_dispatch(&self) -> bool {
        self.outcome.is_none() && self.paused.is_none()
    }

    /// Whether the run was taken over too often, and attempts that were under way are not begun again
    /// before it is resumed.
    #[must_use]
    pub const fn is_quarantined(&self) -> bool {
        self.quarantined
    }

    /// Tasks that run; composite steps around them do not count.
    #[must_use]
    pub const fn running(&self) -> u32 {
        self.tasks_running
    }

    /// When the next thing is due by time alone, as seen at `now`.
    #[must_use]
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        if self.outcome.is_some() {
            return None;
        }
        let timer = self.timers.first().map(|(at, ..)| *at);
        let limit = self.limit();
        let recheck = self.asks_the_clock().then(|| now + RECHECK_EVERY);
        [timer, limit, recheck].into_iter().flatten().min().filter(|at| *at < Timestamp::MAX)
    }

    /// When the run has taken too long; none while that does not count.
    fn limit(&self) -> Option<Timestamp> {
        let counts = self.paused.is_none() && self.stopping.is_none();
        self.started.as_ref().filter(|_| counts).map(|start| start.deadline)
    }

    /// Whether time alone may move something: it is due, or a waiting condition reads the clock.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let past = |at: &Timestamp| *at <= now;
        let due = self.limit().as_ref().is_some_and(past)
            || self.timers.first().is_some_and(|(at, ..)| past(at));
        self.outcome.is_none() && (due || self.asks_the_clock())
    }

    /// Whether a waiting condition reads the clock.
    #[inline]
    fn asks_the_clock(&self) -> bool {
        self.expected
            .as_ref()
            .is_some_and(|expected| expected.conditions.iter().any(|step| self.reads_now(*step)))
    }

    /// Whether nothing can happen to it but by time or from outside, so that nobody need hold it.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        let idle = self.ready.is_empty() || !self.may_dispatch();
        self.outcome.is_none() && idle && (self.tasks_running == 0 || self.quarantined)
    }

    fn is_task(&self, step: StepKey) -> bool {
        self.node(step).is_some_and(turn::is_task)
    }

    /// What has become of a step; none when it does not exist, or not yet.
    #[must_use]
    pub fn step_status(&self, step: StepKey) -> Option<StepStatus> {
        self.cell(step).map(|cell| cell.status)
    }

    /// How a step ended, if it has.
    fn end_of(&self, step: StepKey) -> Option<join::Ended> {
        let status = self.step_status(step).filter(|status| status.is_end())?;
        Some(match status {
            StepStatus::Failed => {
                let class = self.failure(step).map_or(ErrorClass::Unknown, |why| why.class);
                join::Ended::Badly(class)
            }
            status => join::Ended::As(status),
        })
    }

    fn has_ended(&self, step: StepKey) -> bool {
        self.step_status(step).is_some_and(StepStatus::is_end)
    }

    /// The attempt that a step is at, from 1; 0 before the first.
    #[must_use]
    pub fn attempt(&self, step: StepKey) -> u32 {
        self.cell(step).map_or(0, |cell| cell.attempt)
    }

    /// When a step last changed its status.
    pub(crate) fn since(&self, step: StepKey) -> Timestamp {
        self.cell(step).map_or(Timestamp::EPOCH, |cell| cell.since)
    }

    /// Whether this attempt of a step still runs, asked to stop or not.
    #[must_use]
    pub fn is_running(&self, step: StepKey, attempt: u32) -> bool {
        self.cell(step)
            .is_some_and(|cell| cell.status == StepStatus::Running && cell.attempt == attempt)
            && self.outcome.is_none()
    }

    /// Whether a running step has been asked to stop.
    #[must_use]
    pub fn is_cancelling(&self, step: StepKey) -> bool {
        let asked = |cell: &Cell| cell.more.as_ref().is_some_and(|more| more.cancel.is_some());
        self.cell(step).is_some_and(asked)
    }

    /// A step's output; null when it has none.
    #[must_use]
    pub fn output(&self, step: StepKey) -> Value {
        self.cell(step).map_or(Value::NULL, |cell| cell.output.clone())
    }

    /// The attempts of a step that failed, the last [`ATTEMPTS_KEPT_MAX`].
    #[must_use]
    pub fn error_history(&self, step: StepKey) -> &[AttemptRecord] {
        let more = self.cell(step).and_then(|cell| cell.more.as_ref());
        more.map_or(&[], |more| more.history.as_slice())
    }

    /// The failed attempts of all steps, each with its step's path: of steps whose bodies have ended
    /// first, and of those the first [`PAST_FAILURES_MAX`]; of one step the last
    /// [`ATTEMPTS_KEPT_MAX`].
    pub fn failed_attempts(&self) -> impl Iterator<Item = (String, &AttemptRecord)> + '_ {
        let here = self.steps().flat_map(move |(step, _)| {
            let of = move |record| (self.path(step), record);
            self.error_history(step).iter().map(of)
        });
        self.past.iter().map(|(path, record)| (path.clone(), record)).chain(here)
    }

    /// Why a step failed, if it did.
    #[must_use]
    pub fn failure(&self, step: StepKey) -> Option<&Failure> {
        self.cell(step)?.more.as_ref()?.failure.as_ref()
    }

    /// The payload of the signal that a suspended step goes on with.
    #[must_use]
    pub fn taken_signal(&self, step: StepKey) -> Option<&Value> {
        self.cell(step)?.more.as_ref()?.signal.as_ref()
    }

    /// The compiled step.
    #[must_use]
    #[inline]
    pub fn node(&self, step: StepKey) -> Option<&Node> {
        let scope = self.scope(step.scope)?;
        scope.body.nodes.get(step.step as usize)
    }

    /// The workflow that a step belongs to: the run's own, or a sub-workflow.
    #[must_use]
    pub fn unit(&self, step: StepKey) -> Option<&Unit> {
        self.scope(step.scope).map(|scope| self.program.unit(scope.place.0))
    }

    /// The body that a step stands in: the number of its workflow inside the program, and its own.
    #[must_use]
    pub fn body_of(&self, step: StepKey) -> (u32, u32) {
        self.scope(step.scope).map_or((0, 0), |scope| scope.place)
    }

    /// The number of the workflow that a step belongs to, inside the program.
    #[must_use]
    pub fn unit_index(&self, step: StepKey) -> u32 {
        self.scope(step.scope).map_or(0, |scope| scope.place.0)
    }

    /// The step of this id that can be seen from a step: beside it, or around it.
    #[must_use]
    pub fn visible(&self, from: StepKey, id: &str) -> Option<StepKey> {
        let mut scope = from.scope;
        loop {
            let here = self.scope(scope)?;
            if let Some(step) = here.body.plan.index(id) {
                return Some(StepKey { scope, step });
            }
            // A sub-workflow does not see the steps of the workflow that runs it.
            scope = here.parent.filter(|_| here.own.is_none())?.scope;
        }
    }

    /// The value of an expression as a step sees it.
    ///
    /// # Errors
    /// What the expression says.
    pub fn evaluate(&self, step: StepKey, expr: &Expr, now: Timestamp) -> Result<Json, EvalError> {
        expr.evaluate(&view::View::new(self, step.scope, now))
    }

    /// The value of an input, as a step sees it.
    ///
    /// # Errors
    /// What the expression or the template says.
    pub fn give(
        &self,
        step: StepKey,
        formula: &Formula,
        now: Timestamp,
    ) -> Result<Json, EvalError> {
        formula.evaluate(&view::View::new(self, step.scope, now))
    }

    /// The path of a step, as in `build/tests[3]/unit`.
    #[must_use]
    pub fn path(&self, step: StepKey) -> String {
        self.known_path(step).unwrap_or_else(|| format!("{step:?}"))
    }

    /// The same, or nothing when the body that the step stood in has ended.
    pub(crate) fn known_path(&self, step: StepKey) -> Option<String> {
        let scope = self.scope(step.scope)?;
        let id = scope.body.plan.ids().get(step.step as usize)?;
        let Some(parent) = scope.parent else {
            return Some(match &scope.undoes {
                // No step has a bracket in its id, so nothing else has this path.
                Some(undoes) => format!("{}[undo]/{id}", undoes.path),
                None => id.to_string(),
            });
        };
        let many = self.node(parent).is_some_and(turn::repeats);
        let index = if many { format!("[{}]", scope.index) } else { String::new() };
        Some(format!("{}{index}/{id}", self.known_path(parent)?))
    }

    /// The step at a path.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<StepKey> {
        if path.contains("[undo]") {
            return self.steps().find(|(step, _)| self.path(*step) == path).map(|(step, _)| step);
        }
        let mut at: Option<(StepKey, u32)> = None;
        for part in path.split('/') {
            let (id, index) = match part.split_once('[') {
                Some((id, rest)) => (id, rest.strip_suffix(']')?.parse().ok()?),
                None => (part, 0),
            };
            let scope = match at {
                None => 0,
                Some((parent, index)) => {
                    let bodies = self.cell(parent)?.bodies()?;
                    let of = |scope: &&u32| self.scope(**scope).is_some_and(|s| s.index == index);
                    *bodies.open.iter().find(of)?
                }
            };
            let step = self.scope(scope)?.body.plan.index(id)?;
            at = Some((StepKey { scope, step }, index));
        }
        at.map(|(step, _)| step).filter(|step| self.path(*step) == path)
    }

    /// Every step instance that exists now, with its status.
    pub fn steps(&self) -> impl Iterator<Item = (StepKey, StepStatus)> + '_ {
        let all = std::iter::once((0, &self.root)).chain(self.inner.iter().map(|(n, s)| (*n, s)));
        all.flat_map(|(scope, state)| {
            let cells = state.cells.iter().enumerate();
            cells.map(move |(step, cell)| (StepKey { scope, step: step as u32 }, cell.status))
        })
    }

    /// The outermost steps as a picture, with what has become of them.
    #[must_use]
    pub fn drawing(&self) -> Drawing<'_> {
        Drawing::of(&self.root.body.plan).status(|step| {
            self.root
                .cells
                .get(step as usize)
                .map_or(StepStatus::Pending, |cell| cell.status)
                .into()
        })
    }

    #[inline]
    fn scope(&self, scope: u32) -> Option<&Scope> {
        if scope == 0 { Some(&self.root) } else { self.inner.get(&scope) }
    }

    /// The outermost scope of the workflow that a scope belongs to: the run's, or the one of a
    /// sub-workflow or compensation, which has an input and variables of its own.
    fn workflow_of(&self, scope: u32) -> u32 {
        let mut at = scope;
        while let Some(scope) = self.scope(at).filter(|scope| scope.own.is_none()) {
            match scope.parent {
                Some(parent) => at = parent.scope,
                None => break,
            }
        }
        at
    }

    #[inline]
    fn scope_mut(&mut self, scope: u32) -> Option<&mut Scope> {
        scope_in(&mut self.root, &mut self.inner, scope)
    }

    #[inline]
    fn cell(&self, step: StepKey) -> Option<&Cell> {
        self.scope(step.scope)?.cells.get(step.step as usize)
    }

    #[inline]
    fn cell_mut(&mut self, step: StepKey) -> Option<&mut Cell> {
        self.scope_mut(step.scope)?.cells.get_mut(step.step as usize)
    }
}

/// The same for callers that have the rest of the state in hand.
#[inline]
fn scope_in<'a>(
    root: &'a mut Scope,
    inner: &'a mut BTreeMap<u32, Scope>,
    scope: u32,
) -> Option<&'a mut Scope> {
    if scope == 0 { Some(root) } else { inner.get_mut(&scope) }
}
