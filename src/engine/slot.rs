//! A run that an engine holds: one driver, moved on by everybody who waits for the run.
//!
//! Nobody owns the driver while waiting. Each who waits polls it, and a wake-up wakes them all, so
//! that it does not matter which of them is dropped, or not polled for a while.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;

use super::driver::Driver;
use super::prepare::Prepared;
use super::replies::Replies;
use super::{Inner, lock};
use crate::error::Result;
use crate::executor::RunContext;

/// A run in memory.
pub(crate) struct Slot {
    pub(crate) context: Arc<RunContext>,
    pub(crate) replies: Arc<Replies>,
    prepared: Arc<Prepared>,
    drive: Mutex<Drive>,
    crowd: Arc<Crowd>,
}

enum Drive {
    /// Nobody has begun to drive, or driving ended with an error or by parking.
    Idle(Box<Driver>),
    Going(BoxFuture<'static, (Box<Driver>, Result<()>)>),
    /// Dropped in the middle; the journal knows how to go on.
    Gone,
}

impl Slot {
    pub(crate) fn new(
        engine: &Arc<Inner>,
        context: RunContext,
        prepared: Arc<Prepared>,
        adopts: bool,
    ) -> Arc<Self> {
        let (context, replies) = (Arc::new(context), Arc::<Replies>::default());
        let mut driver = Driver::new(
            Arc::clone(engine),
            Arc::clone(&context),
            Arc::clone(&prepared),
            Arc::clone(&replies),
        );
        if adopts {
            driver.adopt();
        }
        let drive = Mutex::new(Drive::Idle(Box::new(driver)));
        Arc::new(Self { context, replies, prepared, drive, crowd: Arc::default() })
    }

    /// Drives the run until it has ended or is parked.
    pub(crate) fn drive(self: &Arc<Self>, engine: &Arc<Inner>) -> Driving {
        if self.context.drivers.fetch_add(1, Ordering::AcqRel) == 0 {
            // What was ready and not started while nobody drove may start now.
            self.context.wake_for_room();
        }
        Driving { slot: Arc::clone(self), engine: Arc::clone(engine) }
    }

    /// Moves the run on as far as it goes now.
    pub(crate) fn poll_drive(
        &self,
        engine: &Arc<Inner>,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        self.crowd.register(context.waker());
        let mut drive = match self.drive.try_lock() {
            Ok(drive) => drive,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody is at it, maybe a step of this run further up this thread's stack. When that
            // one stops driving, everybody is woken.
            Err(TryLockError::WouldBlock) => return Poll::Pending,
        };
        if self.context.has_ended() {
            return Poll::Ready(Ok(()));
        }
        let going = match std::mem::replace(&mut *drive, Drive::Gone) {
            Drive::Going(going) => going,
            Drive::Idle(driver) => go(driver),
            Drive::Gone => go(Box::new(self.again(engine))),
        };
        *drive = Drive::Going(going);
        let Drive::Going(going) = &mut *drive else { return Poll::Pending };
        let waker = Waker::from(Arc::clone(&self.crowd));
        let Poll::Ready((driver, result)) = going.as_mut().poll(&mut Context::from_waker(&waker))
        else {
            return Poll::Pending;
        };
        *drive = if self.context.has_ended() { Drive::Gone } else { Drive::Idle(driver) };
        drop(drive);
        // The others have to see what has become of it, too.
        waker.wake();
        Poll::Ready(result)
    }

    fn again(&self, engine: &Arc<Inner>) -> Driver {
        let mut driver = Driver::new(
            Arc::clone(engine),
            Arc::clone(&self.context),
            Arc::clone(&self.prepared),
            Arc::clone(&self.replies),
        );
        driver.distrust();
        driver
    }

    /// Drops what runs, when nobody drives the run and nobody has a handle: what it holds is given
    /// to others. The run stays, and goes on from its journal when it is driven again.
    pub(crate) fn abandon(&self) {
        if self.context.drivers.load(Ordering::Acquire) > 0 || self.context.has_ended() {
            return;
        }
        let Ok(mut drive) = self.drive.try_lock() else { return };
        let holds = match &*drive {
            Drive::Idle(driver) => !driver.is_idle(),
            Drive::Going(_) => true,
            Drive::Gone => false,
        };
        if holds {
            let gone = std::mem::replace(&mut *drive, Drive::Gone);
            drop(drive);
            let _ = catch_unwind(AssertUnwindSafe(|| drop(gone)));
        }
    }
}

fn go(mut driver: Box<Driver>) -> BoxFuture<'static, (Box<Driver>, Result<()>)> {
    Box::pin(async move {
        let result = driver.drive().await;
        (driver, result)
    })
}

/// Drives a run while it is awaited.
pub(crate) struct Driving {
    slot: Arc<Slot>,
    engine: Arc<Inner>,
}

impl Future for Driving {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.slot.poll_drive(&self.engine, context)
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        let context = &self.slot.context;
        let last = context.drivers.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && context.handles.load(Ordering::Acquire) == 0 {
            self.slot.abandon();
        }
        // A wake-up that only this one saw belongs to the others now.
        self.slot.crowd.wake_all();
    }
}

/// Everybody who waits for a run.
#[derive(Default)]
struct Crowd(Mutex<Vec<Waker>>);

impl Crowd {
    fn register(&self, waker: &Waker) {
        let mut wakers = lock(&self.0);
        if !wakers.iter().any(|other| other.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Wake for Crowd {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}
