//! Waits: for a time, a signal, a condition, a decision, or the first of several.

use serde_json::json;

use super::bounds;
use super::command::Rejection;
use super::turn::Turn;
use super::view::View;
use super::{Explanation, RunState};
use crate::error::{ErrorClass, Suspension};
use crate::expr::Schema;
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
        let Some(found) = wait_of(self.state, step).map(|wait| self.waiting(step, wait)) else {
            return;
        };
        let wait = match found {
            Ok(wait) => wait,
            Err(error) => {
                return self.fail(step, ErrorClass::Validation, format!("`wait`: {error}"));
            }
        };
        self.emit(Event::WaitStarted { step, wait: Box::new(wait.clone()) });
        let ways = match &wait {
            Waiting::First(ways) => ways.iter().map(|(_, wait)| wait).collect(),
            wait => vec![wait],
        };
        for way in ways {
            match way {
                Waiting::Until(at) if *at <= self.now => self.wait_is_over(step),
                Waiting::Signal(name, _) => self.take_kept(step, name),
                // Conditions are asked with all the others when nothing else moves.
                _ => {}
            }
            if self.state.has_ended(step) {
                return;
            }
        }
    }

    /// What a step begins to wait for, with times, keys and names computed.
    fn waiting(&self, step: StepKey, wait: &WaitFor) -> Result<Waiting, String> {
        let until = |limit: &Option<Timeout>| limit.as_ref().map(|limit| self.now + limit.after);
        let value = |expr: &crate::expr::Expr| {
            expr.evaluate(&self.view(step)).map_err(|error| error.to_string())
        };
        Ok(match wait {
            WaitFor::Duration(length) => Waiting::Until(self.now + *length),
            WaitFor::Time(expr) => Waiting::Until(time(&value(expr)?)?),
            WaitFor::Signal { name, key: None, timeout, .. } => {
                Waiting::Signal(name.clone(), until(timeout))
            }
            WaitFor::Signal { name, key: Some(key), timeout, .. } => {
                let name = Signal::name_for(name, &value(key)?)?;
                // Nobody could send it.
                bounds::signal_name(&name).map_err(|wrong| wrong.to_string())?;
                Waiting::Signal(name, until(timeout))
            }
            WaitFor::Condition(_, timeout) => Waiting::Condition(until(timeout)),
            WaitFor::Approval(approval, timeout) => {
                let open = self.open_approval(step, approval, until(timeout))?;
                Waiting::Approval(Box::new(open))
            }
            WaitFor::First(ways) => {
                let way = |(label, wait): &(String, WaitFor)| {
                    Ok((label.clone(), self.waiting(step, wait)?))
                };
                Waiting::First(ways.iter().map(way).collect::<Result<_, String>>()?)
            }
        })
    }

    pub(super) fn suspend(&mut self, step: StepKey, suspension: Suspension) {
        let until = suspension.timeout.map(|limit| self.now + limit);
        let name = suspension.signal.clone();
        let suspended = Box::new(Suspended { suspension, until });
        self.emit(Event::StepSuspended { step, suspended });
        self.take_kept(step, &name);
    }

    /// A signal goes to the step that has waited for it longest and that it fits.
    pub(super) fn signal(&mut self, signal: Signal) -> Result<(), Rejection> {
        let size = self.fits_in(signal.payload.bytes());
        size.map_err(|wrong| Rejection::Payload(format!("the payload {wrong}")))?;
        let waits = self.state.expected().by_signal.get(&signal.name).into_iter().flatten();
        let (mut taker, mut wrong) = (None, None);
        let is_for = |step: &&StepKey| {
            signal.to.as_ref().is_none_or(|to| *to == self.state.instance(**step))
        };
        for step in waits.filter(is_for) {
            match self.fits(*step, &signal) {
                Ok(()) => {
                    taker = Some(*step);
                    break;
                }
                Err(mismatch) => wrong = wrong.or(Some(mismatch)),
            }
        }
        match (taker, wrong) {
            (Some(step), _) => self.signal_step(step, signal),
            (None, Some(wrong)) => return Err(Rejection::Payload(wrong)),
            (None, None) if signal.transient || signal.to.is_some() => {
                return Err(Rejection::NobodyWaits);
            }
            (None, None) if self.state.expected().signals.len() >= super::SIGNALS_KEPT_MAX => {
                return Err(Rejection::TooManySignals(super::SIGNALS_KEPT_MAX));
            }
            (None, None) => self.emit(Event::SignalReceived { signal: Box::new(signal) }),
        }
        Ok(())
    }

    fn fits(&self, step: StepKey, signal: &Signal) -> Result<(), String> {
        match schema_of(self.state, step, &signal.name) {
            Some(schema) => {
                schema.check(&signal.payload, "payload").map_err(|wrong| wrong.to_string())
            }
            None => Ok(()),
        }
    }

    /// A signal may have come before anybody waited for it.
    fn take_kept(&mut self, step: StepKey, name: &str) {
        let signals = self.state.expected().signals.iter();
        let mut kept = signals.filter(|signal| signal.name == name);
        // One that does not fit is not for this step.
        if let Some(signal) = kept.find(|signal| self.fits(step, signal).is_ok()).cloned() {
            self.signal_step(step, signal);
        }
    }

    fn signal_step(&mut self, step: StepKey, signal: Signal) {
        let payload = signal.payload.clone();
        let way =
            self.way(step, |wait| matches!(wait, Waiting::Signal(name, _) if *name == signal.name));
        self.emit(Event::SignalTaken { step, signal: Box::new(signal) });
        match way {
            Some(label) => self.came_first(step, &label, &payload),
            None if wait_of(self.state, step).is_some() => self.succeed(step, payload),
            // A suspended task runs again, now with an answer.
            None => self.emit(Event::StepReady { step }),
        }
    }

    /// The label of the first way of a step that waits for several.
    fn way(&self, step: StepKey, which: impl Fn(&Waiting) -> bool) -> Option<String> {
        match self.state.cell(step)?.waiting()? {
            Waiting::First(ways) => {
                ways.iter().find(|(_, wait)| which(wait)).map(|(label, _)| label.clone())
            }
            _ => None,
        }
    }

    fn came_first(&mut self, step: StepKey, label: &str, payload: &Value) {
        self.succeed(step, json!({"first": label, "payload": **payload}).into());
    }

    pub(super) fn wait_is_over(&mut self, step: StepKey) {
        let now = self.now;
        let past = |wait: &Waiting| matches!(wait, Waiting::Until(at) if *at <= now);
        if let Some(label) = self.way(step, past) {
            return self.came_first(step, &label, &Value::NULL);
        }
        let (timeout, output) = match wait_of(self.state, step) {
            Some(WaitFor::Duration(_) | WaitFor::Time(_)) => {
                return self.succeed(step, Value::NULL);
            }
            Some(WaitFor::Signal { timeout, .. } | WaitFor::Condition(_, timeout)) => {
                (timeout.clone(), Value::NULL)
            }
            Some(WaitFor::Approval(_, timeout)) => (timeout.clone(), self.undecided(step)),
            Some(WaitFor::First(_)) | None => (None, Value::NULL),
        };
        match timeout.map(|limit| limit.then) {
            Some(OnTimeout::Continue) => self.succeed(step, output),
            Some(OnTimeout::Fail) | None => {
                self.fail(step, ErrorClass::Timeout, "waited for too long");
            }
        }
    }

    /// Asks every waiting condition once; whether any step has ended by it.
    pub(super) fn ask_waiting_conditions(&mut self) -> bool {
        if self.state.expected.is_none() || self.state.outcome.is_some() {
            return false;
        }
        let waiting: Vec<StepKey> = self.state.expected().conditions.iter().copied().collect();
        let mut moved = false;
        for step in waiting {
            if self.state.step_status(step) == Some(StepStatus::Waiting) {
                moved |= self.ask(step);
            }
        }
        moved
    }

    /// Asks the conditions that one step waits for; whether it has ended by them.
    fn ask(&mut self, step: StepKey) -> bool {
        let holds = match wait_of(self.state, step) {
            Some(WaitFor::Condition(condition, _)) => {
                condition.is_true(&self.view(step)).map(|holds| holds.then_some(None))
            }
            Some(WaitFor::First(ways)) => ways
                .iter()
                .filter_map(|(label, wait)| match wait {
                    WaitFor::Condition(condition, _) => Some((label, condition)),
                    _ => None,
                })
                .find_map(|(label, condition)| match condition.is_true(&self.view(step)) {
                    Ok(false) => None,
                    Ok(true) => Some(Ok(Some(Some(label.clone())))),
                    Err(error) => Some(Err(error)),
                })
                .unwrap_or(Ok(None)),
            _ => Ok(None),
        };
        match holds {
            Ok(None) => return false,
            Ok(Some(Some(label))) => self.came_first(step, &label, &Value::NULL),
            Ok(Some(None)) => self.succeed(step, Value::NULL),
            Err(error) => self.fail(step, ErrorClass::Validation, format!("`wait`: {error}")),
        }
        true
    }
}

