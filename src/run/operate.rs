//! What operators do to a run: run again, skip, take for done, stop, set.

use std::collections::BTreeSet;

use super::RunState;
use super::command::Rejection;
use super::turn::{Turn, Work};
use crate::id::StepKey;
use crate::journal::{
    CancelReason, Event, Modified, MovedScope, Operation, Reason, Recorded, SkipReason, StepStatus,
};
use crate::time::Timestamp;
use crate::value::Value;
use crate::workflow::NodeKind;

/// What an operation would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preview {
    /// Whether a run that has ended would go on.
    pub reopens: bool,
    /// Steps that have ended, or that the end of the run had stopped, and that would run as soon as they
    /// are reached.
    pub again: Vec<String>,
    /// Steps that would start or become ready at once.
    pub starts: Vec<String>,
    /// Steps that would be left out.
    pub skipped: Vec<String>,
    /// Steps that would be taken for done.
    pub succeeded: Vec<String>,
    /// Steps that would fail.
    pub failed: Vec<String>,
    /// Steps that would be stopped.
    pub cancelled: Vec<String>,
    /// Steps under way that another definition does not have: they would be dropped at once, with all
    /// that is inside them.
    pub dropped: Vec<String>,
    /// Steps that another definition does not have, and that have ended: what they came to would be
    /// forgotten.
    pub forgotten: Vec<String>,
}

impl Preview {
    /// Steps that another definition does not have.
    fn leave_behind(&mut self, state: &RunState, modified: &Modified) {
        for MovedScope { scope, steps, .. } in &modified.scopes {
            let gone = steps.iter().enumerate().filter(|(_, to)| to.is_none());
            for step in gone.map(|(step, _)| StepKey { scope: *scope, step: step as u32 }) {
                match state.cell(step) {
                    Some(cell) if cell.status.is_end() => {
                        self.forgotten.push(state.path(step));
                    }
                    Some(cell) if !cell.status.is_end() && cell.has_begun() => {
                        self.dropped.push(state.path(step));
                    }
                    _ => {}
                }
            }
        }
    }
}

impl RunState {
    /// What an operation would do, exactly.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn preview(&self, operation: &Operation, now: Timestamp) -> Result<Preview, Rejection> {
        let (mut after, mut events) = (self.clone(), Vec::new());
        let (operation, by) = (Box::new(operation.clone()), Box::default());
        Turn::new(&mut after, now, &mut events).take(super::Command::Operate { operation, by })?;
        let mut preview = Preview::default();
        let mut seen = self.clone();
        for Recorded { at, event } in &events {
            if let Event::WorkflowModified(modified) = event {
                preview.leave_behind(&seen, modified);
            }
            seen.apply(*at, event);
            let path = |step: &StepKey| seen.path(*step);
            match event {
                Event::RunReopened { .. } => {
                    preview.reopens = true;
                    // What the end of the run had stopped.
                    let root = self.steps().take_while(|(step, _)| step.scope == 0);
                    let stopped = root.filter(|(step, status)| {
                        *status == StepStatus::Cancelled
                            && seen.step_status(*step) == Some(StepStatus::Pending)
                    });
                    preview.again.extend(stopped.map(|(step, _)| self.path(step)));
                }
                Event::StepReset { step, .. } => preview.again.push(path(step)),
                Event::StepReady { step }
                | Event::StepStarted { step, .. }
                | Event::WaitStarted { step, .. } => preview.starts.push(path(step)),
                Event::StepSkipped { step, .. } => preview.skipped.push(path(step)),
                Event::StepSucceeded { step, .. } => preview.succeeded.push(path(step)),
                Event::StepFailed { step, .. } => preview.failed.push(path(step)),
                Event::StepCancelled { step, .. } | Event::StepCancelRequested { step, .. } => {
                    preview.cancelled.push(path(step));
                }
                _ => {}
            }
        }
        Ok(preview)
    }
}

