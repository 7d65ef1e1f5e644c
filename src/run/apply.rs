//! The only code that changes a state: one event at a time.

use std::sync::Arc;

use super::join::Ended;
use super::scope::{Bodies, Cell, ItemEnd, Own, Scope, TimerKind};
use super::snapshot::Made;
use super::{PAST_FAILURES_MAX, RunState, Start, join, scope_in};
use crate::id::StepKey;
use crate::journal::{Event, Outcome, Reason, ScopeOpened, StepStatus, Waiting};
use crate::time::Timestamp;
use crate::value::Value;
use crate::workflow::{Node, NodeKind};

impl RunState {
    /// Applies an event. Total: an event that does not fit changes nothing but the version.
    pub fn apply(&mut self, at: Timestamp, event: &Event) {
        self.version += 1;
        if self.has_locks {
            self.note_release(event);
        }
        match event {
            // Nearly all events are these.
            Event::StepReady { step } => {
                self.clear_timers(*step);
                self.set(*step, StepStatus::Ready, at);
            }
            Event::StepStarted { step, attempt } => self.started(*step, *attempt, at),
            Event::StepSucceeded { step, output } => self.succeeded(*step, output, at),
            other => self.apply_other(at, other),
        }
    }

    fn apply_other(&mut self, at: Timestamp, event: &Event) {
        self.bytes = self.bytes.saturating_add(event.bytes());
        self.note_blobs(event);
        match event {
            Event::RunStarted(started) => {
                self.started = Some(Start {
                    input: started.input.clone(),
                    variables: started.variables.clone(),
                    seed: started.seed,
                    at,
                    deadline: started.deadline,
                    grace: started.grace,
                });
            }
            Event::AttemptFailed { step, failed } => {
                self.clear_attempt_timers(*step);
                if let Some(cell) = self.cell_mut(*step) {
                    let more = cell.more();
                    more.failures += 1;
                    more.delay = failed.delay;
                    more.remember(failed.attempt, at, failed.failure.clone());
                }
                self.set(*step, StepStatus::Retrying, at);
                self.set_timer(*step, failed.retry_at, TimerKind::Retry);
            }
            Event::StepOutcomeUnknown { step, failure } => {
                self.clear_timers(*step);
                self.clear_step_timer(*step);
                if let Some(cell) = self.cell_mut(*step) {
                    let (attempt, failure) = (cell.attempt, (**failure).clone());
                    cell.more().remember(attempt, at, failure);
                }
                self.set(*step, StepStatus::OutcomeUnknown, at);
            }
            Event::StepFailed { step, failure } => {
                if self.ended(*step, Ended::Badly(failure.class), at)
                    && let Some(cell) = self.cell_mut(*step)
                {
                    let attempt = cell.attempt;
                    let more = cell.more();
                    more.failures += 1;
                    let failure = (**failure).clone();
                    more.remember(attempt, at, failure.clone());
                    more.failure = Some(failure);
                }
            }
            Event::StepSkipped { step, reason } => {
                let _ = self.ended(*step, Ended::As(StepStatus::Skipped(*reason)), at);
            }
            Event::StepCancelRequested { step, deadline, reason } => {
                if let Some(cell) = self.cell_mut(*step) {
                    cell.more().cancel = Some(*reason);
                }
                self.clear_step_timer(*step);
                // A composite step ends with its bodies, and they with what cleans up in them.
                if self.node(*step).is_some_and(super::turn::is_task) {
                    self.set_timer(*step, *deadline, TimerKind::ForcedCancel);
                }
            }
            Event::StepCancelled { step, reason } => {
                if self.ended(*step, Ended::As(StepStatus::Cancelled), at)
                    && let Some(cell) = self.cell_mut(*step)
                {
                    cell.more().cancel = Some(*reason);
                }
            }
            Event::WaitStarted { step, wait } => {
                self.set(*step, StepStatus::Waiting, at);
                if let Some(limit) = self.node(*step).and_then(|node| node.timeout) {
                    self.set_timer(*step, at + limit, TimerKind::StepTimeout);
                }
                self.wait(*step, (**wait).clone());
            }
            Event::StepSuspended { step, suspended } => {
                self.clear_attempt_timers(*step);
                self.set(*step, StepStatus::Waiting, at);
                let signal = suspended.suspension.signal.clone();
                self.wait(*step, Waiting::Signal(signal, suspended.until));
            }
            Event::SignalReceived { signal } => {
                self.hear(signal);
                self.expected_mut().signals.push_back((**signal).clone());
            }
            Event::SignalTaken { step, signal } => {
                self.hear(signal);
                // Taken from the kept ones, unless it went straight to the step that waited.
                if let Some(expected) = &mut self.expected
                    && let Some(at) = expected.signals.iter().position(|kept| *kept == **signal)
                {
                    expected.signals.remove(at);
                }
                self.forget_waits(*step);
                if let Some(cell) = self.cell_mut(*step) {
                    cell.more().signal = Some(signal.payload.clone());
                }
            }
            Event::VariablesSet { step, values } => self.set_variables(*step, values),
            Event::Voted { step, vote } => self.count_vote(*step, vote),
            Event::ItemsListed { step, items } => {
                if let Some(cell) = self.cell_mut(*step) {
                    let count = items.as_array().map_or(0, Vec::len);
                    cell.more().bodies.outputs = vec![Value::NULL; count];
                    cell.more().bodies.ends = vec![ItemEnd::Open; count];
                    cell.more().bodies.items = items.clone();
                }
            }
            Event::StepsMade { step, unit, steps } => self.make(*step, *unit, steps),
            Event::ScopeOpened { scope, opened } => self.open_scope(*scope, opened),
            Event::ScopeClosed { scope, outcome } => self.close_scope(*scope, outcome),
            Event::ScopeStopping { scope } => {
                if let Some(scope) = self.scope_mut(*scope) {
                    scope.stopping = true;
                }
            }
            Event::ScopeCompensating { scope, outcome } => {
                if let Some(scope) = self.scope_mut(*scope) {
                    scope.ending = Some(outcome.clone());
                }
            }
            Event::CompensationStarted { scope, of } => self.open_compensation(*scope, *of),
            Event::RunPaused { by } => {
                (self.paused, self.asked_by) = (Some(at), Some(by.clone()));
            }
            Event::RunQuarantined { .. } => {
                self.quarantined = true;
                if self.stopping.is_none() {
                    self.paused.get_or_insert(at);
                }
            }
            Event::RunResumed { deadline, .. } => {
                (self.paused, self.quarantined) = (None, false);
                if let Some(start) = &mut self.started {
                    start.deadline = *deadline;
                }
            }
            Event::RunCancelRequested { by, grace } => {
                if let (Some(grace), Some(start)) = (grace, &mut self.started) {
                    start.grace = **grace;
                }
                self.stop_for(by.clone());
            }
            Event::RunTerminated { by } => self.stop_for(by.clone()),
            Event::RunLimitReached => self.stopping = Some(Outcome::TimedOut.into()),
            Event::Operated { .. } => {}
            Event::WorkflowModified(modified) => self.modify(modified, at),
            Event::SecretsResealed { replaced } => self.reseal(replaced),
            Event::RunReopened { deadline } => self.reopen(*deadline, at),
            Event::StepReset { step, failed_items } => self.reset(*step, *failed_items, at),
            Event::RunFinished { outcome } => self.finish(outcome, at),
            // Dealt with before.
            Event::StepReady { .. } | Event::StepStarted { .. } | Event::StepSucceeded { .. } => {}
        }
    }

