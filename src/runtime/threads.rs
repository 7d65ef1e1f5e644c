//! A pool of threads for steps.

use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use futures::executor::ThreadPool;
use futures::future::BoxFuture;

use super::{BlockingWork, Host, ProcessUsage, Runtime};
use crate::time::Timestamp;

/// [`Host`] with a pool of threads (that of the `futures` crate) that heavy steps are spawned on.
#[derive(Clone, Debug)]
pub struct Threads {
    host: Host,
    pool: ThreadPool,
    threads: usize,
}

/// A runtime with this many threads for steps.
///
/// # Errors
/// What the operating system says when it has no more threads.
pub fn threads(threads: usize) -> io::Result<Threads> {
    let threads = threads.max(1);
    let pool = ThreadPool::builder().pool_size(threads).name_prefix("stepwell-").create()?;
    Ok(Threads { host: Host::default(), pool, threads })
}

impl Runtime for Threads {
    fn now(&self) -> Timestamp {
        self.host.now()
    }

    fn monotonic(&self) -> Duration {
        self.host.monotonic()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        self.host.sleep_until(at)
    }

    fn sleep(&self, length: Duration) -> BoxFuture<'static, ()> {
        self.host.sleep(length)
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) -> Result<(), BoxFuture<'static, ()>> {
        self.pool.spawn_ok(AssertUnwindSafe(future).catch_unwind().map(drop));
        Ok(())
    }

    fn spawn_blocking(&self, work: BlockingWork) -> Result<(), BlockingWork> {
        self.host.spawn_blocking(work)
    }

    fn is_parallel(&self) -> bool {
        self.threads > 1
    }

    fn usage(&self) -> ProcessUsage {
        self.host.usage()
    }

    fn random(&self) -> u64 {
        self.host.random()
    }
}
