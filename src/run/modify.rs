//! A live run goes on with another definition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::command::Rejection;
use super::scope::{Cell, SharedBody};
use super::turn::Turn;
use super::{RunState, join};
use crate::id::StepKey;
use crate::journal::{Modified, StepStatus};
use crate::plan::EdgeKind;
use crate::time::Timestamp;
use crate::value::Value;
use crate::workflow::{Body, Definition, Step, Unit, Workflow};

impl Turn<'_> {
    /// Whether the run can go on with this definition; the variables that it then has.
    pub(super) fn may_modify(
        &self,
        workflow: &Workflow,
        linked: &[Workflow],
        revision: u32,
    ) -> Result<Value, Rejection> {
        let state = &*self.state;
        if revision != state.revision {
            return Err(Rejection::Outdated { now: state.revision, given: revision });
        }
        if state.root.stopping || state.root.ending.is_some() {
            return Err(Rejection::Stopping);
        }
        let refuse = |why: Vec<String>| Rejection::Unsafe(why.join("; "));
        let (old, new) = (state.program.unit(state.root.place.0), workflow.program().unit(0));
        state.program.extended(workflow, linked).map_err(|error| refuse(vec![error]))?;
        let mut wrong = Vec::new();
        if old.workflow != new.workflow {
            wrong.push(format!("`{}` is another workflow than `{}`", new.workflow, old.workflow));
        }
        for (at, cell) in state.root.cells.iter().enumerate() {
            if !matches!(cell.status, StepStatus::Pending | StepStatus::Ready) {
                wrong.extend(changes(old, new, at as u32).map(|what| {
                    format!("`{}` is {}: {what}", state.root.body.plan.id(at as u32), cell.status)
                }));
            }
        }
        if !wrong.is_empty() {
            return Err(refuse(wrong));
        }
        let now = state.started.as_ref().map(|start| &start.variables);
        let mut kept = BTreeMap::new();
        for (name, value) in now.and_then(|all| all.as_object()).into_iter().flatten() {
            // A variable that is not there any more is forgotten, one without a value may get one.
            if new.variables.declares(name) && !value.is_null() {
                kept.insert(name.clone(), value.clone().into());
            }
        }
        new.variables.complete(kept).map_err(|wrong| refuse(vec![wrong.to_string()]))
    }
}

/// What is different about a step that has begun.
fn changes(old: &Unit, new: &Unit, at: u32) -> Option<String> {
    let (before, after) = (old.body(0), new.body(0));
    let id = before.plan.id(at).as_str();
    let Some(now) = after.plan.index(id) else {
        return Some("it cannot be removed".into());
    };
    let (was, is) = (definition_of(old, id)?, definition_of(new, id)?);
    if without_ways_out(was) != without_ways_out(is) {
        return Some("it cannot be changed".into());
    }
    if ways_in(before, at) != ways_in(after, now) {
        return Some("what it comes after cannot be changed".into());
    }
    None
}

fn definition_of<'a>(unit: &'a Unit, id: &str) -> Option<&'a Step> {
    let definition: &Definition = unit.source.as_ref()?;
    definition.steps.iter().find(|step| step.id.as_str() == id)
}

/// A step without what leads from it to others, which is theirs.
fn without_ways_out(step: &Step) -> Step {
    let mut step = step.clone();
    for ids in [&mut step.on_success, &mut step.on_failure, &mut step.otherwise, &mut step.always] {
        ids.clear();
    }
    step.on_error.clear();
    step
}

fn ways_in(body: &Body, step: u32) -> BTreeSet<(String, EdgeKind)> {
    let links = body.plan.predecessors(step).iter();
    links.map(|link| (body.plan.id(link.step).to_string(), link.kind)).collect()
}

impl RunState {
    /// How often the definition was changed: what a change is made from.
    #[must_use]
    pub const fn revision(&self) -> u32 {
        self.revision
    }

    /// The definition that the run goes on with.
    #[must_use]
    pub fn definition(&self) -> Option<&Arc<Definition>> {
        self.program.unit(self.root.place.0).source.as_ref()
    }

