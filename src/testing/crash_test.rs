//! A program that is killed and begun again, at moments that a seed decides.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{AbortHandle, BoxFuture, Either, abortable, pending, select};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Fault, Faulty, Stalled, VirtualRuntime};
use crate::engine::{Engine, EngineBuilder};
use crate::runtime::{BlockingWork, ProcessUsage, Runtime};
use crate::storage::{Memory, Storage};
use crate::time::Timestamp;

/// How often a program is killed, if nobody says so.
const CRASHES_DEFAULT: u32 = 3;
/// A life may last for so many calls of the storage, as a power of two.
const CALLS_LOG_MAX: u32 = 6;
/// Or for so many seconds: an hour and a bit.
const SECONDS_LOG_MAX: u32 = 12;
/// How long it takes at most until a program that was killed is begun again.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Kills a program of yours in the middle of whatever it does, begins it again on the same storage, and
/// lets it come to its end after some such crashes: in virtual time, at moments that follow from a seed.
///
/// A crash comes before a call of the storage is done, or after that and before anybody hears so, or at
/// some moment in between. All that the program was at is dropped: its engine, its steps, and what was
/// spawned on the engine's runtime. What it should do then is what it does each time that it begins, as
/// a `main` would: start the run under an id, which is not begun a second time, and wait for it.
///
/// A test that panics has its seed printed.
///
/// ```
/// use std::collections::BTreeSet;
/// use std::sync::{Arc, Mutex};
/// use stepwell::testing::CrashTest;
/// use stepwell::{StartOptions, Step, Workflow, executor_fn};
///
/// let workflow = Workflow::builder("w").step(Step::task("charge", "bank")).build()?;
/// for seed in 0..50 {
///     let test = CrashTest::new(seed);
///     let charged = Arc::new(Mutex::new(BTreeSet::new()));
///     let outcome = test.run(|engine| async {
///         let (workflow, charged) = (&workflow, Arc::clone(&charged));
///         let bank = executor_fn(move |ctx| {
///             charged.lock().unwrap().insert(ctx.idempotency_key());
///             async { Ok("charged") }
///         });
///         let engine = engine.executor("bank", bank).build()?;
///         engine.start_with(workflow, (), StartOptions::id("order-7")).await?.outcome().await
///     });
///     assert!(outcome??.output().is_some());
///     assert_eq!(charged.lock().unwrap().len(), 1, "one key, however often it was asked");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CrashTest<S = Memory> {
    seed: u64,
    storage: S,
    time: VirtualRuntime,
    crashes: u32,
    crashed: AtomicU32,
}

impl CrashTest {
    /// On a storage in memory, which outlives the program.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::on(Memory::new(), seed)
    }
}

impl<S: Storage + Clone> CrashTest<S> {
    /// On this storage. One in a file or a database should be a fresh one for each seed.
    #[must_use]
    pub fn on(storage: S, seed: u64) -> Self {
        let (time, crashed) = (VirtualRuntime::new(seed), AtomicU32::new(0));
        Self { seed, storage, time, crashes: CRASHES_DEFAULT, crashed }
    }

    /// Kills the program up to this many times, instead of 3.
    #[must_use]
    pub fn crashes(mut self, at_most: u32) -> Self {
        self.crashes = at_most;
        self
    }

    /// The time that the program lives in.
    #[must_use]
    pub fn time(&self) -> &VirtualRuntime {
        &self.time
    }

    /// How often the program has been killed: fewer times than it may be, if it came to its end before.
    #[must_use]
    pub fn crashed(&self) -> u32 {
        self.crashed.load(Ordering::Relaxed)
    }

