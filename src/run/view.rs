//! What expressions see from inside a run.

use std::borrow::Cow;

use serde_json::json;

use super::RunState;
use crate::expr::{Scope, StepView};
use crate::id::StepKey;
use crate::time::Timestamp;
use crate::value::Json;
use crate::workflow::NodeKind;

pub(super) struct View<'a> {
    state: &'a RunState,
    scope: u32,
    now: Timestamp,
    /// A loop's condition is asked outside its body, and sees the turn that it decides about.
    turn: Option<(u32, &'a Json)>,
    /// What the step itself came to, for what is made of that.
    output: Option<&'a Json>,
}

impl<'a> View<'a> {
    pub(super) const fn new(state: &'a RunState, scope: u32, now: Timestamp) -> Self {
        Self { state, scope, now, turn: None, output: None }
    }

    pub(super) const fn turn(mut self, turn: u32, last: &'a Json) -> Self {
        self.turn = Some((turn, last));
        self
    }

    pub(super) const fn output(mut self, output: &'a Json) -> Self {
        self.output = Some(output);
        self
    }

    /// The scopes from here outwards, each with the composite step that it is a body of, up to the
    /// border of the workflow.
    fn around(&self) -> impl Iterator<Item = (u32, StepKey)> + '_ {
        let mut at = Some(self.scope);
        std::iter::from_fn(move || {
            let scope = self.state.scope(at?)?;
            let here = at?;
            let parent = scope.parent.filter(|_| scope.own.is_none());
            at = parent.map(|parent| parent.scope);
            parent.map(|parent| (here, parent))
        })
    }

    /// The input and variables of the workflow that this is in: the run's, or a sub-workflow's.
    fn own(&self, pick: impl Fn(&'a super::scope::Own) -> &'a Json) -> Option<&'a Json> {
        let scope = self.state.scope(self.state.workflow_of(self.scope))?;
        scope.own.as_deref().map(pick)
    }

    /// What a compensation has instead of the bodies that its step stood in.
    fn local(&self, name: &str) -> Option<Cow<'_, Json>> {
        let mut at = self.scope;
        loop {
            let scope = self.state.scope(at)?;
            if let Some(undoes) = &scope.undoes {
                return undoes.locals.get(name).map(Cow::Borrowed);
            }
            at = scope.parent.filter(|_| scope.own.is_none())?.scope;
        }
    }

    fn item(&self, wanted: &str) -> Option<Cow<'_, Json>> {
        self.around().find_map(|(scope, parent)| {
            if !matches!(self.state.node(parent)?.kind, NodeKind::ForEach { .. }) {
                return None;
            }
            let index = self.state.scope(scope)?.index;
            if wanted == "index" {
                return Some(Cow::Owned(index.into()));
            }
            let items = &self.state.cell(parent)?.bodies()?.items;
            items.get(index as usize).map(Cow::Borrowed)
        })
    }

    fn loop_turn(&self, wanted: &str) -> Option<Cow<'_, Json>> {
        let found = |turn: u32, last: &'a Json| match wanted {
            "turn" => Cow::Owned(turn.into()),
            _ => Cow::Borrowed(last),
        };
        if let Some((turn, last)) = self.turn {
            return Some(found(turn, last));
        }
        self.around().find_map(|(scope, parent)| {
            if !matches!(self.state.node(parent)?.kind, NodeKind::Loop { .. }) {
                return None;
            }
            let last = &self.state.cell(parent)?.bodies()?.last;
            Some(found(self.state.scope(scope)?.index, last))
        })
    }
}

impl Scope for View<'_> {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn root(&self, name: &str) -> Option<Cow<'_, Json>> {
        let started = self.state.started.as_ref();
        match name {
            "input" => self
                .own(|own| &own.input)
                .or_else(|| started.map(|start| &*start.input))
                .map(Cow::Borrowed),
            "vars" => self
                .own(|own| &own.variables)
                .or_else(|| started.map(|start| &*start.variables))
                .map(Cow::Borrowed),
            "run" => Some(Cow::Owned(json!({"id": self.state.id.as_str()}))),
            "item" | "index" => self.item(name).or_else(|| self.local(name)),
            "turn" | "last" => self.loop_turn(name).or_else(|| self.local(name)),
            "output" => self.output.map(Cow::Borrowed).or_else(|| self.local(name)),
            _ => None,
        }
    }

    fn step(&self, id: &str) -> Option<StepView<'_>> {
        let key = self.state.visible(StepKey { scope: self.scope, step: 0 }, id)?;
        let cell = self.state.cell(key)?;
        let error = match self.state.failure(key) {
            Some(failure) => {
                json!({"class": failure.class.as_str(), "message": failure.message})
            }
            None => Json::Null,
        };
        Some(StepView {
            status: cell.status.as_str(),
            output: &cell.output,
            error: Cow::Owned(error),
        })
    }
}