    fn succeeded(&mut self, step: StepKey, output: &Value, at: Timestamp) {
        self.bytes = self.bytes.saturating_add(output.bytes());
        self.note_blobs_in(output, self.version);
        // Bodies inside are done with, and what they owe is owed here.
        if self.ended(step, Ended::As(StepStatus::Succeeded), at)
            && let Some(Scope { body, cells, .. }) = self.scope_mut(step.scope)
            && let Some(cell) = cells.get_mut(step.step as usize)
        {
            cell.output = output.clone();
            if let Some(undo) = body.node(step.step).compensation() {
                self.owe(step, undo, output, at);
            }
        }
    }

    fn started(&mut self, step: StepKey, attempt: u32, at: Timestamp) {
        let Some((cell, node)) = self.set(step, StepStatus::Running, at) else {
            return;
        };
        cell.attempt = attempt;
        let first = cell.more.as_ref().map_or(1, |more| more.first.max(1));
        let (limit, limit_of_all) = (node.attempt_timeout, node.timeout);
        if let Some(limit) = limit {
            self.set_timer(step, at + limit, TimerKind::AttemptTimeout);
        }
        // All attempts together: the clock runs from the first.
        if let Some(limit) = limit_of_all.filter(|_| attempt == first) {
            self.set_timer(step, at + limit, TimerKind::StepTimeout);
        }
    }

