//! Composite steps: what bodies they run, one after the other or at once, and what comes of them.

use serde_json::Map;

use super::scope::{Bodies, Own};
use super::turn::{TOOK_TOO_LONG, Turn, Work};
use super::{
    EVENTS_AT_ONCE_MAX, FOR_EACH_ITEMS_MAX, RunState, SCOPES_OPEN_MAX, SUB_WORKFLOW_DEPTH_MAX,
    UNITS_MAX,
};
use crate::error::ErrorClass;
use crate::id::StepKey;
use crate::journal::{CancelReason, Event, Outcome, ScopeOpened, SkipReason, StepStatus};
use crate::value::{Json, Value};
use crate::workflow::{NodeKind, Turns};

/// What a composite step does next.
enum Next {
    /// Open this body of this unit, as this item or turn.
    Open { unit: u32, body: u32, index: u32, own: Option<Box<Own>> },
    /// Ends well.
    Succeed(Value),
    /// Is left out after all: no case held.
    Skip,
    /// Ends badly.
    Fail(ErrorClass, String),
    /// Was stopped before it was through.
    Cancel,
    /// Bodies are still open.
    Wait,
}

/// How the bodies of a for-each stand.
#[derive(Clone, Copy)]
pub(super) struct Tally {
    concurrency: u32,
    body: u32,
    items: u32,
    /// Bodies that are enough.
    enough: Option<u32>,
    /// Bodies that may end badly.
    tolerated: u32,
    well: u32,
    badly: u32,
    /// What came first counts: too many that ended badly, or enough that ended well.
    lost: bool,
}

impl Tally {
    fn is_enough(&self) -> bool {
        !self.is_lost() && self.has_enough()
    }

    fn has_enough(&self) -> bool {
        self.enough.is_some_and(|enough| self.well >= enough)
    }

    /// Whether it cannot end well any more.
    pub(super) fn is_lost(&self) -> bool {
        // A live run may have been told meanwhile to tolerate more.
        self.badly > self.tolerated && (self.lost || !self.has_enough())
    }
}

impl RunState {
    /// How the bodies of a for-each stand.
    pub(super) fn tally(&self, step: StepKey) -> Option<(&Bodies, Tally)> {
        let NodeKind::ForEach { concurrency, enough, tolerates, body, .. } = &self.node(step)?.kind
        else {
            return None;
        };
        let bodies = self.cell(step)?.bodies()?;
        let items = bodies.outputs.len() as u32;
        let enough = enough.map(|enough| enough.at_least(items).min(items));
        // Those that are not needed may fail; and no more than that, whatever is tolerated besides.
        let spare = enough.map(|enough| items - enough);
        let tolerated = tolerates.map(|tolerates| tolerates.at_most(items));
        let tolerated = match (spare, tolerated) {
            (Some(spare), Some(tolerated)) => tolerated.min(spare),
            (spare, tolerated) => spare.or(tolerated).unwrap_or(0),
        };
        let (well, badly, lost) = (bodies.well, bodies.badly, bodies.lost);
        let (concurrency, body) = (*concurrency, *body);
        Some((bodies, Tally { concurrency, body, items, enough, tolerated, well, badly, lost }))
    }
}

