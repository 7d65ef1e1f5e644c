//! A runtime whose time moves only when nothing else can.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::runtime::{BlockingWork, ProcessUsage, Runtime};
use crate::time::Timestamp;

/// Owns time, order and chance: a wait of thirty days takes microseconds, and a run depends on
/// nothing but the seed. Time begins at 2026-01-01T00:00:00Z.
///
/// It knows nothing of the world outside: a step that waits for a socket or a program waits for
/// something that takes no time, and time goes on without it.
///
/// ```
/// use std::time::Duration;
/// use stepwell::Runtime;
/// use stepwell::testing::VirtualRuntime;
///
/// let time = VirtualRuntime::new(7);
/// let begin = time.now();
/// let month = Duration::from_secs(30 * 86_400);
/// time.block_on(time.sleep_until(begin + month)).unwrap();
/// assert_eq!(time.now().since(begin), month);
/// ```
#[derive(Clone)]
pub struct VirtualRuntime {
    world: Arc<Mutex<World>>,
    /// Which of its clocks is read.
    clock: usize,
}

struct World {
    monotonic: Duration,
    rng: StdRng,
    clocks: Vec<Clock>,
    /// Sleeps that no setting of the clock moves.
    alarms: BTreeMap<(Duration, u64), Waker>,
    next_timer: u64,
    spawned: Vec<Task>,
    usage: ProcessUsage,
}

struct Clock {
    now: Timestamp,
    timers: BTreeMap<(Timestamp, u64), Waker>,
}

struct Task {
    future: BoxFuture<'static, ()>,
    woken: Arc<Flag>,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Nothing can run and no timer is set: what is awaited will never come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {at}: nothing can run and no timer is set; what is awaited never comes")]
pub struct Stalled {
    /// The virtual time.
    pub at: Timestamp,
}

/// 2026-01-01T00:00:00Z.
const BEGIN: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

impl VirtualRuntime {
    /// A runtime whose order and random numbers follow from this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let world = World {
            monotonic: Duration::ZERO,
            rng: StdRng::seed_from_u64(seed),
            clocks: vec![Clock { now: BEGIN, timers: BTreeMap::new() }],
            alarms: BTreeMap::new(),
            next_timer: 0,
            spawned: Vec::new(),
            usage: ProcessUsage::default(),
        };
        Self { world: Arc::new(Mutex::new(world)), clock: 0 }
    }

    /// The same time, order and chance, with a wall clock of its own that goes as this one does now: as
    /// on another machine. [`set_clock`](Self::set_clock) sets one of them alone.
    ///
    /// ```
    /// use stepwell::Runtime;
    /// use stepwell::testing::VirtualRuntime;
    ///
    /// let time = VirtualRuntime::new(7);
    /// let fast = time.own_clock();
    /// fast.set_clock(90);
    /// assert_eq!(fast.now().since(time.now()).as_secs(), 90);
    /// assert_eq!(fast.monotonic(), time.monotonic());
    /// ```
    #[must_use]
    pub fn own_clock(&self) -> Self {
        let mut world = self.world();
        let now = world.clocks[self.clock].now;
        world.clocks.push(Clock { now, timers: BTreeMap::new() });
        Self { world: Arc::clone(&self.world), clock: world.clocks.len() - 1 }
    }

    /// Runs a future, and all that it spawns, until it has a result.
    ///
    /// # Errors
    /// [`Stalled`] when it never will.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, Stalled> {
        let mut future = pin!(future);
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut tasks: Vec<Task> = Vec::new();
        loop {
            tasks.append(&mut self.world().spawned);
            let mut runnable: Vec<usize> =
                (0..tasks.len()).filter(|at| tasks[*at].woken.0.load(Ordering::Relaxed)).collect();
            let main = woken.0.load(Ordering::Relaxed);
            if runnable.is_empty() && !main {
                if let Err(stalled) = self.advance_to_next() {
                    self.world().spawned.append(&mut tasks);
                    return Err(stalled);
                }
                continue;
            }
            if main {
                runnable.push(tasks.len());
            }
            let chosen = self.world().rng.random_range(0..runnable.len());
            let chosen = runnable[chosen];
            if chosen == tasks.len() {
                woken.0.store(false, Ordering::Relaxed);
                if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
                {
                    self.world().spawned.append(&mut tasks);
                    return Ok(output);
                }
                continue;
            }
            let task = &mut tasks[chosen];
            task.woken.0.store(false, Ordering::Relaxed);
            let waker = Waker::from(Arc::clone(&task.woken));
            if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                drop(tasks.swap_remove(chosen));
            }
        }
    }

    /// Moves time on; timers that become due fire when something is next run.
    pub fn advance(&self, length: Duration) {
        let mut world = self.world();
        world.clocks.iter_mut().for_each(|clock| clock.now = clock.now + length);
        world.monotonic += length;
        let fired = world.fired();
        drop(world);
        fired.into_iter().for_each(Waker::wake);
    }

    /// Sets the wall clock by this much, forwards or back, while no time passes: as somebody does who
    /// corrects it.
    pub fn set_clock(&self, seconds: i64) {
        let mut world = self.world();
        let clock = &mut world.clocks[self.clock];
        clock.now = Timestamp::from_micros(
            clock.now.as_micros().saturating_add(seconds.saturating_mul(1_000_000)),
        );
        let fired = world.fired();
        drop(world);
        fired.into_iter().for_each(Waker::wake);
    }

    /// Sets what the process seems to use, for tests of limits.
    pub fn set_usage(&self, usage: ProcessUsage) {
        self.world().usage = usage;
    }

    /// How many sleeps have not ended.
    #[must_use]
    pub fn pending_timers(&self) -> usize {
        let world = self.world();
        let timers: usize = world.clocks.iter().map(|clock| clock.timers.len()).sum();
        timers + world.alarms.len()
    }

    fn advance_to_next(&self) -> Result<(), Stalled> {
        let world = self.world();
        let now = world.clocks[self.clock].now;
        let timer = world.clocks.iter().filter_map(Clock::next).min();
        let alarm = world.alarms.first_key_value();
        let alarm = alarm.map(|((at, _), _)| at.saturating_sub(world.monotonic));
        drop(world);
        let next = timer.into_iter().chain(alarm).min().ok_or(Stalled { at: now })?;
        self.advance(next);
        Ok(())
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// Takes out what is due: who has set a timer, then who sleeps.
    fn fired(&mut self) -> Vec<Waker> {
        let timers: Vec<Waker> = self.clocks.iter_mut().flat_map(Clock::fired).collect();
        let later = self.alarms.split_off(&(self.monotonic + Duration::from_nanos(1), 0));
        let alarms = std::mem::replace(&mut self.alarms, later);
        timers.into_iter().chain(alarms.into_values()).collect()
    }
}

