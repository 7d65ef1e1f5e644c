//! Which locks a step wants.

use super::RunState;
use crate::id::StepKey;
use crate::journal::{Event, Signal};
use crate::time::Timestamp;
use crate::workflow::Rate;

/// A lock that a step wants.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Want {
    /// Its name, with its key if it has one.
    pub lock: String,
    /// How many may hold it; none is any number.
    pub max: Option<u32>,
    /// How often it may be taken.
    pub rate: Option<Rate>,
}

impl Want {
    /// One that a single step may hold.
    pub fn new(lock: impl Into<String>) -> Self {
        Self { lock: lock.into(), max: Some(1), rate: None }
    }
}

impl RunState {
    /// The locks that a step has to hold before it starts.
    ///
    /// # Errors
    /// What is wrong with a key.
    pub fn locks(&self, step: StepKey, now: Timestamp) -> Result<Vec<Want>, String> {
        let locks = self.node(step).map_or(&[][..], |node| node.locks());
        let want = |lock: &crate::workflow::LockOf| {
            let name = match &lock.key {
                None => lock.name.clone(),
                Some(key) => {
                    let key = self.evaluate(step, key, now).map_err(|error| error.to_string());
                    let name = key.and_then(|key| Signal::name_for(&lock.name, &key));
                    name.map_err(|error| format!("lock `{}`: {error}", lock.name))?
                }
            };
            Ok(Want { lock: name, max: lock.max, rate: lock.rate })
        };
        locks.iter().map(want).collect()
    }

    /// The name that a step holds its locks by, which stays when the definition is changed.
    pub(crate) fn lock_key(&self, step: StepKey) -> StepKey {
        let changed = self.changed.as_ref();
        let numbers = changed.and_then(|changed| changed.lock_numbers.get(&step.scope));
        let number = numbers.and_then(|numbers| numbers.get(step.step as usize));
        StepKey { step: number.copied().unwrap_or(step.step), ..step }
    }

    /// Whether a step has lost the locks that it held before what was decided last: it was reset, say.
    pub(crate) fn has_released(&self, step: StepKey) -> bool {
        self.released.contains(&self.lock_key(step))
    }

    /// Steps, as [`lock_key`](Self::lock_key) names them, that hold their locks no more.
    pub(crate) fn take_released(&mut self) -> Vec<StepKey> {
        std::mem::take(&mut self.released)
    }

    /// Notes whose locks are free after an event that is about to be applied.
    pub(super) fn note_release(&mut self, event: &Event) {
        let (Event::StepSucceeded { step, .. }
        | Event::StepFailed { step, .. }
        | Event::StepSkipped { step, .. }
        | Event::StepCancelled { step, .. }
        | Event::AttemptFailed { step, .. }
        | Event::StepSuspended { step, .. }
        | Event::StepReset { step, .. }) = event
        else {
            return;
        };
        if self.node(*step).is_some_and(|node| !node.locks().is_empty()) {
            self.released.push(self.lock_key(*step));
        }
    }

    /// A body is about to be forgotten, with what its steps hold.
    pub(super) fn release_scope(&mut self, number: u32) {
        let Some(scope) = self.scope(number) else {
            return;
        };
        let cells = scope.cells.iter().zip(&scope.body.nodes).enumerate();
        let open =
            cells.filter(|(_, (cell, node))| !cell.status.is_end() && !node.locks().is_empty());
        let keys = open.map(|(step, _)| StepKey { scope: number, step: step as u32 });
        let names: Vec<StepKey> = keys.map(|key| self.lock_key(key)).collect();
        self.released.extend(names);
    }

    /// The steps of a body have other places: each keeps its name, and those that are gone hold
    /// nothing.
    pub(super) fn renumber_locks(&mut self, scope: u32, moved: &[Option<u32>], count: usize) {
        let key = |step| StepKey { scope, step };
        let before: Vec<u32> =
            (0..moved.len() as u32).map(|step| self.lock_key(key(step)).step).collect();
        let changed = self.changed.get_or_insert_default();
        let fresh = before.iter().max().map_or(0, |most| most + 1).max(changed.lock_number_next);
        let mut numbers: Vec<u32> = (fresh..).take(count).collect();
        changed.lock_number_next = fresh + count as u32;
        for (name, to) in before.into_iter().zip(moved) {
            match to.and_then(|to| numbers.get_mut(to as usize)) {
                Some(place) => *place = name,
                None => self.released.push(key(name)),
            }
        }
        changed.lock_numbers.insert(scope, numbers);
    }

    /// Ready steps that have to hold locks before they start.
    pub(crate) fn ready_for_locks(&self) -> impl Iterator<Item = StepKey> + '_ {
        let locked = |step: &StepKey| self.node(*step).is_some_and(|node| !node.locks().is_empty());
        self.ready().filter(locked)
    }
}
