//! What has happened to a run: events, and the list of them.
//!
//! Events are facts. A journal is only ever appended to; the state of a run is what
//! [`RunState::replay`](crate::run::RunState::replay) makes of it, and nothing else. Decisions that
//! an event records (a skip, the items of a loop, the time of a retry) are never made again.

mod mapping;
mod operation;
mod snapshot;
mod status;
mod waiting;

pub(crate) use mapping::End;
pub use mapping::Mapping;
pub use operation::Operation;
pub use snapshot::Snapshot;
pub(crate) use status::STATUS_SLOTS;
pub use status::{CancelReason, Outcome, RunStatus, SkipReason, StepStatus};
pub use waiting::{OpenApproval, Signal, Vote, Waiting};

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Suspension};
use crate::id::StepKey;
use crate::time::Timestamp;
use crate::value::{Value, bytes_as_json};
use crate::workflow::Workflow;

/// An event and when it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// When, by the clock of the engine that decided it.
    pub at: Timestamp,
    /// What.
    pub event: Event,
}

// Each step has three, and memory keeps them as long as the run: it is not to grow unnoticed.
const _: () = assert!(size_of::<Recorded>() <= 32);

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The run began.
    RunStarted(Box<RunStarted>),
    /// A step's dependencies are met and its condition holds: it may start.
    StepReady {
        /// The step.
        step: StepKey,
    },
    /// An attempt of a task, or a composite step, began.
    StepStarted {
        /// The step.
        step: StepKey,
        /// Counted from 1.
        attempt: u32,
    },
    /// A step ended well.
    StepSucceeded {
        /// The step.
        step: StepKey,
        /// Its output.
        output: Value,
    },
    /// An attempt failed and there will be another.
    AttemptFailed {
        /// The step.
        step: StepKey,
        /// Which attempt, when the next, and why.
        failed: Box<FailedAttempt>,
    },
    /// Nobody knows what an attempt has done of a step that is not to be begun twice. It waits until
    /// somebody says so.
    StepOutcomeUnknown {
        /// The step.
        step: StepKey,
        /// What is known: class [`OutcomeUnknown`](crate::ErrorClass::OutcomeUnknown).
        failure: Box<Failure>,
    },
    /// A step ended badly.
    StepFailed {
        /// The step.
        step: StepKey,
        /// Why.
        failure: Box<Failure>,
    },
    /// A step was left out.
    StepSkipped {
        /// The step.
        step: StepKey,
        /// Why.
        reason: SkipReason,
    },
    /// A running step was asked to stop.
    StepCancelRequested {
        /// The step.
        step: StepKey,
        /// When it is stopped if it has not stopped by itself.
        deadline: Timestamp,
        /// Why.
        reason: CancelReason,
    },
    /// A step was stopped, or will not be started.
    StepCancelled {
        /// The step.
        step: StepKey,
        /// Why.
        reason: CancelReason,
    },
    /// A wait began.
    WaitStarted {
        /// The step.
        step: StepKey,
        /// What for.
        wait: Box<Waiting>,
    },
    /// A task waits for a signal before it goes on.
    StepSuspended {
        /// The step.
        step: StepKey,
        /// What it asks.
        suspended: Box<Suspended>,
    },
    /// Variables of the workflow that a step belongs to, or of the run, have new values.
    VariablesSet {
        /// The step that has succeeded; none when they were set from outside.
        step: Option<StepKey>,
        /// A map from their names to their values.
        values: Value,
    },
    /// A signal came, and is kept until a step waits for it.
    SignalReceived {
        /// The signal.
        signal: Box<Signal>,
    },
    /// A signal reached a step that waits for it.
    SignalTaken {
        /// The step.
        step: StepKey,
        /// The signal.
        signal: Box<Signal>,
    },
    /// Somebody has voted on an approval.
    Voted {
        /// The step.
        step: StepKey,
        /// The vote.
        vote: Box<Vote>,
    },
    /// A for-each knows its items.
    ItemsListed {
        /// The step.
        step: StepKey,
        /// The list.
        items: Value,
    },
    /// A dynamic step knows its steps.
    StepsMade {
        /// The step.
        step: StepKey,
        /// The number of what was made of them, inside the program.
        unit: u32,
        /// The steps, as a document writes them.
        steps: Value,
    },
    /// A body of a composite step began.
    ScopeOpened {
        /// The number of the scope; each is the last one's plus one.
        scope: u32,
        /// Whose body it is.
        opened: Box<ScopeOpened>,
    },
    /// A body of a composite step ended.
    ScopeClosed {
        /// The scope.
        scope: u32,
        /// How.
        outcome: Box<Outcome>,
    },
    /// Nothing more is started in a scope but what cleans up: a step failed, or the scope is not
    /// needed any more.
    ScopeStopping {
        /// The scope; 0 is the workflow itself.
        scope: u32,
    },
    /// A body has ended badly, and what was done in it is undone before it closes.
    ScopeCompensating {
        /// The scope; 0 is the workflow itself.
        scope: u32,
        /// How it ended.
        outcome: Box<Outcome>,
    },
    /// The last step of a scope that was done and not undone is being undone.
    CompensationStarted {
        /// The number of the scope in which that happens; each is the last one's plus one.
        scope: u32,
        /// The scope that has ended badly.
        of: u32,
    },
    /// Nothing is started until the run is resumed.
    RunPaused {
        /// Who did it and why.
        by: Box<Reason>,
    },
    /// The run was taken over too often from engines that were gone, with attempts under way: they are
    /// not begun again, and nothing else is started, until the run is resumed.
    RunQuarantined {
        /// How often.
        recoveries: u32,
    },
    /// Steps are started again.
    RunResumed {
        /// Who did it and why.
        by: Box<Reason>,
        /// The run's time limit, moved by the length of the pause.
        deadline: Timestamp,
    },
    /// The run was asked to stop.
    RunCancelRequested {
        /// Who did it and why.
        by: Box<Reason>,
        /// How long running steps have to stop by themselves, if another time than at the start.
        /// Elsewhere, as it would make every event longer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace: Option<Box<Duration>>,
    },
    /// The run was stopped at once: nothing cleans up, and it ends with the next event.
    RunTerminated {
        /// Who did it and why.
        by: Box<Reason>,
    },
    /// The run has taken longer than its limit, and is asked to stop.
    RunLimitReached,
    /// An operator has changed the run; what follows from it follows.
    Operated {
        /// What was done.
        operation: Box<Operation>,
        /// Who did it and why.
        by: Box<Reason>,
    },
    /// The run has another definition from now on.
    WorkflowModified(Box<Modified>),
    /// Secrets that the run keeps are sealed anew.
    SecretsResealed {
        /// The new sealed texts by the old ones.
        replaced: Box<BTreeMap<String, String>>,
    },
    /// A run that had ended goes on.
    RunReopened {
        /// When it has taken too long.
        deadline: Timestamp,
    },
    /// A step is to be run again, as if it had not been reached.
    StepReset {
        /// The step.
        step: StepKey,
        /// Whether, of a for-each, the items that ended well stay.
        failed_items: bool,
    },
    /// The run ended. Nothing follows, unless it is reopened.
    RunFinished {
        /// How.
        outcome: Box<Outcome>,
    },
}

