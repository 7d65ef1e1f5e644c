//! Runs that were under way when engines died, again and again: one of them may be what kills. They begin
//! again a few at a time, so that it takes few of the others along.
//!
//! A crash counts against everything that an engine held, as nobody can tell which step has done it. Those
//! that wait for their turn nobody holds. So the one that kills is counted each time, and another one only
//! as often as it happens to begin before it.

use std::cmp::Reverse;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};

use super::{Engine, Inner, lock};
use crate::error::Result;
use crate::id::RunId;
use crate::storage::{Claimed, Storage};
use crate::time::Timestamp;

/// So many engines have died of a run, maybe, that is suspected. The first one that dies is no reason.
const SUSPECTED: u32 = 2;
/// How long one that kills is believed to take at most, if that is not longer than a third of a lease.
const WINDOW_MAX: Duration = Duration::from_secs(10);
/// So many windows one waits at most before it asks again.
const WAITS_MAX: u32 = 64;
/// Calls that are made at the same time.
const TOGETHER: usize = 16;

/// Who may begin.
#[derive(Debug, Default)]
pub(crate) struct Trials {
    window: Mutex<Window>,
    /// Runs are being claimed, of which some may have to wait.
    claiming: AtomicBool,
    /// Those that may, as soon as all the others are put off that were claimed with them.
    ready: Mutex<Vec<RunId>>,
}

/// The suspected that have begun within a while. If they all live through it, twice as many may follow.
#[derive(Debug, Default)]
struct Window {
    /// By the clock that only goes forward.
    opened: Option<Duration>,
    size: u32,
    left: u32,
    /// Those that were put off since.
    put_off: u32,
}

impl Window {
    /// How long a suspected one has to wait, if it has to: until it may be its turn. Windows in a row are
    /// used if the next one is asked for `late` at most.
    fn admit(
        &mut self,
        now: Duration,
        length: Duration,
        late: Duration,
        alone: bool,
    ) -> Option<Duration> {
        let age = self.opened.map_or(Duration::MAX, |opened| now.saturating_sub(opened));
        if age >= length {
            let was_used = age <= (length * 2).saturating_add(late);
            let size = if was_used { self.size.saturating_mul(2) } else { 1 };
            *self = Self { opened: Some(now), size, left: size, put_off: 0 };
        }
        match alone {
            true if self.left == self.size => {
                (self.size, self.left) = (1, 0);
                return None;
            }
            false if self.left > 0 => {
                self.left -= 1;
                return None;
            }
            _ => {}
        }
        let before = self.put_off;
        self.put_off = before.saturating_add(1);
        // As many come back each time as may begin then, if all goes well.
        let windows = match alone {
            true => before,
            false => (1 + before / self.size.saturating_mul(2)).ilog2(),
        };
        let opened = self.opened.unwrap_or_default();
        Some((opened + length * (1 + windows.min(WAITS_MAX))).saturating_sub(now))
    }
}

/// Runs are claimed as long as this is there.
pub(super) struct Claiming<'a>(&'a Trials);

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        self.0.claiming.store(false, Ordering::SeqCst);
    }
}

impl Trials {
    pub(super) fn claims(&self) -> Claiming<'_> {
        self.claiming.store(true, Ordering::SeqCst);
        Claiming(self)
    }

    /// Whether this engine may hold runs that it puts off next: nobody is to begin them.
    pub(super) fn is_claiming(&self) -> bool {
        self.claiming.load(Ordering::SeqCst)
    }
}

/// Whether it may be this one that kills.
pub(crate) const fn is_suspected(recoveries: u32) -> bool {
    recoveries >= SUSPECTED
}

impl Inner {
    fn window(&self) -> Duration {
        self.beat_every().min(WINDOW_MAX)
    }

    /// How long a run has to wait that was taken over so often and has attempts under way, if it has to.
    /// One that is to be kept from beginning at all does not.
    fn waits(&self, recoveries: u32) -> Option<Duration> {
        let most = self.limits.max_recoveries;
        if !is_suspected(recoveries) || recoveries > most {
            return None;
        }
        let (now, length) = (self.runtime.monotonic(), self.window());
        // Somebody who waits may look no sooner.
        let late = length.saturating_add(self.storage.poll_every());
        let alone = recoveries > SUSPECTED && recoveries >= most.saturating_sub(1);
        let wait = lock(&self.trials.window).admit(now, length, late, alone)?;
        // Those that have been counted most often come first, and of those another one each time.
        let later = length / 16 * (most - recoveries).min(8);
        Some(wait + later + length / 64 * (self.runtime.random() % 4) as u32)
    }

    /// Whether one that stands aside until then has waited long enough, by a clock that may be another
    /// one's.
    pub(super) fn has_waited(&self, until: Timestamp) -> bool {
        let now = self.runtime.now();
        until <= now || until > now + self.window() * (WAITS_MAX + 2)
    }

    /// Has a run wait for its turn that this engine holds, if it has to.
    pub(super) async fn puts_off(&self, run: &RunId, recoveries: u32) -> Result<bool> {
        match self.waits(recoveries) {
            None => Ok(false),
            Some(wait) => self.put_off(run, recoveries, wait).await.map(|()| true),
        }
    }

