//! Runs that nobody here has go on, given to the others one by one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt, stream};

use super::slot::Slot;
use super::{Inner, lock};
use crate::error::{ErrorKind, Result};
use crate::storage::{Commit, Holding, Storage};
use crate::time::Timestamp;

/// Runs that are given at the same time.
const TOGETHER: usize = 16;

impl Inner {
    /// Takes all runs out of memory, if nobody here wants any; whether nobody did.
    pub(super) fn drop_all_unwanted(&self) -> bool {
        let mut runs = lock(&self.runs);
        if !runs.values().all(|slot| is_unwanted(slot)) {
            return false;
        }
        let gone = std::mem::take(&mut *runs);
        // Dropped after the lock is free: dropping a driver runs destructors of steps.
        drop(runs);
        drop(gone);
        true
    }

    /// Has the others go on at once with some of those that stand still here, as this engine stays for
    /// what else it has.
    pub(super) async fn give_unwanted(&self, most: usize) -> Result<()> {
        // One that is given by two at once is given once.
        let Some(_giving) = self.giving.try_lock() else { return Ok(()) };
        let stands = |slot: &&Arc<Slot>| {
            let run = &slot.context;
            let is_driven = run.drivers.load(Ordering::SeqCst) > 0;
            let is_here = !run.is_elsewhere() && !run.has_ended();
            is_here && !is_driven && (is_unwanted(slot) || run.is_taken())
        };
        let still: Vec<_> = lock(&self.runs).values().filter(stands).take(most).cloned().collect();
        let mut given = stream::iter(still).map(|slot| self.give(slot)).buffer_unordered(TOGETHER);
        while let Some(given) = given.next().await {
            given?;
        }
        Ok(())
    }

    async fn give(&self, slot: Arc<Slot>) -> Result<()> {
        let run = &slot.context;
        let (expected, status) = {
            let state = run.state();
            (state.version(), state.status())
        };
        if status.is_end() {
            self.forget_if(run, || is_unwanted(&slot));
            return Ok(());
        }
        // Refused if somebody here has it go on meanwhile.
        let commit = Commit {
            owner: self.owner(),
            expected,
            events: Vec::new(),
            status,
            answers: Vec::new(),
            holding: Holding::Parked(Some(Timestamp::EPOCH)),
            released: Vec::new(),
            recovered: false,
            writes: None,
            snapshot: None,
        };
        let unheard = self.unheard();
        let given = self.storage.commit(&run.id, commit).await;
        // Somebody may want it since; the journal says who has it now.
        run.doubt();
        run.wake_driver();
        match given {
            Err(error) if !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                return Err(error);
            }
            _ => {}
        }
        unheard.heard();
        run.set_taken(false);
        self.forget_if(run, || is_unwanted(&slot));
        Ok(())
    }
}

/// Whether nobody drives it and nobody has a handle for it.
fn is_unwanted(slot: &Slot) -> bool {
    let run = &slot.context;
    [&run.handles, &run.drivers].iter().all(|count| count.load(Ordering::SeqCst) == 0)
}
