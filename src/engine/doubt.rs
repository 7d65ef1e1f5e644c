//! Runs that an engine may hold and does not know of, as nobody has heard the answer when it took them; and
//! those that it may not hold any more.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::slot::Slot;
use super::{Inner, lock};
use crate::error::Result;
use crate::id::RunId;
use crate::storage::Storage;

/// Names of runs that are asked for at once.
const HELD_AT_ONCE: usize = 1_000;

/// When the storage is to be asked for them.
#[derive(Debug, Default)]
pub(crate) struct Doubts(Mutex<Looks>);

/// Times are of the clock that only goes forward.
#[derive(Debug, Default)]
struct Looks {
    at_once: bool,
    /// What nobody waits for any more may have been on its way when somebody looked.
    again: Option<Duration>,
}

/// Doubts when it is dropped, unless the answer was heard: a call may have its effect although nobody
/// waits for it any more.
pub(crate) struct Unheard<'a>(Option<&'a Inner>);

impl Inner {
    /// Has the storage asked which runs this engine holds, now and when a storage that does not answer is
    /// taken for one that failed.
    pub(crate) fn doubt(&self) {
        let again = self.runtime.monotonic() + self.limits.lease;
        *lock(&self.doubts.0) = Looks { at_once: true, again: Some(again) };
        self.serving.wake();
    }

    /// To be told when the answer to a call that takes runs has come.
    pub(crate) const fn unheard(&self) -> Unheard<'_> {
        Unheard(Some(self))
    }

    /// Has the runs looked at that this engine takes for its own and the storage does not: others have
    /// taken them while it was silent, and whoever waits for them here would wait without end.
    pub(crate) async fn find_taken(&self) -> Result<()> {
        let is_ours = |slot: &&Arc<Slot>| !slot.context.is_elsewhere() && !slot.context.has_ended();
        let mut ours: FxHashMap<RunId, Arc<Slot>> = {
            let runs = lock(&self.runs);
            let ours = runs.values().filter(is_ours);
            ours.map(|slot| (slot.context.id.clone(), Arc::clone(slot))).collect()
        };
        let mut after = None;
        while !ours.is_empty() {
            let held = self.storage.held(self.owner(), after, HELD_AT_ONCE).await?;
            for id in &held {
                ours.remove(id);
            }
            match held.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        for slot in ours.values() {
            slot.context.doubt();
            slot.context.wake_driver();
        }
        Ok(())
    }

    /// Whether it is time to ask.
    pub(crate) fn looks_for_lost(&self) -> bool {
        let now = self.runtime.monotonic();
        let mut looks = lock(&self.doubts.0);
        let again = looks.again.take_if(|at| *at <= now).is_some();
        std::mem::take(&mut looks.at_once) || again
    }
}

impl Unheard<'_> {
    pub(crate) fn heard(mut self) {
        self.0 = None;
    }
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        if let Some(engine) = self.0 {
            engine.doubt();
        }
    }
}
