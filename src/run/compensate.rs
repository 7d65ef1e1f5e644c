//! Undoing what was done: compensations, last done first undone.
//!
//! A step that succeeds and can be undone is owed to the scope around it. A scope that closes well
//! hands on what it owes to the one further out; a scope that ends badly undoes it, one after the
//! other, and only then closes.

use serde_json::Map;

use super::RunState;
use super::scope::{Owed, Own, Scope, Undoes};
use super::turn::{Turn, Work};
use super::view::View;
use crate::error::Failure;
use crate::expr::Scope as _;
use crate::id::StepKey;
use crate::journal::{Event, Outcome};
use crate::time::Timestamp;
use crate::value::{Json, Value};

/// What a compensation reads of the bodies that its step stood in.
const LOCALS: [&str; 4] = ["item", "index", "turn", "last"];

impl Turn<'_> {
    /// A scope all of whose steps have ended: what was done in it is undone if it ended badly.
    pub(super) fn wind_up(&mut self, number: u32, outcome: Outcome) {
        let Some(scope) = self.state.scope(number) else {
            return;
        };
        if let Some(decided) = scope.ending.as_deref().cloned() {
            let undoing = |other: &Scope| other.undoes.as_ref().is_some_and(|of| of.of == number);
            return if scope.owed.is_empty() {
                self.leave(number, decided);
            } else if !self.state.inner.values().any(undoing) {
                self.undo(number);
            };
        }
        if matches!(outcome, Outcome::Succeeded(_)) || scope.owed.is_empty() {
            return self.leave(number, outcome);
        }
        // What only cleans up undoes nothing when it fails, nor does an output that cannot be told.
        if matches!(self.regular_outcome_of(number), Outcome::Succeeded(_)) {
            return self.leave(number, outcome);
        }
        self.emit(Event::ScopeCompensating { scope: number, outcome: Box::new(outcome) });
        self.undo(number);
    }

    /// Whether something is undone before the `finally` steps of a scope, all of whose other steps
    /// have ended.
    pub(super) fn undoes_first(&mut self, number: u32) -> bool {
        let Some(scope) = self.state.scope(number).filter(|scope| !scope.owed.is_empty()) else {
            return false;
        };
        if scope.ending.is_some() {
            return true;
        }
        let outcome = self.regular_outcome_of(number);
        if matches!(outcome, Outcome::Succeeded(_)) {
            return false;
        }
        self.emit(Event::ScopeCompensating { scope: number, outcome: Box::new(outcome) });
        self.undo(number);
        true
    }

    /// Undoes what is left to be undone in a scope, or closes it.
    pub(super) fn undo(&mut self, of: u32) {
        let Some(scope) = self.state.scope(of) else {
            return;
        };
        match (&scope.ending, scope.owed.last()) {
            (Some(_), Some(_)) => {
                let scope = self.state.scopes_opened;
                self.emit(Event::CompensationStarted { scope, of });
                self.begin_scope(scope);
            }
            (Some(_), None) if scope.open > 0 => self.consider_all(of),
            (Some(outcome), None) => self.leave(of, (**outcome).clone()),
            (None, _) => {}
        }
    }

    /// Closes a scope for good.
    fn leave(&mut self, number: u32, outcome: Outcome) {
        let Some(scope) = self.state.scope(number) else {
            return;
        };
        let of = scope.undoes.as_ref().map(|undoes| undoes.of);
        match (scope.parent, of) {
            (Some(parent), _) => self.close(number, parent, outcome),
            (None, Some(of)) => {
                self.emit(Event::ScopeClosed { scope: number, outcome: Box::new(outcome) });
                self.push(Work::Undo(of));
            }
            (None, None) => self.emit(Event::RunFinished { outcome: Box::new(outcome) }),
        }
    }
}

