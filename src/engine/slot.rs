//! A run that an engine holds: one driver, moved on by everybody who waits for the run.
//!
//! Nobody owns the driver while waiting. Each who waits polls it, and a wake-up wakes them all, so
//! that it does not matter which of them is dropped, or not polled for a while.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;

use super::audience::Audience;
use super::driver::Driver;
use super::prepare::Prepared;
use super::{Inner, lock};
use crate::error::Result;
use crate::executor::RunContext;
use crate::storage::Owner;

/// A run in memory.
pub(crate) struct Slot {
    pub(crate) context: Arc<RunContext>,
    pub(crate) audience: Arc<Audience>,
    prepared: Arc<Prepared>,
    drive: Mutex<Drive>,
    /// The thread that is at the drive, by [`this_thread`]; 0 for none.
    at_it: AtomicUsize,
    /// Those who found somebody else at it, to be woken when that one lets go.
    bounced: Mutex<Vec<Waker>>,
    /// Whether [`Engine::serve`](super::Engine::serve) drives it.
    served: AtomicBool,
    /// How often it had been taken over when it was loaded.
    pub(super) recoveries: u32,
}

/// A run that is driven by [`Engine::serve`](super::Engine::serve), until this is dropped.
pub(super) struct Served(pub(super) Arc<Slot>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.served.store(false, Ordering::SeqCst);
    }
}

enum Drive {
    /// Nobody has driven it yet; how it was found in the storage, or put there.
    Fresh(Inherited),
    /// Driving ended with an error, or by parking.
    Idle(Box<Driver>),
    Going(BoxFuture<'static, (Option<Box<Driver>>, Result<()>)>),
    /// Dropped in the middle; the journal knows how to go on.
    Gone,
}

/// A run as it was found in the storage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inherited {
    /// Another engine held it.
    pub(crate) elsewhere: bool,
    /// This engine held it, by this name.
    pub(crate) held: Option<Owner>,
    pub(crate) recoveries: u32,
}

impl Slot {
    pub(crate) fn new(
        context: RunContext,
        prepared: Arc<Prepared>,
        inherited: Inherited,
    ) -> Arc<Self> {
        context.set_held(inherited.held.is_some());
        Arc::new(Self {
            context: Arc::new(context),
            audience: Arc::default(),
            prepared,
            drive: Mutex::new(Drive::Fresh(inherited)),
            at_it: AtomicUsize::new(0),
            bounced: Mutex::default(),
            served: AtomicBool::new(false),
            recoveries: inherited.recoveries,
        })
    }

    /// Once at a time: one would take the run out of memory, and the other would go on with it.
    pub(super) fn serve(self: &Arc<Self>) -> Option<Served> {
        (!self.served.swap(true, Ordering::SeqCst)).then(|| Served(Arc::clone(self)))
    }

    /// Whether attempts are begun again if this engine drives it.
    pub(super) fn may_kill(&self) -> bool {
        self.check().is_ok() && self.context.state().running() > 0
    }

    pub(super) fn is_served(&self) -> bool {
        self.served.load(Ordering::SeqCst)
    }

    /// Whether this engine has all that the run needs.
    pub(super) fn check(&self) -> Result<()> {
        self.prepared.check()
    }

    /// Drives the run until it has ended or is parked; one that this engine cannot run it watches.
    pub(crate) fn drive(self: &Arc<Self>, engine: &Arc<Inner>) -> Driving {
        let drives = !self.prepared.lacks();
        if drives && self.context.drivers.fetch_add(1, Ordering::SeqCst) == 0 {
            // What was ready and not started while nobody drove may start now.
            self.context.wake_for_room();
        }
        Driving { slot: Arc::clone(self), engine: Arc::clone(engine), drives }
    }

