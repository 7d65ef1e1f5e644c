//! The half of a turn that never waits: what came in goes to the state, what may start comes out.

use super::Inner;
use super::admission::{Full, Held, admit};
use super::driver::Site;
use super::flight::Landed;
use super::lock;
use crate::error::{ErrorClass, StepError};
use crate::id::StepKey;
use crate::journal::Recorded;
use crate::run::{Command, Report, RetryAllowance, RunState};
use crate::runtime::Runtime;
use crate::time::Timestamp;
use crate::value::{Json, Value};
use crate::workflow::Node;

/// What one run has decided and not yet done, and the room that it takes.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// Attempts that ended and that the run has not heard of.
    pub(crate) landed: Vec<Landed>,
    /// Decided, not committed.
    pub(crate) events: Vec<Recorded>,
    /// Decided, not started.
    pub(crate) launches: Vec<Launch>,
    /// Why the first ready step could not start, and when to ask again.
    pub(crate) full: Option<Full>,
    pub(crate) held: Held,
    /// Begun steps that the retry budget has not counted yet.
    first_attempts: u64,
}

/// An attempt to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) step: StepKey,
    pub(crate) number: u32,
    /// The body that the step stands in.
    pub(crate) body: (u32, u32),
    pub(crate) inputs: Result<Value, StepError>,
}

/// Ready steps looked at when the first ones have to wait for others of their type.
const READY_SCANNED: usize = 256;
/// Steps that one turn pays into the retry budget; more fill it anyway.
const DEPOSITS_MAX: u64 = 10_000;

impl Desk {
    /// Tells the run how attempts ended, frees their room, and starts what is ready as far as there
    /// is room now.
    pub(crate) fn turn(&mut self, site: &Site, state: &mut RunState, now: Timestamp) {
        self.report(site, state, now);
        if state.is_due(now) {
            // Refused only when the run has just ended.
            let _ = state.decide_into(Command::Tick, now, &mut self.events);
        }
        let was_full = self.full.take().is_some();
        if self.held.yields(&site.engine) && state.first_ready().is_some() {
            self.full = Some(Full::Others);
        } else {
            self.dispatch(site, state, now);
        }
        if was_full || self.full.is_some() {
            site.run.set_full(self.full.as_ref().map(|full| full.reason().to_string()));
        }
        self.held.settle(&site.engine);
    }

    fn report(&mut self, site: &Site, state: &mut RunState, now: Timestamp) {
        let mut landed = std::mem::take(&mut self.landed);
        for Landed { step, number, body, result } in landed.drain(..) {
            let Some(task) = site.prepared.task(body, step.step) else { continue };
            self.held.give_back(task);
            let Some(result) = result else { continue };
            let failed = result.as_ref().err().map(|error| site.engine.classifier.classify(error));
            task.kind.ended(failed, now);
            let result = self.judge(&site.engine, result, failed, now);
            let report = Command::Report { step, attempt: number, result };
            if let Err(refused) = state.decide_into(report, now, &mut self.events) {
                // The step was stopped, or timed out, before its result came.
                tracing::debug!(target: "stepwell", run_id = %site.run.id, %refused, "late report");
            }
        }
        self.landed = landed;
    }

    fn judge(
        &mut self,
        engine: &Inner,
        result: Result<Value, StepError>,
        class: Option<ErrorClass>,
        now: Timestamp,
    ) -> Report {
        let error = match result {
            Ok(output) => return Report::Succeeded(output),
            Err(error) => error,
        };
        match error.into_failure() {
            Err(suspension) => Report::Suspended(Box::new(suspension)),
            Ok(mut failure) => {
                failure.class = class.unwrap_or(failure.class);
                let retry = if self.may_retry(engine, now) {
                    RetryAllowance::Allowed
                } else {
                    RetryAllowance::Denied
                };
                Report::Failed { failure: Box::new(failure), retry }
            }
        }
    }

    fn may_retry(&mut self, engine: &Inner, now: Timestamp) -> bool {
        self.count_first_attempts(engine, now);
        lock(&engine.budget).withdraw(now)
    }

    /// First attempts pay into the retry budget when somebody asks for a retry, or at rest.
    pub(crate) fn count_first_attempts(&mut self, engine: &Inner, now: Timestamp) {
        if self.first_attempts == 0 {
            return;
        }
        let mut budget = lock(&engine.budget);
        for _ in 0..std::mem::take(&mut self.first_attempts).min(DEPOSITS_MAX) {
            budget.deposit(now);
        }
    }

    fn dispatch(&mut self, site: &Site, state: &mut RunState, now: Timestamp) {
        while state.may_dispatch() {
            let Some(first) = state.first_ready() else { return };
            let step = match self.admit(site, state, first, now) {
                Ok(()) => first,
                Err(Full::Run(reason)) => {
                    self.full = Some(Full::Run(reason));
                    return;
                }
                Err(full) => {
                    let others: Vec<StepKey> = state.ready().skip(1).take(READY_SCANNED).collect();
                    let next =
                        others.into_iter().find(|step| self.admit(site, state, *step, now).is_ok());
                    self.full = Some(full);
                    match next {
                        Some(step) => step,
                        None => return,
                    }
                }
            };
            if state.decide_into(Command::Dispatch { step }, now, &mut self.events).is_err() {
                return;
            }
            self.launch(state, step, &*site.engine.runtime);
        }
    }

    fn admit(
        &mut self,
        site: &Site,
        state: &RunState,
        step: StepKey,
        now: Timestamp,
    ) -> Result<(), Full> {
        match site.prepared.task(state.body_of(step), step.step) {
            Some(task) => admit(site, &mut self.held, task, now),
            None => Err(Full::Run("its definition is gone".into())),
        }
    }

    /// Forgets what was decided and not done, and gives back all room that is not in the air.
    pub(crate) fn forget_launches(&mut self, site: &Site) {
        self.events.clear();
        let begun = self.launches.drain(..).map(|launch| (launch.body, launch.step));
        let ended = self.landed.drain(..).map(|landed| (landed.body, landed.step));
        for (body, step) in begun.chain(ended) {
            if let Some(task) = site.prepared.task(body, step.step) {
                self.held.give_back(task);
            }
        }
        self.held.settle(&site.engine);
    }

    /// Notes an attempt that has been begun.
    pub(crate) fn launch(&mut self, state: &RunState, step: StepKey, runtime: &dyn Runtime) {
        let number = state.attempt(step);
        self.first_attempts += u64::from(number == 1);
        let body = state.body_of(step);
        let inputs = match state.node(step) {
            Some(node) if !node.inputs.is_empty() => inputs(state, node, step, runtime.now()),
            _ => Ok(Value::NULL),
        };
        self.launches.push(Launch { step, number, body, inputs });
    }
}

/// The value of a step's inputs.
fn inputs(
    state: &RunState,
    node: &Node,
    step: StepKey,
    now: Timestamp,
) -> Result<Value, StepError> {
    let mut values = serde_json::Map::new();
    for (name, expr) in &node.inputs {
        let value = state.evaluate(step, expr, now).map_err(|error| {
            StepError::new(ErrorClass::Validation, format!("input `{name}`: {error}"))
        })?;
        values.insert(name.clone(), value);
    }
    Ok(Json::Object(values).into())
}
