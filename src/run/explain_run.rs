//! Why a run is where it is: one answer for every state that it can be in.

use std::fmt;

use super::{Explanation, RunState};
use crate::journal::{Outcome, Reason, StepStatus};
use crate::time::Timestamp;

/// Steps that an explanation names of each kind.
const STEPS_NAMED: usize = 10;

/// Why a run does not go on, or that it does, or how it ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RunExplanation {
    /// It has not begun.
    NotStarted,
    /// It is under way: what it is at. Of many steps, the first ten of each kind.
    UnderWay {
        /// Paths of tasks that run.
        running: Vec<String>,
        /// Paths of tasks that may start and wait for room, a lock or a driver.
        ready: Vec<String>,
        /// Paths of steps that wait for a time, an answer, their next attempt, or for somebody to say
        /// what became of them, each with for what.
        waiting: Vec<(String, Explanation)>,
    },
    /// Nobody drives it: it goes on when its outcome is awaited, or its engine is served.
    NotDriven,
    /// Another engine on the same storage holds it.
    Elsewhere,
    /// Somebody paused it.
    Paused {
        /// Since when.
        since: Timestamp,
        /// Who and why.
        by: Reason,
    },
    /// Engines were gone too often while these tasks ran; see
    /// [`EngineLimits::max_recoveries`](crate::engine::EngineLimits::max_recoveries).
    Quarantined {
        /// Paths of tasks that were under way, the first ten.
        running: Vec<String>,
    },
    /// It was cancelled, or took too long, and is cleaning up.
    Stopping {
        /// What it will end as.
        outcome: Outcome,
        /// Who cancelled it and why; none when it took too long.
        by: Option<Reason>,
        /// Paths of tasks that run still, the first ten.
        running: Vec<String>,
        /// Paths of steps of which somebody has to say what became of them, the first ten.
        unknown: Vec<String>,
    },
    /// It has ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// When.
        at: Timestamp,
    },
}

impl RunState {
    /// Why the run is where it is. Who drives it is known to engines only; see
    /// [`RunHandle::explain_run`](crate::RunHandle::explain_run).
    #[must_use]
    pub fn explain_run(&self) -> RunExplanation {
        let tasks = |status: StepStatus| -> Vec<String> {
            let of = self.steps().filter(|(step, now)| *now == status && self.is_task(*step));
            of.take(STEPS_NAMED).map(|(step, _)| self.path(step)).collect()
        };
        if let Some(outcome) = &self.outcome {
            return RunExplanation::Ended { outcome: outcome.clone(), at: self.finished_at };
        }
        if self.started.is_none() {
            return RunExplanation::NotStarted;
        }
        if self.quarantined {
            return RunExplanation::Quarantined { running: tasks(StepStatus::Running) };
        }
        let by = self.asked_by.as_deref().cloned();
        if let Some(outcome) = self.stopping.as_deref() {
            let by = by.filter(|_| *outcome == Outcome::Cancelled);
            let running = tasks(StepStatus::Running);
            let unknown = tasks(StepStatus::OutcomeUnknown);
            return RunExplanation::Stopping { outcome: outcome.clone(), by, running, unknown };
        }
        if let Some(since) = self.paused {
            return RunExplanation::Paused { since, by: by.unwrap_or_default() };
        }
        let waits = [StepStatus::Waiting, StepStatus::Retrying, StepStatus::OutcomeUnknown];
        let waiting = self.steps().filter(|(_, now)| waits.contains(now)).take(STEPS_NAMED);
        let waiting = waiting.filter_map(|(step, _)| Some((self.path(step), self.explain(step)?)));
        RunExplanation::UnderWay {
            running: tasks(StepStatus::Running),
            ready: tasks(StepStatus::Ready),
            waiting: waiting.collect(),
        }
    }
}

impl fmt::Display for RunExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted => f.write_str("it has not begun"),
            Self::UnderWay { running, ready, waiting } => {
                let waiting: Vec<String> =
                    waiting.iter().map(|(step, why)| format!("{step} {why}")).collect();
                let kinds = [("running", running), ("ready", ready), ("waiting", &waiting)];
                let kinds = kinds.iter().filter(|(_, steps)| !steps.is_empty());
                let kinds: Vec<String> =
                    kinds.map(|(kind, steps)| format!("{kind}: {}", steps.join(", "))).collect();
                write!(f, "under way; {}", kinds.join("; "))
            }
            Self::NotDriven => {
                f.write_str("nobody drives it: await its outcome, or serve the engine")
            }
            Self::Elsewhere => f.write_str("another engine holds it"),
            Self::Paused { since, by } => write!(f, "paused since {since}: {by}"),
            Self::Quarantined { running } => write!(
                f,
                "in quarantine: engines were gone too often while these ran: {}; resume it to try \
                 again, or cancel it",
                running.join(", ")
            ),
            Self::Stopping { outcome, by, running, unknown } => {
                write!(f, "stopping ({outcome})")?;
                if let Some(by) = by {
                    write!(f, ", cancelled {by}")?;
                }
                if !running.is_empty() {
                    write!(f, "; still running: {}", running.join(", "))?;
                }
                match unknown.as_slice() {
                    [] => Ok(()),
                    unknown => write!(f, "; outcome unknown: {}", unknown.join(", ")),
                }
            }
            Self::Ended { outcome, at } => write!(f, "ended at {at}: {outcome}"),
        }
    }
}
