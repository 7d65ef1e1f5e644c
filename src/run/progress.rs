//! How far a run is.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::RunState;
use crate::journal::{RunStatus, StepStatus};
use crate::time::Timestamp;

/// How far a run is: counts of step instances, and what they say about the rest.
///
/// Composite steps count like others, and their bodies' steps from when a body is opened, so the
/// total of a run with loops grows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Progress {
    /// What has become of the run.
    pub status: RunStatus,
    /// Step instances known so far.
    pub total: u32,
    /// Not reached.
    pub pending: u32,
    /// May start.
    pub ready: u32,
    /// Run.
    pub running: u32,
    /// Wait.
    pub waiting: u32,
    /// Wait for their next attempt.
    pub retrying: u32,
    /// Wait for somebody to say what became of them.
    pub outcome_unknown: u32,
    /// Ended well.
    pub succeeded: u32,
    /// Ended badly.
    pub failed: u32,
    /// Left out.
    pub skipped: u32,
    /// Stopped.
    pub cancelled: u32,
    /// Time since the run began, up to its end.
    pub elapsed: Duration,
}

impl Progress {
    /// Step instances that have ended, whichever way.
    #[must_use]
    pub const fn ended(&self) -> u32 {
        self.succeeded + self.failed + self.skipped + self.cancelled
    }

    /// How much has ended, from 0 to 100.
    #[must_use]
    pub fn percent(&self) -> f64 {
        if self.total == 0 { 0.0 } else { f64::from(self.ended()) * 100.0 / f64::from(self.total) }
    }

    /// Ended step instances per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { f64::from(self.ended()) / seconds } else { 0.0 }
    }

    /// The time that is left if the rest goes as fast as what has ended; none before anything has.
    #[must_use]
    pub fn eta(&self) -> Option<Duration> {
        if self.status.is_end() {
            return Some(Duration::ZERO);
        }
        let left = f64::from(self.total - self.ended());
        let rate = self.rate();
        (rate > 0.0).then(|| Duration::try_from_secs_f64(left / rate).ok()).flatten()
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ended, total) = (self.ended(), self.total);
        write!(f, "{}: {ended}/{total} steps ({:.0} %)", self.status, self.percent())
    }
}

impl RunState {
    /// How far the run is at `now`.
    #[must_use]
    pub fn progress(&self, now: Timestamp) -> Progress {
        let count = |status: StepStatus| self.counts[status.slot()];
        let end = self.finished_at().unwrap_or(now);
        Progress {
            status: self.status(),
            total: self.counts.iter().sum(),
            pending: count(StepStatus::Pending),
            ready: count(StepStatus::Ready),
            running: count(StepStatus::Running),
            waiting: count(StepStatus::Waiting),
            retrying: count(StepStatus::Retrying),
            outcome_unknown: count(StepStatus::OutcomeUnknown),
            succeeded: count(StepStatus::Succeeded),
            failed: count(StepStatus::Failed),
            skipped: count(StepStatus::Skipped(crate::journal::SkipReason::Upstream)),
            cancelled: count(StepStatus::Cancelled),
            elapsed: self.started_at().map_or(Duration::ZERO, |start| end.since(start)),
        }
    }
}
