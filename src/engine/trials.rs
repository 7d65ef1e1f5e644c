//! Runs that were under way when engines died, again and again: one of them may be what kills. They begin
//! again a few at a time, so that it takes few of the others along.
//!
//! A crash counts against everything that was under way, as nobody can tell which step has done it. Those
//! that wait for their turn are not under way. So the one that kills is counted each time, and another one
//! only as often as it happens to begin before it.

use std::cmp::Reverse;
use std::sync::Mutex;
use std::time::Duration;

use super::{Engine, Inner, lock};
use crate::id::RunId;
use crate::storage::{Claimed, Storage};

/// So many engines have died of a run, maybe, that is suspected. The first one that dies is no reason.
const SUSPECTED: u32 = 2;
/// Those that have been counted less often come so much later, up to so many times.
const LATER: Duration = Duration::from_millis(200);
const LATER_MAX: u32 = 8;
/// Another one is first each time, by steps of this length.
const SPREAD: Duration = Duration::from_millis(50);

/// Who may begin.
#[derive(Debug, Default)]
pub(crate) struct Trials(Mutex<Window>);

/// The suspected that have begun within a while. If they all live through it, twice as many may follow.
#[derive(Debug, Default)]
struct Window {
    /// By the clock that only goes forward.
    opened: Option<Duration>,
    size: u32,
    left: u32,
}

impl Window {
    /// How long a suspected one has to wait, if it has to.
    fn admit(&mut self, now: Duration, length: Duration, alone: bool) -> Option<Duration> {
        let age = self.opened.map(|opened| now.saturating_sub(opened));
        if age.is_none_or(|age| age >= length) {
            let was_used = age.is_some_and(|age| age < length * 2);
            let size = if was_used { self.size.saturating_mul(2) } else { 1 };
            *self = Self { opened: Some(now), size, left: size };
        }
        match alone {
            true if self.left == self.size => (self.size, self.left) = (1, 0),
            false if self.left > 0 => self.left -= 1,
            _ => return Some(length.saturating_sub(age.unwrap_or_default())),
        }
        None
    }
}

/// Whether it may be this one that kills.
pub(crate) const fn is_suspected(recoveries: u32) -> bool {
    recoveries >= SUSPECTED
}

impl Inner {
    /// How long a run has to wait that was taken over so often, if it has to. One that is to be kept from
    /// beginning at all does not.
    fn waits(&self, recoveries: u32) -> Option<Duration> {
        let most = self.limits.max_recoveries;
        if !is_suspected(recoveries) || recoveries > most {
            return None;
        }
        let (now, alone) = (self.runtime.monotonic(), recoveries.saturating_add(1) >= most);
        let wait = lock(&self.trials.0).admit(now, self.beat_every(), alone)?;
        let later = LATER * (most - recoveries).min(LATER_MAX);
        Some(wait + later + SPREAD * (self.runtime.random() % 4) as u32)
    }

    /// Has a run that was just taken over wait for its turn, if it has to.
    pub(super) async fn puts_off(&self, claimed: &Claimed) -> crate::Result<bool> {
        let Claimed { run, recoveries } = claimed;
        let Some(wait) = self.waits(*recoveries) else { return Ok(false) };
        let why = format!(
            "{recoveries} engines that had it under way are gone: it begins again in a while, with few \
             others"
        );
        let until = self.runtime.now() + wait;
        self.storage.set_aside(run, self.owner(), until, why).await.map(|()| true)
    }
}

impl Engine {
    /// Those of the runs that were just claimed that may begin now. The others wait for their turn before
    /// any of them begins.
    pub(super) async fn to_begin(&self, mut claimed: Vec<Claimed>) -> Vec<RunId> {
        if claimed.iter().any(|claimed| is_suspected(claimed.recoveries)) {
            let random = || self.0.runtime.random();
            claimed.sort_by_cached_key(|claimed| (Reverse(claimed.recoveries), random()));
        }
        let mut begins = Vec::with_capacity(claimed.len());
        for claimed in claimed {
            match self.0.puts_off(&claimed).await {
                Ok(true) => {}
                Ok(false) => begins.push(claimed.run),
                Err(error) => {
                    self.0.doubt();
                    let run_id = &claimed.run;
                    tracing::warn!(target: "stepwell", %run_id, %error, "cannot put the run off");
                }
            }
        }
        begins
    }
}
