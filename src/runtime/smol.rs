//! smol's global executor.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{BlockingWork, Host, Runtime};
use crate::time::Timestamp;

/// Spawns on smol's global executor, which has as many threads as the environment variable
/// `SMOL_THREADS` says when it is first used, one if it says nothing.
#[derive(Clone, Debug, Default)]
pub struct Smol {
    host: Host,
}

impl Runtime for Smol {
    fn now(&self) -> Timestamp {
        self.host.now()
    }

    fn monotonic(&self) -> Duration {
        self.host.monotonic()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        self.host.sleep_until(at)
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) -> Result<(), BoxFuture<'static, ()>> {
        smol::spawn(AssertUnwindSafe(future).catch_unwind().map(drop)).detach();
        Ok(())
    }

    fn spawn_blocking(&self, work: BlockingWork) -> Result<(), BlockingWork> {
        smol::unblock(move || drop(std::panic::catch_unwind(AssertUnwindSafe(work)))).detach();
        Ok(())
    }

    /// Even one thread of the executor is another than the one that drives a run.
    fn is_parallel(&self) -> bool {
        true
    }

    fn random(&self) -> u64 {
        self.host.random()
    }
}
