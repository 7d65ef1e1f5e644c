//! A live run goes on with another definition: what that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::scope::{Owed, SharedBody};
use super::snapshot::Made;
use super::turn::is_task;
use super::{RunState, join};
use crate::id::StepKey;
use crate::journal::{Modified, MovedScope, StepStatus};
use crate::time::Timestamp;
use crate::workflow::{Definition, Workflow};

/// What a state keeps of changes of its definition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Changed {
    moves: Vec<Move>,
    /// Names that the steps of open bodies hold locks by; of others a step's place is its name.
    pub(super) lock_numbers: BTreeMap<u32, Vec<u32>>,
    pub(super) lock_number_next: u32,
}

/// Where the steps of a body are whose definition was changed while it was open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Move {
    scope: u32,
    from: (u32, u32),
    to: (u32, u32),
    steps: Arc<[Option<u32>]>,
}

impl Changed {
    /// A body is forgotten.
    pub(super) fn forget(&mut self, scope: u32) {
        self.moves.retain(|moved| moved.scope != scope);
        self.lock_numbers.remove(&scope);
    }
}

/// What has become of steps, by their scopes.
type Moved<'a> = BTreeMap<u32, &'a [Option<u32>]>;

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

    /// Whether the run goes on with exactly this definition, and with these for its sub-workflows.
    pub(crate) fn runs(&self, workflow: &Workflow, linked: &[Workflow]) -> bool {
        let Ok((program, unit)) = self.program.extended(workflow, linked) else {
            return false;
        };
        let mut pairs = vec![(self.root.place.0, unit)];
        let mut seen = BTreeSet::new();
        while let Some((old, new)) = pairs.pop() {
            if !seen.insert((old, new)) {
                continue;
            }
            if program.unit(old).source != program.unit(new).source {
                return false;
            }
            pairs.extend(program.linked_pairs(old, new));
        }
        true
    }

    /// The step that an attempt is of, which was begun when its body was this one; none when it is gone.
    pub(crate) fn current(&self, step: StepKey, body: (u32, u32)) -> Option<StepKey> {
        let place = self.scope(step.scope).map_or(body, |scope| scope.place);
        let (mut at, mut body) = (step, body);
        // Each is to a unit that was added later.
        while body != place {
            let is_it = |moved: &&Move| (moved.scope, moved.from) == (step.scope, body);
            let moved = self.changed.as_ref()?.moves.iter().find(is_it)?;
            at.step = moved.steps.get(at.step as usize).copied().flatten()?;
            body = moved.to;
        }
        Some(at)
    }

    pub(super) fn modify(&mut self, modified: &Modified, at: Timestamp) {
        let Modified { workflow, linked, variables, scopes } = modified;
        // It was possible when it was recorded.
        let Ok((program, _)) = self.program.extended(workflow, linked) else {
            return;
        };
        self.program = Arc::new(program);
        self.made.push(Made::Workflow { workflow: workflow.clone(), linked: linked.clone() });
        self.has_locks = self.program.has_locks();
        self.revision += 1;
        if let Some(start) = &mut self.started {
            start.variables = variables.clone();
        }
        let moved: Moved<'_> = scopes.iter().map(|moved| (moved.scope, &*moved.steps)).collect();
        let owed = self.take_owed(&moved);
        scopes.iter().for_each(|moved| self.let_go(moved));
        scopes.iter().for_each(|moved| self.move_scope(moved, at));
        self.move_keys(&moved);
        self.give_owed(owed, &moved);
        moved.keys().for_each(|scope| self.count_again(*scope));
    }

    /// Stops what is not carried over.
    fn let_go(&mut self, moved: &MovedScope) {
        let gone = moved.steps.iter().enumerate().filter(|(_, to)| to.is_none());
        for step in gone.map(|(step, _)| StepKey { scope: moved.scope, step: step as u32 }) {
            if self.cell(step).is_none_or(|cell| cell.more.is_none()) {
                continue;
            }
            self.clear_timers(step);
            self.clear_step_timer(step);
            self.forget_waits(step);
            self.abandon(step);
        }
    }

    /// Gives the steps of a body their places in another one.
    fn move_scope(&mut self, moved: &MovedScope, at: Timestamp) {
        let place = (moved.unit, moved.body);
        let units = self.program.units();
        let body = units.get(place.0 as usize).and_then(|unit| unit.bodies.get(place.1 as usize));
        let Some((body, scope)) = body.map(SharedBody::new).zip(self.scope(moved.scope)) else {
            return;
        };
        let (old, from) = (scope.body.clone(), scope.place);
        if self.has_locks {
            self.renumber_locks(moved.scope, &moved.steps, body.nodes.len());
        }
        self.ready.remove_scope(moved.scope);
        let Some(scope) = super::scope_in(&mut self.root, &mut self.inner, moved.scope) else {
            return;
        };
        let mut cells = std::mem::take(&mut scope.cells);
        for (step, cell) in cells.iter_mut().enumerate() {
            let count = &mut self.counts[cell.status.slot()];
            *count = count.saturating_sub(1);
            let node = old.nodes.get(step);
            let to = moved.steps.get(step).copied().flatten();
            let kind = to.and_then(|to| body.nodes.get(to as usize));
            if kind.is_none() && cell.status == StepStatus::Running && node.is_some_and(is_task) {
                self.tasks_running = self.tasks_running.saturating_sub(1);
            }
            // What is ready may have to wait for something else now, unless it has begun.
            if cell.status == StepStatus::Ready && !cell.has_begun() {
                cell.status = StepStatus::Pending;
                cell.since = at;
            }
            (cell.met, cell.failed, cell.missed, cell.over) = (0, 0, 0, 0);
            // Items and turns are those of a step of this kind.
            if let (Some(was), Some(is), Some(more)) = (node, kind, &mut cell.more)
                && std::mem::discriminant(&was.kind) != std::mem::discriminant(&is.kind)
            {
                more.bodies = super::scope::Bodies::default();
            }
        }
        scope.rearrange(cells, &moved.steps, &body);
        for (step, cell) in scope.cells.iter().enumerate() {
            self.counts[cell.status.slot()] += 1;
            if let (StepStatus::Ready, Some(node)) = (cell.status, body.nodes.get(step)) {
                self.ready.push(StepKey { scope: moved.scope, step: step as u32 }, node.priority);
            }
        }
        scope.open = scope.cells.iter().filter(|cell| !cell.status.is_end()).count() as u32;
        if let Some(own) = &mut scope.own {
            own.variables = moved.variables.clone();
        }
        (scope.body, scope.place) = (body, place);
        let steps = moved.steps.as_slice().into();
        let moved = Move { scope: moved.scope, from, to: place, steps };
        self.changed.get_or_insert_default().moves.push(moved);
    }

    /// Everything that is kept elsewhere by the places of steps.
    fn move_keys(&mut self, moved: &Moved<'_>) {
        let new = |key: StepKey| new_key(moved, key);
        let timers = std::mem::take(&mut self.timers).into_iter();
        self.timers = timers.filter_map(|(at, key, kind)| Some((at, new(key)?, kind))).collect();
        if let Some(expected) = &mut self.expected {
            expected.move_steps(new);
        }
        for scope in self.inner.values_mut() {
            scope.parent = scope.parent.and_then(new);
        }
    }

    /// What moved scopes owe, each with the path of the step that it is kept under.
    fn take_owed(&mut self, moved: &Moved<'_>) -> Vec<(u32, bool, Owed, String)> {
        let mut taken = Vec::new();
        for scope in moved.keys() {
            let Some(here) = self.scope_mut(*scope) else { continue };
            let owed = std::mem::take(&mut here.owed).into_iter().map(|owed| (false, owed));
            let left = std::mem::take(&mut here.left).into_iter().map(|owed| (true, owed));
            let both: Vec<_> = owed.chain(left).collect();
            for (is_left, owed) in both {
                let path = self.path(StepKey { scope: *scope, step: owed.step });
                taken.push((*scope, is_left, owed, path));
            }
        }
        taken
    }

    /// Gives it back: under the new places, and with new paths. What was done by a step that is gone is
    /// still owed.
    fn give_owed(&mut self, taken: Vec<(u32, bool, Owed, String)>, moved: &Moved<'_>) {
        for (scope, is_left, mut owed, old) in taken {
            match new_key(moved, StepKey { scope, step: owed.step }) {
                Some(key) => {
                    let rest = owed.path.strip_prefix(&old).map(str::to_string);
                    owed.path = rest.map_or(owed.path, |rest| self.path(key) + &rest);
                    owed.step = key.step;
                }
                None => owed.step = u32::MAX,
            }
            let Some(scope) = self.scope_mut(scope) else { continue };
            if is_left { scope.left.push(owed) } else { scope.owe(owed) }
        }
    }

    /// What the ends so far mean to those that have not begun.
    fn count_again(&mut self, number: u32) {
        let steps = self.scope(number).map_or(0, |scope| scope.cells.len() as u32);
        let ends: Vec<_> = (0..steps)
            .map(|step| StepKey { scope: number, step })
            .filter_map(|key| Some((key.step, self.end_of(key)?)))
            .collect();
        let Some(super::scope::Scope { body, cells, .. }) = self.scope_mut(number) else {
            return;
        };
        for (step, end) in ends {
            for link in body.plan.successors(step) {
                let Some(next) = cells.get_mut(link.step as usize) else { continue };
                *next.count(join::meaning(body, step, *link, end)) += 1;
            }
        }
    }
}

/// Where a step is now.
fn new_key(moved: &Moved<'_>, key: StepKey) -> Option<StepKey> {
    match moved.get(&key.scope) {
        Some(steps) => {
            let step = steps.get(key.step as usize).copied().flatten()?;
            Some(StepKey { step, ..key })
        }
        None => Some(key),
    }
}
