//! One turn: a command, and everything that follows from it, until nothing moves.

use std::sync::Arc;
use std::time::Duration;

use super::RunState;
use super::bounds;
use super::command::{Command, Rejection, Report, RetryAllowance};
use super::join::{self, Verdict};
use super::scope::TimerKind;
use crate::error::{ErrorClass, Failure};
use crate::id::StepKey;
use crate::journal::{
    CancelReason, Event, FailedAttempt, Operation, Outcome, Reason, Recorded, RunStarted,
    SkipReason, StepStatus,
};
use crate::retry::{self, GiveUp, RetryDecision, Seed};
use crate::time::Timestamp;
use crate::value::Value;
use crate::workflow::{FailurePolicy, Node, NodeKind};

pub(super) struct Turn<'a> {
    pub(super) state: &'a mut RunState,
    pub(super) now: Timestamp,
    events: &'a mut Vec<Recorded>,
    /// How many there were before.
    begin: usize,
    /// What events hold that weighs as much as events: lists of items.
    pub(super) listed: usize,
}

/// What is left to look at.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// A step may have become startable.
    Consider(StepKey),
    /// A step has ended: look at those that wait for it, and at its scope.
    Ended(StepKey),
    /// A composite step has a body less.
    Continue(StepKey),
    /// A scope that has ended badly has one step less to undo.
    Undo(u32),
}

impl<'a> Turn<'a> {
    pub(super) const fn new(
        state: &'a mut RunState,
        now: Timestamp,
        events: &'a mut Vec<Recorded>,
    ) -> Self {
        let begin = events.len();
        Self { state, now, events, begin, listed: 0 }
    }

    pub(super) fn take(mut self, command: Command) -> Result<(), Rejection> {
        if matches!(&command, Command::Signal(signal) if self.state.has_heard(signal)) {
            return Ok(());
        }
        match self.is_open() {
            Err(Rejection::Finished) if reopens(&command) => {}
            Err(Rejection::NotStarted) if matches!(command, Command::Start { .. }) => {}
            is_open => is_open?,
        }
        bounds::check(&command)?;
        match command {
            Command::Start { input, variables, seed, grace } => {
                self.start(input, variables, seed, grace)?;
            }
            Command::Dispatch { step } => return self.take_dispatch(step),
            Command::Report { step, attempt, result } => {
                return self.take_report(step, attempt, result);
            }
            Command::Lose { step, attempt } => self.lose(step, attempt)?,
            Command::Tick { retry } => self.tick(retry),
            Command::Signal(signal) => self.signal(signal)?,
            Command::Vote { approval, vote } => self.vote(&approval, *vote)?,
            Command::Quarantine { recoveries } => self.emit(Event::RunQuarantined { recoveries }),
            Command::Pause(by) => self.pause(by)?,
            Command::Resume(by) => self.resume(by)?,
            Command::Operate { operation, by } => self.operate(operation, by)?,
            Command::Cancel { by, grace } => self.cancel(by, grace)?,
            Command::Terminate(reason) => self.terminate(reason),
        }
        self.settle();
        Ok(())
    }

    /// [`Command::Dispatch`].
    pub(super) fn take_dispatch(mut self, step: StepKey) -> Result<(), Rejection> {
        self.is_open()?;
        // Nothing follows from the start of a task.
        if !self.dispatch(step)? {
            self.settle();
        }
        Ok(())
    }

    /// [`Command::Report`].
    pub(super) fn take_report(
        mut self,
        step: StepKey,
        attempt: u32,
        result: Report,
    ) -> Result<(), Rejection> {
        self.is_open()?;
        self.report(step, attempt, result)?;
        self.settle();
        Ok(())
    }

    /// Whether the run has begun and not ended.
    fn is_open(&self) -> Result<(), Rejection> {
        match (&self.state.outcome, &self.state.started) {
            (Some(_), _) => Err(Rejection::Finished),
            (None, None) => Err(Rejection::NotStarted),
            (None, Some(_)) => Ok(()),
        }
    }

    /// The one way to change anything. Inlined, so that an event is made where it stays.
    #[inline]
    pub(super) fn emit(&mut self, event: Event) {
        self.events.push(Recorded { at: self.now, event });
        if let Some(last) = self.events.last() {
            self.state.apply(self.now, &last.event);
        }
    }