impl Turn<'_> {
    pub(super) fn begin_composite(&mut self, step: StepKey) {
        let decided = match self.state.node(step).map(|node| &node.kind) {
            // Whether it runs at all is only known now.
            Some(NodeKind::Choice(cases)) => {
                let mut taken = Ok(None);
                for (when, body) in cases {
                    match when.as_ref().map_or(Ok(true), |when| when.is_true(&self.view(step))) {
                        Ok(false) => {}
                        Ok(true) => {
                            taken = Ok(Some(*body));
                            break;
                        }
                        Err(error) => {
                            taken = Err(error.to_string());
                            break;
                        }
                    }
                }
                taken.map(|body| (body.is_none(), body))
            }
            _ => Ok((false, None)),
        };
        let body = match decided {
            Ok((true, _)) => return self.follow(step, Next::Skip),
            Ok((false, body)) => body,
            Err(error) => {
                return self.fail(step, ErrorClass::Validation, format!("`choice`: {error}"));
            }
        };
        let attempt = self.state.attempt(step).saturating_add(1);
        self.emit(Event::StepStarted { step, attempt });
        if let Some(body) = body {
            let unit = self.state.unit_index(step);
            return self.follow(step, Next::Open { unit, body, index: 0, own: None });
        }
        if matches!(self.state.node(step).map(|n| &n.kind), Some(NodeKind::ForEach { .. })) {
            self.list_items(step);
        }
        if matches!(self.state.node(step).map(|n| &n.kind), Some(NodeKind::Dynamic { .. })) {
            self.make_steps(step);
        }
        self.go_on(step);
    }

    /// Compiles the steps that a dynamic step lists.
    fn make_steps(&mut self, step: StepKey) {
        let (Some(node), Some(unit)) = (self.state.node(step), self.state.unit(step)) else {
            return;
        };
        let NodeKind::Dynamic { steps, workflows } = &node.kind else {
            return;
        };
        if self.state.program.units().len() >= UNITS_MAX {
            let message = format!("more than {UNITS_MAX} lists of steps were made in one run");
            return self.fail(step, ErrorClass::Fatal, message);
        }
        let made =
            steps.evaluate(&self.view(step)).map_err(|error| error.to_string()).and_then(|steps| {
                self.fits_in(crate::value::bytes(&steps))
                    .map_err(|wrong| format!("the list {wrong}"))?;
                match is_empty(&steps) {
                    true => Ok(steps),
                    false => unit.dynamic(&steps, workflows).map(|_| steps),
                }
            });
        match made {
            // A body of nothing would never end.
            Ok(steps) if is_empty(&steps) => self.succeed(step, Json::Object(Map::new()).into()),
            Ok(steps) => {
                let unit = self.state.program.units().len() as u32;
                self.emit(Event::StepsMade { step, unit, steps: steps.into() });
            }
            Err(error) => self.fail(step, ErrorClass::Validation, format!("`dynamic`: {error}")),
        }
    }

    fn too_much(&mut self, step: StepKey) {
        let message = format!(
            "more than {EVENTS_AT_ONCE_MAX} events follow from one: its bodies do nothing that takes \
             time, or are too many"
        );
        self.fail(step, ErrorClass::Fatal, message);
    }

    fn list_items(&mut self, step: StepKey) {
        if self.emitted() >= EVENTS_AT_ONCE_MAX {
            return self.too_much(step);
        }
        // Only some of them are done again.
        let kept = self.state.cell(step).and_then(|cell| cell.bodies());
        if kept.is_some_and(|bodies| !bodies.ends.is_empty()) {
            return;
        }
        let items = match self.state.node(step).map(|node| &node.kind) {
            Some(NodeKind::ForEach { items, .. }) => items.evaluate(&self.view(step)),
            _ => return,
        };
        let problem = match items {
            Ok(Json::Array(items)) if items.len() <= FOR_EACH_ITEMS_MAX => {
                let count = items.len();
                let items = Value::from(items);
                match self.fits_in(items.bytes()) {
                    Ok(()) => {
                        self.listed += count;
                        return self.emit(Event::ItemsListed { step, items });
                    }
                    Err(wrong) => format!("the list of `foreach` {wrong}"),
                }
            }
            Ok(Json::Array(items)) => {
                format!("`foreach` has {} items; the limit is {FOR_EACH_ITEMS_MAX}", items.len())
            }
            Ok(other) => format!("`foreach` needs a list, not {other:.40}"),
            Err(error) => format!("`foreach`: {error}"),
        };
        self.fail(step, ErrorClass::Validation, problem);
    }

    /// A composite step has begun, or one of its bodies has ended.
    pub(super) fn go_on(&mut self, step: StepKey) {
        // Opening a body of nothing ends it at once, so there may be many steps from here to a wait.
        while self.state.step_status(step) == Some(StepStatus::Running) {
            match self.next(step) {
                Next::Wait => return,
                next => self.follow(step, next),
            }
        }
    }

    fn follow(&mut self, step: StepKey, next: Next) {
        match next {
            Next::Open { .. } if self.emitted() >= EVENTS_AT_ONCE_MAX => self.too_much(step),
            Next::Open { .. } if self.state.inner.len() >= SCOPES_OPEN_MAX => {
                let message = format!("more than {SCOPES_OPEN_MAX} bodies are open at once");
                self.fail(step, ErrorClass::Fatal, message);
            }
            Next::Open { unit, body, index, own } => {
                let scope = self.state.scopes_opened;
                let Own { input, variables } = own.map_or_else(Own::default, |own| *own);
                let opened = ScopeOpened { parent: step, unit, body, index, input, variables };
                self.emit(Event::ScopeOpened { scope, opened: Box::new(opened) });
                self.begin_scope(scope);
            }
            Next::Succeed(output) => self.succeed(step, output),
            Next::Skip => {
                let reason = SkipReason::Condition;
                self.end(step, Event::StepSkipped { step, reason });
            }
            Next::Fail(class, message) => self.fail(step, class, message),
            Next::Cancel => self.cancelled(step),
            Next::Wait => {}
        }
    }

    fn next(&mut self, step: StepKey) -> Next {
        let Some(node) = self.state.node(step) else {
            return Next::Wait;
        };
        let Some(bodies) = self.state.cell(step).and_then(|cell| cell.bodies()) else {
            return self.first_body(step);
        };
        let (open, begun) = (bodies.open.len() as u32, bodies.begun);
        if matches!(node.kind, NodeKind::ForEach { .. }) {
            return self.next_item(step);
        }
        if let Some(bad) = &bodies.bad {
            return if open > 0 { Next::Wait } else { self.bad_end(step, bad.clone()) };
        }
        match &node.kind {
            NodeKind::Loop { .. } if open == 0 => self.next_turn(step),
            _ if open > 0 => Next::Wait,
            _ if begun == 0 => self.first_body(step),
            _ => Next::Succeed(bodies.last.clone()),
        }
    }

    /// The next body of a for-each, or what it comes to.
    fn next_item(&mut self, step: StepKey) -> Next {
        let Some((bodies, tally)) = self.state.tally(step) else {
            return Next::Wait;
        };
        let (open, begun, next) = (bodies.open.len() as u32, bodies.begun, bodies.next_item());
        let Tally { concurrency, body, items, well, .. } = tally;
        if tally.is_lost() {
            let bad = bodies.bad.clone().unwrap_or(Outcome::Cancelled);
            return if open > 0 { Next::Wait } else { self.bad_end(step, bad) };
        }
        let free = concurrency == 0 || open < concurrency;
        if tally.is_enough() && (open > 0 || begun < items) {
            if open == 0 {
                return Next::Succeed(bodies.output());
            }
            let open = bodies.open.clone();
            open.into_iter().for_each(|body| self.stop_scope(body, CancelReason::Rest));
            Next::Wait
        } else if begun < items && free && !self.is_stopped(step) {
            let unit = self.state.unit_index(step);
            Next::Open { unit, body, index: next, own: None }
        } else if open > 0 {
            Next::Wait
        } else if begun < items || (well < items && self.is_stopped(step)) {
            Next::Cancel
        } else {
            Next::Succeed(bodies.output())
        }
    }

    /// The only body of a step that has one, or the first of a loop.
    fn first_body(&self, step: StepKey) -> Next {
        let Some(node) = self.state.node(step) else {
            return Next::Wait;
        };
        let unit = self.state.unit_index(step);
        match &node.kind {
            NodeKind::Body(body) => Next::Open { unit, body: *body, index: 0, own: None },
            NodeKind::Loop { .. } => self.next_turn(step),
            NodeKind::Workflow { .. } => self.sub_workflow(step).unwrap_or_else(|next| next),
            NodeKind::Dynamic { .. } => {
                let made = self.state.cell(step).and_then(|cell| cell.bodies()).map(|b| b.made);
                let unit = made.unwrap_or_default();
                Next::Open { unit, body: 0, index: 0, own: None }
            }
            _ => Next::Wait,
        }
    }

    fn sub_workflow(&self, step: StepKey) -> Result<Next, Next> {
        let Some(NodeKind::Workflow { name, input, variables, .. }) =
            self.state.node(step).map(|node| &node.kind)
        else {
            return Ok(Next::Wait);
        };
        let depth = self.state.scope(step.scope).map_or(0, |scope| scope.depth);
        if depth >= SUB_WORKFLOW_DEPTH_MAX {
            let message =
                format!("more than {SUB_WORKFLOW_DEPTH_MAX} sub-workflows inside each other");
            return Err(Next::Fail(ErrorClass::Fatal, message));
        }
        let Some(unit) = self.state.program.linked(self.state.unit_index(step), name) else {
            let message = format!("the engine knows no workflow `{name}`");
            return Err(Next::Fail(ErrorClass::Configuration, message));
        };
        let invalid = |message| Next::Fail(ErrorClass::Validation, message);
        let view = self.view(step);
        let input = match input {
            Some(expr) => {
                expr.evaluate(&view).map_err(|error| invalid(format!("`input`: {error}")))?
            }
            None => crate::expr::Scope::root(&view, "input")
                .map_or(Json::Null, std::borrow::Cow::into_owned),
        };
        let found = self.state.program.unit(unit);
        if let Some(schema) = &found.input {
            schema.check(&input, "input").map_err(|wrong| invalid(wrong.to_string()))?;
        }
        let given = self.given(step, variables).map_err(invalid)?;
        let variables =
            found.variables.complete(given).map_err(|wrong| invalid(wrong.to_string()))?;
        let input = Value::from(input);
        let size = self.fits_in(input.bytes() + variables.bytes());
        size.map_err(|wrong| invalid(format!("the input, with the variables, {wrong}")))?;
        let own = Some(Box::new(Own { input, variables }));
        Ok(Next::Open { unit, body: 0, index: 0, own })
    }

    fn next_turn(&self, step: StepKey) -> Next {
        let Some(NodeKind::Loop { turns, max_turns, body }) =
            self.state.node(step).map(|node| &node.kind)
        else {
            return Next::Wait;
        };
        let bodies = self.state.cell(step).and_then(|cell| cell.bodies());
        let (begun, last) = bodies.map_or((0, &Value::NULL), |b| (b.begun, &b.last));
        let view = self.view(step).turn(begun, last);
        let more = match turns {
            Turns::While(condition) => condition.is_true(&view),
            Turns::Until(_) if begun == 0 => Ok(true),
            Turns::Until(condition) => condition.is_true(&view).map(|done| !done),
        };
        match more {
            Err(error) => {
                Next::Fail(ErrorClass::Validation, format!("the loop's condition: {error}"))
            }
            Ok(false) => Next::Succeed(last.clone()),
            Ok(true) if self.is_stopped(step) => Next::Cancel,
            Ok(true) if begun >= *max_turns => {
                Next::Fail(ErrorClass::Fatal, format!("the loop took more than {max_turns} turns"))
            }
            Ok(true) => {
                let unit = self.state.unit_index(step);
                Next::Open { unit, body: *body, index: begun, own: None }
            }
        }
    }

    fn bad_end(&mut self, step: StepKey, outcome: Outcome) -> Next {
        match outcome {
            Outcome::Failed { step: path, mut failure } => {
                // The innermost step is the one to look at, however many bodies are around it.
                failure.origin.get_or_insert(path);
                let failure = Box::new(failure);
                self.end(step, Event::StepFailed { step, failure });
            }
            Outcome::Cancelled | Outcome::TimedOut | Outcome::Succeeded(_) => self.cancelled(step),
        }
        Next::Wait
    }

    fn cancelled(&mut self, step: StepKey) {
        let asked = self.state.cell(step).and_then(|cell| cell.more.as_ref()?.cancel);
        let reason = asked.unwrap_or(CancelReason::Stopping);
        // Not what is around it: it, and its bodies have stopped by now.
        let limit = self.state.node(step).and_then(|node| node.timeout);
        let since = self.state.cell(step).map_or(self.now, |cell| cell.since);
        let own = limit.is_some_and(|limit| since + limit <= self.now);
        if reason == CancelReason::TimedOut && own && self.state.stopping.is_none() {
            return self.fail(step, ErrorClass::Timeout, TOOK_TOO_LONG);
        }
        self.end(step, Event::StepCancelled { step, reason });
    }

    /// A body has ended.
    pub(super) fn close(&mut self, scope: u32, parent: StepKey, outcome: Outcome) {
        let failed = matches!(outcome, Outcome::Failed { .. });
        self.emit(Event::ScopeClosed { scope, outcome: Box::new(outcome) });
        if failed && self.state.tally(parent).is_none_or(|(_, tally)| tally.is_lost()) {
            self.stop_other_bodies(parent);
        }
        self.push(Work::Continue(parent));
    }
}

fn is_empty(list: &Json) -> bool {
    list.as_array().is_some_and(Vec::is_empty)
}
