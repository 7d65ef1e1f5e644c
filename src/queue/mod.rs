//! The order in which ready steps start.

use std::collections::VecDeque;

use crate::id::StepKey;
use crate::workflow::Priority;

/// Ready steps of one run: by priority, and inside a priority in the order of becoming ready.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadyQueue {
    /// One lane a priority, least urgent first; made when it is first needed.
    lanes: [VecDeque<StepKey>; Priority::ALL.len()],
    len: usize,
}

impl ReadyQueue {
    /// Adds a step behind all others of its priority.
    pub fn push(&mut self, step: StepKey, priority: Priority) {
        self.lanes[priority as usize].push_back(step);
        self.len += 1;
    }

    /// Takes a step out.
    pub fn remove(&mut self, step: StepKey, priority: Priority) {
        let lane = &mut self.lanes[priority as usize];
        if lane.front() == Some(&step) {
            lane.pop_front();
        } else if let Some(at) = lane.iter().position(|other| *other == step) {
            lane.remove(at);
        } else {
            return;
        }
        self.len -= 1;
    }

    /// Takes out every step of a scope.
    pub fn remove_scope(&mut self, scope: u32) {
        for lane in &mut self.lanes {
            lane.retain(|step| step.scope != scope);
        }
        self.len = self.lanes.iter().map(VecDeque::len).sum();
    }

    /// All steps, the first to start first.
    pub fn iter(&self) -> impl Iterator<Item = StepKey> + '_ {
        self.lanes.iter().rev().flat_map(|lane| lane.iter().copied())
    }

    /// The step that is to start first.
    #[must_use]
    pub fn first(&self) -> Option<StepKey> {
        if self.len == 0 {
            return None;
        }
        self.lanes.iter().rev().find_map(|lane| lane.front().copied())
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_steps_go_first_and_equal_ones_in_order() {
        let mut queue = ReadyQueue::default();
        for (step, priority) in [(0, Priority::Low), (1, Priority::High), (2, Priority::High)] {
            queue.push(StepKey::root(step), priority);
        }
        assert_eq!(queue.iter().map(|key| key.step).collect::<Vec<_>>(), [1, 2, 0]);
        queue.remove(StepKey::root(2), Priority::High);
        queue.remove(StepKey::root(9), Priority::High);
        assert_eq!((queue.len(), queue.first()), (2, Some(StepKey::root(1))));
    }
}