    /// Sets a status and keeps what is counted and queued by status; the step, if it was there and had
    /// not ended.
    fn set(
        &mut self,
        step: StepKey,
        status: StepStatus,
        at: Timestamp,
    ) -> Option<(&mut Cell, &Node)> {
        let scope = scope_in(&mut self.root, &mut self.inner, step.scope)?;
        let at_step = step.step as usize;
        let (cell, node) = (scope.cells.get_mut(at_step)?, scope.body.nodes.get(at_step)?);
        if cell.status.is_end() {
            return None;
        }
        let before = std::mem::replace(&mut cell.status, status);
        cell.since = at;
        let count = &mut self.counts[before.slot()];
        *count = count.saturating_sub(1);
        self.counts[status.slot()] += 1;
        if before == StepStatus::Running || status == StepStatus::Running {
            let task = super::turn::is_task(node);
            self.tasks_running += u32::from(task && status == StepStatus::Running);
            let ran = u32::from(task && before == StepStatus::Running);
            self.tasks_running = self.tasks_running.saturating_sub(ran);
        }
        if before == StepStatus::Ready {
            self.ready.remove(step, node.priority);
        }
        if status == StepStatus::Ready {
            self.ready.push(step, node.priority);
        }
        Some((cell, node))
    }

    /// Ends a step, drops what it still had open, and tells the steps that wait for it. Whether the
    /// step was there and had not ended.
    fn ended(&mut self, step: StepKey, end: Ended, at: Timestamp) -> bool {
        let status = end.status();
        let Some(cell) = self.cell_mut(step) else {
            return false;
        };
        if cell.status.is_end() {
            return false;
        }
        if cell.more.is_some() {
            self.clear_timers(step);
            self.clear_step_timer(step);
            self.forget_waits(step);
            self.abandon(step);
        }
        self.set(step, status, at);
        let Some(Scope { open, body, cells, .. }) = self.scope_mut(step.scope) else {
            return false;
        };
        *open = open.saturating_sub(1);
        for link in body.plan.successors(step.step) {
            if let Some(next) = cells.get_mut(link.step as usize) {
                *next.count(join::meaning(body, step.step, *link, end)) += 1;
            }
        }
        true
    }

    fn open_scope(&mut self, number: u32, opened: &ScopeOpened) {
        if number != self.scopes_opened || self.cell(opened.parent).is_none() {
            return;
        }
        let Some(mut scope) = Scope::new(&self.program, opened.unit, opened.body) else {
            return;
        };
        scope.parent = Some(opened.parent);
        scope.index = opened.index;
        scope.depth = self.scope(opened.parent.scope).map_or(0, |outer| outer.depth);
        let sub_workflow =
            |node: &crate::workflow::Node| matches!(node.kind, NodeKind::Workflow { .. });
        if self.node(opened.parent).is_some_and(sub_workflow) {
            scope.depth += 1;
            let (input, variables) = (opened.input.clone(), opened.variables.clone());
            scope.own = Some(Box::new(Own { input, variables }));
        }
        self.add_scope(number, scope);
        if let Some(cell) = self.cell_mut(opened.parent) {
            let bodies = &mut cell.more().bodies;
            bodies.begin(number, opened.index);
        }
    }

