//! Going back: a run that goes on after its end, steps that are run again.

use super::join::{self, Ended};
use super::scope::{Bodies, Cell, ItemEnd};
use super::{RunState, scope_in};
use crate::id::StepKey;
use crate::journal::StepStatus;
use crate::time::Timestamp;

impl RunState {
    /// Takes back the end of the run. Steps that it had stopped are as if they had not begun.
    pub(super) fn reopen(&mut self, deadline: Timestamp, at: Timestamp) {
        if self.outcome.take().is_none() {
            return;
        }
        (self.stopping, self.paused, self.quarantined) = (None, None, false);
        (self.root.stopping, self.root.ending) = (false, None);
        if let Some(start) = &mut self.started {
            start.deadline = deadline;
        }
        // What could not be undone is still owed.
        let left = std::mem::take(&mut self.root.left);
        left.into_iter().for_each(|owed| self.root.owe(owed));
        let mut anew = Vec::new();
        for (step, cell) in self.root.cells.iter_mut().enumerate() {
            if let Some(more) = &mut cell.more {
                more.timers.clear();
            }
            // Those that ended by themselves have a reason.
            let reason = cell.more.as_ref().and_then(|more| more.cancel);
            if cell.status != StepStatus::Cancelled || reason.is_some() {
                continue;
            }
            if cell.more.as_ref().is_some_and(|more| more.left_open) {
                cell.more().left_open = false;
                put(&mut self.counts, cell, StepStatus::OutcomeUnknown, at);
            } else {
                begin_anew(cell);
                put(&mut self.counts, cell, StepStatus::Pending, at);
                anew.push(step as u32);
            }
        }
        anew.into_iter().for_each(|step| self.root.forget_name(step));
    }

    /// A step is to be run again, as if it had not been reached yet.
    pub(super) fn reset(&mut self, step: StepKey, failed_items: bool, at: Timestamp) {
        let Some(before) = self.step_status(step) else {
            return;
        };
        let ended = self.end_of(step);
        if before == StepStatus::Running || before == StepStatus::Pending {
            return;
        }
        self.clear_timers(step);
        self.clear_step_timer(step);
        self.forget_waits(step);
        if failed_items {
            // The whole of it is done once more, with what stays.
            let path = self.path(step);
            if let Some(scope) = self.scope_mut(step.scope) {
                scope.owed.retain(|owed| owed.step != step.step || owed.path != path);
            }
        }
        let Some(scope) = scope_in(&mut self.root, &mut self.inner, step.scope) else {
            return;
        };
        let Some(node) = scope.body.nodes.get(step.step as usize) else {
            return;
        };
        if before == StepStatus::Ready {
            self.ready.remove(step, node.priority);
        }
        if let Some(end) = ended {
            take_back(scope, step, end);
            scope.open += 1;
        }
        if let Some(cell) = scope.cells.get_mut(step.step as usize) {
            let bodies = begin_anew(cell);
            if failed_items {
                cell.more().bodies = bodies.failed_again();
            }
            put(&mut self.counts, cell, StepStatus::Pending, at);
        }
        scope.forget_name(step.step);
    }
}

/// A step begins anew: other attempts, another name for others. The bodies that it had.
fn begin_anew(cell: &mut Cell) -> Bodies {
    let begun = cell.attempt > 0 || cell.more.is_some();
    cell.output = crate::value::Value::NULL;
    let first = cell.attempt.saturating_add(1);
    let more = cell.more();
    more.first = first;
    more.generation += u32::from(begun);
    (more.failure, more.cancel, more.signal, more.waiting) = (None, None, None, None);
    (more.failures, more.delay, more.undone) = (0, std::time::Duration::ZERO, false);
    std::mem::take(&mut more.bodies)
}

/// A cell has this status from now on.
fn put(counts: &mut [u32], cell: &mut Cell, status: StepStatus, at: Timestamp) {
    counts[cell.status.slot()] = counts[cell.status.slot()].saturating_sub(1);
    cell.status = status;
    cell.since = at;
    counts[cell.status.slot()] += 1;
}

/// Takes back what the end of a step meant to those that wait for it.
fn take_back(scope: &mut super::scope::Scope, step: StepKey, end: Ended) {
    let super::scope::Scope { body, cells, .. } = scope;
    for link in body.plan.successors(step.step) {
        if let Some(next) = cells.get_mut(link.step as usize) {
            let count = next.count(join::meaning(body, step.step, *link, end));
            *count = count.saturating_sub(1);
        }
    }
}

impl Bodies {
    /// The same items, of which those that did not end well are still to be done.
    fn failed_again(self) -> Self {
        let mut ends = self.ends;
        for end in ends.iter_mut().filter(|end| **end == ItemEnd::Badly) {
            *end = ItemEnd::Open;
        }
        let well = ends.iter().filter(|end| **end == ItemEnd::Well).count() as u32;
        let (items, outputs) = (self.items, self.outputs);
        Self { items, outputs, ends, well, begun: well, ..Self::default() }
    }

    /// The next item of a for-each that has not been begun.
    pub(super) fn next_item(&self) -> u32 {
        let from = self.cursor as usize;
        let open = self.ends.iter().skip(from).position(|end| *end == ItemEnd::Open);
        open.map_or(self.cursor, |at| (from + at) as u32)
    }

    /// Notes that an item has been begun.
    pub(super) fn begin(&mut self, scope: u32, index: u32) {
        self.open.push(scope);
        self.begun += 1;
        self.cursor = index.saturating_add(1);
    }
}
