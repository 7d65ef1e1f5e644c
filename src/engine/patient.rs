//! A storage that is not waited for without end.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Either, Shared, WeakShared, select};
use futures::stream::BoxStream;

use super::lock;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::Runtime;
use crate::storage::around::around_storage;
use crate::storage::{Owner, Reply, Storage};

/// Takes a call that has no answer for so long for one that failed. It may have had its effect; those
/// who hear so look at what is stored.
pub(crate) struct Patient {
    storage: Arc<dyn Storage>,
    runtime: Arc<dyn Runtime>,
    patience: Duration,
    alarm: Mutex<Option<Alarm>>,
    gave_up: Arc<AtomicBool>,
}

/// What calls that were made at nearly the same time wait for together: one timer for each would wake
/// the thread of timers with each call.
struct Alarm {
    at: Duration,
    /// Gone with the last call that waits for it.
    rings: WeakShared<BoxFuture<'static, ()>>,
}

/// Calls whose ends are less apart than this part of the patience wait for the first one's.
const TOGETHER: u32 = 32;

impl Patient {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        runtime: Arc<dyn Runtime>,
        patience: Duration,
    ) -> Self {
        Self { storage, runtime, patience, alarm: Mutex::default(), gave_up: Arc::default() }
    }

    /// Whether a call may have its effect any time from now on, with nobody there to hear of it.
    pub(crate) fn has_given_up(&self) -> bool {
        self.gave_up.load(Ordering::Relaxed)
    }

    /// Inlined, as an answer that is there already costs next to nothing.
    #[inline]
    fn call<T: Send + Unpin + 'static>(
        &self,
        method: &'static str,
        work: impl FnOnce(&dyn Storage) -> Reply<Result<T>>,
    ) -> Reply<Result<T>> {
        match work(&*self.storage) {
            Reply::Later(answer) => self.limited(method, answer),
            ready => ready,
        }
    }

    fn limited<T: Send + Unpin + 'static>(
        &self,
        method: &'static str,
        answer: BoxFuture<'static, Result<T>>,
    ) -> Reply<Result<T>> {
        let patience = self.patience;
        let timer = self.alarm();
        let gave_up = Arc::clone(&self.gave_up);
        Reply::later(async move {
            match select(answer, timer).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => {
                    gave_up.store(true, Ordering::Relaxed);
                    let message =
                        format!("the storage has not answered `{method}` for {patience:?}");
                    Err(Error::new(ErrorKind::Storage, message))
                }
            }
        })
    }

    /// Rings when the patience for a call that is made now is at its end.
    fn alarm(&self) -> Shared<BoxFuture<'static, ()>> {
        let now = self.runtime.monotonic();
        let least = now.saturating_add(self.patience - self.patience / TOGETHER);
        let rings = |set: &Alarm| set.rings.upgrade().filter(|_| set.at >= least);
        if let Some(rings) = lock(&self.alarm).as_ref().and_then(rings) {
            return rings;
        }
        let rings = self.runtime.sleep(self.patience).shared();
        let at = now.saturating_add(self.patience);
        *lock(&self.alarm) = rings.downgrade().map(|rings| Alarm { at, rings });
        rings
    }
}

impl Storage for Patient {
    around_storage!();

    fn news(&self, owner: Owner) -> BoxStream<'static, ()> {
        self.storage.news(owner)
    }

    fn poll_every(&self) -> Duration {
        self.storage.poll_every()
    }

    fn takes_writes(&self) -> bool {
        self.storage.takes_writes()
    }
}

impl fmt::Debug for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.storage.fmt(f)
    }
}