impl Clock {
    fn fired(&mut self) -> impl Iterator<Item = Waker> + use<> {
        let later = self.timers.split_off(&(self.now + Duration::from_micros(1), 0));
        std::mem::replace(&mut self.timers, later).into_values()
    }

    /// How long it is to the next timer.
    fn next(&self) -> Option<Duration> {
        let at = self.timers.first_key_value().map(|((at, _), _)| *at);
        at.filter(|at| *at < Timestamp::MAX).map(|at| at.since(self.now))
    }
}

impl Runtime for VirtualRuntime {
    fn now(&self) -> Timestamp {
        self.world().clocks[self.clock].now
    }

    fn monotonic(&self) -> Duration {
        self.world().monotonic
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        Box::pin(Sleep { runtime: self.clone(), until: Until::Clock(at), number: None })
    }

    fn sleep(&self, length: Duration) -> BoxFuture<'static, ()> {
        let at = self.monotonic().saturating_add(length);
        Box::pin(Sleep { runtime: self.clone(), until: Until::Passed(at), number: None })
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) -> Result<(), BoxFuture<'static, ()>> {
        let future = std::panic::AssertUnwindSafe(future).catch_unwind().map(drop).boxed();
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        self.world().spawned.push(Task { future, woken });
        Ok(())
    }

    /// Gives it back, so that what waits for virtual time in it does so like everything else.
    fn spawn_blocking(&self, work: BlockingWork) -> Result<(), BlockingWork> {
        Err(work)
    }

    fn usage(&self) -> ProcessUsage {
        self.world().usage
    }

    fn is_parallel(&self) -> bool {
        false
    }

    fn random(&self) -> u64 {
        self.world().rng.random()
    }
}

