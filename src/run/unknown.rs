//! Steps that are not to be begun twice, and of which nobody knows what they have done.

use super::RunState;
use super::command::Rejection;
use super::scope::AttemptRecord;
use super::turn::Turn;
use crate::error::{ErrorClass, Failure};
use crate::id::StepKey;
use crate::journal::{CancelReason, Event, Operation, StepStatus};
use crate::time::Timestamp;
use crate::workflow::OnUnknown;

impl Turn<'_> {
    /// Whoever was at an attempt is gone.
    pub(super) fn lose(&mut self, step: StepKey, attempt: u32) -> Result<(), Rejection> {
        self.runs(step, attempt)?;
        if !self.state.is_once(step, StepStatus::Running) {
            let path = self.state.path(step);
            let message = format!("`{path}` may be begun again, and so is not lost");
            return Err(Rejection::Unsafe(message));
        }
        let message = format!("whoever was at attempt {attempt} is gone");
        self.unknown(step, Failure::new(ErrorClass::OutcomeUnknown, message));
        Ok(())
    }

    /// Nobody knows what the attempt has done that runs.
    pub(super) fn unknown(&mut self, step: StepKey, mut failure: Failure) {
        if failure.class != ErrorClass::OutcomeUnknown {
            failure.message = format!("{}: {}", failure.class, failure.message);
            failure.class = ErrorClass::OutcomeUnknown;
        }
        let failure = Box::new(failure);
        let then = self.state.node(step).and_then(|node| node.at_most_once());
        match (self.state.cancel_reason(step), then) {
            // It was not wanted any more; that it may have happened stays in the journal.
            (Some(reason), _) => {
                self.emit(Event::StepOutcomeUnknown { step, failure });
                self.end(step, Event::StepCancelled { step, reason });
            }
            (None, Some(OnUnknown::Fail)) => self.end(step, Event::StepFailed { step, failure }),
            (None, Some(OnUnknown::Ask) | None) => {
                self.emit(Event::StepOutcomeUnknown { step, failure });
            }
        }
    }

    /// What is refused because nothing has failed of which it is known that it has.
    pub(super) fn nothing_to_retry(&self) -> Rejection {
        let root = self.state.steps().take_while(|(step, _)| step.scope == 0);
        let open = root.filter(|(step, _)| self.state.has_open_outcome(*step));
        let open: Vec<String> = open.map(|(step, _)| self.state.path(step)).collect();
        let message = match open.as_slice() {
            [] => "nothing has failed or was stopped".to_string(),
            open => format!(
                "nothing else has failed or was stopped, and of {} the outcome is unknown: take it for \
                 done, or run it again by its name",
                open.join(", ")
            ),
        };
        Rejection::Unsafe(message)
    }

    /// Whether an operation says what became of steps whose outcome is not known, and does nothing
    /// else. That is let in where nothing else is: what is stopping would wait for it for ever.
    pub(super) fn decides_outcome(&self, operation: &Operation) -> bool {
        let named = match operation {
            Operation::Succeed { step, .. } | Operation::Fail { step, .. } => {
                std::slice::from_ref(step)
            }
            Operation::Skip { steps } => steps.as_slice(),
            _ => return false,
        };
        let is_unknown = |path: &String| {
            let status = self.state.find(path).and_then(|step| self.state.step_status(step));
            status == Some(StepStatus::OutcomeUnknown)
        };
        !named.is_empty() && named.iter().all(is_unknown)
    }
}

impl RunState {
    /// Whether a step runs that is not to be begun twice.
    pub(super) fn is_once(&self, step: StepKey, status: StepStatus) -> bool {
        status == StepStatus::Running
            && self.node(step).is_some_and(|node| node.at_most_once().is_some())
    }

    /// Whether a failure leaves open what a step has done that is not to be begun twice.
    ///
    /// An error of a class that may pass by itself says that there was no answer, or none that helps;
    /// of the others somebody has looked and said no.
    pub(super) fn leaves_open(&self, step: StepKey, failure: &Failure) -> bool {
        let open = failure.class.is_retryable() || failure.class == ErrorClass::OutcomeUnknown;
        open && !failure.nothing_done && self.is_once(step, StepStatus::Running)
    }

    /// Whether nobody has said what became of a step, or of what failed inside it.
    pub(super) fn has_open_outcome(&self, step: StepKey) -> bool {
        let of = |failure: &Failure| failure.class == ErrorClass::OutcomeUnknown;
        match self.step_status(step) {
            Some(StepStatus::OutcomeUnknown) => true,
            Some(StepStatus::Failed) => self.failure(step).is_some_and(of),
            Some(StepStatus::Cancelled) => {
                let last = self.error_history(step).last();
                last.is_some_and(|last| last.attempt == self.attempt(step) && of(&last.failure))
            }
            _ => false,
        }
    }

    /// The run ends with these steps open. What was done of some nobody knows; a run that goes on after
    /// its end is not to begin them again by itself.
    pub(super) fn leave_open(&mut self, steps: &[StepKey], at: Timestamp) {
        for step in steps.iter().copied() {
            let status = self.step_status(step).unwrap_or_default();
            if status != StepStatus::OutcomeUnknown && !self.is_once(step, status) {
                continue;
            }
            let message = format!("the run was ended while {} was under way", self.path(step));
            let mut outermost = Some(step);
            while let Some(inner) = outermost.filter(|step| step.scope != 0) {
                outermost = self.scope(inner.scope).and_then(|scope| scope.parent);
            }
            let Some(cell) = outermost.and_then(|step| self.cell_mut(step)) else { continue };
            let attempt = cell.attempt;
            let failure = Failure::new(ErrorClass::OutcomeUnknown, message);
            cell.more().history.push(AttemptRecord { attempt, at, failure });
            cell.more().left_open = true;
        }
    }

    /// Why a step was asked to stop, if it was.
    pub(super) fn cancel_reason(&self, step: StepKey) -> Option<CancelReason> {
        self.cell(step)?.more.as_ref()?.cancel
    }

    /// Tasks that run and are not to be begun twice, each with its attempt.
    pub(crate) fn running_once(&self) -> impl Iterator<Item = (StepKey, u32)> + '_ {
        let once = self.steps().filter(|(step, status)| self.is_once(*step, *status));
        once.map(|(step, _)| (step, self.attempt(step)))
    }
}