    async fn put_off(&self, run: &RunId, recoveries: u32, wait: Duration) -> Result<()> {
        let why = format!(
            "{recoveries} engines that had it under way are gone: it begins again in a while, with few \
             others"
        );
        let until = self.runtime.now() + wait;
        let unheard = self.unheard();
        self.storage.set_aside(run, self.owner(), until, why).await?;
        unheard.heard();
        // Somebody here may have found in between that this engine holds it.
        let known = lock(&self.runs).get(run).cloned();
        if let Some(slot) = known {
            slot.context.doubt();
            slot.context.wake_driver();
        }
        Ok(())
    }

    /// Those that might begin go to others, as nobody here has them do so any more.
    pub(super) async fn give_ready(&self) -> Result<()> {
        let ready = std::mem::take(&mut *lock(&self.trials.ready));
        let why = "the engine that had it is not served any more";
        for run in ready {
            self.storage.set_aside(&run, self.owner(), Timestamp::EPOCH, why.into()).await?;
        }
        Ok(())
    }
}

impl Engine {
    /// Has those of the runs begin that were just claimed and may. Of those that are suspected none begins
    /// before the others are put off, and not as long as there may be more of them. How long to claim no more
    /// then.
    pub(super) async fn begin_all(
        &self,
        claiming: Claiming<'_>,
        claimed: Vec<Claimed>,
        more: bool,
        now: Timestamp,
    ) -> Duration {
        let mut rest = Duration::ZERO;
        let (mut suspected, others): (Vec<_>, Vec<_>) =
            claimed.into_iter().partition(|claimed| is_suspected(claimed.recoveries));
        suspected
            .sort_by_cached_key(|claimed| (Reverse(claimed.recoveries), self.0.runtime.random()));
        let ready = self.sift(suspected).await;
        drop(claiming);
        let ready = {
            let mut waiting = lock(&self.0.trials.ready);
            waiting.extend(ready);
            if more { Vec::new() } else { std::mem::take(&mut *waiting) }
        };
        for run in others.into_iter().map(|claimed| claimed.run).chain(ready) {
            rest = rest.max(self.begin_claimed(&run, now).await);
        }
        rest
    }

    /// Puts those off that have to wait; the others.
    async fn sift(&self, suspected: Vec<Claimed>) -> Vec<RunId> {
        let loads = stream::iter(suspected).map(async |Claimed { run, recoveries }| {
            // Who has nothing under way has killed nobody; what cannot be loaded is dealt with later.
            let under_way = self.slot_of(&run).await.is_ok_and(|(slot, _)| slot.may_kill());
            (run, recoveries, under_way)
        });
        let loaded: Vec<_> = loads.buffered(TOGETHER).collect().await;
        let (mut ready, mut waits) = (Vec::new(), Vec::new());
        for (run, recoveries, under_way) in loaded {
            match under_way.then(|| self.0.waits(recoveries)).flatten() {
                None => ready.push(run),
                Some(wait) => waits.push((run, recoveries, wait)),
            }
        }
        let puts_off = stream::iter(waits).map(async |(run, recoveries, wait)| {
            if let Err(error) = self.0.put_off(&run, recoveries, wait).await {
                tracing::warn!(target: "stepwell", run_id = %run, %error, "cannot put the run off");
            }
        });
        puts_off.buffer_unordered(TOGETHER).collect::<()>().await;
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Who begins within this second; all others wait.
    fn begins(window: &mut Window, second: u32, asking: u32, alone: bool) -> u32 {
        let mut ask = || window.admit(SECOND * second, SECOND * 10, SECOND * 10, alone);
        (0..asking).map(|_| u32::from(ask().is_none())).sum()
    }

    #[test]
    fn twice_as_many_begin_each_time_as_long_as_all_goes_well() {
        let mut window = Window::default();
        let seconds = [0, 5, 10, 21, 35, 50];
        let began = seconds.map(|second| begins(&mut window, second, 100, false));
        assert_eq!(began, [1, 0, 2, 4, 8, 16]);
        assert_eq!(begins(&mut window, 100, 100, false), 1, "nobody has begun for a while");
    }

    #[test]
    fn one_alone_has_a_window_for_itself() {
        let mut window = Window::default();
        assert_eq!(begins(&mut window, 0, 1, false), 1);
        assert_eq!(begins(&mut window, 10, 1, false), 1);
        assert_eq!(begins(&mut window, 11, 3, true), 0, "another one has begun in it");
        assert_eq!(begins(&mut window, 21, 3, true), 1);
        assert_eq!(begins(&mut window, 22, 3, false), 0);
        assert_eq!(begins(&mut window, 33, 3, false), 2);
    }

    #[test]
    fn who_waits_comes_back_about_when_it_is_its_turn() {
        let mut window = Window::default();
        let mut wait = |alone| {
            let waits = window.admit(SECOND, SECOND * 10, SECOND * 10, alone);
            waits.map_or(0, |waits| waits.as_secs())
        };
        assert_eq!([(); 8].map(|()| wait(false)), [0, 10, 10, 20, 20, 20, 20, 30]);
        let mut window = Window::default();
        let mut wait = || {
            let waits = window.admit(SECOND, SECOND * 10, SECOND * 10, true);
            waits.map_or(0, |waits| waits.as_secs())
        };
        assert_eq!([(); 4].map(|()| wait()), [0, 10, 20, 30]);
    }
}