    /// Events of this turn so far, eight items of a list counting as one.
    pub(super) fn emitted(&self) -> usize {
        self.events.len() - self.begin + self.listed / 8
    }

    pub(super) fn push(&mut self, work: Work) {
        self.state.work.push_back(work);
    }

    /// Ends a step with this event, and looks at what follows.
    #[inline]
    pub(super) fn end(&mut self, step: StepKey, event: Event) {
        self.emit(event);
        self.push(Work::Ended(step));
    }

    fn settle(&mut self) {
        loop {
            while let Some(work) = self.state.work.pop_front() {
                if self.state.outcome.is_some() {
                    return self.state.work.clear();
                }
                match work {
                    Work::Consider(step) => self.consider(step),
                    Work::Ended(step) => self.ended(step),
                    Work::Continue(step) => self.go_on(step),
                    Work::Undo(scope) => self.undo(scope),
                }
            }
            if !self.ask_waiting_conditions() {
                break;
            }
        }
    }

    fn start(
        &mut self,
        input: Value,
        variables: Value,
        seed: u64,
        grace: Duration,
    ) -> Result<(), Rejection> {
        if self.state.started.is_some() {
            return Err(Rejection::AlreadyStarted);
        }
        let unit = self.state.program.unit(0);
        let deadline = self.now + unit.limits.max_duration;
        let started = RunStarted { input, variables, seed, deadline, grace };
        self.emit(Event::RunStarted(Box::new(started)));
        self.begin_scope(0);
        Ok(())
    }

    /// Looks at every step of a new scope that waits for nothing.
    pub(super) fn begin_scope(&mut self, scope: u32) {
        let Some(plan) = self.state.scope(scope).map(|here| Arc::clone(&here.body.plan)) else {
            return;
        };
        for step in plan.roots() {
            self.push(Work::Consider(StepKey { scope, step }));
        }
    }

    /// Starts, skips or leaves a step, as its join rule says.
    fn consider(&mut self, step: StepKey) {
        let Some(scope) = self.state.scope(step.scope) else {
            return;
        };
        let body = &scope.body;
        let Some(cell) = scope.cells.get(step.step as usize) else {
            return;
        };
        if cell.status != StepStatus::Pending {
            return;
        }
        let node = body.node(step.step);
        // What it only reads must be over, too; the rule does not count that.
        if cell.over < node.reads {
            return;
        }
        let total = body.plan.predecessors(step.step).len() as u32 - node.reads;
        let (trigger, conditional) = (node.trigger, node.when.is_some());
        let stopping = scope.stopping && !node.cleans_up;
        if node.finally && self.undoes_first(step.scope) {
            return;
        }
        let Some(cell) = self.state.cell(step) else {
            return;
        };
        match join::verdict(trigger, total, cell.met, cell.failed, cell.missed) {
            Verdict::Wait => {}
            Verdict::Skip => {
                let reason = SkipReason::Upstream;
                self.end(step, Event::StepSkipped { step, reason });
            }
            Verdict::Start if stopping => {
                let reason = CancelReason::Stopping;
                self.end(step, Event::StepCancelled { step, reason });
            }
            Verdict::Start if conditional => self.reach_if(step),
            Verdict::Start => self.reach(step),
        }
    }

    fn reach_if(&mut self, step: StepKey) {
        let holds = match self.state.node(step).and_then(|node| node.when.as_ref()) {
            Some(when) => when.is_true(&self.view(step)),
            None => Ok(true),
        };
        match holds {
            Ok(true) => self.reach(step),
            Ok(false) => {
                let reason = SkipReason::Condition;
                self.end(step, Event::StepSkipped { step, reason });
            }
            Err(error) => self.fail(step, ErrorClass::Validation, format!("`when`: {error}")),
        }
    }

    /// Everything that a step waited for is there.
    fn reach(&mut self, step: StepKey) {
        let Some(node) = self.state.node(step) else {
            return;
        };
        let (ready, locked, rest) = (is_task(node), !node.locks().is_empty(), node.cancel_rest);
        if rest {
            self.cancel_rest(step);
        }
        if locked && let Err(wrong) = self.state.locks(step, self.now) {
            return self.fail(step, ErrorClass::Validation, wrong);
        }
        if ready || locked {
            self.emit(Event::StepReady { step });
        } else {
            self.begin(step);
        }
    }

