//! Driving everything: what a program that keeps runs beyond one await spawns once.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use futures::future::{BoxFuture, Either};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt, future};

use super::driver::yield_now;
use super::slot::{self, Slot};
use super::{Engine, Inner, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RunId;
use crate::runtime::Runtime;
use crate::storage::{Claim, Holding, Storage};
use crate::time::Timestamp;

/// Runs taken over at once, so that one engine does not grab everything after another's death.
const CLAIMED_AT_ONCE: usize = 100;
/// How long a storage is left alone after it failed; twice as long each time, as long as it is told more
/// often than that, anyway, that the engine is alive.
const LEFT_ALONE: Duration = Duration::from_secs(1);

impl Engine {
    /// Drives every run of this engine, and takes over those that nobody holds: parked ones that are
    /// due or have mail, and those of engines that are gone. Ends when `shutdown` does: what runs is
    /// dropped, and other engines take the runs over at once, unless somebody here has a handle for one
    /// of them, or waits for a [`purge`](Self::purge).
    ///
    /// Dropping the future stops everything in the same way, and nobody is told: what the engine holds
    /// goes on when it is served again, or when others have heard nothing of it for the length of a
    /// lease.
    ///
    /// A storage that fails is asked again, less and less often, up to once in a third of a lease, and told
    /// all the while that this engine is alive; what runs goes on meanwhile. A run that this engine has no
    /// executors for is left to others.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] when the engine is served already; what the storage says to being told
    /// of the end.
    pub async fn serve(&self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut shutdown = pin!(shutdown);
        if self.0.is_served.swap(true, Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Rejected, "the engine is served already"));
        }
        let _served = Served(&self.0);
        // It may have been served before, and have let go of runs that it holds still.
        self.0.doubt();
        let mut drives = FuturesUnordered::new();
        let known: Vec<Arc<Slot>> = lock(&self.0.runs).values().cloned().collect();
        let known = known.iter().filter_map(|slot| self.serve_kept(slot));
        drives.extend(known.map(|slot| Either::Left(self.drive(slot))));
        // Beside what is looked for, which must not wait for blobs to be removed.
        drives.push(Either::Right(self.0.keep_less()));
        // However long the storage takes to answer, the others hear that this engine is alive.
        let look = |rests| self.0.beside_beats(self.round(rests)).boxed();
        let mut round = Some(look(false));
        let mut timer = future::pending().boxed();
        let mut rest: Option<BoxFuture<'static, ()>> = None;
        let mut news = self.0.storage.news(self.0.owner()).fuse();
        let mut pause = LEFT_ALONE;
        loop {
            let next = poll_fn(|context| {
                if shutdown.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Next::Stop);
                }
                self.0.serving.register(context.waker());
                let mut moved = false;
                while let Poll::Ready(Some(())) = Pin::new(&mut drives).poll_next(context) {
                    moved = true;
                }
                let fresh = std::mem::take(&mut *lock(&self.0.fresh));
                if !fresh.is_empty() {
                    return Poll::Ready(Next::Fresh(fresh));
                }
                let rests = rest.as_mut().filter(|_| round.is_none());
                if rests.is_some_and(|rest| rest.poll_unpin(context).is_ready()) {
                    rest = None;
                    moved = true;
                }
                // Who fails is left alone, whatever is new.
                let looks = round.is_none() && rest.is_none();
                if looks && self.0.looks_soon.swap(false, Ordering::AcqRel) {
                    moved = true;
                }
                if looks && news.poll_next_unpin(context) == Poll::Ready(Some(())) {
                    self.0.ask_soon();
                    moved = true;
                }
                match &mut round {
                    Some(round) => round.poll_unpin(context).map(Next::Round),
                    None if moved => Poll::Ready(Next::Due),
                    None => timer.poll_unpin(context).map(|()| Next::Due),
                }
            })
            .await;
            match next {
                Next::Stop => break,
                Next::Fresh(fresh) => {
                    let new = fresh.iter().filter_map(|slot| self.serve_kept(slot));
                    drives.extend(new.map(|slot| Either::Left(self.drive(slot))));
                }
                Next::Due => round = Some(look(rest.is_some())),
                Next::Round(done) => {
                    let every = self.0.beat_every();
                    let mut again = done.unwrap_or_else(|error| Again::after(&error, pause, every));
                    if rest.is_some() {
                        // It was only told that this engine is alive, and however that went, what rests
                        // goes on when it would.
                        again.rest = Duration::ZERO;
                    } else {
                        rest = again.rests(&self.0.runtime);
                        pause = if again.failed { self.longer(pause) } else { LEFT_ALONE };
                    }
                    (round, timer) = (None, again.wait(&self.0.runtime));
                }
            }
            // However much there is to be claimed, the thread is not this engine's alone.
            yield_now().await;
        }
        drop((round, drives));
        self.hand_over().await
    }

    /// Says that the engine is alive, and takes what there is to take, unless it rests; when to look
    /// again.
    async fn round(&self, rests: bool) -> Result<Again> {
        self.0.tend().await?;
        // Its first word may be on its way still, said for a purge.
        self.0.introduce().await?;
        let mut rest = Duration::ZERO;
        if self.0.looks_for_lost() {
            let unheard = self.0.unheard();
            self.0.find_taken().await?;
            rest = self.find_lost().await?;
            unheard.heard();
        }
        let tends = || self.0.tends_at().saturating_sub(self.0.runtime.monotonic());
        if rests || !rest.is_zero() {
            return Ok(Again { due: None, tends: tends(), rest, failed: false });
        }
        let now = self.0.runtime.now();
        let (owner, gone) = (self.0.owner(), self.0.gone());
        let claim = Claim { owner, now, gone, run: None, limit: CLAIMED_AT_ONCE };
        let unheard = self.0.unheard();
        let claiming = self.0.trials.claims();
        let claimed = self.0.storage.claim(claim).await?;
        // There may be more: the rest belongs to the others as much, if they are quicker.
        let more = claimed.len() == CLAIMED_AT_ONCE;
        rest = rest.max(self.begin_all(claiming, claimed, more, now).await);
        unheard.heard();
        let due = if more { Some(now) } else { self.0.storage.next_due().await? };
        Ok(Again { due, tends: tends(), rest, failed: false })
    }

    /// Loads runs that the storage says this engine holds, and that it does not know of: it has not
    /// heard the answer when it took them. How long to claim no more, if one could not be loaded.
    async fn find_lost(&self) -> Result<Duration> {
        let mut rest = Duration::ZERO;
        let mut after = None;
        loop {
            let held = self.0.storage.held(self.0.owner(), after, CLAIMED_AT_ONCE).await?;
            for id in &held {
                let known = lock(&self.0.runs).contains_key(id);
                if !known {
                    rest = rest.max(self.take_lost(id).await?);
                }
            }
            match held.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => return Ok(rest),
            }
        }
    }

    async fn take_lost(&self, id: &RunId) -> Result<Duration> {
        let found = self.slot_of(id).await;
        if let Ok((slot, _)) = &found
            && slot.may_kill()
            && self.0.puts_off(id, slot.recoveries).await?
        {
            return Ok(Duration::ZERO);
        }
        Ok(self.take_in(id, self.0.runtime.now(), found).await)
    }

    /// One that was let go meanwhile is not driven beside the one that is loaded next; one that is served
    /// is not let go.
    fn serve_kept(&self, slot: &Arc<Slot>) -> Option<slot::Served> {
        slot.serve().filter(|served| self.0.has(&served.0.context))
    }

    /// Has a run go on that was just claimed. How long to claim no more, if it could not be loaded.
    pub(super) async fn begin_claimed(&self, id: &RunId, now: Timestamp) -> Duration {
        let known = lock(&self.0.runs).get(id).filter(|slot| slot.check().is_ok()).cloned();
        // Somebody may only look at what this engine cannot run.
        let Some(slot) = known else { return self.take_over(id, now).await };
        // Before it is found that nobody wants it, and it is forgotten.
        slot.context.set_held(true);
        slot.context.doubt();
        slot.context.wake_driver();
        // It was given up when another engine had it, and somebody has a handle.
        lock(&self.0.fresh).push(slot);
        Duration::ZERO
    }

    /// Loads a claimed run; if that fails, sets it aside. How long to claim no more then.
    async fn take_over(&self, id: &RunId, now: Timestamp) -> Duration {
        let found = self.slot_of(id).await;
        self.take_in(id, now, found).await
    }

    async fn take_in(
        &self,
        id: &RunId,
        now: Timestamp,
        found: Result<(Arc<Slot>, Holding)>,
    ) -> Duration {
        let (error, length) = match found {
            Ok((slot, _)) => match slot.check() {
                // The handle goes at once; the run stays among the fresh ones.
                Ok(()) => match self.keep(slot).can_run() {
                    Ok(()) => return Duration::ZERO,
                    // Somebody has looked at it when a factory failed.
                    Err(lacked) => (lacked, None),
                },
                Err(lacks) => (lacks, Some(slot.context.state().version())),
            },
            Err(error) => (error, None),
        };
        tracing::warn!(target: "stepwell", run_id = %id, %error, "cannot take the run over");
        self.set_aside(id, now, &error, length).await
    }

    /// Leaves a run to the others that this engine cannot go on with, being so long. How long to claim no
    /// more then.
    async fn set_aside(
        &self,
        id: &RunId,
        now: Timestamp,
        error: &Error,
        length: Option<u64>,
    ) -> Duration {
        let (monotonic, every) = (self.0.runtime.monotonic(), self.0.storage.poll_every());
        let alone = self.0.is_alone();
        let (until, rest) = self.0.aside.set((id, length), now, monotonic, every, alone);
        let why = error.to_string();
        if let Err(error) = self.0.storage.set_aside(id, self.0.owner(), until, why).await {
            self.0.doubt();
            tracing::warn!(target: "stepwell", run_id = %id, %error, "cannot set the run aside");
        }
        rest
    }

    /// Drives one run to its end or until it is parked, however often its storage fails. One of which
    /// something cannot be read is set aside.
    async fn drive(&self, served: slot::Served) {
        let slot = &served.0;
        let mut pause = LEFT_ALONE;
        let run_id = &slot.context.id;
        // The same all the time, so that what runs is not dropped while the storage is not well.
        let mut driving = slot.drive(self.inner());
        loop {
            let Err(error) = (&mut driving).await else {
                pause = LEFT_ALONE;
                if self.lets_go(slot) {
                    return;
                }
                continue;
            };
            tracing::warn!(target: "stepwell", %run_id, %error, "driving failed");
            if error.kind() == ErrorKind::NotFound {
                drop(driving);
                self.lets_go_unwanted(slot);
                return;
            }
            if error.kind() == ErrorKind::Damaged && self.lets_go_unwanted(slot) {
                drop(driving);
                self.set_aside(run_id, self.0.runtime.now(), &error, None).await;
                return;
            }
            // Not all runs at the same moment.
            let percent = 100 + (self.0.runtime.random() % 25) as u32;
            self.0.runtime.sleep(pause * percent / 100).await;
            pause = self.longer(pause);
        }
    }

    /// How long to leave a storage alone that has failed again after so long.
    fn longer(&self, pause: Duration) -> Duration {
        (pause * 2).min(self.0.beat_every()).max(LEFT_ALONE)
    }

    /// Gives everything that nobody here has a handle for to whoever wants it, at once.
    async fn hand_over(&self) -> Result<()> {
        // Others would take what it is just removing for theirs, or is about to.
        let removes_nothing = self.0.purging.try_lock();
        if removes_nothing.is_some() && self.0.drop_all_unwanted() {
            return self.0.retire().await;
        }
        let gives = async {
            self.0.give_ready().await?;
            self.0.give_unwanted(usize::MAX).await
        };
        self.0.while_heard(gives).await
    }

    /// Takes a run out of memory, unless it goes on and somebody has a handle for it, or somebody who
    /// had one has moved it since it came to rest.
    fn lets_go(&self, slot: &Slot) -> bool {
        let rest = slot.at_rest();
        (rest.is_some() || slot.context.has_ended()) && self.lets_go_unwanted(slot)
    }

    /// The same, whatever its driver is at.
    fn lets_go_unwanted(&self, slot: &Slot) -> bool {
        let run = &slot.context;
        let may_go = || run.has_ended() || run.handles.load(Ordering::SeqCst) == 0;
        self.0.forget_if(run, may_go)
    }
}

