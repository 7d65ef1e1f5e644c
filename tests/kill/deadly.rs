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
    fn create(&self, run: NewRun) -> Reply<Result<Created>> {
        self.write(|storage| storage.create(run))
    }

    fn commit(&self, run: &RunId, commit: Commit) -> Reply<Result<Vec<Recorded>>> {
        self.write(|storage| storage.commit(run, commit))
    }

    fn load(&self, run: &RunId) -> Reply<Result<Option<StoredRun>>> {
        self.storage.load(run)
    }

    fn events(&self, run: &RunId, from: u64, limit: usize) -> Reply<Result<Vec<(u64, Recorded)>>> {
        self.storage.events(run, from, limit)
    }

    fn post(&self, run: &RunId, message: Message) -> Reply<Result<u64>> {
        self.write(|storage| storage.post(run, message))
    }

    fn inbox(&self, run: &RunId) -> Reply<Result<Vec<(u64, Message)>>> {
        self.storage.inbox(run)
    }

    fn answer(&self, run: &RunId, number: u64) -> Reply<Result<Option<Answer>>> {
        self.storage.answer(run, number)
    }

    fn acquire(&self, run: &RunId, asked: Acquire) -> Reply<Result<Option<Denied>>> {
        self.write(|storage| storage.acquire(run, asked))
    }

    fn beat(&self, owner: Owner) -> Reply<Result<Vec<Beat>>> {
        self.write(|storage| storage.beat(owner))
    }

    fn retire(&self, owner: Owner) -> Reply<Result<()>> {
        self.write(|storage| storage.retire(owner))
    }

    fn held(&self, owner: Owner, after: Option<RunId>, limit: usize) -> Reply<Result<Vec<RunId>>> {
        self.storage.held(owner, after, limit)
    }

    fn mail(&self, owner: Owner, limit: usize) -> Reply<Result<Vec<RunId>>> {
        self.storage.mail(owner, limit)
    }

    fn claim(&self, claim: Claim) -> Reply<Result<Vec<Claimed>>> {
        self.write(|storage| storage.claim(claim))
    }

    fn set_aside(
        &self,
        run: &RunId,
        owner: Owner,
        until: Timestamp,
        why: String,
    ) -> Reply<Result<()>> {
        self.write(|storage| storage.set_aside(run, owner, until, why))
    }

    fn poll_every(&self) -> Duration {
        self.storage.poll_every()
    }

    fn news(&self, owner: Owner) -> BoxStream<'static, ()> {
        self.storage.news(owner)
    }

    fn takes_writes(&self) -> bool {
        self.storage.takes_writes()
    }

    fn next_due(&self) -> Reply<Result<Option<Timestamp>>> {
        self.storage.next_due()
    }

    fn purge(&self, which: Purge) -> Reply<Result<Vec<RunId>>> {
        self.write(|storage| storage.purge(which))
    }

    fn clear(&self, owner: Owner, runs: Vec<RunId>) -> Reply<Result<()>> {
        self.write(|storage| storage.clear(owner, runs))
    }

    fn list(&self, query: RunQuery) -> Reply<Result<Vec<Summary>>> {
        self.storage.list(query)
    }
}
