//! Sealed secrets wherever a run keeps them.

use std::collections::BTreeMap;

use super::RunState;
use super::scope::{Cell, Scope};
use crate::journal::{Outcome, Waiting};
#[cfg(feature = "secrets")]
use crate::value::is_blob;
use crate::value::{Json, SEALED, Value, holds, is_sealed};

impl RunState {
    /// Every value that is kept.
    pub(super) fn values_mut(&mut self, change: &mut impl FnMut(&mut Value)) {
        if let Some(start) = &mut self.started {
            change(&mut start.input);
            change(&mut start.variables);
        }
        let signals = self.expected.iter_mut().flat_map(|expected| &mut expected.signals);
        signals.for_each(|signal| change(&mut signal.payload));
        in_scope(&mut self.root, change);
        self.inner.values_mut().for_each(|scope| in_scope(scope, change));
        let outcomes = self.outcome.iter_mut().chain(self.stopping.as_deref_mut());
        outcomes.for_each(|outcome| in_outcome(outcome, change));
    }

    /// Replaces sealed texts wherever they are kept.
    pub(super) fn reseal(&mut self, replaced: &BTreeMap<String, String>) {
        self.values_mut(&mut |value| {
            let mut json = (**value).clone();
            if holds(&json, is_sealed) {
                replace_sealed(&mut json, replaced);
                *value = json.into();
            }
        });
    }

    /// Values that hold sealed texts, or name blobs.
    #[cfg(feature = "secrets")]
    pub(crate) fn sealed_and_blobs(&self) -> Vec<Value> {
        let mut found = Vec::new();
        self.clone().values_mut(&mut |value| {
            if holds(value, |part| is_sealed(part) || is_blob(part)) {
                found.push(value.clone());
            }
        });
        found
    }
}

fn in_scope(scope: &mut Scope, change: &mut impl FnMut(&mut Value)) {
    if let Some(own) = &mut scope.own {
        change(&mut own.input);
        change(&mut own.variables);
    }
    for owed in scope.owed.iter_mut().chain(&mut scope.left) {
        change(&mut owed.own.input);
        change(&mut owed.own.variables);
        change(&mut owed.locals);
    }
    if let Some(undoes) = &mut scope.undoes {
        change(&mut undoes.locals);
    }
    if let Some(outcome) = &mut scope.ending {
        in_outcome(outcome, change);
    }
    scope.cells.iter_mut().for_each(|cell| in_cell(cell, change));
}

fn in_cell(cell: &mut Cell, change: &mut impl FnMut(&mut Value)) {
    change(&mut cell.output);
    let Some(more) = &mut cell.more else { return };
    more.signal.iter_mut().for_each(&mut *change);
    if let Some(Waiting::Approval(open)) = &mut more.waiting {
        change(&mut open.show);
        open.votes.iter_mut().for_each(|vote| change(&mut vote.payload));
    }
    let bodies = &mut more.bodies;
    change(&mut bodies.items);
    change(&mut bodies.last);
    bodies.outputs.iter_mut().for_each(&mut *change);
    if let Some(outcome) = &mut bodies.bad {
        in_outcome(outcome, change);
    }
}

fn in_outcome(outcome: &mut Outcome, change: &mut impl FnMut(&mut Value)) {
    if let Outcome::Succeeded(output) = outcome {
        change(output);
    }
}

/// Replaces sealed texts wherever they are in a value.
pub(crate) fn replace_sealed(value: &mut Json, replaced: &BTreeMap<String, String>) {
    if is_sealed(value) {
        let new = value[SEALED].as_str().and_then(|old| replaced.get(old)).cloned();
        if let Some(new) = new {
            value[SEALED] = new.into();
        }
        return;
    }
    // As deep as values nest.
    match value {
        Json::Array(items) => items.iter_mut().for_each(|item| replace_sealed(item, replaced)),
        Json::Object(fields) => {
            fields.values_mut().for_each(|field| replace_sealed(field, replaced))
        }
        _ => {}
    }
}
