//! Driving everything: what a program that keeps runs beyond one await spawns once.

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::Stream;
use futures::stream::FuturesUnordered;

use super::{Engine, Slot, lock};
use crate::error::Result;
use crate::id::RunId;

/// How often an engine says that it is alive.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// How long after its last word an engine is taken for gone.
const HEARTBEAT_LASTS: Duration = Duration::from_secs(30);
/// Runs taken over at once, so that one engine does not grab everything after another's death.
const CLAIMED_AT_ONCE: usize = 100;

impl Engine {
    /// Drives every run of this engine, and takes over those that nobody holds: parked ones that are
    /// due or have mail, and those of engines that are gone. Ends when `shutdown` does; runs stay as
    /// they are and go on when somebody drives them again.
    ///
    /// # Errors
    /// What the storage says, when it says it to this engine as a whole. A run whose storage fails
    /// is dropped from memory and taken up again later.
    pub async fn serve(&self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut shutdown = pin!(shutdown);
        let mut drives = FuturesUnordered::new();
        let mut driven: HashSet<RunId> = HashSet::new();
        loop {
            let now = self.0.runtime.now();
            self.0.storage.heartbeat(self.0.owner, now + HEARTBEAT_LASTS).await?;
            for id in self.0.storage.claim(self.0.owner, now, CLAIMED_AT_ONCE).await? {
                let held = lock(&self.0.runs).get(&id).map(Arc::clone);
                match held {
                    Some(slot) => slot.context.wake_driver(),
                    None => drop(self.load(&id).await),
                }
            }
            let slots: Vec<Arc<Slot>> = lock(&self.0.runs).values().cloned().collect();
            for slot in slots {
                if driven.insert(slot.context.id.clone()) {
                    drives.push(self.drive(slot));
                }
            }
            let due = self.0.storage.next_due().await?;
            let wake = due.map_or(now + HEARTBEAT_EVERY, |at| at.min(now + HEARTBEAT_EVERY));
            let mut timer = self.0.runtime.sleep_until(wake);
            let mut known = lock(&self.0.runs).len();
            let stop = poll_fn(|context| {
                if shutdown.as_mut().poll(context).is_ready() {
                    return Poll::Ready(true);
                }
                self.0.serving.register(context.waker());
                let mut moved = timer.as_mut().poll(context).is_ready();
                while let Poll::Ready(Some(id)) = Pin::new(&mut drives).poll_next(context) {
                    driven.remove(&id);
                    known = known.saturating_sub(1);
                    moved = true;
                }
                moved |= lock(&self.0.runs).len() != known;
                if moved { Poll::Ready(false) } else { Poll::Pending }
            })
            .await;
            if stop {
                return Ok(());
            }
        }
    }

    /// Drives one run to its end or until it is parked.
    async fn drive(&self, slot: Arc<Slot>) -> RunId {
        let id = slot.context.id.clone();
        // Two hold it when nobody has a handle: the engine's list and this.
        let alone = || Arc::strong_count(&slot) <= 2;
        let driven = slot.driver.lock().await.drive(&slot.replies, alone).await;
        match driven {
            Ok(true) => {}
            Ok(false) => self.forget(&slot),
            Err(error) => {
                tracing::warn!(target: "stepwell", run_id = %id, %error, "driving failed");
                self.forget(&slot);
            }
        }
        id
    }

    fn forget(&self, slot: &Arc<Slot>) {
        let mut runs = lock(&self.0.runs);
        // Somebody may have asked for a handle since; then the run stays.
        if Arc::strong_count(slot) <= 2 {
            runs.remove(&slot.context.id);
        }
    }
}
