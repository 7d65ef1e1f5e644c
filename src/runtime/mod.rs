//! Where time, other threads and chance come from.
//!
//! An engine asks its [`Runtime`] and nothing else, so the same workflow runs under any async
//! executor, on a plain thread, or in virtual time. [`Host`] is the default and needs no runtime.

mod clock;
mod host;
#[cfg(feature = "smol")]
mod smol;
#[cfg(feature = "threads")]
mod threads;
#[cfg(feature = "tokio")]
mod tokio;

pub use host::{BLOCKING_THREADS_MAX, Host};
#[cfg(feature = "smol")]
pub use smol::Smol;
#[cfg(feature = "threads")]
pub use threads::{Threads, threads};
#[cfg(feature = "tokio")]
pub use tokio::Tokio;

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::time::Timestamp;

/// Work that blocks its thread.
pub type BlockingWork = Box<dyn FnOnce() + Send>;

/// Time, other threads and chance.
///
/// # Contract
/// - `sleep_until` completes when `now` is at or after the time, never before, also when the clock
///   was set meanwhile; a time that never comes never completes.
/// - `spawn` and `spawn_blocking` run the work to its end whoever drops what, or give it back.
/// - A panic in spawned work ends that work only.
/// - `monotonic` never goes back.
/// - `sleep` completes when `monotonic` has gone on by that much, whatever becomes of the wall clock.
/// - A sleep may be polled on any thread, and goes on when who began it is gone.
pub trait Runtime: Send + Sync + fmt::Debug + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary start: for measuring how long something takes.
    fn monotonic(&self) -> Duration;

    /// Completes at this time by the wall clock: for what people have set a time for.
    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()>;

    /// Completes after this long, counted from the call: for what must not wait for an hour because
    /// somebody has set the clock back by one.
    fn sleep(&self, length: Duration) -> BoxFuture<'static, ()>;

    /// Runs a future on its own.
    ///
    /// # Errors
    /// The future, when this runtime cannot.
    fn spawn(&self, future: BoxFuture<'static, ()>) -> Result<(), BoxFuture<'static, ()>>;

    /// Runs blocking work where it stalls nobody.
    ///
    /// # Errors
    /// The work, when this runtime cannot.
    fn spawn_blocking(&self, work: BlockingWork) -> Result<(), BlockingWork>;

    /// Whether spawned futures can use other cores than this one.
    fn is_parallel(&self) -> bool;

    /// 64 random bits.
    fn random(&self) -> u64;

    /// What this process uses; nothing where it is not known, and then nothing waits for it.
    fn usage(&self) -> ProcessUsage {
        ProcessUsage::default()
    }
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Resident memory in MiB.
    pub memory_mb: u64,
    /// CPU time since the process began, over all cores.
    pub cpu_time: Duration,
}
