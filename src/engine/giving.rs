//! Runs that nobody here wants any more, given to the others one by one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future;

use super::slot::Slot;
use super::{Inner, lock};
use crate::error::Result;
use crate::storage::Storage;
use crate::time::Timestamp;

impl Inner {
    /// Runs in memory that nobody drives and nobody has a handle for.
    fn unwanted(&self) -> Vec<Arc<Slot>> {
        lock(&self.runs).values().filter(|slot| is_unwanted(slot)).cloned().collect()
    }

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

    /// Has the others go on with them at once, as this engine stays for what else it has.
    pub(super) async fn give_unwanted(&self) -> Result<()> {
        let owner = self.owner();
        let give = async |slot: Arc<Slot>| {
            let run = &slot.context;
            let why = "nobody wants it where it was".to_string();
            self.storage.set_aside(&run.id, owner, Timestamp::EPOCH, why).await?;
            // Somebody may want it since; the journal says who has it now.
            run.doubt();
            self.forget_if(run, || is_unwanted(&slot));
            Ok(())
        };
        let given = future::join_all(self.unwanted().into_iter().map(give)).await;
        given.into_iter().collect()
    }
}

fn is_unwanted(slot: &Slot) -> bool {
    let run = &slot.context;
    [&run.handles, &run.drivers].iter().all(|count| count.load(Ordering::SeqCst) == 0)
}