impl Event {
    /// The kinds of events that are [kept always](Self::is_kept), as a journal names them.
    pub const KEPT: [&str; 9] = [
        "run_started",
        "run_paused",
        "run_quarantined",
        "run_resumed",
        "run_cancel_requested",
        "run_terminated",
        "operated",
        "voted",
        "run_finished",
    ];

    /// Whether it is kept when the beginning of a journal is forgotten: how the run began and ended,
    /// and what people have done to it, with who and why.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        matches!(
            self,
            Self::RunStarted(_)
                | Self::RunPaused { .. }
                | Self::RunQuarantined { .. }
                | Self::RunResumed { .. }
                | Self::RunCancelRequested { .. }
                | Self::RunTerminated { .. }
                | Self::Operated { .. }
                | Self::Voted { .. }
                | Self::RunFinished { .. }
        )
    }

    /// The step that it is about; none when it is about a scope or the run.
    pub(crate) const fn step(&self) -> Option<StepKey> {
        match self {
            Self::StepReady { step }
            | Self::StepStarted { step, .. }
            | Self::StepSucceeded { step, .. }
            | Self::AttemptFailed { step, .. }
            | Self::StepOutcomeUnknown { step, .. }
            | Self::StepFailed { step, .. }
            | Self::StepSkipped { step, .. }
            | Self::StepCancelRequested { step, .. }
            | Self::StepCancelled { step, .. }
            | Self::WaitStarted { step, .. }
            | Self::StepSuspended { step, .. }
            | Self::SignalTaken { step, .. }
            | Self::Voted { step, .. }
            | Self::ItemsListed { step, .. }
            | Self::StepsMade { step, .. }
            | Self::StepReset { step, .. } => Some(*step),
            Self::VariablesSet { step, .. } => *step,
            Self::RunStarted(_)
            | Self::SignalReceived { .. }
            | Self::ScopeOpened { .. }
            | Self::ScopeClosed { .. }
            | Self::ScopeStopping { .. }
            | Self::ScopeCompensating { .. }
            | Self::CompensationStarted { .. }
            | Self::RunPaused { .. }
            | Self::RunQuarantined { .. }
            | Self::RunResumed { .. }
            | Self::RunCancelRequested { .. }
            | Self::RunTerminated { .. }
            | Self::RunLimitReached
            | Self::Operated { .. }
            | Self::WorkflowModified(_)
            | Self::SecretsResealed { .. }
            | Self::RunReopened { .. }
            | Self::RunFinished { .. } => None,
        }
    }

    /// Calls `f` with every value that it carries.
    pub(crate) fn each_value(&self, f: &mut dyn FnMut(&Value)) {
        match self {
            Self::RunStarted(started) => {
                [&started.input, &started.variables].into_iter().for_each(f)
            }
            Self::StepSucceeded { output, .. } => f(output),
            Self::VariablesSet { values, .. } => f(values),
            Self::WaitStarted { wait, .. } => wait.each_value(f),
            Self::StepSuspended { suspended, .. } => f(&suspended.suspension.prompt),
            Self::SignalReceived { signal } | Self::SignalTaken { signal, .. } => {
                f(&signal.payload)
            }
            Self::Voted { vote, .. } => f(&vote.payload),
            Self::ItemsListed { items, .. } => f(items),
            Self::StepsMade { steps, .. } => f(steps),
            Self::ScopeOpened { opened, .. } => {
                [&opened.input, &opened.variables].into_iter().for_each(f);
            }
            Self::ScopeClosed { outcome, .. }
            | Self::ScopeCompensating { outcome, .. }
            | Self::RunFinished { outcome } => outcome.output().into_iter().for_each(f),
            Self::Operated { operation, .. } => operation.each_value(f),
            Self::WorkflowModified(modified) => {
                f(&modified.variables);
                modified.scopes.iter().for_each(|scope| f(&scope.variables));
            }
            Self::StepReady { .. }
            | Self::StepStarted { .. }
            | Self::AttemptFailed { .. }
            | Self::StepOutcomeUnknown { .. }
            | Self::StepFailed { .. }
            | Self::StepSkipped { .. }
            | Self::StepCancelRequested { .. }
            | Self::StepCancelled { .. }
            | Self::ScopeStopping { .. }
            | Self::CompensationStarted { .. }
            | Self::RunPaused { .. }
            | Self::RunQuarantined { .. }
            | Self::RunResumed { .. }
            | Self::RunCancelRequested { .. }
            | Self::RunTerminated { .. }
            | Self::RunLimitReached
            | Self::SecretsResealed { .. }
            | Self::RunReopened { .. }
            | Self::StepReset { .. } => {}
        }
    }

    /// How many bytes of what steps, workflows and people have said it carries, about.
    pub(crate) fn bytes(&self) -> usize {
        let mut bytes = self.bytes_beside_values();
        self.each_value(&mut |value| bytes += value.bytes());
        bytes
    }

    fn bytes_beside_values(&self) -> usize {
        match self {
            Self::WaitStarted { wait, .. } => wait.bytes_beside_values(),
            Self::StepSuspended { suspended, .. } => suspended.suspension.signal.len(),
            Self::SignalReceived { signal } | Self::SignalTaken { signal, .. } => {
                let said = [&signal.by, &signal.id].into_iter().flatten().map(String::len);
                signal.name.len() + said.sum::<usize>()
            }
            Self::Voted { vote, .. } => vote.by.len() + vote.comment.len(),
            Self::RunPaused { by } | Self::RunResumed { by, .. } => by.bytes(),
            Self::RunCancelRequested { by, .. } | Self::RunTerminated { by } => by.bytes(),
            Self::Operated { operation, by } => operation.bytes_beside_values() + by.bytes(),
            Self::WorkflowModified(modified) => {
                let Modified { workflow, linked, variables: _, scopes } = &**modified;
                let moved = |scope: &MovedScope| size_of_val(&*scope.steps);
                let scopes: usize = scopes.iter().map(moved).sum();
                bytes_as_json(workflow) + bytes_as_json(linked) + scopes
            }
            Self::SecretsResealed { replaced } => operation::bytes_of(replaced),
            // All others carry values only, if anything.
            _ => 0,
        }
    }
}