    /// The step that an attempt is of, which was begun when its body was this one.
    pub(crate) fn current(&self, step: StepKey, body: (u32, u32)) -> Option<StepKey> {
        if step.scope != 0 || body == self.root.place {
            return Some(step);
        }
        let before = self.program.units().get(body.0 as usize)?.bodies.get(body.1 as usize)?;
        let id = before.plan.ids().get(step.step as usize)?;
        self.root.body.plan.index(id.as_str()).map(StepKey::root)
    }

    pub(super) fn modify(&mut self, modified: &Modified, at: Timestamp) {
        let Modified { workflow, linked, variables } = modified;
        // It was possible when it was recorded.
        let Ok((program, unit)) = self.program.extended(workflow, linked) else {
            return;
        };
        self.program = Arc::new(program);
        self.has_locks = self.program.has_locks();
        self.revision += 1;
        if let Some(start) = &mut self.started {
            start.variables = variables.clone();
        }
        let body = SharedBody::new(self.program.unit(unit).body(0));
        let moved: Vec<Option<u32>> =
            self.root.body.plan.ids().iter().map(|id| body.plan.index(id.as_str())).collect();
        self.renumber_locks(&moved, body.nodes.len());
        let old = std::mem::take(&mut self.root.cells);
        let mut cells: Vec<Cell> = Vec::new();
        cells.resize_with(body.nodes.len(), Cell::default);
        for cell in &old {
            let count = &mut self.counts[cell.status.slot()];
            *count = count.saturating_sub(1);
        }
        for (mut cell, to) in old.into_iter().zip(&moved) {
            // What is ready may have to wait for something else now.
            if cell.status == StepStatus::Ready {
                cell.status = StepStatus::Pending;
                cell.since = at;
            }
            (cell.met, cell.failed, cell.missed, cell.over) = (0, 0, 0, 0);
            if let Some(place) = to.and_then(|to| cells.get_mut(to as usize)) {
                *place = cell;
            }
        }
        for cell in &cells {
            self.counts[cell.status.slot()] += 1;
        }
        self.root.open = cells.iter().filter(|cell| !cell.status.is_end()).count() as u32;
        (self.root.cells, self.root.body, self.root.place) = (cells, body, (unit, 0));
        self.ready.remove_scope(0);
        self.move_keys(&moved);
        self.count_again();
    }

    /// Everything that is kept elsewhere by the places of the outermost steps.
    fn move_keys(&mut self, moved: &[Option<u32>]) {
        let new = |key: StepKey| match key.scope {
            0 => moved.get(key.step as usize).copied().flatten().map(StepKey::root),
            _ => Some(key),
        };
        let timers = std::mem::take(&mut self.timers).into_iter();
        self.timers = timers.filter_map(|(at, key, kind)| Some((at, new(key)?, kind))).collect();
        for steps in self.signal_waits.values_mut() {
            *steps = steps.iter().copied().filter_map(new).collect();
        }
        let waits = std::mem::take(&mut self.condition_waits).into_iter();
        self.condition_waits = waits.filter_map(new).collect();
        let approvals = std::mem::take(&mut self.approvals).into_iter();
        self.approvals = approvals.filter_map(|(id, key)| new(key).map(|key| (id, key))).collect();
        for scope in self.inner.values_mut() {
            scope.parent = scope.parent.and_then(new);
        }
        for owed in &mut self.root.owed {
            if let Some(key) = new(StepKey::root(owed.step)) {
                owed.step = key.step;
            }
        }
    }

    /// What the ends so far mean to those that have not begun.
    fn count_again(&mut self) {
        let ends: Vec<_> = (0..self.root.cells.len() as u32)
            .filter_map(|step| Some((step, self.end_of(StepKey::root(step))?)))
            .collect();
        let super::scope::Scope { body, cells, .. } = &mut self.root;
        for (step, end) in ends {
            for link in body.plan.successors(step) {
                let Some(next) = cells.get_mut(link.step as usize) else { continue };
                *next.count(join::meaning(body, step, *link, end)) += 1;
            }
        }
    }
}
