//! Runs that nobody here has go on, given to the others one by one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt, stream};

use super::slot::Slot;
use super::{Inner, lock};
use crate::error::{ErrorKind, Result};
use crate::executor::RunContext;
use crate::journal::RunStatus;
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

    /// Takes a run out of memory that somebody here has only looked at, and that is not this engine's.
    pub(super) fn forget_unheld(&self, slot: &Slot) {
        let run = &slot.context;
        if run.is_held() || slot.is_served() || run.has_observers() {
            return;
        }
        self.forget_if(run, || is_unwanted(slot) && !run.is_held() && !slot.is_served());
    }

    /// Has the others go on at once with some of those that nobody here wants, or that this engine cannot
    /// run, as it stays for what else it has.
    pub(super) async fn give_unwanted(&self, most: usize) -> Result<()> {
        let unwanted: Vec<_> = {
            let runs = lock(&self.runs);
            let given = |slot: &&Arc<Slot>| is_unwanted(slot) || is_stuck(slot);
            runs.values().filter(given).take(most).cloned().collect()
        };
        let given = stream::iter(unwanted).map(|slot| self.give(slot)).buffer_unordered(TOGETHER);
        let given: Vec<Result<()>> = given.collect().await;
        given.into_iter().collect()
    }

    async fn give(&self, slot: Arc<Slot>) -> Result<()> {
        let run = &slot.context;
        let unheard = self.unheard();
        if run.is_held() && !run.has_ended() {
            let (length, status) = {
                let state = run.state();
                (state.version(), state.status())
            };
            let mut given = self.leave(run, length, status).await;
            // What was decided here and not stored nobody else knows of.
            if is_kind(&given, ErrorKind::Conflict)
                && let Some(stored) = self.storage.load(&run.id).await?
                && stored.holding == Holding::Held(self.owner())
                && (is_unwanted(&slot) || is_stuck(&slot))
            {
                given = self.leave(run, stored.length(), stored.status).await;
            }
            if given.is_ok() {
                run.set_held(false);
            }
            // Somebody may want it since; the journal says who has it now.
            run.doubt();
            run.wake_driver();
            if !is_kind(&given, ErrorKind::Conflict) && !is_kind(&given, ErrorKind::NotFound) {
                given?;
            }
        }
        unheard.heard();
        self.forget_if(run, || is_unwanted(&slot) && !run.has_observers());
        Ok(())
    }

    /// Refused if the run has got on since it had this length.
    async fn leave(&self, run: &RunContext, length: u64, status: RunStatus) -> Result<()> {
        let due = Holding::Parked(Some(Timestamp::EPOCH));
        let commit = Commit {
            owner: self.owner(),
            expected: length,
            events: Vec::new(),
            status,
            answers: Vec::new(),
            holding: if status.is_end() { Holding::Finished } else { due },
            released: Vec::new(),
            recovered: false,
            writes: None,
            snapshot: None,
        };
        self.storage.commit(&run.id, commit).await.map(drop)
    }
}

fn is_kind(given: &Result<()>, kind: ErrorKind) -> bool {
    given.as_ref().is_err_and(|error| error.kind() == kind)
}

/// Whether this engine holds what it cannot run.
fn is_stuck(slot: &Slot) -> bool {
    slot.context.is_held() && slot.check().is_err()
}

/// Whether nobody drives it and nobody has a handle for it.
fn is_unwanted(slot: &Slot) -> bool {
    let run = &slot.context;
    [&run.handles, &run.drivers].iter().all(|count| count.load(Ordering::SeqCst) == 0)
}
