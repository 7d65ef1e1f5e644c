//! What can be asked of a run, and how it says no.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Failure, Problems, Suspension};
use crate::id::StepKey;
use crate::journal::{Operation, Reason, Signal, StepStatus, Vote};
use crate::value::Value;

/// Something asked of a run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// Begin.
    Start {
        /// The input.
        input: Value,
        /// The variables, defaults filled in and checked.
        variables: Value,
        /// What jitter is computed from.
        seed: u64,
        /// How long running steps that are to stop have to do so by themselves.
        grace: Duration,
    },
    /// Start a ready step: the engine has room for it.
    Dispatch {
        /// The step.
        step: StepKey,
    },
    /// An attempt ended.
    Report {
        /// The step.
        step: StepKey,
        /// The attempt.
        attempt: u32,
        /// How.
        result: Report,
    },
    /// Whoever was at an attempt is gone, and it must not be begun again: nobody knows what it has done.
    Lose {
        /// The step, which runs [at most once](crate::Step::at_most_once).
        step: StepKey,
        /// The attempt.
        attempt: u32,
    },
    /// Time has passed: see what is due.
    Tick {
        /// Whether attempts that took too long may be followed by others.
        retry: RetryAllowance,
    },
    /// A signal.
    Signal(Signal),
    /// A vote.
    Vote {
        /// Which decision, as [`OpenApproval::id`](crate::journal::OpenApproval) names it.
        approval: String,
        /// Whose, and which way.
        vote: Box<Vote>,
    },
    /// It was taken over so often, with attempts under way, that they are not begun again.
    Quarantine {
        /// How often.
        recoveries: u32,
    },
    /// Start nothing more until resumed.
    Pause(Box<Reason>),
    /// Start steps again.
    Resume(Box<Reason>),
    /// Change it; see [`Operation`].
    Operate {
        /// How.
        operation: Box<Operation>,
        /// Who and why.
        by: Box<Reason>,
    },
    /// Stop; what cleans up still runs.
    Cancel {
        /// Who and why.
        by: Box<Reason>,
        /// How long running steps have to stop by themselves; none is what the run was started with.
        grace: Option<Duration>,
    },
    /// Stop at once: nothing cleans up.
    Terminate(Box<Reason>),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Well.
    Succeeded(Value),
    /// Badly.
    Failed {
        /// Why.
        failure: Box<Failure>,
        /// Whether the engine's budget allows another attempt.
        retry: RetryAllowance,
    },
    /// Not yet: it wants a signal first.
    Suspended(Box<Suspension>),
}

/// Whether the engine allows another attempt, whatever the policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAllowance {
    /// As the policy says.
    Allowed,
    /// No: too much of what the engine does is retries.
    Denied,
}

/// Why a run refused a command; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Rejection {
    /// The run has begun already.
    #[error("the run has begun already")]
    AlreadyStarted,
    /// The run has not begun.
    #[error("the run has not begun yet")]
    NotStarted,
    /// The run has ended.
    #[error("the run has finished; nothing can be asked of it any more")]
    Finished,
    /// There is no such step.
    #[error(
        "there is no such step in the run now; of a body that has ended, name the step around it"
    )]
    UnknownStep,
    /// The step is not ready.
    #[error("the step is {0}, not ready")]
    NotReady(StepStatus),
    /// The step is not running.
    #[error("the step is {0}, not running")]
    NotRunning(StepStatus),
    /// The report is about another attempt.
    #[error("attempt {given} was reported while attempt {expected} is running")]
    WrongAttempt {
        /// The attempt that runs.
        expected: u32,
        /// The attempt that was reported.
        given: u32,
    },
    /// The run is paused.
    #[error("the run is paused")]
    Paused,
    /// The run is not paused.
    #[error("the run is not paused")]
    NotPaused,
    /// The run is stopping.
    #[error("the run is stopping")]
    Stopping,
    /// Nobody waits for the signal, which is only for somebody who does.
    #[error("no step waits for this signal now")]
    NobodyWaits,
    /// The payload is not what the step wants.
    #[error("{0}")]
    Payload(String),
    /// No such decision is to be taken now.
    #[error("no such decision is to be taken now: it may have been taken, or not be asked for yet")]
    NoSuchApproval,
    /// Somebody has no vote.
    #[error("`{0}` has no vote on this")]
    NoApprover(String),
    /// Somebody votes again.
    #[error("`{0}` has voted on this already")]
    VotedAlready(String),
    /// The definition is another one by now.
    #[error("the definition is at revision {now} by now, and this was made from revision {given}")]
    Outdated {
        /// The revision.
        now: u32,
        /// What the change was made from.
        given: u32,
    },
    /// What has begun does not fit another definition.
    #[error("the run cannot go on with this definition:{}", listed(.0))]
    Misfit(Problems),
    /// It cannot be done as things stand.
    #[error("{0}")]
    Unsafe(String),
    /// A text is longer than a journal is to keep.
    #[error("{what} takes {bytes} bytes; the limit is {limit}")]
    TooLong {
        /// Which.
        what: String,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Too many signals wait for a step.
    #[error("{0} signals wait for a step already")]
    TooManySignals(usize),
}

impl Rejection {
    /// The same as an error, with its problems.
    pub(crate) fn into_error(self) -> Error {
        let message = match &self {
            Self::Misfit(_) => "the run cannot go on with this definition".into(),
            other => other.to_string(),
        };
        let error = Error::new(ErrorKind::Rejected, message);
        match self {
            Self::Misfit(problems) => error.with(problems),
            _ => error,
        }
    }
}

/// One problem on each line.
fn listed(problems: &Problems) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