    fn cancel_rest(&mut self, step: StepKey) {
        let Some(scope) = self.state.scope(step.scope) else {
            return;
        };
        let before = scope.body.plan.predecessors(step.step);
        let open: Vec<StepKey> = before
            .iter()
            .map(|link| StepKey { scope: step.scope, step: link.step })
            .filter(|key| self.state.step_status(*key).is_some_and(|status| !status.is_end()))
            .collect();
        for step in open {
            self.stop(step, CancelReason::Rest);
        }
    }

    /// Stops a step: what runs is asked to, everything else just ends.
    pub(super) fn stop(&mut self, step: StepKey, reason: CancelReason) {
        let (Some(cell), Some(node)) = (self.state.cell(step), self.state.node(step)) else {
            return;
        };
        if cell.status.is_end() {
            return;
        }
        if cell.status != StepStatus::Running {
            return self.end(step, Event::StepCancelled { step, reason });
        }
        let more = cell.more.as_ref();
        if more.is_some_and(|more| more.cancel.is_some()) {
            return;
        }
        let bodies = cell.bodies().filter(|_| !is_task(node));
        let bodies = bodies.map_or_else(Vec::new, |bodies| bodies.open.clone());
        let grace = self.state.started.as_ref().map_or(Duration::ZERO, |start| start.grace);
        let deadline = self.now + grace;
        self.emit(Event::StepCancelRequested { step, deadline, reason });
        // A composite step ends with its bodies.
        bodies.into_iter().for_each(|body| self.stop_scope(body, reason));
    }

    /// Stops everything in a scope but what cleans up.
    pub(super) fn stop_scope(&mut self, number: u32, reason: CancelReason) {
        let Some(scope) = self.state.scope(number).filter(|scope| !scope.stopping) else {
            return;
        };
        let steps = scope.cells.iter().zip(&scope.body.nodes).enumerate();
        let open: Vec<StepKey> = steps
            .filter(|(_, (cell, node))| !cell.status.is_end() && !node.cleans_up)
            .map(|(step, _)| StepKey { scope: number, step: step as u32 })
            .collect();
        if open.is_empty() {
            return;
        }
        self.emit(Event::ScopeStopping { scope: number });
        open.into_iter().for_each(|step| self.stop(step, reason));
    }

    /// Whether nothing more is to be begun for a step.
    pub(super) fn is_stopped(&self, step: StepKey) -> bool {
        let asked = self.state.cell(step).and_then(|cell| cell.more.as_ref()?.cancel).is_some();
        let cleans_up = self.state.node(step).is_some_and(|node| node.cleans_up);
        asked || (!cleans_up && self.state.scope(step.scope).is_some_and(|scope| scope.stopping))
    }

    /// Starts a ready step. Whether nothing follows from that.
    fn dispatch(&mut self, step: StepKey) -> Result<bool, Rejection> {
        if self.state.paused.is_some() {
            return Err(Rejection::Paused);
        }
        let Some(cell) = self.state.cell(step) else { return Err(Rejection::UnknownStep) };
        if cell.status != StepStatus::Ready {
            return Err(Rejection::NotReady(cell.status));
        }
        let attempt = cell.attempt.saturating_add(1);
        if self.state.node(step).is_some_and(is_task) {
            self.emit(Event::StepStarted { step, attempt });
            return Ok(true);
        }
        // It was ready for its locks only.
        self.begin(step);
        Ok(false)
    }

    fn begin(&mut self, step: StepKey) {
        match self.state.node(step).map(|node| &node.kind) {
            Some(NodeKind::Wait(_)) => self.begin_wait(step),
            _ => self.begin_composite(step),
        }
    }

    fn report(&mut self, step: StepKey, attempt: u32, result: Report) -> Result<(), Rejection> {
        self.runs(step, attempt)?;
        match (result, self.state.cancel_reason(step)) {
            // What was done is done, even by a step that was asked to stop.
            (Report::Succeeded(output), _) => self.succeed(step, output),
            (Report::Failed { failure, .. }, _) if self.state.leaves_open(step, &failure) => {
                self.unknown(step, *failure);
            }
            (_, Some(reason)) => self.end(step, Event::StepCancelled { step, reason }),
            (Report::Failed { failure, retry }, None) => self.attempt_failed(step, failure, retry),
            (Report::Suspended(suspension), None) => {
                let prompt = self.fits_in(suspension.prompt.bytes());
                let prompt = prompt.map_err(|wrong| format!("the prompt {wrong}"));
                let name = bounds::signal_name(&suspension.signal);
                let name = name.map_err(|wrong| wrong.to_string());
                match prompt.and(name) {
                    Ok(()) => self.suspend(step, *suspension),
                    Err(wrong) => self.fail(step, ErrorClass::Validation, wrong),
                }
            }
        }
        Ok(())
    }

