//! A storage of a process that dies of one of its writes: before it, or after it is done but before
//! anybody hears so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::BoxStream;
use stepwell::journal::Recorded;
use stepwell::storage::{
    Acquire, Answer, Beat, Claim, Claimed, Commit, Created, Denied, Message, NewRun, Owner, Purge,
    Reply, RunQuery, Storage, StoredRun, Summary,
};
use stepwell::{Result, RunId, Timestamp};

use super::calls::reads_and_writes;

#[derive(Debug)]
pub(super) struct Deadly {
    storage: Arc<dyn Storage>,
    writes: AtomicU64,
    /// Counted from 1: none is number 0.
    dies_at: u64,
    /// Otherwise after it.
    before: bool,
}

impl Deadly {
    pub(super) fn new(storage: Arc<dyn Storage>, dies_at: u64, before: bool) -> Self {
        Self { storage, writes: AtomicU64::new(0), dies_at, before }
    }

    pub(super) fn harmless(storage: Arc<dyn Storage>) -> Self {
        Self::new(storage, 0, false)
    }

    fn read<T>(&self, read: impl FnOnce(&dyn Storage) -> T) -> T {
        read(&*self.storage)
    }

    fn write<T: Send + Unpin + 'static>(
        &self,
        write: impl FnOnce(&dyn Storage) -> Reply<T>,
    ) -> Reply<T> {
        if self.writes.fetch_add(1, Ordering::SeqCst) + 1 != self.dies_at {
            return write(&*self.storage);
        }
        if self.before {
            std::process::abort();
        }
        let done = write(&*self.storage);
        Reply::later(async move {
            drop(done.await);
            std::process::abort()
        })
    }
}

impl Storage for Deadly {
    reads_and_writes!();

    fn poll_every(&self) -> Duration {
        self.storage.poll_every()
    }

    fn news(&self, owner: Owner) -> BoxStream<'static, ()> {
        self.storage.news(owner)
    }

    fn takes_writes(&self) -> bool {
        self.storage.takes_writes()
    }
}