pub(super) fn wait_of(state: &RunState, step: StepKey) -> Option<&WaitFor> {
    match &state.node(step)?.kind {
        NodeKind::Wait(wait) => Some(wait),
        _ => None,
    }
}

/// What the payload of a signal has to fit that a step waits for.
fn schema_of<'a>(state: &'a RunState, step: StepKey, signal: &str) -> Option<&'a Schema> {
    let of = match wait_of(state, step)? {
        // The way that waits for this name, with this key.
        WaitFor::First(ways) => {
            let Waiting::First(waiting) = state.cell(step)?.waiting()? else {
                return None;
            };
            let named = |wait: &Waiting| matches!(wait, Waiting::Signal(name, _) if name == signal);
            let at = waiting.iter().position(|(_, wait)| named(wait))?;
            &ways.get(at)?.1
        }
        of => of,
    };
    match of {
        WaitFor::Signal { schema, .. } => schema.as_ref(),
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

/// Something that a run waits for from outside.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OpenWait {
    /// Its id: no other wait of this run, before or after, has it.
    pub id: String,
    /// The path of the step.
    pub step: String,
    /// What for, and until when.
    pub what: Explanation,
    /// The JSON Schema that the payload of a signal has to fit, if there is one.
    pub schema: Option<Json>,
}

