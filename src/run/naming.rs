//! What others know steps by: names that stay when a definition is changed.

use std::collections::BTreeMap;

use super::scope::{Cell, Scope};
use super::{RunState, SharedBody};
use crate::id::{StepId, StepKey};
use crate::journal::StepStatus;

/// Ids that steps are known by which have another id now, or are gone, each with how often the step
/// was run again from the start.
pub(super) type Used = BTreeMap<StepId, u32>;

impl RunState {
    /// The path of a step, told apart from earlier runs of the same step, or of those around it, and
    /// from steps that had this path in another definition: what others know it by.
    #[must_use]
    pub fn instance(&self, step: StepKey) -> String {
        let Some(scope) = self.scope(step.scope) else {
            return self.path(step);
        };
        let more = self.cell(step).and_then(|cell| cell.more.as_ref());
        let known = more.and_then(|more| more.known_as.as_ref());
        let path = match (self.path(step), known) {
            (path, None) => path,
            (path, Some(known)) => match path.rsplit_once('/') {
                Some((around, _)) => format!("{around}/{known}"),
                None => known.to_string(),
            },
        };
        let own = match scope.parent {
            Some(parent) => {
                let outer = path.strip_prefix(&self.path(parent)).unwrap_or(&path).to_string();
                format!("{}{outer}", self.instance(parent))
            }
            // Another try at undoing the same is something else for whoever is asked to do it.
            None => match &scope.undoes {
                Some(undoes) => {
                    let id = scope.body.plan.id(step.step);
                    format!("{}[undo]/{id}@{}", undoes.instance, step.scope)
                }
                None => path,
            },
        };
        match more.map_or(0, |more| more.generation) {
            0 => own,
            before => format!("{own}#{}", before + 1),
        }
    }
}

impl Scope {
    /// Puts the cells that it had in their places of another body, under the names that others know
    /// them by. A step that has not begun and has the id of one that has gets a name of its own.
    pub(super) fn rearrange(&mut self, cells: Vec<Cell>, moved: &[Option<u32>], body: &SharedBody) {
        let mut used = self.used.take().unwrap_or_default();
        let mut placed: Vec<Cell> = Vec::new();
        placed.resize_with(body.nodes.len(), Cell::default);
        for (step, mut cell) in cells.into_iter().enumerate() {
            let to = moved.get(step).copied().flatten();
            let place = to.and_then(|to| placed.get_mut(to as usize));
            if let (true, Some(id)) = (was_seen(&cell), self.body.plan.ids().get(step)) {
                let generation = cell.more.as_ref().map_or(0, |more| more.generation);
                let known = cell.more.as_mut().and_then(|more| more.known_as.take());
                let known = known.unwrap_or_else(|| id.clone());
                if to.and_then(|to| body.plan.ids().get(to as usize)) != Some(&known) {
                    let last = used.entry(known.clone()).or_default();
                    *last = generation.max(*last);
                    if place.is_some() {
                        cell.more().known_as = Some(known);
                    }
                }
            }
            if let Some(place) = place {
                *place = cell;
            }
        }
        for (cell, id) in placed.iter_mut().zip(body.plan.ids()).filter(|(cell, _)| !was_seen(cell))
        {
            if let Some(last) = used.get(id) {
                cell.more().generation = last + 1;
            }
        }
        self.used = (!used.is_empty()).then_some(used);
        self.cells = placed;
    }

    /// A step is begun anew, which gives it a name of its own.
    pub(super) fn forget_name(&mut self, step: u32) {
        let Some((cell, id)) =
            self.cells.get_mut(step as usize).zip(self.body.plan.ids().get(step as usize))
        else {
            return;
        };
        let last = self.used.as_ref().and_then(|used| used.get(id)).copied();
        if let Some(more) = &mut cell.more {
            more.known_as = None;
            more.generation = last.map_or(more.generation, |last| more.generation.max(last + 1));
        }
    }
}

/// Whether others may know a step: an attempt, a wait or a body of it has begun at some time.
fn was_seen(cell: &Cell) -> bool {
    let more = cell.more.as_ref();
    cell.attempt > 0
        || !matches!(cell.status, StepStatus::Pending | StepStatus::Ready)
        || more.is_some_and(|more| more.generation > 0 && more.first > 0)
}
