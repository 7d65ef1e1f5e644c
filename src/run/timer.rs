//! What is due when, and who waits for what: kept by `apply`, read by `decide`.

use super::RunState;
use super::scope::TimerKind;
use crate::id::StepKey;
use crate::journal::Waiting;
use crate::time::Timestamp;
use crate::workflow::{NodeKind, WaitFor};

impl RunState {
    pub(super) fn set_timer(&mut self, step: StepKey, at: Timestamp, kind: TimerKind) {
        if let Some(cell) = self.cell_mut(step) {
            cell.more().timers.push((at, kind));
            self.timers.insert((at, step, kind));
        }
    }

    /// Forgets all timers of a step but the one for all attempts together.
    pub(super) fn clear_timers(&mut self, step: StepKey) {
        self.clear_where(step, |kind| kind != TimerKind::StepTimeout);
    }

    pub(super) fn clear_step_timer(&mut self, step: StepKey) {
        self.clear_where(step, |kind| kind == TimerKind::StepTimeout);
    }

    pub(super) fn clear_attempt_timers(&mut self, step: StepKey) {
        self.clear_where(step, |kind| kind == TimerKind::AttemptTimeout);
    }

    #[inline]
    fn clear_where(&mut self, step: StepKey, which: impl Fn(TimerKind) -> bool) {
        // As for most runs most of the time.
        if self.timers.is_empty() {
            return;
        }
        let Some(more) = self.cell_mut(step).and_then(|cell| cell.more.as_mut()) else {
            return;
        };
        if more.timers.is_empty() {
            return;
        }
        let gone: Vec<_> = more.timers.iter().copied().filter(|(_, kind)| which(*kind)).collect();
        more.timers.retain(|(_, kind)| !which(*kind));
        for (at, kind) in gone {
            self.timers.remove(&(at, step, kind));
        }
    }

    /// Notes what a step waits for.
    pub(super) fn wait(&mut self, step: StepKey, wait: Waiting) {
        self.expect(step, &wait);
        if let Some(cell) = self.cell_mut(step) {
            cell.more().waiting = Some(wait);
        }
    }

    fn expect(&mut self, step: StepKey, wait: &Waiting) {
        let until = match wait {
            Waiting::Until(at) => Some(*at),
            Waiting::Signal(name, until) => {
                let waits = &mut self.expected_mut().by_signal;
                waits.entry(name.clone()).or_default().push_back(step);
                *until
            }
            Waiting::Condition(until) => {
                self.expected_mut().conditions.insert(step);
                *until
            }
            Waiting::Approval(open) => {
                self.expected_mut().approvals.insert(open.id.clone(), step);
                open.until
            }
            Waiting::First(ways) => {
                ways.iter().for_each(|(_, wait)| self.expect(step, wait));
                None
            }
        };
        if let Some(at) = until {
            self.set_timer(step, at, TimerKind::Wait);
        }
    }

    /// Forgets what a step waits for.
    pub(super) fn forget_waits(&mut self, step: StepKey) {
        let Some(more) = self.cell_mut(step).and_then(|cell| cell.more.as_mut()) else {
            return;
        };
        let Some(wait) = more.waiting.take() else {
            return;
        };
        self.expect_no_more(step, &wait);
        self.clear_where(step, |kind| kind == TimerKind::Wait);
    }

    fn expect_no_more(&mut self, step: StepKey, wait: &Waiting) {
        match wait {
            Waiting::Until(_) => {}
            Waiting::Condition(_) => {
                self.expected_mut().conditions.remove(&step);
            }
            Waiting::Signal(name, _) => {
                let waits = &mut self.expected_mut().by_signal;
                if let Some(steps) = waits.get_mut(name) {
                    steps.retain(|other| *other != step);
                    if steps.is_empty() {
                        waits.remove(name);
                    }
                }
            }
            Waiting::Approval(open) => {
                self.expected_mut().approvals.remove(&open.id);
            }
            Waiting::First(ways) => {
                ways.iter().for_each(|(_, wait)| self.expect_no_more(step, wait));
            }
        }
    }

    /// Whether a step waits for a condition that time alone can change.
    pub(super) fn reads_now(&self, step: StepKey) -> bool {
        let reads = |wait: &WaitFor| match wait {
            WaitFor::Condition(condition, _) => condition.reads_now(),
            _ => false,
        };
        match self.node(step).map(|node| &node.kind) {
            Some(NodeKind::Wait(WaitFor::First(ways))) => ways.iter().any(|(_, wait)| reads(wait)),
            Some(NodeKind::Wait(wait)) => reads(wait),
            _ => false,
        }
    }
}
