//! Where a step's future is polled: in place, or on another core.
//!
//! A light step costs more to move than to poll. So the engine measures how long the futures of a
//! type work between two awaits, and spawns those that are heavy, where spawning helps at all.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::admission::EveryNth;
use super::prepare::Task;

/// Where steps of a type run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// Polled where the run is driven.
    InPlace,
    /// Spawned on the runtime.
    Spawned,
    /// On a thread that may block.
    Blocking,
}

/// Work between two awaits from which on a step is worth moving.
const HEAVY: Duration = Duration::from_micros(50);
/// Runs of a type that are spawned before anything is known of it.
const UNKNOWN: u32 = 2;
/// One light run in so many is measured again.
const SAMPLED: u32 = 16;

/// How long the futures of a type work.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    runs: AtomicU32,
    /// A moving mean, in nanoseconds.
    busy: AtomicU64,
    sampled: EveryNth,
}

impl Measured {
    pub(crate) fn add(&self, busy: Duration) {
        let busy = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        let runs = self.runs.fetch_add(1, Ordering::Relaxed);
        // Updates that race lose a sample, which changes nothing.
        let mean = self.busy.load(Ordering::Relaxed);
        let next = if runs == 0 { busy } else { mean - mean / 4 + busy / 4 };
        self.busy.store(next, Ordering::Relaxed);
    }

    fn is_known(&self) -> bool {
        self.runs.load(Ordering::Relaxed) >= UNKNOWN
    }

    fn is_heavy(&self) -> bool {
        u128::from(self.busy.load(Ordering::Relaxed)) >= HEAVY.as_nanos()
    }
}

/// Where a step goes, and whether its work is measured.
pub(crate) fn place(parallel: bool, task: &Task) -> (Placement, bool) {
    let kind = &task.kind;
    if task.blocking {
        return (Placement::Blocking, false);
    }
    if let Some(forced) = kind.forced {
        return (forced, false);
    }
    if !parallel {
        return (Placement::InPlace, false);
    }
    if !kind.measured.is_known() || kind.measured.is_heavy() {
        return (Placement::Spawned, true);
    }
    (Placement::InPlace, kind.measured.sampled.is_due(SAMPLED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_known_after_two_runs_and_heavy_by_its_mean() {
        let measured = Measured::default();
        measured.add(Duration::from_micros(1));
        assert!(!measured.is_known());
        measured.add(Duration::from_micros(1));
        assert!(measured.is_known() && !measured.is_heavy());
        (0..8).for_each(|_| measured.add(Duration::from_millis(1)));
        assert!(measured.is_heavy());
    }
}