    /// Runs the program until one of its lives comes to an end, which the last one may. Each life is
    /// given an engine to be built, with a storage and a runtime that it must keep.
    ///
    /// # Errors
    /// [`Stalled`] when the program waits for something that never comes.
    pub fn run<P: Future>(
        &self,
        mut program: impl FnMut(EngineBuilder) -> P,
    ) -> Result<P::Output, Stalled> {
        let mut chance = StdRng::seed_from_u64(self.seed);
        self.time.block_on(async {
            for _ in 0..self.crashes {
                let (engine, life, end) = self.life(&mut chance);
                if let Either::Left((output, _)) = select(pin!(program(engine)), end).await {
                    return output;
                }
                life.end();
                self.crashed.fetch_add(1, Ordering::Relaxed);
                let pause = chance.random_range(0..=PAUSE_MAX.as_secs());
                self.time.sleep(Duration::from_secs(pause)).await;
            }
            let engine = Engine::builder().runtime(self.time.clone());
            program(engine.storage(Faulty::new(self.storage.clone(), |_| None))).await
        })
    }

    /// An engine that is yet to be built, what it lives in, and when that ends.
    fn life(&self, chance: &mut StdRng) -> (EngineBuilder, Life, BoxFuture<'static, ()>) {
        let life = Life { time: self.time.clone(), over: Arc::default(), spawned: Arc::default() };
        let (mut last, mut seconds) = (None, None);
        match chance.random_range(0..3) {
            0 => seconds = Some(up_to(chance, SECONDS_LOG_MAX)),
            _ => last = Some(up_to(chance, CALLS_LOG_MAX)),
        }
        let is_done = chance.random();
        let (dies, died) = oneshot::channel();
        let (mut dies, over) = (Some(dies), Arc::clone(&life.over));
        let storage = Faulty::new(self.storage.clone(), move |call| {
            if over.load(Ordering::Relaxed) {
                return Some(Fault::Hangs);
            }
            let last = last.filter(|last| *last <= call.number)?;
            // Whatever is asked in its last moment, nothing comes of it.
            let _ = dies.take().map(|dies| dies.send(()));
            Some(if last == call.number && is_done { Fault::HangsAfter } else { Fault::Hangs })
        });
        let end = match seconds {
            Some(seconds) => self.time.sleep(Duration::from_secs(seconds)),
            // Without its storage it only comes to its end.
            None => async move {
                if died.await.is_err() {
                    pending::<()>().await;
                }
            }
            .boxed(),
        };
        (Engine::builder().runtime(life.clone()).storage(storage), life, end)
    }
}

/// As likely below a small number as below a large one.
fn up_to(chance: &mut StdRng, log_max: u32) -> u64 {
    let most = 1 << chance.random_range(0..=log_max);
    chance.random_range(1..=most)
}

/// What a program lives in until it is killed.
#[derive(Clone, Debug)]
struct Life {
    time: VirtualRuntime,
    over: Arc<AtomicBool>,
    spawned: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Life {
    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        let spawned =
            std::mem::take(&mut *self.spawned.lock().unwrap_or_else(PoisonError::into_inner));
        spawned.iter().for_each(AbortHandle::abort);
    }
}

impl Runtime for Life {
    fn now(&self) -> Timestamp {
        self.time.now()
    }

    fn monotonic(&self) -> Duration {
        self.time.monotonic()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        self.time.sleep_until(at)
    }

    fn sleep(&self, length: Duration) -> BoxFuture<'static, ()> {
        self.time.sleep(length)
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) -> Result<(), BoxFuture<'static, ()>> {
        let (future, handle) = abortable(future);
        self.spawned.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        self.time.spawn(future.map(drop).boxed())
    }

    fn spawn_blocking(&self, work: BlockingWork) -> Result<(), BlockingWork> {
        self.time.spawn_blocking(work)
    }

    fn is_parallel(&self) -> bool {
        self.time.is_parallel()
    }

    fn random(&self) -> u64 {
        self.time.random()
    }

    fn usage(&self) -> ProcessUsage {
        self.time.usage()
    }
}

impl<S> Drop for CrashTest<S> {
    // For who reads what a test says.
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it fails with the seed {}", self.seed);
        }
    }
}

impl<S> fmt::Debug for CrashTest<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CrashTest({})", self.seed)
    }
}
