//! What follows from the end of a step: for its neighbours, its scope, the run.

use serde_json::Map;

use super::join::Ended;
use super::turn::{Turn, Work};
use super::{RunState, scope_in};
use crate::error::{ErrorClass, Failure};
use crate::id::StepKey;
use crate::journal::{CancelReason, Outcome, StepStatus};
use crate::plan::EdgeKind;
use crate::value::{Json, Value};
use crate::workflow::BodyOutput;

impl Turn<'_> {
    pub(super) fn ended(&mut self, step: StepKey) {
        match self.state.step_status(step) {
            Some(StepStatus::Failed) => self.stop_after(step),
            // It may have been what a failure was to lead to.
            Some(StepStatus::Skipped(_) | StepStatus::Cancelled) => self.uncaught(step),
            _ => {}
        }
        let RunState { root, inner, work, .. } = &mut *self.state;
        let Some(scope) = scope_in(root, inner, step.scope) else {
            return;
        };
        let open = scope.open;
        for link in scope.body.plan.successors(step.step) {
            work.push_back(Work::Consider(StepKey { scope: step.scope, step: link.step }));
        }
        if open > 0 {
            return;
        }
        let outcome = self.outcome_of(step.scope);
        self.wind_up(step.scope, outcome);
    }

    /// A step that was to deal with failures was left out.
    fn uncaught(&mut self, step: StepKey) {
        let Some(scope) = self.state.scope(step.scope).filter(|scope| !scope.stopping) else {
            return;
        };
        let counts = scope.body.node(step.step).trigger.catches_failure();
        let failed: Vec<StepKey> = scope
            .body
            .plan
            .predecessors(step.step)
            .iter()
            .filter(|link| link.kind == EdgeKind::OnFailure || counts)
            .map(|link| StepKey { scope: step.scope, step: link.step })
            .filter(|key| matches!(self.state.end_of(*key), Some(Ended::Badly(_))))
            .collect();
        failed.into_iter().for_each(|step| self.stop_after(step));
    }

    /// What a scope comes to, all of whose steps have ended.
    pub(super) fn outcome_of(&self, scope: u32) -> Outcome {
        // An accepted cancel is what the run ends with, even if its last step succeeds meanwhile.
        let asked = self.state.stopping.as_deref().cloned().filter(|_| scope == 0);
        asked.unwrap_or_else(|| self.outcome(scope, true))
    }

    /// What it comes to without those that clean up, which may not have ended.
    pub(super) fn regular_outcome_of(&self, scope: u32) -> Outcome {
        let asked = self.state.stopping.as_deref().cloned().filter(|_| scope == 0);
        asked.unwrap_or_else(|| self.outcome(scope, false))
    }

    fn outcome(&self, number: u32, with_finally: bool) -> Outcome {
        let Some(scope) = self.state.scope(number) else {
            return Outcome::Cancelled;
        };
        // What an operator left out, or stopped, was not undone.
        let undone = scope
            .cells
            .first()
            .is_some_and(|cell| matches!(cell.status, StepStatus::Succeeded | StepStatus::Failed));
        if scope.undoes.is_some() && !undone {
            return Outcome::Cancelled;
        }
        // Stopped without a failure: it was not needed any more.
        let mut stopped = scope.stopping;
        let suspects =
            scope.cells.iter().enumerate().filter(|(_, cell)| {
                matches!(cell.status, StepStatus::Failed | StepStatus::Cancelled)
            });
        let counts = |step: usize| {
            with_finally || !scope.body.nodes.get(step).is_some_and(|node| node.finally)
        };
        for (step, cell) in suspects.filter(|(step, _)| counts(*step)) {
            let key = StepKey { scope: number, step: step as u32 };
            let more = cell.more.as_ref();
            if cell.status == StepStatus::Failed && !was_caught(self.state, key) {
                let failure = more.and_then(|more| more.failure.clone());
                let failure = failure.unwrap_or_else(|| Failure::new(ErrorClass::Unknown, ""));
                return Outcome::Failed { step: self.state.path(key), failure };
            }
            let reason = more.and_then(|more| more.cancel);
            let meant = matches!(reason, Some(CancelReason::Rest | CancelReason::Operator));
            stopped |= cell.status == StepStatus::Cancelled && !meant;
        }
        if stopped {
            return Outcome::Cancelled;
        }
        if !with_finally {
            return Outcome::Succeeded(Value::NULL);
        }
        match self.output(number) {
            Ok(output) => Outcome::Succeeded(output),
            Err(failure) => Outcome::Failed { step: "output".into(), failure },
        }
    }

    fn output(&self, number: u32) -> Result<Value, Failure> {
        let Some(scope) = self.state.scope(number) else {
            return Ok(Value::NULL);
        };
        let body = &scope.body;
        let of = |step: u32| scope.cells.get(step as usize).map(|cell| cell.output.clone());
        match &body.output {
            BodyOutput::Step(step) => Ok(of(*step).unwrap_or_default()),
            BodyOutput::Map(steps) => {
                let named = |step: &u32| {
                    let output = of(*step).unwrap_or_default().into_json();
                    (body.plan.id(*step).to_string(), output)
                };
                Ok(Json::Object(steps.iter().map(named).collect::<Map<_, _>>()).into())
            }
            BodyOutput::Expr(expr) => {
                let step = StepKey { scope: number, step: 0 };
                expr.evaluate(&self.view(step)).map(Value::from).map_err(|error| {
                    Failure::new(ErrorClass::Validation, format!("`output`: {error}"))
                })
            }
        }
    }
}

/// Whether a step's failure leads anywhere, so that it need not stop the run yet.
pub(super) fn may_be_caught(state: &RunState, step: StepKey) -> bool {
    let open = |status| !matches!(status, StepStatus::Skipped(_) | StepStatus::Cancelled);
    catchers(state, step).any(|catcher| state.step_status(catcher).is_some_and(open))
}

/// Whether a step's failure led somewhere: a step that it made startable was not left out.
pub(super) fn was_caught(state: &RunState, step: StepKey) -> bool {
    catchers(state, step).any(|catcher| {
        !matches!(
            state.step_status(catcher),
            None | Some(StepStatus::Skipped(_) | StepStatus::Cancelled | StepStatus::Pending)
        )
    })
}

fn catchers(state: &RunState, step: StepKey) -> impl Iterator<Item = StepKey> + '_ {
    let body = state.scope(step.scope).map(|scope| &scope.body);
    let class = match state.end_of(step) {
        Some(Ended::Badly(class)) => Some(class),
        _ => None,
    };
    body.into_iter().flat_map(move |body| {
        body.plan.successors(step.step).iter().filter_map(move |link| {
            let node = body.node(link.step);
            let catches = match link.kind {
                EdgeKind::Reads => false,
                EdgeKind::OnFailure => class.is_none_or(|class| node.catches(step.step, class)),
                _ => node.trigger.catches_failure(),
            };
            catches.then_some(StepKey { scope: step.scope, step: link.step })
        })
    })
}
