//! smol's executors.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{BlockingWork, Host, ProcessUsage, Runtime};
use crate::time::Timestamp;

/// Spawns on an executor of smol: the global one, which has as many threads as the environment
/// variable `SMOL_THREADS` says when it is first used, one if it says nothing; or one of the host's.
///
/// ```
/// use std::sync::Arc;
/// use stepwell::Engine;
/// use stepwell::runtime::Smol;
///
/// let executor = Arc::new(smol::Executor::new());
/// // The host runs it on as many threads as it likes.
/// let runs = Arc::clone(&executor);
/// std::thread::spawn(move || smol::block_on(runs.run(std::future::pending::<()>())));
///
/// let engine = Engine::builder().runtime(Smol::on(executor)).build()?;
/// # Ok::<(), stepwell::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Smol {
    executor: Option<Arc<smol::Executor<'static>>>,
    host: Host,
}

impl Smol {
    /// Spawns on this executor.
    #[must_use]
    pub fn on(executor: Arc<smol::Executor<'static>>) -> Self {
        Self { executor: Some(executor), host: Host::default() }
    }
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

    fn sleep(&self, length: Duration) -> BoxFuture<'static, ()> {
        self.host.sleep(length)
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) -> Result<(), BoxFuture<'static, ()>> {
        let guarded = AssertUnwindSafe(future).catch_unwind().map(drop);
        match &self.executor {
            Some(executor) => executor.spawn(guarded).detach(),
            None => smol::spawn(guarded).detach(),
        }
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

    fn usage(&self) -> ProcessUsage {
        self.host.usage()
    }

    fn random(&self) -> u64 {
        self.host.random()
    }
}