    /// Whether a task is at this attempt.
    pub(super) fn runs(&self, step: StepKey, attempt: u32) -> Result<(), Rejection> {
        let Some(cell) = self.state.cell(step) else { return Err(Rejection::UnknownStep) };
        if cell.status != StepStatus::Running || !self.state.is_task(step) {
            return Err(Rejection::NotRunning(cell.status));
        }
        if cell.attempt != attempt {
            return Err(Rejection::WrongAttempt { expected: cell.attempt, given: attempt });
        }
        Ok(())
    }

    fn attempt_failed(
        &mut self,
        step: StepKey,
        mut failure: Box<Failure>,
        allowance: RetryAllowance,
    ) {
        let (Some(cell), Some(node)) = (self.state.cell(step), self.state.node(step)) else {
            return;
        };
        let failures = cell.more.as_ref().map_or(0, |more| more.failures) + 1;
        let previous = cell.more.as_ref().map_or_else(Default::default, |more| more.delay);
        let attempt = cell.attempt;
        let seed = self.state.started.as_ref().map_or(0, |start| start.seed);
        // What was refused after it had begun is not begun again, whatever the policy says.
        let once = node.at_most_once().is_some() && !failure.nothing_done;
        let final_one = once || self.is_stopped(step);
        let decision = node.retry.as_ref().filter(|_| !final_one).map(|config| {
            let seed = Seed::of(seed, step, attempt);
            retry::decide(config, failures, previous, &failure, seed)
        });
        match (decision, allowance) {
            (Some(RetryDecision::RetryAfter(delay)), RetryAllowance::Allowed) => {
                let retry_at = self.now + delay;
                let failure = *failure;
                let failed = Box::new(FailedAttempt { attempt, failure, delay, retry_at });
                self.emit(Event::AttemptFailed { step, failed });
            }
            (Some(RetryDecision::RetryAfter(_)), RetryAllowance::Denied) => {
                failure.causes.push(GiveUp::BudgetExhausted.to_string());
                self.end(step, Event::StepFailed { step, failure });
            }
            (Some(RetryDecision::GiveUp(_)) | None, _) => {
                self.end(step, Event::StepFailed { step, failure });
            }
        }
    }

    /// Fails a step for a reason of its definition, without another attempt.
    pub(super) fn fail(&mut self, step: StepKey, class: ErrorClass, message: impl Into<String>) {
        let failure = Box::new(Failure::new(class, message));
        self.end(step, Event::StepFailed { step, failure });
    }

    fn tick(&mut self, retry: RetryAllowance) {
        if self.state.limit().is_some_and(|at| at <= self.now) {
            self.emit(Event::RunLimitReached);
            self.stop_scope(0, CancelReason::TimedOut);
            self.settle();
        }
        // Each is forgotten by the event that it causes, so that a replay forgets it too.
        let due: Vec<_> =
            self.state.timers.iter().copied().take_while(|(at, ..)| *at <= self.now).collect();
        for timer in due {
            // What one timer starts may end what the next is about.
            if self.state.timers.contains(&timer) && self.state.outcome.is_none() {
                self.fire(timer.1, timer.2, retry);
                self.settle();
            }
        }
    }

