//! A storage of a process that dies of one of its writes, or is stopped there: before it, or after it is
//! done but before anybody hears so.

use std::io::Write;
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
    end: End,
}

/// What becomes of a process at its write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Aborts,
    /// It says [`HALTS`], and does nothing more until a line comes, or nobody could send one any more.
    /// Whoever hears that may kill it, or stop it and have it go on. It is at nothing else by then, as all
    /// its calls are answered before it does another thing: whoever is stopped in the middle of a
    /// transaction holds up others.
    Halts,
}

pub(super) const HALTS: &str = "halts";

impl Deadly {
    pub(super) fn new(storage: Arc<dyn Storage>, dies_at: u64, before: bool, end: End) -> Self {
        Self { storage, writes: AtomicU64::new(0), dies_at, before, end }
    }

    pub(super) fn harmless(storage: Arc<dyn Storage>) -> Self {
        Self::new(storage, 0, false, End::Aborts)
    }

    fn read<T: Unpin>(&self, read: impl FnOnce(&dyn Storage) -> Reply<T>) -> Reply<T> {
        match self.end {
            End::Aborts => read(&*self.storage),
            End::Halts => Reply::ready(smol::block_on(read(&*self.storage))),
        }
    }

    fn write<T: Send + Unpin + 'static>(
        &self,
        write: impl FnOnce(&dyn Storage) -> Reply<T>,
    ) -> Reply<T> {
        let is_it = self.writes.fetch_add(1, Ordering::SeqCst) + 1 == self.dies_at;
        match self.end {
            End::Aborts if !is_it => write(&*self.storage),
            End::Aborts if self.before => std::process::abort(),
            End::Aborts => {
                let done = write(&*self.storage);
                Reply::later(async move {
                    drop(done.await);
                    std::process::abort()
                })
            }
            End::Halts => {
                if is_it && self.before {
                    halt();
                }
                let done = smol::block_on(write(&*self.storage));
                if is_it && !self.before {
                    halt();
                }
                Reply::ready(done)
            }
        }
    }
}

fn halt() {
    std::io::stdout().write_all(format!("{HALTS}\n").as_bytes()).unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
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
