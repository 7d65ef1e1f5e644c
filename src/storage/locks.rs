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
    /// Locks that nobody holds and that are kept for their rate, by when it says nothing any more.
    resting: BTreeSet<(Timestamp, String)>,
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
        // More than this call can bring to rest, so that any crowd is caught up with.
        self.forget(now, wants.len() + 1);
        let holder = (run.clone(), step);
        if let Some(denied) = wants.iter().find_map(|want| self.refuse(want, &holder, now)) {
            return Some(denied);
        }
        for want in wants {
            let lock = self.locks.entry(want.lock.clone()).or_default();
            if lock.holders.insert(holder.clone()) {
                if let Some(next) = lock.next.filter(|_| lock.holders.len() == 1) {
                    self.resting.remove(&(next, want.lock.clone()));
                }
                lock.next = taken(want.rate, lock.next, now);
                self.held.entry(holder.clone()).or_default().push(want.lock);
            }
        }
        None
    }

    /// Drops so many locks, at most, of which nothing need be known any more.
    fn forget(&mut self, now: Timestamp, most: usize) {
        for _ in 0..most {
            let over = |(next, _): &&(Timestamp, String)| *next <= now;
            let Some((_, name)) = self.resting.first().filter(over).cloned() else { return };
            self.resting.pop_first();
            self.locks.remove(&name);
        }
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
                match lock.next {
                    _ if !lock.holders.is_empty() => {}
                    Some(next) => drop(self.resting.insert((next, name))),
                    None => drop(self.locks.remove(&name)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::EPOCH + Duration::from_secs(second)
    }

    fn run() -> RunId {
        RunId::new("r").unwrap()
    }

    /// Two in ten seconds, for this tenant.
    fn rate(tenant: u32) -> Want {
        let rate = Rate { count: 2, per: Duration::from_secs(10) };
        Want { lock: format!("api[{tenant}]"), max: None, rate: Some(rate) }
    }

    fn take_and_give_back(locks: &mut Locks, want: Want, second: u64) -> Option<Timestamp> {
        let denied = locks.acquire(&run(), StepKey::root(0), vec![want], at(second));
        locks.release(&run(), &[StepKey::root(0)]);
        denied.and_then(|denied| denied.until)
    }

    #[test]
    fn a_rate_is_remembered_while_it_says_something_and_no_longer() {
        let mut locks = Locks::default();
        // A new tenant each second; five seconds after it was taken a rate says nothing any more.
        for second in 0..1_000 {
            let tenant = u32::try_from(second).unwrap();
            assert_eq!(take_and_give_back(&mut locks, rate(tenant), second), None);
            assert!(locks.locks.len() <= 6, "{} locks after {second} s", locks.locks.len());
        }
        assert_eq!(locks.locks.len(), locks.resting.len());
        // A crowd that came at once is forgotten bit by bit.
        for tenant in 0..1_000 {
            assert_eq!(take_and_give_back(&mut locks, rate(tenant), 2_000), None);
        }
        assert!(locks.locks.len() >= 1_000);
        for second in 3_000..4_000 {
            take_and_give_back(&mut locks, rate(0), second * 10);
        }
        assert!(locks.locks.len() <= 2, "{} locks", locks.locks.len());
    }

    #[test]
    fn what_is_forgotten_changes_no_answer() {
        let mut locks = Locks::default();
        for (second, until) in
            [(0, None), (0, None), (0, Some(5)), (5, None), (6, Some(10)), (15, None), (15, None)]
        {
            let until = until.map(at);
            assert_eq!(take_and_give_back(&mut locks, rate(1), second), until, "{second}");
        }
    }

    #[test]
    fn what_is_held_is_never_forgotten() {
        let mut locks = Locks::default();
        let (one, other) = (StepKey::root(1), StepKey::root(2));
        let want = || vec![Want { max: Some(1), ..rate(1) }];
        assert_eq!(locks.acquire(&run(), one, want(), at(0)), None);
        locks.release(&run(), &[one]);
        assert_eq!(locks.acquire(&run(), one, want(), at(1)), None);
        assert!(locks.acquire(&run(), other, want(), at(1_000)).is_some());
        locks.release(&run(), &[one]);
        assert_eq!(locks.acquire(&run(), other, want(), at(1_000)), None);
    }
}