    /// Adds steps that were made to the program.
    fn make(&mut self, step: StepKey, unit: u32, steps: &Value) {
        let (Some(of), Some(node)) = (self.unit(step), self.node(step)) else {
            return;
        };
        let NodeKind::Dynamic { workflows, .. } = &node.kind else {
            return;
        };
        // They were compiled before this was recorded.
        if unit as usize == self.program.units().len()
            && let Ok(made) = of.dynamic(steps, workflows)
        {
            let (of, may_run, steps) = (self.unit_index(step), workflows.clone(), steps.clone());
            self.program = Arc::new(self.program.with(made, of));
            self.made.push(Made::Steps { of, may_run, steps });
            self.has_locks = self.program.has_locks();
            if let Some(cell) = self.cell_mut(step) {
                cell.more().bodies.made = unit;
            }
        }
    }

    pub(super) fn add_scope(&mut self, number: u32, scope: Scope) {
        self.counts[StepStatus::Pending.slot()] += scope.open;
        self.inner.insert(number, scope);
        self.scopes_opened = self.scopes_opened.max(number.saturating_add(1));
    }

    fn close_scope(&mut self, number: u32, outcome: &Outcome) {
        let Some(scope) = self.inner.get_mut(&number) else {
            return;
        };
        let (parent, index) = (scope.parent, scope.index);
        // What is kept of it is told by the path that this gives it.
        let (owed, undoes) = (std::mem::take(&mut scope.owed), scope.undoes.clone());
        self.drop_scope(number);
        if let Some(undoes) = undoes {
            return self.close_compensation(&undoes, outcome);
        }
        if let Some(parent) = parent {
            self.hand_on(owed, parent);
        }
        let Some(cell) = parent.and_then(|parent| self.cell_mut(parent)) else {
            return;
        };
        let Bodies { open, outputs, ends, well, badly, last, bad, .. } = &mut cell.more().bodies;
        open.retain(|other| *other != number);
        if let Some(end) = ends.get_mut(index as usize)
            && *end == ItemEnd::Open
        {
            let ended_well = matches!(outcome, Outcome::Succeeded(_));
            *end = if ended_well { ItemEnd::Well } else { ItemEnd::Badly };
            *(if ended_well { well } else { badly }) += 1;
        }
        match outcome {
            Outcome::Succeeded(output) => {
                if let Some(place) = outputs.get_mut(index as usize) {
                    *place = output.clone();
                }
                *last = output.clone();
            }
            other => {
                bad.get_or_insert_with(|| other.clone());
                self.note_whether_lost(parent);
            }
        }
    }

    fn note_whether_lost(&mut self, parent: Option<StepKey>) {
        let lost = |step: &StepKey| self.tally(*step).is_some_and(|(_, tally)| tally.is_lost());
        if let Some(cell) = parent.filter(lost).and_then(|parent| self.cell_mut(parent)) {
            cell.more().bodies.lost = true;
        }
    }

    /// Drops every body that a step still has open, and theirs.
    pub(super) fn abandon(&mut self, step: StepKey) {
        let mut open = match self.cell_mut(step) {
            Some(cell) => std::mem::take(&mut cell.more().bodies.open),
            None => return,
        };
        let mut at = 0;
        while let Some(number) = open.get(at).copied() {
            if let Some(scope) = self.inner.get(&number) {
                let bodies = scope.cells.iter().filter_map(|cell| cell.bodies());
                open.extend(bodies.flat_map(|bodies| &bodies.open));
                if scope.ending.is_some() {
                    let undoing = |(_, other): &(&u32, &Scope)| {
                        other.undoes.as_ref().is_some_and(|undoes| undoes.of == number)
                    };
                    open.extend(self.inner.iter().filter(undoing).map(|(number, _)| *number));
                }
            }
            at += 1;
        }
        // What was done in them is still to be undone.
        for number in &open {
            let owed = self.inner.get_mut(number).map(|scope| std::mem::take(&mut scope.owed));
            self.hand_on(owed.unwrap_or_default(), step);
        }
        // The innermost first: the path of what failed leads through those around it.
        open.into_iter().rev().for_each(|number| self.drop_scope(number));
    }

