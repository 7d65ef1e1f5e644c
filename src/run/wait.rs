//! Waits: for a time, a signal, a condition.

use super::RunState;
use super::turn::Turn;
use super::view::View;
use crate::error::{ErrorClass, Suspension};
use crate::id::StepKey;
use crate::journal::{Event, Signal, StepStatus, Suspended, Waiting};
use crate::time::Timestamp;
use crate::value::{Json, Value};
use crate::workflow::{NodeKind, OnTimeout, Timeout, WaitFor};

impl Turn<'_> {
    pub(super) fn view(&self, step: StepKey) -> View<'_> {
        View::new(self.state, step.scope, self.now)
    }

    pub(super) fn begin_wait(&mut self, step: StepKey) {
        let now = self.now;
        let until = |timeout: &Option<Timeout>| timeout.as_ref().map(|limit| now + limit.after);
        let wait = match wait_of(self.state, step) {
            Some(WaitFor::Duration(length)) => Ok(Waiting::Until(now + *length)),
            Some(WaitFor::Time(expr)) => expr
                .evaluate(&self.view(step))
                .map_err(|error| error.to_string())
                .and_then(|value| time(&value))
                .map(Waiting::Until),
            Some(WaitFor::Signal(name, timeout)) => {
                Ok(Waiting::Signal(name.clone(), until(timeout)))
            }
            Some(WaitFor::Condition(_, timeout)) => Ok(Waiting::Condition(until(timeout))),
            None => return,
        };
        let wait = match wait {
            Ok(wait) => wait,
            Err(error) => {
                return self.fail(step, ErrorClass::Validation, format!("`wait`: {error}"));
            }
        };
        self.emit(Event::WaitStarted { step, wait: Box::new(wait.clone()) });
        match wait {
            Waiting::Until(at) if at <= now => self.succeed(step, Value::NULL),
            Waiting::Until(_) => {}
            Waiting::Signal(name, _) => self.take_kept(step, &name),
            // Asked with all the others when nothing else moves.
            Waiting::Condition(_) => {}
        }
    }

    pub(super) fn suspend(&mut self, step: StepKey, suspension: Suspension) {
        let until = suspension.timeout.map(|limit| self.now + limit);
        let name = suspension.signal.clone();
        let suspended = Box::new(Suspended { suspension, until });
        self.emit(Event::StepSuspended { step, suspended });
        self.take_kept(step, &name);
    }

    /// A signal may have come before anybody waited for it.
    fn take_kept(&mut self, step: StepKey, name: &str) {
        let kept = self.state.signals.iter().find(|signal| signal.name == name).cloned();
        if let Some(signal) = kept {
            self.signal_step(step, signal);
        }
    }

    pub(super) fn signal_step(&mut self, step: StepKey, signal: Signal) {
        let payload = signal.payload.clone();
        self.emit(Event::SignalTaken { step, signal: Box::new(signal) });
        if wait_of(self.state, step).is_some() {
            self.succeed(step, payload);
        } else {
            // A suspended task runs again, now with an answer.
            self.emit(Event::StepReady { step });
        }
    }

    pub(super) fn wait_is_over(&mut self, step: StepKey) {
        let timeout = match wait_of(self.state, step) {
            Some(WaitFor::Duration(_) | WaitFor::Time(_)) => {
                return self.succeed(step, Value::NULL);
            }
            Some(WaitFor::Signal(_, timeout) | WaitFor::Condition(_, timeout)) => timeout.clone(),
            None => None,
        };
        match timeout.map(|limit| limit.then) {
            Some(OnTimeout::Continue) => self.succeed(step, Value::NULL),
            Some(OnTimeout::Fail) | None => {
                self.fail(step, ErrorClass::Timeout, "waited for too long");
            }
        }
    }

    /// Asks every waiting condition once; whether any step has ended by it.
    pub(super) fn ask_waiting_conditions(&mut self) -> bool {
        if self.state.condition_waits.is_empty() || self.state.outcome.is_some() {
            return false;
        }
        let waiting: Vec<StepKey> = self.state.condition_waits.iter().copied().collect();
        let mut moved = false;
        for step in waiting {
            if self.state.step_status(step) != Some(StepStatus::Waiting) {
                continue;
            }
            let Some(WaitFor::Condition(condition, _)) = wait_of(self.state, step) else {
                continue;
            };
            match condition.is_true(&self.view(step)) {
                Ok(false) => continue,
                Ok(true) => self.succeed(step, Value::NULL),
                Err(error) => {
                    self.fail(step, ErrorClass::Validation, format!("`wait`: {error}"));
                }
            }
            moved = true;
        }
        moved
    }
}

fn wait_of(state: &RunState, step: StepKey) -> Option<&WaitFor> {
    match &state.node(step)?.kind {
        NodeKind::Wait(wait) => Some(wait),
        _ => None,
    }
}

/// A point in time from RFC 3339 text or seconds since 1970.
fn time(value: &Json) -> Result<Timestamp, String> {
    match value {
        Json::String(text) => {
            text.parse().map_err(|error: crate::time::TimeError| error.to_string())
        }
        Json::Number(number) => match number.as_f64().map(|seconds| seconds * 1e6) {
            Some(micros) if micros.abs() < 9e18 => Ok(Timestamp::from_micros(micros as i64)),
            _ => Err(format!("{number} is no time")),
        },
        other => Err(format!("{other} is no time; write text like 2026-03-29T01:00:00Z")),
    }
}
