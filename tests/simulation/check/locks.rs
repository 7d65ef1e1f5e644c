//! Who has which lock, and whether anybody works without.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::executor::block_on;
use stepwell::run::Want;
use stepwell::storage::{Acquire, Holding, NewRun, Owner, Storage};
use stepwell::{RunId, RunStatus, Step, StepKey, Timestamp, Workflow};

use super::limited;
use crate::shapes::LOCKS;

type Holder = (RunId, StepKey);

/// Locks as far as the tape was read.
pub(super) struct Slots {
    holders: BTreeMap<String, BTreeSet<Holder>>,
    /// When each lock with a rate was taken.
    taken: BTreeMap<String, Vec<Duration>>,
    /// Code that runs, of engines that hold its run, by where it began.
    bodies: BTreeMap<usize, Body>,
    has_jumps: bool,
}

struct Body {
    run: RunId,
    engine: usize,
    key: String,
    locks: Vec<String>,
}

impl Slots {
    pub(super) fn new(has_jumps: bool) -> Self {
        let (holders, taken, bodies) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { holders, taken, bodies, has_jumps }
    }

    pub(super) fn granted(&mut self, run: &RunId, step: StepKey, wants: &[Want], at: Duration) {
        for want in wants {
            let holders = self.holders.entry(want.lock.clone()).or_default();
            let is_new = holders.insert((run.clone(), step));
            let max = want.max.map_or(usize::MAX, |max| max as usize);
            assert!(holders.len() <= max, "N8 lock {}: {holders:?}", want.lock);
            if let Some(rate) = want.rate.filter(|_| is_new && !self.has_jumps) {
                let taken = self.taken.entry(want.lock.clone()).or_default();
                taken.push(at);
                let lately = taken.iter().filter(|then| **then + rate.per > at).count();
                // All at once, and evenly from then on.
                let most = 2 * rate.count as usize;
                assert!(lately <= most, "N8 lock {}: {lately} in {:?}", want.lock, rate.per);
            }
        }
    }

    pub(super) fn released(&mut self, run: &RunId, steps: &[StepKey], has_ended: bool) {
        if steps.is_empty() && !has_ended {
            return;
        }
        for holders in self.holders.values_mut() {
            holders.retain(|(of, step)| of != run || !has_ended && !steps.contains(step));
        }
    }

    /// At every instant no more work than the lock allows, each with the lock in hand, and nothing is
    /// done twice at once, as far as those are concerned whose run it is.
    pub(super) fn begun(
        &mut self,
        run: &RunId,
        step: StepKey,
        key: &str,
        engine: usize,
        place: usize,
        wants: &[Want],
    ) {
        let twice = self.bodies.values().any(|body| body.key == key);
        assert!(!twice, "N4 {key} runs twice at once");
        for (lock, max) in limited(wants) {
            let holders = self.holders.get(lock);
            let holds = holders.is_some_and(|holders| holders.contains(&(run.clone(), step)));
            assert!(holds, "N8 {key} runs without lock {lock}");
            let beside = self.bodies.values().filter(|body| body.locks.iter().any(|it| it == lock));
            assert!(beside.count() < max as usize, "N8 {key} runs with too many under {lock}");
        }
        let locks = limited(wants).map(|(lock, _)| lock.to_string()).collect();
        let body = Body { run: run.clone(), engine, key: key.to_string(), locks };
        self.bodies.insert(place, body);
    }

    pub(super) fn left(&mut self, place: usize) {
        self.bodies.remove(&place);
    }

    /// What an engine goes on with that has lost the run counts no more: nobody takes its results.
    pub(super) fn lost(&mut self, run: &RunId, engine: usize) {
        self.bodies.retain(|_, body| body.run != *run || body.engine != engine);
    }
}

/// Each lock is to be had as often as it may be held.
pub(super) fn n8_no_lock_is_stuck<S: Storage>(storage: &S) {
    let (id, owner) = (RunId::new("who-wants-all").unwrap(), Owner(1));
    let workflow = Workflow::builder("all").step(Step::task("a", "work")).build().unwrap();
    let run = NewRun {
        id: id.clone(),
        holding: Holding::Held(owner),
        workflow,
        linked: Vec::new(),
        user: None,
        metadata: stepwell::workflow::Metadata::default(),
        at: Timestamp::MAX,
        journal: Vec::new(),
        status: RunStatus::Running,
    };
    block_on(storage.create(run)).unwrap();
    for (lock, max) in LOCKS {
        for step in 0..max {
            let mut want = Want::new(lock);
            want.max = Some(max);
            let (step, wants) = (StepKey::root(step), vec![want]);
            let asked = Acquire { owner, expected: 0, step, wants, now: Timestamp::MAX };
            let denied = block_on(storage.acquire(&id, asked)).unwrap();
            assert_eq!(denied, None, "N8 lock {lock} is stuck");
        }
    }
}
