//! What steps of a run wait for, and what has come for nobody yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::scope::is_default;
use super::{RunState, SIGNAL_IDS_KEPT};
use crate::id::StepKey;
use crate::journal::Signal;

/// Who waits for what. Most runs have none of it, so that they keep it in a box.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Expected {
    /// Signals that nobody has taken yet.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) signals: VecDeque<Signal>,
    /// Ids of signals that have come, the last ones.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) signal_ids: VecDeque<String>,
    /// Steps that wait for a signal, by its name, in the order of beginning to.
    #[serde(rename = "signal_waits", skip_serializing_if = "is_default")]
    pub(super) by_signal: BTreeMap<String, VecDeque<StepKey>>,
    /// Steps that wait for a condition.
    #[serde(rename = "condition_waits", skip_serializing_if = "is_default")]
    pub(super) conditions: BTreeSet<StepKey>,
    /// Steps that wait for a decision, by what votes name it by.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) approvals: BTreeMap<String, StepKey>,
}

impl Expected {
    pub(super) const NOTHING: Self = Self {
        signals: VecDeque::new(),
        signal_ids: VecDeque::new(),
        by_signal: BTreeMap::new(),
        conditions: BTreeSet::new(),
        approvals: BTreeMap::new(),
    };

    /// A signal has come, or was taken that had come before.
    fn hear(&mut self, id: &str) {
        if self.has_heard(id) {
            return;
        }
        if self.signal_ids.len() == SIGNAL_IDS_KEPT {
            self.signal_ids.pop_front();
        }
        self.signal_ids.push_back(id.into());
    }

    fn has_heard(&self, id: &str) -> bool {
        self.signal_ids.iter().any(|known| known == id)
    }

    /// Nobody waits any more.
    pub(super) fn forget_steps(&mut self) {
        self.by_signal.clear();
        self.conditions.clear();
        self.approvals.clear();
    }

    /// Steps have other places, or none.
    pub(super) fn move_steps(&mut self, new: impl Fn(StepKey) -> Option<StepKey>) {
        for steps in self.by_signal.values_mut() {
            *steps = steps.iter().copied().filter_map(&new).collect();
        }
        self.conditions = self.conditions.iter().copied().filter_map(&new).collect();
        let approvals = std::mem::take(&mut self.approvals).into_iter();
        self.approvals = approvals.filter_map(|(id, step)| Some((id, new(step)?))).collect();
    }
}

impl RunState {
    pub(super) fn expected(&self) -> &Expected {
        static NOTHING: Expected = Expected::NOTHING;
        self.expected.as_deref().unwrap_or(&NOTHING)
    }

    /// Whether this signal has come before.
    pub(super) fn has_heard(&self, signal: &Signal) -> bool {
        signal.id.as_ref().is_some_and(|id| self.expected().has_heard(id))
    }

    pub(super) fn hear(&mut self, signal: &Signal) {
        if let Some(id) = &signal.id {
            self.expected_mut().hear(id);
        }
    }

    pub(super) fn expected_mut(&mut self) -> &mut Expected {
        self.expected.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ids_are_known() {
        let mut expected = Expected::default();
        (0..=SIGNAL_IDS_KEPT).for_each(|number| expected.hear(&number.to_string()));
        assert!(!expected.has_heard("0") && expected.has_heard("1"));
        expected.hear("1");
        assert_eq!(expected.signal_ids.len(), SIGNAL_IDS_KEPT);
        assert!(expected.has_heard(&SIGNAL_IDS_KEPT.to_string()));
    }
}