/// How a run began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStarted {
    /// The input.
    pub input: Value,
    /// The variables.
    pub variables: Value,
    /// What jitter is computed from.
    pub seed: u64,
    /// When the run has taken too long.
    pub deadline: Timestamp,
    /// How long running steps that are to stop have to do so by themselves.
    #[serde(with = "crate::time::duration")]
    pub grace: Duration,
}

/// A definition that a run goes on with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Modified {
    /// The definition.
    pub workflow: Workflow,
    /// The workflows that its sub-workflow steps mean.
    pub linked: Vec<Workflow>,
    /// The variables, with those that are new.
    pub variables: Value,
    /// The open bodies whose steps are those of the new definition from now on; the first is the
    /// outermost.
    pub scopes: Vec<MovedScope>,
}

/// An open body that goes on with another definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovedScope {
    /// The scope.
    pub scope: u32,
    /// The workflow whose body it is now, inside the program.
    pub unit: u32,
    /// The body inside that workflow.
    pub body: u32,
    /// For each step that it had, its place among those that it has; none for a step that is gone.
    pub steps: Vec<Option<u32>>,
    /// The variables of a sub-workflow, with those that are new; null for other bodies.
    pub variables: Value,
}

/// An attempt that failed and will be followed by another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedAttempt {
    /// Counted from 1.
    pub attempt: u32,
    /// Why it failed.
    pub failure: Failure,
    /// How long the next one waits.
    #[serde(with = "crate::time::duration")]
    pub delay: Duration,
    /// When the next one may begin.
    pub retry_at: Timestamp,
}

/// A task that waits for a signal before it goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suspended {
    /// What it asks.
    pub suspension: Suspension,
    /// When it has waited for too long.
    pub until: Option<Timestamp>,
}

/// A body that began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScopeOpened {
    /// The composite step.
    pub parent: StepKey,
    /// The workflow it belongs to, inside the program.
    pub unit: u32,
    /// The body inside that workflow.
    pub body: u32,
    /// Which item or turn this is, from 0.
    pub index: u32,
    /// The input, for a sub-workflow; null for other bodies.
    pub input: Value,
    /// The variables, for a sub-workflow; null for other bodies.
    pub variables: Value,
}

/// Who did something to a run, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
}

impl Reason {
    /// This person or program, for this reason.
    pub fn new(by: impl Into<String>, why: impl Into<String>) -> Self {
        Self { by: by.into(), why: why.into() }
    }

    fn bytes(&self) -> usize {
        self.by.len() + self.why.len()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.by.as_str(), self.why.as_str()) {
            ("", "") => f.write_str("no reason given"),
            (by, "") => write!(f, "by {by}"),
            ("", why) => f.write_str(why),
            (by, why) => write!(f, "by {by}: {why}"),
        }
    }
}