    /// Moves the run on as far as it goes now.
    pub(crate) fn poll_drive(
        &self,
        engine: &Arc<Inner>,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        if self.at_it.load(Ordering::Relaxed) == this_thread() {
            // A step of this run, further up this thread's stack. Who is at it goes on anyway, and
            // to be woken with the others would be to wake oneself.
            return Poll::Pending;
        }
        self.audience.register(context.waker());
        let Some(mut turn) = self.enter(context.waker()) else { return Poll::Pending };
        if self.context.has_ended() {
            // The driver may have gone before it could say so.
            self.context.end_observation();
            engine.forget(&self.context);
            return Poll::Ready(Ok(()));
        }
        // Taken out while it is polled: should it panic, the journal knows how to go on.
        let mut going = match turn.take() {
            Drive::Going(going) => going,
            Drive::Idle(driver) => go(*driver),
            Drive::Fresh(inherited) => {
                let mut driver = self.driver(engine);
                driver.inherit(inherited);
                go(driver)
            }
            Drive::Gone => {
                let mut driver = self.driver(engine);
                driver.distrust();
                go(driver)
            }
        };
        let waker = Waker::from(Arc::clone(&self.audience));
        match going.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => {
                turn.put(Drive::Going(going));
                Poll::Pending
            }
            Poll::Ready((driver, result)) => {
                turn.put(driver.map_or(Drive::Gone, Drive::Idle));
                drop(turn);
                // The others have to see what has become of it, too.
                waker.wake();
                Poll::Ready(result)
            }
        }
    }

    /// Has the drive to oneself, unless somebody else is at it; then that waker is woken when they
    /// are not any more.
    fn enter(&self, waker: &Waker) -> Option<Turn<'_>> {
        self.try_enter().or_else(|| {
            lock(&self.bounced).push(waker.clone());
            // They may have let go before they could see this one.
            self.try_enter()
        })
    }

    fn try_enter(&self) -> Option<Turn<'_>> {
        let drive = match self.drive.try_lock() {
            Ok(drive) => drive,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.at_it.store(this_thread(), Ordering::Relaxed);
        Some(Turn { slot: self, drive: Some(drive) })
    }

    fn driver(&self, engine: &Arc<Inner>) -> Driver {
        Driver::new(
            Arc::clone(engine),
            Arc::clone(&self.context),
            Arc::clone(&self.prepared),
            Arc::clone(&self.audience),
        )
    }

    /// Has the drive to oneself, if there is nothing in it to go on with here.
    pub(super) fn at_rest(&self) -> Option<Turn<'_>> {
        let turn = self.try_enter()?;
        let rests = match turn.drive.as_deref() {
            Some(Drive::Idle(driver)) => driver.rests(),
            Some(Drive::Going(_)) => false,
            Some(Drive::Fresh(_) | Drive::Gone) | None => true,
        };
        rests.then_some(turn)
    }

    /// Drops what runs, when nobody drives the run and nobody has a handle: what it holds is given
    /// to others. The run stays, and goes on from its journal when it is driven again.
    pub(crate) fn abandon(&self) {
        let Some(mut turn) = self.try_enter() else { return };
        let wanted = self.context.drivers.load(Ordering::SeqCst) > 0
            || self.context.handles.load(Ordering::SeqCst) > 0;
        let holds = match &turn.drive.as_deref() {
            Some(Drive::Idle(driver)) => !driver.is_idle(),
            Some(Drive::Going(_)) => true,
            Some(Drive::Fresh(_) | Drive::Gone) | None => false,
        };
        if wanted || !holds || self.context.has_ended() {
            return;
        }
        // Not let go before it is dropped: nobody is to begin an attempt whose future is still there.
        let gone = turn.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(gone)));
        drop(turn);
        // Somebody may have come to wait meanwhile.
        self.audience.wake_all();
    }
}

/// The drive in the hands of one.
pub(super) struct Turn<'a> {
    slot: &'a Slot,
    drive: Option<MutexGuard<'a, Drive>>,
}

impl Turn<'_> {
    fn take(&mut self) -> Drive {
        self.drive.as_mut().map_or(Drive::Gone, |drive| std::mem::replace(drive, Drive::Gone))
    }

    fn put(&mut self, next: Drive) {
        if let Some(drive) = &mut self.drive {
            **drive = next;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.slot.at_it.store(0, Ordering::Relaxed);
        self.drive = None;
        // Not before it is free: who is woken tries at once, maybe on this very stack.
        let bounced = std::mem::take(&mut *lock(&self.slot.bounced));
        bounced.into_iter().for_each(Waker::wake);
    }
}

/// A number that no other living thread has; never 0.
fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
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

/// Drives a run while it is awaited; or looks what becomes of it, if this engine cannot run it.
pub(crate) struct Driving {
    slot: Arc<Slot>,
    engine: Arc<Inner>,
    drives: bool,
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
        let last = self.drives && context.drivers.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && context.handles.load(Ordering::SeqCst) == 0 {
            self.slot.abandon();
        }
        drop(Waits(&self.slot));
    }
}
