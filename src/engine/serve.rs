//! Driving everything: what a program that keeps runs beyond one await spawns once.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use futures::Stream;
use futures::stream::FuturesUnordered;

use super::slot::Slot;
use super::{Engine, lock};
use crate::error::{ErrorKind, Result};
use crate::id::RunId;
use crate::storage::{Commit, Holding};
use crate::time::Timestamp;

/// How often an engine says that it is alive.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// How long after its last word an engine is taken for gone.
const HEARTBEAT_LASTS: Duration = Duration::from_secs(30);
/// Runs taken over at once, so that one engine does not grab everything after another's death.
const CLAIMED_AT_ONCE: usize = 100;
/// How long a run is left alone after its storage failed; twice as long each time.
const LEFT_ALONE: Duration = Duration::from_secs(1);
const LEFT_ALONE_MAX: Duration = Duration::from_secs(60);

impl Engine {
    /// Drives every run of this engine, and takes over those that nobody holds: parked ones that are
    /// due or have mail, and those of engines that are gone. Ends when `shutdown` does; runs stay as
    /// they are and go on when somebody drives them again.
    ///
    /// # Errors
    /// What the storage says, when it says it to this engine as a whole. A run whose storage fails
    /// is tried again later, and so is one that this engine has no executors for, by any engine.
    pub async fn serve(&self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut shutdown = pin!(shutdown);
        let mut drives = FuturesUnordered::new();
        // Those that are there already are not news any more.
        lock(&self.0.fresh).clear();
        let known: Vec<Arc<Slot>> = lock(&self.0.runs).values().cloned().collect();
        known.into_iter().for_each(|slot| drives.push(self.drive(slot)));
        let mut beat = Timestamp::EPOCH;
        loop {
            let now = self.0.runtime.now();
            if beat <= now {
                self.0.storage.heartbeat(self.0.owner, now + HEARTBEAT_LASTS).await?;
                beat = now + HEARTBEAT_EVERY;
            }
            for id in self.0.storage.claim(self.0.owner, now, CLAIMED_AT_ONCE).await? {
                let held = lock(&self.0.runs).get(&id).map(Arc::clone);
                match held {
                    Some(slot) => slot.context.wake_driver(),
                    None => self.take_over(&id, now).await,
                }
            }
            let fresh = std::mem::take(&mut *lock(&self.0.fresh));
            fresh.into_iter().for_each(|slot| drives.push(self.drive(slot)));
            let due = self.0.storage.next_due().await?;
            let mut timer = self.0.runtime.sleep_until(due.map_or(beat, |at| at.min(beat)));
            let stop = poll_fn(|context| {
                if shutdown.as_mut().poll(context).is_ready() {
                    return Poll::Ready(true);
                }
                self.0.serving.register(context.waker());
                let mut moved = timer.as_mut().poll(context).is_ready();
                while let Poll::Ready(Some(())) = Pin::new(&mut drives).poll_next(context) {
                    moved = true;
                }
                moved |= !lock(&self.0.fresh).is_empty();
                if moved { Poll::Ready(false) } else { Poll::Pending }
            })
            .await;
            if stop {
                return Ok(());
            }
        }
    }

    /// Loads a claimed run; if that fails, gives it back for a while.
    async fn take_over(&self, id: &RunId, now: Timestamp) {
        // The handle goes at once; the run stays among the fresh ones.
        let Err(error) = self.load(id).await.map(drop) else { return };
        tracing::warn!(target: "stepwell", run_id = %id, %error, "cannot take the run over");
        let released = async {
            let Some(stored) = self.0.storage.load(id).await? else { return Ok(()) };
            let commit = Commit {
                expected: stored.journal.len() as u64,
                events: Vec::new(),
                status: stored.status,
                consumed: Vec::new(),
                holding: Holding::Parked(Some(now + LEFT_ALONE_MAX)),
            };
            self.0.storage.commit(id, commit).await.map(drop)
        };
        if let Err(error) = released.await {
            tracing::warn!(target: "stepwell", run_id = %id, %error, "cannot give the run back");
        }
    }

    /// Drives one run to its end or until it is parked, however often its storage fails.
    async fn drive(&self, slot: Arc<Slot>) {
        let mut pause = LEFT_ALONE;
        let run_id = &slot.context.id;
        loop {
            if let Err(error) = slot.drive(self.inner()).await {
                tracing::warn!(target: "stepwell", %run_id, %error, "driving failed");
                if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) {
                    return self.0.forget(run_id);
                }
                let runtime = &self.0.runtime;
                runtime.sleep_until(runtime.now() + pause).await;
                pause = (pause * 2).min(LEFT_ALONE_MAX);
                continue;
            }
            pause = LEFT_ALONE;
            let mut runs = lock(&self.0.runs);
            // Somebody may have asked for a handle since it was parked; then it is driven on.
            if slot.context.has_ended() || slot.context.handles.load(Ordering::Acquire) == 0 {
                let gone = runs.remove(run_id);
                drop(runs);
                return drop(gone);
            }
        }
    }
}