impl RunState {
    /// Notes that a step was done that can be undone.
    pub(super) fn owe(&mut self, step: StepKey, body: u32, output: &Value, at: Timestamp) {
        let view = View::new(self, step.scope, at);
        let mut locals = Map::new();
        locals.insert("output".into(), (**output).clone());
        for name in LOCALS {
            if let Some(value) = view.root(name) {
                locals.insert(name.into(), value.into_owned());
            }
        }
        let owed = Owed {
            step: step.step,
            done: self.version,
            place: (self.unit_index(step), body),
            path: self.path(step),
            instance: self.instance(step),
            own: self.own_of(step.scope),
            locals: Json::Object(locals).into(),
        };
        let composite = self.node(step).is_some_and(|node| !super::turn::is_task(node));
        if let Some(scope) = self.scope_mut(step.scope) {
            if composite {
                // What can be undone as a whole is not undone in parts.
                let inside = |other: &Owed| {
                    let rest = other.path.strip_prefix(&owed.path);
                    other.step == owed.step && rest.is_some_and(|rest| !rest.is_empty())
                };
                scope.owed.retain(|other| !inside(other));
            }
            scope.owed.push(owed);
        }
    }

    /// What a scope's steps read as `input` and `vars`.
    fn own_of(&self, scope: u32) -> Own {
        if let Some(own) =
            self.scope(self.workflow_of(scope)).and_then(|scope| scope.own.as_deref())
        {
            return own.clone();
        }
        let started = self.started.as_ref();
        started.map_or_else(Own::default, |start| Own {
            input: start.input.clone(),
            variables: start.variables.clone(),
        })
    }

    /// Hands what a scope owes to the one further out, by the order in which it was done.
    pub(super) fn hand_on(&mut self, owed: Vec<Owed>, to: StepKey) {
        // What cleans up is not undone.
        if self.node(to).is_some_and(|node| node.finally) {
            return;
        }
        let Some(scope) = self.scope_mut(to.scope) else {
            return;
        };
        for owed in owed {
            scope.owe(Owed { step: to.step, ..owed });
        }
    }

    /// Opens the scope in which the last step that is owed to another is undone.
    pub(super) fn open_compensation(&mut self, number: u32, of: u32) {
        let owed = self.scope(of).and_then(|scope| scope.owed.last());
        let Some(Owed { place, path, instance, own, locals, .. }) = owed.cloned() else {
            return;
        };
        let depth = self.scope(of).map_or(0, |scope| scope.depth);
        if number != self.scopes_opened {
            return;
        }
        let Some(mut scope) = Scope::new(&self.program, place.0, place.1) else {
            return;
        };
        scope.own = Some(Box::new(own));
        scope.depth = depth;
        scope.undoes = Some(Box::new(Undoes { of, path, instance, locals }));
        self.add_scope(number, scope);
    }

    /// A compensation has ended: what it was for is not owed any more, even if it failed.
    pub(super) fn close_compensation(&mut self, undoes: &Undoes, outcome: &Outcome) {
        let Some(scope) = self.scope_mut(undoes.of) else {
            return;
        };
        let Some(owed) = scope.owed.pop() else {
            return;
        };
        let why = match outcome {
            Outcome::Succeeded(_) => {
                if let Some(cell) = scope.cells.get_mut(owed.step as usize) {
                    cell.more().undone = true;
                }
                return;
            }
            Outcome::Failed { failure, .. } => failure.to_string(),
            other => other.to_string(),
        };
        scope.left.push(owed);
        let message = format!("`{}` was not undone: {why}", undoes.path);
        match scope.ending.as_deref_mut() {
            Some(Outcome::Failed { failure, .. }) => failure.because(message),
            // What was not undone is worse than to be cancelled.
            Some(other) => {
                let failure = match outcome {
                    Outcome::Failed { failure, .. } => failure.class,
                    _ => crate::error::ErrorClass::Cancelled,
                };
                let failure = Failure::new(failure, message);
                *other = Outcome::Failed { step: undoes.path.clone(), failure };
            }
            None => {}
        }
    }
}