    /// Forgets a scope with everything that is kept about its steps elsewhere.
    fn drop_scope(&mut self, number: u32) {
        let steps = self.inner.get(&number).map_or(0, |scope| scope.cells.len() as u32);
        for step in (0..steps).map(|step| StepKey { scope: number, step }) {
            if self.cell(step).is_some_and(|cell| cell.more.is_some()) {
                self.clear_timers(step);
                self.clear_step_timer(step);
                self.forget_waits(step);
            }
        }
        self.keep_failures(number);
        if self.has_locks {
            self.release_scope(number);
        }
        let Some(scope) = self.inner.remove(&number) else {
            return;
        };
        if let Some(changed) = &mut self.changed {
            changed.forget(number);
        }
        let mut queued = false;
        for (cell, node) in scope.cells.iter().zip(&scope.body.nodes) {
            let running = cell.status == StepStatus::Running && super::turn::is_task(node);
            self.tasks_running = self.tasks_running.saturating_sub(u32::from(running));
            // Ends stay counted: they are progress that was made.
            if !cell.status.is_end() {
                let count = &mut self.counts[cell.status.slot()];
                *count = count.saturating_sub(1);
                self.counts[StepStatus::Cancelled.slot()] += 1;
            }
            queued |= cell.status == StepStatus::Ready;
        }
        if queued {
            self.ready.remove_scope(number);
        }
    }

    /// Keeps what failed in a scope that is about to be forgotten.
    fn keep_failures(&mut self, number: u32) {
        let Some(scope) = self.inner.get(&number) else {
            return;
        };
        let mut past = Vec::new();
        for (step, cell) in scope.cells.iter().enumerate() {
            let history = cell.more.as_ref().map_or(&[][..], |more| &more.history);
            let key = StepKey { scope: number, step: step as u32 };
            past.extend(history.iter().map(|record| (self.path(key), record.clone())));
        }
        let room = PAST_FAILURES_MAX.saturating_sub(self.past.len());
        self.past.extend(past.into_iter().take(room));
    }

    /// Nothing is to keep what cleans up from running.
    fn stop_for(&mut self, by: Box<Reason>) {
        self.asked_by = Some(by);
        (self.stopping, self.paused) = (Some(Outcome::Cancelled.into()), None);
    }

    /// Ends the run; what had not ended will not.
    fn finish(&mut self, outcome: &Outcome, at: Timestamp) {
        self.outcome = Some(outcome.clone());
        self.finished_at = at;
        if self.root.open > 0 || !self.inner.is_empty() {
            self.end_rest(at);
        }
        // Most have none by then, and to clear none costs more than to look.
        if !self.timers.is_empty() {
            self.timers.clear();
        }
        if let Some(expected) = &mut self.expected {
            expected.forget_steps();
        }
    }

    /// Ends what is open with the run.
    fn end_rest(&mut self, at: Timestamp) {
        let open = self.steps().filter(|(_, status)| !status.is_end());
        let open: Vec<StepKey> = open.map(|(step, _)| step).collect();
        self.leave_open(&open, at);
        for step in open {
            self.set(step, StepStatus::Cancelled, at);
            // What tells them from those that ended by themselves.
            if let Some(more) = self.cell_mut(step).and_then(|cell| cell.more.as_mut()) {
                more.cancel = None;
            }
        }
        let scopes: Vec<u32> = self.inner.keys().copied().collect();
        scopes.into_iter().for_each(|scope| self.keep_failures(scope));
        self.inner.clear();
    }
}
