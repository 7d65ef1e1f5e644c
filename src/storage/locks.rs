//! Locks in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Denied;
use crate::id::{RunId, StepKey};
use crate::run::Want;
use crate::time::Timestamp;
use crate::workflow::Rate;

/// Holders that a refusal names.
pub(super) const HOLDERS_NAMED: usize = 5;

/// Who holds which lock, and when each was last taken.
#[derive(Debug, Default)]
pub(super) struct Locks {
    locks: BTreeMap<String, Lock>,
    held: BTreeMap<(RunId, StepKey), Vec<String>>,
}

#[derive(Debug, Default)]
struct Lock {
    holders: BTreeSet<(RunId, StepKey)>,
    /// When it could be taken next if it were taken as evenly as the rate says.
    next: Option<Timestamp>,
}

impl Locks {
    pub(super) fn acquire(
        &mut self,
        run: &RunId,
        step: StepKey,
        wants: Vec<Want>,
        now: Timestamp,
    ) -> Option<Denied> {
        let holder = (run.clone(), step);
        if let Some(denied) = wants.iter().find_map(|want| self.refuse(want, &holder, now)) {
            return Some(denied);
        }
        for want in wants {
            let lock = self.locks.entry(want.lock.clone()).or_default();
            if lock.holders.insert(holder.clone()) {
                lock.next = taken(want.rate, lock.next, now);
                self.held.entry(holder.clone()).or_default().push(want.lock);
            }
        }
        None
    }

    fn refuse(&self, want: &Want, holder: &(RunId, StepKey), now: Timestamp) -> Option<Denied> {
        let lock = self.locks.get(&want.lock)?;
        if lock.holders.contains(holder) {
            return None;
        }
        let name = want.lock.clone();
        if want.max.is_some_and(|max| lock.holders.len() >= max as usize) {
            let mut holders: Vec<RunId> = Vec::new();
            for (run, _) in &lock.holders {
                if holders.len() < HOLDERS_NAMED && holders.last() != Some(run) {
                    holders.push(run.clone());
                }
            }
            return Some(Denied { lock: name, until: None, holders });
        }
        let until = too_early(want.rate, lock.next, now)?;
        Some(Denied { lock: name, until: Some(until), holders: Vec::new() })
    }

    pub(super) fn release(&mut self, run: &RunId, steps: &[StepKey]) {
        for step in steps {
            self.give_back(&(run.clone(), *step));
        }
    }

    /// Everything that a run holds.
    pub(super) fn release_all(&mut self, run: &RunId) {
        if self.held.is_empty() {
            return;
        }
        let of = |holder: &&(RunId, StepKey)| holder.0 == *run;
        let first = (run.clone(), StepKey::root(0));
        let held: Vec<_> =
            self.held.range(first..).map(|(holder, _)| holder).take_while(of).cloned().collect();
        held.iter().for_each(|holder| self.give_back(holder));
    }

    fn give_back(&mut self, holder: &(RunId, StepKey)) {
        for name in self.held.remove(holder).unwrap_or_default() {
            if let Some(lock) = self.locks.get_mut(&name) {
                lock.holders.remove(holder);
                if lock.holders.is_empty() && lock.next.is_none() {
                    self.locks.remove(&name);
                }
            }
        }
    }
}

/// When a lock may be taken that has been taken too often.
pub(super) fn too_early(
    rate: Option<Rate>,
    next: Option<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    let (rate, next) = rate.zip(next)?;
    // So far ahead of an even pace it may be.
    let ahead = rate.per.saturating_sub(apart(rate));
    let over = next.since(now).checked_sub(ahead).filter(|over| !over.is_zero())?;
    Some(now + over)
}

/// When a lock that is taken now could be taken next at an even pace.
pub(super) fn taken(
    rate: Option<Rate>,
    next: Option<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    // Who wants no rate leaves the pace as it is.
    rate.map_or(next, |rate| Some(next.unwrap_or(now).max(now) + apart(rate)))
}

/// How far apart at an even pace.
fn apart(rate: Rate) -> Duration {
    rate.per / rate.count.max(1)
}
