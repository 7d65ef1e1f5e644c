//! tokio's tasks and blocking pool.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{BlockingWork, Host, ProcessUsage, Runtime};
use crate::time::Timestamp;

/// Spawns on the tokio runtime it was made in. Time is the machine's: a runtime built without
/// `enable_time` works too.
#[derive(Clone, Debug)]
pub struct Tokio {
    host: Host,
    handle: Handle,
}

impl Tokio {
    /// The tokio runtime that this is called in, if any.
    #[must_use]
    pub fn current() -> Option<Self> {
        let handle = Handle::try_current().ok()?;
        Some(Self { host: Host::default(), handle })
    }
}

impl Runtime for Tokio {
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
        drop(self.handle.spawn(future));
        Ok(())
    }

    fn spawn_blocking(&self, work: BlockingWork) -> Result<(), BlockingWork> {
        drop(self.handle.spawn_blocking(work));
        Ok(())
    }

    fn is_parallel(&self) -> bool {
        self.handle.runtime_flavor() == RuntimeFlavor::MultiThread
            && self.handle.metrics().num_workers() > 1
    }

    fn usage(&self) -> ProcessUsage {
        self.host.usage()
    }

    fn random(&self) -> u64 {
        self.host.random()
    }
}