    fn fire(&mut self, step: StepKey, kind: TimerKind, retry: RetryAllowance) {
        let Some(cell) = self.state.cell(step) else {
            return;
        };
        let (attempt, status) = (cell.attempt, cell.status);
        match kind {
            TimerKind::Retry if status == StepStatus::Retrying => {
                self.emit(Event::StepReady { step });
            }
            TimerKind::AttemptTimeout if status == StepStatus::Running => {
                let failure =
                    Box::new(Failure::new(ErrorClass::Timeout, "the attempt took too long"));
                let result = Report::Failed { failure, retry };
                // Refused only if it ended in between, and then there is nothing to do.
                let _ = self.report(step, attempt, result);
            }
            TimerKind::ForcedCancel | TimerKind::StepTimeout
                if self.state.is_once(step, status) =>
            {
                let took = match kind {
                    TimerKind::StepTimeout => Failure::new(ErrorClass::Timeout, TOOK_TOO_LONG),
                    _ => Failure::new(ErrorClass::Cancelled, "it was stopped while it ran"),
                };
                self.unknown(step, took);
            }
            TimerKind::ForcedCancel if !status.is_end() => {
                let reason = self.state.cancel_reason(step).unwrap_or(CancelReason::Rest);
                self.end(step, Event::StepCancelled { step, reason });
            }
            // What runs inside has to stop first.
            TimerKind::StepTimeout if cell.bodies().is_some_and(|b| !b.open.is_empty()) => {
                self.stop(step, CancelReason::TimedOut);
            }
            TimerKind::StepTimeout if !status.is_end() => {
                self.fail(step, ErrorClass::Timeout, TOOK_TOO_LONG);
            }
            TimerKind::Wait if status == StepStatus::Waiting => self.wait_is_over(step),
            _ => {}
        }
    }

    fn pause(&mut self, by: Box<Reason>) -> Result<(), Rejection> {
        if self.state.stopping.is_some() {
            return Err(Rejection::Stopping);
        }
        if self.state.paused.is_some() {
            return Err(Rejection::Paused);
        }
        self.emit(Event::RunPaused { by });
        Ok(())
    }

    fn resume(&mut self, by: Box<Reason>) -> Result<(), Rejection> {
        // A run that is stopping is not paused, but what cleans up in it can be in quarantine.
        let quarantined = self.state.quarantined.then_some(self.now);
        let since = self.state.paused.or(quarantined).ok_or(Rejection::NotPaused)?;
        let deadline = self.state.started.as_ref().map_or(Timestamp::MAX, |start| start.deadline);
        let deadline = deadline + self.now.since(since);
        self.emit(Event::RunResumed { by, deadline });
        Ok(())
    }

    fn cancel(&mut self, by: Box<Reason>, grace: Option<Duration>) -> Result<(), Rejection> {
        if self.state.stopping.is_some() {
            return Err(Rejection::Stopping);
        }
        self.emit(Event::RunCancelRequested { by, grace: grace.map(Box::new) });
        self.stop_scope(0, CancelReason::Run);
        Ok(())
    }

    fn terminate(&mut self, by: Box<Reason>) {
        self.emit(Event::RunTerminated { by });
        let outcome = Box::new(Outcome::Cancelled);
        self.emit(Event::RunFinished { outcome });
    }

    /// A failure that no edge leads on from stops the steps beside it, if the workflow wants that.
    /// The composite step around them fails then, and it is asked again there, up to the border of
    /// the workflow.
    pub(super) fn stop_after(&mut self, step: StepKey) {
        if self.fails_fast(step) && !super::end::may_be_caught(self.state, step) {
            self.stop_scope(step.scope, CancelReason::Stopping);
        }
    }

    /// One body of a composite step has failed, and so will the step.
    pub(super) fn stop_other_bodies(&mut self, step: StepKey) {
        if self.fails_fast(step) {
            let bodies = self.state.cell(step).and_then(|cell| cell.bodies());
            let open = bodies.map_or_else(Vec::new, |bodies| bodies.open.clone());
            open.into_iter().for_each(|body| self.stop_scope(body, CancelReason::Stopping));
        }
    }

    fn fails_fast(&self, step: StepKey) -> bool {
        self.state.unit(step).is_some_and(|unit| unit.on_failure == FailurePolicy::FailFast)
    }
}

/// What is kept of a run that has ended can be sealed anew, too.
fn reopens(command: &Command) -> bool {
    matches!(command, Command::Operate { operation, .. }
        if operation.reopens() || matches!(**operation, Operation::Reseal { .. }))
}

/// Why a step has failed that its time limit ended.
pub(super) const TOOK_TOO_LONG: &str = "the step took longer than its time limit";

pub(super) const fn is_task(node: &Node) -> bool {
    matches!(node.kind, NodeKind::Task { .. })
}

/// Whether a step has the same body many times, so that paths need its number.
pub(super) const fn repeats(node: &Node) -> bool {
    matches!(node.kind, NodeKind::ForEach { .. } | NodeKind::Loop { .. })
}
