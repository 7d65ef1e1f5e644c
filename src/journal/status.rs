//! What can have become of steps and runs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::plan::DrawnStatus;
use crate::value::Value;

/// What has become of a step.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepStatus {
    /// Not reached.
    #[default]
    Pending,
    /// May start as soon as limits let it.
    Ready,
    /// An attempt runs, or a body of it.
    Running,
    /// Waits for a time, a condition or a signal.
    Waiting,
    /// An attempt failed; the next waits for its time.
    Retrying,
    /// Nobody knows what an attempt has done, and it must not be begun twice: somebody has to say.
    OutcomeUnknown,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Left out.
    Skipped(SkipReason),
    /// Stopped, or never to be started.
    Cancelled,
}

impl StepStatus {
    /// Whether nothing more becomes of it.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Skipped(_) | Self::Cancelled)
    }

    /// The word that expressions compare with.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped(_) => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// Place in a table of counts; both kinds of skip share one.
    pub(crate) const fn slot(self) -> usize {
        match self {
            Self::Pending => 0,
            Self::Ready => 1,
            Self::Running => 2,
            Self::Waiting => 3,
            Self::Retrying => 4,
            Self::Succeeded => 5,
            Self::Failed => 6,
            Self::Skipped(_) => 7,
            Self::Cancelled => 8,
            Self::OutcomeUnknown => 9,
        }
    }
}

pub(crate) const STATUS_SLOTS: usize = 10;

impl From<StepStatus> for DrawnStatus {
    fn from(status: StepStatus) -> Self {
        match status {
            StepStatus::Pending => Self::Pending,
            StepStatus::Ready => Self::Ready,
            StepStatus::Running => Self::Running,
            StepStatus::Waiting | StepStatus::Retrying => Self::Waiting,
            StepStatus::OutcomeUnknown => Self::Unknown,
            StepStatus::Succeeded => Self::Succeeded,
            StepStatus::Failed => Self::Failed,
            StepStatus::Skipped(_) => Self::Skipped,
            StepStatus::Cancelled => Self::Cancelled,
        }
    }
}

impl fmt::Display for StepStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped(reason) => write!(f, "skipped ({reason})"),
            other => f.write_str(other.as_str()),
        }
    }
}

/// Why a step was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Its own condition was false; counts as done for what comes after.
    Condition,
    /// Its join rule cannot be met any more; spreads to what comes after.
    Upstream,
    /// An operator wanted it so; counts as done for what comes after.
    Operator,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Condition => "its condition is false",
            Self::Upstream => "no path led to it",
            Self::Operator => "an operator wanted it so",
        })
    }
}

/// Why a step was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// A step that needed only some of its dependencies has started.
    Rest,
    /// Another step failed and the workflow stops at the first failure.
    Stopping,
    /// The run was cancelled.
    Run,
    /// The step, a step around it or the run has taken longer than its limit.
    TimedOut,
    /// An operator stopped it, or a step around it.
    Operator,
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rest => "enough of what stands beside it had ended",
            Self::Stopping => "another step failed",
            Self::Run => "the run was cancelled",
            Self::Operator => "an operator stopped it",
            Self::TimedOut => "it took longer than its time limit, or what is around it did",
        })
    }
}

/// What has become of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunStatus {
    /// Accepted, nothing has been decided yet.
    #[default]
    Pending,
    /// Steps run or can run.
    Running,
    /// Nothing is started until it is resumed.
    Paused,
    /// Asked to stop, or over its time limit; running steps have not ended yet, or steps that clean up.
    Cancelling,
    /// Ended well.
    Succeeded,
    /// A step failed and nothing dealt with it.
    Failed,
    /// Stopped on purpose.
    Cancelled,
    /// Took longer than its limit.
    TimedOut,
}

impl RunStatus {
    /// Whether nothing more becomes of it.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::TimedOut)
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed out",
        })
    }
}

/// How a run, or a body of a composite step, ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Well, with this output.
    Succeeded(Value),
    /// Badly: the first failure that nothing dealt with, and the path of its step.
    Failed {
        /// The step.
        step: String,
        /// Why it failed.
        failure: Failure,
    },
    /// Stopped on purpose.
    Cancelled,
    /// The run's time limit was reached.
    TimedOut,
}

impl Outcome {
    /// The status of a run that ended like this.
    #[must_use]
    pub const fn status(&self) -> RunStatus {
        match self {
            Self::Succeeded(_) => RunStatus::Succeeded,
            Self::Failed { .. } => RunStatus::Failed,
            Self::Cancelled => RunStatus::Cancelled,
            Self::TimedOut => RunStatus::TimedOut,
        }
    }

    /// The output, if it ended well.
    #[must_use]
    pub const fn output(&self) -> Option<&Value> {
        match self {
            Self::Succeeded(output) => Some(output),
            Self::Failed { .. } | Self::Cancelled | Self::TimedOut => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded(output) => write!(f, "succeeded: {output}"),
            Self::Failed { step, failure } => write!(f, "failed: step {step}: {failure}"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::TimedOut => f.write_str("took longer than its time limit"),
        }
    }
}