impl RunState {
    /// What the run waits for from outside: signals, decisions, the first of several, and somebody who
    /// says what became of a step.
    #[must_use]
    pub fn open_waits(&self) -> Vec<OpenWait> {
        let open = |step: StepKey| {
            let what = self.explain(step)?;
            let schema = match wait_of(self, step) {
                Some(WaitFor::Signal { schema, .. }) => schema.as_ref(),
                Some(WaitFor::Approval(approval, _)) => approval.schema.as_ref(),
                // What it has to come to, to be taken for done.
                None if matches!(what, Explanation::OutcomeUnknown { .. }) => {
                    self.node(step).and_then(|node| node.schema())
                }
                _ => None,
            };
            let outside = matches!(
                what,
                Explanation::WaitsForSignal { .. }
                    | Explanation::WaitsForApproval(_)
                    | Explanation::WaitsForFirst { .. }
                    | Explanation::OutcomeUnknown { .. }
            );
            outside.then(|| OpenWait {
                id: self.instance(step),
                step: self.path(step),
                what,
                schema: schema.map(|schema| schema.source().clone()),
            })
        };
        let waits = [StepStatus::Waiting, StepStatus::OutcomeUnknown];
        let waiting = self.steps().filter(|(_, status)| waits.contains(status));
        waiting.filter_map(|(step, _)| open(step)).collect()
    }
}
