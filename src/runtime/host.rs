//! The default runtime: works under any executor, spawns nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;

use super::{BlockingWork, ProcessUsage, Runtime, clock};
use crate::time::Timestamp;

/// Threads that blocking steps may hold at once; above it they run in place.
pub const BLOCKING_THREADS_MAX: usize = 512;

/// Clock slices that a sleep is cut into, so that a clock that was set is noticed.
const SLICE: Duration = Duration::from_secs(60);

/// Longer sleeps end after this: what is added to the clock must not overflow it.
const SLEEP_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A runtime that needs none: timers on a thread of their own, futures polled where they are
/// awaited, so that a step's future stays on the thread and the reactor of your executor. Blocking
/// steps get a thread each.
#[derive(Clone, Debug, Default)]
pub struct Host {
    blocking: Arc<AtomicUsize>,
}

impl Runtime for Host {
    fn now(&self) -> Timestamp {
        clock::now()
    }

    fn monotonic(&self) -> Duration {
        clock::monotonic()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                let left = at.since(clock::now());
                if left.is_zero() {
                    return;
                }
                futures_timer::Delay::new(left.min(SLICE)).await;
            }
        })
    }

    fn sleep(&self, length: Duration) -> BoxFuture<'static, ()> {
        Box::pin(futures_timer::Delay::new(length.min(SLEEP_MAX)))
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) -> Result<(), BoxFuture<'static, ()>> {
        Err(future)
    }

    fn spawn_blocking(&self, work: BlockingWork) -> Result<(), BlockingWork> {
        let blocking = Arc::clone(&self.blocking);
        if blocking.fetch_add(1, Ordering::Relaxed) >= BLOCKING_THREADS_MAX {
            blocking.fetch_sub(1, Ordering::Relaxed);
            return Err(work);
        }
        // The work is handed over by a channel, so that it is still here when no thread can be had.
        let (sender, receiver) = std::sync::mpsc::channel::<BlockingWork>();
        let thread = std::thread::Builder::new().name("stepwell-blocking".into());
        let counter = Arc::clone(&blocking);
        let started = thread.spawn(move || {
            if let Ok(work) = receiver.recv() {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            }
            counter.fetch_sub(1, Ordering::Relaxed);
        });
        match started {
            Ok(_) => sender.send(work).map_err(|unsent| unsent.0),
            Err(_) => {
                blocking.fetch_sub(1, Ordering::Relaxed);
                Err(work)
            }
        }
    }

    fn is_parallel(&self) -> bool {
        false
    }

    fn usage(&self) -> ProcessUsage {
        clock::usage()
    }

    fn random(&self) -> u64 {
        clock::random()
    }
}