/// What comes next in serving.
enum Next {
    Stop,
    Fresh(Vec<Arc<Slot>>),
    Round(Result<Again>),
    Due,
}

/// When to look again.
struct Again {
    /// By the wall clock: when something is due.
    due: Option<Timestamp>,
    /// When others are to hear of this engine, or may have left messages.
    tends: Duration,
    /// Nothing is claimed before this has passed, whatever is due.
    rest: Duration,
    /// The storage did.
    failed: bool,
}

impl Again {
    fn after(error: &Error, pause: Duration, beat_every: Duration) -> Self {
        tracing::warn!(target: "stepwell", %error, "the storage fails");
        // The others would take for gone who is silent for longer, as soon as they are heard again.
        Self { due: None, tends: pause.min(beat_every), rest: pause, failed: true }
    }

    fn rests(&self, runtime: &Arc<dyn Runtime>) -> Option<BoxFuture<'static, ()>> {
        (!self.rest.is_zero()).then(|| runtime.sleep(self.rest))
    }

    /// Until then, or until the rest is over.
    fn wait(self, runtime: &Arc<dyn Runtime>) -> BoxFuture<'static, ()> {
        let due = self.due.filter(|_| self.rest.is_zero()).unwrap_or(Timestamp::MAX);
        let (due, tends) = (runtime.sleep_until(due), runtime.sleep(self.tends));
        future::select(due, tends).map(drop).boxed()
    }
}

/// An engine that is served, until this is dropped.
struct Served<'a>(&'a Inner);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.is_served.store(false, Ordering::SeqCst);
        let fresh = std::mem::take(&mut *lock(&self.0.fresh));
        drop(fresh);
        // Those that somebody waits for say from now on that the engine is alive.
        let left: Vec<Arc<Slot>> = lock(&self.0.runs).values().cloned().collect();
        left.iter().for_each(|slot| slot.context.wake_for_room());
    }
}
