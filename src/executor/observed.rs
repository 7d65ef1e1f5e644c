//! What those see who observe a run.

use crate::journal::Recorded;
use crate::time::Timestamp;

/// Something that a run's observers see.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RunEvent {
    /// An event of the journal, stored already.
    Journal {
        /// The path of the step that it is about; empty when it is about the run.
        step: String,
        /// The event.
        recorded: Recorded,
    },
    /// A step says how far it is.
    Progress {
        /// The path of the step.
        step: String,
        /// From 0 to 1.
        fraction: f64,
        /// What it is at.
        message: String,
    },
    /// A step says something.
    Log {
        /// The path of the step.
        step: String,
        /// Which attempt.
        attempt: u32,
        /// When.
        at: Timestamp,
        /// How important it is.
        level: LogLevel,
        /// What it says.
        message: String,
    },
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For finding mistakes.
    Debug,
    /// For following along.
    Info,
    /// Something is odd.
    Warning,
    /// Something is wrong.
    Error,
}