impl Turn<'_> {
    pub(super) fn operate(
        &mut self,
        operation: Box<Operation>,
        by: Box<Reason>,
    ) -> Result<(), Rejection> {
        let stopping = self.state.stopping.is_some() && self.state.outcome.is_none();
        if stopping && !self.decides_outcome(&operation) {
            return Err(Rejection::Stopping);
        }
        // What only stops something, or has to be for a key, is let in all the same.
        if !matches!(*operation, Operation::Cancel { .. } | Operation::Reseal { .. }) {
            let room = self.fits_in_run(operation.bytes());
            room.map_err(|wrong| Rejection::Payload(format!("what is asked {wrong}")))?;
        }
        match &*operation {
            Operation::Rerun { steps, following, failed_items } => {
                let steps = self.ended_steps(steps)?;
                let items = if *failed_items { steps.clone() } else { BTreeSet::new() };
                for step in &items {
                    self.has_failed_items(*step)?;
                }
                let again = self.reach_of(&steps, *following)?;
                self.record(&operation, by);
                self.reset(again, &items);
            }
            Operation::RetryFailed => {
                let (steps, items) = self.failed_steps();
                if steps.is_empty() {
                    return Err(self.nothing_to_retry());
                }
                let again = self.reach_of(&steps, true)?;
                self.record(&operation, by);
                self.reset(again, &items);
            }
            Operation::Skip { steps } => {
                let steps = self.steps(steps)?;
                let again = self.reach_of(&self.only_ended(&steps), true)?;
                self.record(&operation, by);
                self.reset(again, &BTreeSet::new());
                steps.into_iter().for_each(|step| self.leave_out(step));
            }
            Operation::Succeed { step, output } => {
                let steps = self.steps(std::slice::from_ref(step))?;
                self.fits_in(output.bytes()).map_err(Rejection::Payload)?;
                for step in &steps {
                    self.results(*step, output).map_err(Rejection::Payload)?;
                }
                let again = self.reach_of(&self.only_ended(&steps), true)?;
                self.record(&operation, by);
                self.reset(again, &BTreeSet::new());
                steps.into_iter().for_each(|step| self.succeed(step, output.clone()));
            }
            Operation::Fail { step, failure } => {
                let steps = self.steps(std::slice::from_ref(step))?;
                if !self.only_ended(&steps).is_empty() {
                    return Err(Rejection::Unsafe(format!("`{step}` has ended already")));
                }
                let failure = failure.clone();
                self.record(&operation, by);
                for step in steps {
                    self.end(step, Event::StepFailed { step, failure: failure.clone() });
                }
            }
            Operation::Cancel { steps } => {
                let mut found = Vec::new();
                if steps.is_empty() {
                    return Err(Rejection::Unsafe("no step is named".into()));
                }
                for path in steps {
                    let step = self.state.find(path).ok_or(Rejection::UnknownStep)?;
                    if self.state.has_ended(step) {
                        return Err(Rejection::Unsafe(format!("`{path}` has ended already")));
                    }
                    found.push(step);
                }
                self.record(&operation, by);
                found.into_iter().for_each(|step| self.stop(step, CancelReason::Operator));
            }
            Operation::Modify { workflow, linked, revision, mapping } => {
                let mapping = mapping.as_ref();
                let modified = self.migration(workflow, linked, *revision, mapping)?;
                self.record(&operation, by);
                self.emit(Event::WorkflowModified(Box::new(modified.clone())));
                self.go_on_with(&modified, mapping);
            }
            Operation::Reseal { replaced } => {
                let replaced = Box::new(replaced.clone());
                self.emit(Event::Operated { operation, by });
                self.emit(Event::SecretsResealed { replaced });
            }
            Operation::SetVariables { values } => {
                self.check_variables(values)?;
                self.record(&operation, by);
                self.emit(Event::VariablesSet { step: None, values: values.clone() });
            }
        }
        Ok(())
    }

    /// An operator does not want a step to run.
    pub(super) fn leave_out(&mut self, step: StepKey) {
        let reason = SkipReason::Operator;
        self.end(step, Event::StepSkipped { step, reason });
    }

    fn record(&mut self, operation: &Operation, by: Box<Reason>) {
        self.emit(Event::Operated { operation: Box::new(operation.clone()), by });
        if self.state.outcome.is_some() {
            let limit = self.state.unit(StepKey::root(0)).map(|unit| unit.limits.max_duration);
            let deadline = self.now + limit.unwrap_or_default();
            self.emit(Event::RunReopened { deadline });
        }
    }

    fn check_variables(&self, values: &Value) -> Result<(), Rejection> {
        let Some((values, unit)) = values.as_object().zip(self.state.unit(StepKey::root(0))) else {
            return Err(Rejection::Payload("variables are a map from names to values".into()));
        };
        let size: usize = values.values().map(crate::value::bytes).sum();
        self.fits_in(size).map_err(|wrong| Rejection::Payload(format!("the values {wrong}")))?;
        for (name, value) in values {
            let fits = unit.variables.check(name, value);
            fits.map_err(|wrong| Rejection::Payload(wrong.to_string()))?;
        }
        Ok(())
    }

    /// Steps that an operation ends, or runs again: not while they run.
    fn steps(&self, paths: &[String]) -> Result<BTreeSet<StepKey>, Rejection> {
        let mut found = BTreeSet::new();
        for path in paths {
            let step = self.state.find(path).ok_or(Rejection::UnknownStep)?;
            self.is_idle(step)?;
            found.insert(step);
        }
        if found.is_empty() {
            return Err(Rejection::Unsafe("no step is named".into()));
        }
        Ok(found)
    }

    fn ended_steps(&self, paths: &[String]) -> Result<BTreeSet<StepKey>, Rejection> {
        let steps = self.steps(paths)?;
        for step in &steps {
            let status = self.state.step_status(*step).unwrap_or_default();
            if !status.is_end() && status != StepStatus::OutcomeUnknown {
                let path = self.state.path(*step);
                let message = format!("`{path}` is {status}; only what has ended can run again");
                return Err(Rejection::Unsafe(message));
            }
        }
        Ok(steps)
    }

    fn is_idle(&self, step: StepKey) -> Result<(), Rejection> {
        let path = || self.state.path(step);
        match self.state.step_status(step) {
            Some(StepStatus::Running) => {
                return Err(Rejection::Unsafe(format!("`{}` is running; cancel it first", path())));
            }
            // What is stopping waits for it.
            Some(StepStatus::OutcomeUnknown) => return Ok(()),
            _ => {}
        }
        let scope = self.state.scope(step.scope);
        let live = self.state.outcome.is_none();
        let parent_of = |step: StepKey| self.state.scope(step.scope)?.parent;
        let mut around = std::iter::successors(parent_of(step), |outer| parent_of(*outer));
        let stopping = around.any(|outer| self.state.is_cancelling(outer));
        if stopping || live && scope.is_some_and(|scope| scope.ending.is_some() || scope.stopping) {
            let message = format!("what `{}` is a part of is stopping", path());
            return Err(Rejection::Unsafe(message));
        }
        Ok(())
    }

    fn only_ended(&self, steps: &BTreeSet<StepKey>) -> BTreeSet<StepKey> {
        steps.iter().copied().filter(|step| self.state.has_ended(*step)).collect()
    }

    /// What of the outermost body failed or was stopped, and of which only failed items run again.
    fn failed_steps(&self) -> (BTreeSet<StepKey>, BTreeSet<StepKey>) {
        let root = self.state.steps().take_while(|(step, _)| step.scope == 0);
        let reason = |step| self.state.cell(step).and_then(|cell| cell.more.as_ref()?.cancel);
        // Of what may have happened somebody has to speak by name.
        let open = |step| self.state.has_open_outcome(step);
        let bad = |step, status| match status {
            StepStatus::Failed => !super::end::was_caught(self.state, step) && !open(step),
            // Others were not needed, or not wanted.
            StepStatus::Cancelled => {
                let meant = Some(CancelReason::Rest) == reason(step)
                    || Some(CancelReason::Operator) == reason(step);
                !meant && !open(step)
            }
            _ => false,
        };
        let steps: BTreeSet<StepKey> =
            root.filter(|(step, status)| bad(*step, *status)).map(|(step, _)| step).collect();
        let items = steps.iter().copied().filter(|step| self.has_failed_items(*step).is_ok());
        (steps.clone(), items.collect())
    }

    /// Whether a step is a for-each some of whose items have ended well and can stay.
    fn has_failed_items(&self, step: StepKey) -> Result<(), Rejection> {
        let path = || self.state.path(step);
        let node = self.state.node(step).map(|node| &node.kind);
        if !matches!(node, Some(NodeKind::ForEach { .. })) {
            return Err(Rejection::Unsafe(format!("`{}` has no items", path())));
        }
        let more = self.state.cell(step).and_then(|cell| cell.more.as_ref());
        if more.is_some_and(|more| more.undone) {
            let message = format!("the items of `{}` were undone; run all of it again", path());
            return Err(Rejection::Unsafe(message));
        }
        match more.map(|more| &more.bodies) {
            Some(bodies) if bodies.well < bodies.ends.len() as u32 => Ok(()),
            _ => Err(Rejection::Unsafe(format!("no item of `{}` has failed", path()))),
        }
    }

    /// The steps that run again when these do.
    fn reach_of(
        &self,
        steps: &BTreeSet<StepKey>,
        following: bool,
    ) -> Result<BTreeSet<StepKey>, Rejection> {
        let mut reached = steps.clone();
        if self.state.outcome.is_some() && !steps.is_empty() {
            // What was undone is not there any more.
            let undone = |cell: &super::Cell| cell.more.as_ref().is_some_and(|more| more.undone);
            let cells = self.state.root.cells.iter().enumerate().filter(|(_, cell)| undone(cell));
            reached.extend(cells.map(|(step, _)| StepKey::root(step as u32)));
        }
        let mut left: Vec<StepKey> =
            if following { reached.iter().copied().collect() } else { Vec::new() };
        while let Some(step) = left.pop() {
            let Some(scope) = self.state.scope(step.scope) else { continue };
            for link in scope.body.plan.successors(step.step) {
                let next = StepKey { scope: step.scope, step: link.step };
                if reached.insert(next) {
                    left.push(next);
                }
            }
        }
        for step in &reached {
            self.is_idle(*step)?;
        }
        Ok(reached)
    }

    fn reset(&mut self, steps: BTreeSet<StepKey>, failed_items: &BTreeSet<StepKey>) {
        let mut scopes = BTreeSet::new();
        for step in &steps {
            scopes.insert(step.scope);
            if self.state.step_status(*step).is_some_and(|s| s != StepStatus::Pending) {
                let failed_items = failed_items.contains(step);
                self.emit(Event::StepReset { step: *step, failed_items });
            }
        }
        // What is reached by what stands now, among it steps that the end of the run had stopped.
        scopes.into_iter().for_each(|scope| self.consider_all(scope));
    }

    /// The definition of a body has changed: what was taken away may have been all that was left, and
    /// composite steps may have room for more bodies.
    pub(super) fn look_again(&mut self, number: u32, composites: bool) {
        let Some(scope) = self.state.scope(number) else {
            return;
        };
        let key = |step: usize| StepKey { scope: number, step: step as u32 };
        let running = |(_, cell): &(usize, &super::Cell)| cell.status == StepStatus::Running;
        let steps = scope.cells.iter().enumerate().filter(running).map(|(step, _)| key(step));
        let go_on: Vec<StepKey> =
            steps.filter(|step| composites && !self.state.is_task(*step)).collect();
        if scope.open == 0 {
            self.push(Work::Ended(key(0)));
        }
        go_on.into_iter().for_each(|step| self.push(Work::Continue(step)));
    }

    pub(super) fn consider_all(&mut self, scope: u32) {
        let count = self.state.scope(scope).map_or(0, |scope| scope.cells.len() as u32);
        (0..count).for_each(|step| self.push(Work::Consider(StepKey { scope, step })));
    }
}
