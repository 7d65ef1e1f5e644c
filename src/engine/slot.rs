//! A run that an engine holds: one driver, moved on by everybody who waits for the run.
//!
//! Nobody owns the driver while waiting. Each who waits polls it, and a wake-up wakes them all, so
//! that it does not matter which of them is dropped, or not polled for a while.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, TryLockError};
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;

use super::Inner;
use super::audience::Audience;
use super::driver::Driver;
use super::prepare::Prepared;
use crate::error::Result;
use crate::executor::RunContext;

/// A run in memory.
pub(crate) struct Slot {
    pub(crate) context: Arc<RunContext>,
    pub(crate) audience: Arc<Audience>,
    prepared: Arc<Prepared>,
    drive: Mutex<Drive>,
}

enum Drive {
    /// Nobody has driven it yet; whether it has begun attempts that have to be taken over.
    Fresh {
        adopts: bool,
    },
    /// Driving ended with an error, or by parking.
    Idle(Box<Driver>),
    Going(BoxFuture<'static, (Option<Box<Driver>>, Result<()>)>),
    /// Dropped in the middle; the journal knows how to go on.
    Gone,
}

impl Slot {
    pub(crate) fn new(context: RunContext, prepared: Arc<Prepared>, adopts: bool) -> Arc<Self> {
        Arc::new(Self {
            context: Arc::new(context),
            audience: Arc::default(),
            prepared,
            drive: Mutex::new(Drive::Fresh { adopts }),
        })
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
        self.audience.register(context.waker());
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
            Drive::Idle(driver) => go(*driver),
            Drive::Fresh { adopts } => {
                let mut driver = self.driver(engine);
                if adopts {
                    driver.adopt();
                }
                go(driver)
            }
            Drive::Gone => {
                let mut driver = self.driver(engine);
                driver.distrust();
                go(driver)
            }
        };
        *drive = Drive::Going(going);
        let Drive::Going(going) = &mut *drive else { return Poll::Pending };
        let waker = Waker::from(Arc::clone(&self.audience));
        let Poll::Ready((driver, result)) = going.as_mut().poll(&mut Context::from_waker(&waker))
        else {
            return Poll::Pending;
        };
        *drive = driver.map_or(Drive::Gone, Drive::Idle);
        drop(drive);
        // The others have to see what has become of it, too.
        waker.wake();
        Poll::Ready(result)
    }

    fn driver(&self, engine: &Arc<Inner>) -> Driver {
        Driver::new(
            Arc::clone(engine),
            Arc::clone(&self.context),
            Arc::clone(&self.prepared),
            Arc::clone(&self.audience),
        )
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
            Drive::Fresh { .. } | Drive::Gone => false,
        };
        if holds {
            let gone = std::mem::replace(&mut *drive, Drive::Gone);
            drop(drive);
            let _ = catch_unwind(AssertUnwindSafe(|| drop(gone)));
        }
    }
}

/// Wakes the others when one who waited goes: a wake-up that only that one saw belongs to them now.
pub(crate) struct Waits<'a>(pub(crate) &'a Slot);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.audience.wake_all();
    }
}

/// The driver comes back if there is something left to drive.
fn go(mut driver: Driver) -> BoxFuture<'static, (Option<Box<Driver>>, Result<()>)> {
    Box::pin(async move {
        let result = driver.drive().await;
        let left = (!driver.has_ended()).then(|| Box::new(driver));
        (left, result)
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
        drop(Waits(&self.slot));
    }
}
