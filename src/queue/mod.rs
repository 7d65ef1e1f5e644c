//! The order in which ready steps start.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::id::StepKey;
use crate::workflow::Priority;

/// Ready steps of one run: by priority, and inside a priority in the order of becoming ready.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadyQueue {
    /// Most steps are of normal priority, and in most runs all.
    normal: VecDeque<StepKey>,
    /// One lane a priority, least urgent first; that of normal ones stays empty.
    others: Option<Box<[VecDeque<StepKey>; Priority::ALL.len()]>>,
    len: usize,
}

impl ReadyQueue {
    /// Adds a step behind all others of its priority.
    #[inline]
    pub fn push(&mut self, step: StepKey, priority: Priority) {
        self.lane(priority).push_back(step);
        self.len += 1;
    }

    /// Takes a step out.
    #[inline]
    pub fn remove(&mut self, step: StepKey, priority: Priority) {
        let lane = self.lane(priority);
        if lane.front() == Some(&step) {
            lane.pop_front();
        } else if let Some(at) = lane.iter().position(|other| *other == step) {
            lane.remove(at);
        } else {
            return;
        }
        self.len -= 1;
    }

    #[inline]
    fn lane(&mut self, priority: Priority) -> &mut VecDeque<StepKey> {
        match priority {
            Priority::Normal => &mut self.normal,
            other => &mut self.others.get_or_insert_default()[other as usize],
        }
    }

    /// Takes out every step of a scope.
    pub fn remove_scope(&mut self, scope: u32) {
        let others = self.others.iter_mut().flat_map(|lanes| lanes.iter_mut());
        self.len = 0;
        for lane in others.chain([&mut self.normal]) {
            lane.retain(|step| step.scope != scope);
            self.len += lane.len();
        }
    }

    /// All steps, the first to start first.
    pub fn iter(&self) -> impl Iterator<Item = StepKey> + '_ {
        let normal = Priority::Normal as usize;
        let lanes = (0..Priority::ALL.len()).rev().filter_map(move |priority| {
            let others = self.others.as_ref().map(|lanes| &lanes[priority]);
            if priority == normal { Some(&self.normal) } else { others }
        });
        lanes.flat_map(|lane| lane.iter().copied())
    }

    /// The step that is to start first.
    #[must_use]
    #[inline]
    pub fn first(&self) -> Option<StepKey> {
        match &self.others {
            None => self.normal.front().copied(),
            Some(_) => self.iter().next(),
        }
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