impl fmt::Debug for VirtualRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VirtualRuntime({})", self.now())
    }
}

struct Sleep {
    runtime: VirtualRuntime,
    until: Until,
    /// What tells it from others that end at the same time, once it has been asked.
    number: Option<u64>,
}

#[derive(Clone, Copy)]
enum Until {
    Clock(Timestamp),
    Passed(Duration),
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let runtime = self.runtime.clone();
        let mut world = runtime.world();
        let is_over = match self.until {
            Until::Clock(at) => world.clocks[runtime.clock].now >= at,
            Until::Passed(at) => world.monotonic >= at,
        };
        if is_over {
            return Poll::Ready(());
        }
        let number = *self.number.get_or_insert_with(|| {
            world.next_timer += 1;
            world.next_timer
        });
        let waker = context.waker().clone();
        match self.until {
            Until::Clock(at) => {
                drop(world.clocks[runtime.clock].timers.insert((at, number), waker));
            }
            Until::Passed(at) => drop(world.alarms.insert((at, number), waker)),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut world = self.runtime.world();
        match self.until {
            Until::Clock(at) => {
                drop(world.clocks[self.runtime.clock].timers.remove(&(at, number)));
            }
            Until::Passed(at) => drop(world.alarms.remove(&(at, number))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(seed: u64) -> Vec<u32> {
        let time = VirtualRuntime::new(seed);
        let log = Arc::new(Mutex::new(Vec::new()));
        for task in 0..6 {
            let log = Arc::clone(&log);
            let sleeping = time.sleep_until(BEGIN + Duration::from_secs(1));
            let work = async move {
                sleeping.await;
                log.lock().unwrap().push(task);
            };
            assert!(time.spawn(Box::pin(work)).is_ok());
        }
        time.block_on(time.sleep_until(BEGIN + Duration::from_secs(2))).unwrap();
        log.lock().unwrap().clone()
    }

    #[test]
    fn the_order_follows_from_the_seed() {
        assert_eq!(order(3), order(3));
        assert!((0..8).any(|seed| order(seed) != order(3)));
    }

    #[test]
    fn waiting_for_nothing_is_reported() {
        let time = VirtualRuntime::new(1);
        assert_eq!(time.block_on(std::future::pending::<()>()), Err(Stalled { at: BEGIN }));
    }

    #[test]
    fn a_clock_that_is_set_moves_timers_and_no_sleeps() {
        let time = VirtualRuntime::new(1);
        let (mut timer, mut sleep) =
            (time.sleep_until(BEGIN + Duration::from_secs(9)), time.sleep(Duration::from_secs(9)));
        time.set_clock(60);
        assert!((&mut timer).now_or_never().is_some());
        assert!((&mut sleep).now_or_never().is_none());
        time.set_clock(-3600);
        time.block_on(sleep).unwrap();
        assert_eq!(time.monotonic(), Duration::from_secs(9));
    }

    #[test]
    fn each_clock_rings_its_own_timers() {
        let time = VirtualRuntime::new(1);
        let ahead = time.own_clock();
        ahead.set_clock(60);
        let hour = BEGIN + Duration::from_secs(3_600);
        let (mut here, mut there) = (time.sleep_until(hour), ahead.sleep_until(hour));
        assert!((&mut here).now_or_never().is_none() && (&mut there).now_or_never().is_none());
        time.block_on(there).unwrap();
        assert_eq!(time.monotonic(), Duration::from_secs(3_540));
        ahead.set_clock(3_600);
        assert!((&mut here).now_or_never().is_none());
        time.block_on(here).unwrap();
        assert_eq!(time.monotonic(), Duration::from_secs(3_600));
    }

    #[test]
    fn a_dropped_sleep_is_forgotten() {
        let time = VirtualRuntime::new(1);
        let mut sleep = time.sleep_until(BEGIN + Duration::from_secs(9));
        assert!((&mut sleep).now_or_never().is_none());
        assert_eq!(time.pending_timers(), 1);
        drop(sleep);
        assert_eq!(time.pending_timers(), 0);
    }
}
