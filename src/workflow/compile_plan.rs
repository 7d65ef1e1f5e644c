//! The edges of a body: those that are spelt out, those that expressions make, those of its shape.

use super::Step;
use super::compile::{Compiler, Shape};
use super::names::Frame;
use super::program::Node;
use super::settings::Trigger;
use crate::error::Problem;
use crate::id::StepId;
use crate::plan::{DagResolver, EdgeKind, ExecutionPlan, Link, PlanStep};

impl<'a> Compiler<'a> {
    pub(super) fn plan(
        &mut self,
        steps: &'a [Step],
        mut entries: Vec<PlanStep<'a>>,
        frame: &Frame<'_>,
        path: &str,
        (shape, unusual): (Shape, bool),
    ) -> Option<ExecutionPlan> {
        // A mention is a dependency like one that is spelt out, unless the step has a join rule of
        // its own: what that counts is spelt out.
        let mut ruled = Vec::new();
        if !frame.mentions.is_empty() {
            let own = |step: &Step| {
                step.finally || !matches!(step.trigger, None | Some(Trigger::AllSucceeded))
            };
            ruled.extend(steps.iter().map(own));
            let detours = |step: &'a Step| {
                let caught = step.on_error.values().flatten();
                step.on_failure.iter().chain(caught).chain(&step.otherwise)
            };
            for id in steps.iter().flat_map(detours) {
                if let Some(step) = frame.find(id.as_str()) {
                    ruled[step as usize] = true;
                }
            }
        }
        let all = if unusual { steps } else { &[] };
        let last = all.iter().enumerate().filter(|(_, step)| step.finally);
        for (at, step) in last {
            let named = |other: &Step| step.after.contains(&other.id);
            let before =
                steps.iter().enumerate().filter(|(_, other)| !other.finally && !named(other));
            entries[at].mentions.extend(before.map(|(on, _)| (on as u32, EdgeKind::Reads)));
        }
        for (step, on, kind) in &frame.mentions {
            let kind = if ruled[*step as usize] { EdgeKind::Reads } else { *kind };
            entries[*step as usize].mentions.push((*on, kind));
        }
        if shape == Shape::Chain {
            // What cleans up comes after all others, in its own order.
            for finally in [false, true] {
                let kind = if finally { EdgeKind::Reads } else { EdgeKind::After };
                let mut before = None;
                for at in (0..steps.len()).filter(|at| steps[*at].finally == finally) {
                    if let Some(before) = before.replace(at) {
                        entries[at].mentions.push((before as u32, kind));
                    }
                }
            }
        }
        DagResolver::resolve(&entries, path, self.problems)
    }

    pub(super) fn check_finally(&mut self, steps: &[Step], frame: &Frame<'_>, path: &str) {
        let is_last =
            |id: &&StepId| frame.find(id.as_str()).is_some_and(|at| steps[at as usize].finally);
        for step in steps {
            if step.finally {
                if let Some(id) = step.after.iter().find(|id| !is_last(id)) {
                    let message =
                        format!("it runs after all other steps anyway, and so after `{id}`");
                    let place = format!("{path}.{}.after", step.id);
                    let problem = Problem::error(place, message);
                    self.problems.push(problem.hint("name other `finally` steps only"));
                }
                if step.compensate.is_some() {
                    let message = "what cleans up is not undone";
                    let place = format!("{path}.{}.compensate", step.id);
                    self.problems.push(Problem::error(place, message));
                }
                continue;
            }
            let caught: Vec<StepId> = step.on_error.values().flatten().cloned().collect();
            for (field, ids) in [
                ("on_success", &step.on_success),
                ("on_failure", &step.on_failure),
                ("on_error", &caught),
                ("otherwise", &step.otherwise),
                ("always", &step.always),
            ] {
                if let Some(id) = ids.iter().find(is_last) {
                    let message = format!("`{id}` runs finally, whatever becomes of this step");
                    let place = format!("{path}.{}.{field}", step.id);
                    self.problems.push(Problem::error(place, message));
                }
            }
        }
    }
}

/// Notes on the steps that `on_error` leads to which classes of whose errors do.
pub(super) fn catch_by_class(steps: &[Step], nodes: &mut [Node], frame: &Frame<'_>) {
    if nodes.len() < steps.len() {
        return;
    }
    for (from, step) in steps.iter().enumerate() {
        for (class, ids) in &step.on_error {
            // Whoever goes there anyway does so with every error.
            let ids = ids.iter().filter(|id| !step.on_failure.contains(id));
            for to in ids.filter_map(|id| frame.find(id.as_str())) {
                let catches = &mut nodes[to as usize].more.get_or_insert_default().catches;
                match catches.iter_mut().find(|(other, _)| *other == from as u32) {
                    Some((_, classes)) => classes.push(*class),
                    None => catches.push((from as u32, vec![*class])),
                }
            }
        }
    }
}

/// The edges that a step spells out.
pub(super) fn plan_step(step: &Step) -> PlanStep<'_> {
    let mut entry = PlanStep::new(&step.id, &step.after);
    for (kind, ids) in [
        (EdgeKind::OnSuccess, &step.on_success),
        (EdgeKind::OnFailure, &step.on_failure),
        (EdgeKind::Otherwise, &step.otherwise),
        (EdgeKind::Always, &step.always),
    ] {
        if !ids.is_empty() {
            entry.leads_to.push((kind, ids));
        }
    }
    if step.on_error.is_empty() {
        return entry;
    }
    let mut caught: Vec<&StepId> = Vec::new();
    for id in step.on_error.values().flatten() {
        // One edge, however many classes lead to it.
        if !step.on_failure.contains(id) && !caught.contains(&id) {
            caught.push(id);
            entry.leads_to.push((EdgeKind::OnFailure, std::slice::from_ref(id)));
        }
    }
    entry
}

/// Whether nothing regularly comes after a step: what follows a failure or a false condition is
/// another way to end, and what cleans up has no say.
pub(super) fn is_last(plan: &ExecutionPlan, steps: &[Step], step: u32, unusual: bool) -> bool {
    let detour = |link: &Link| {
        let kind = matches!(link.kind, EdgeKind::OnFailure | EdgeKind::Otherwise);
        kind || (unusual && steps[link.step as usize].finally)
    };
    !(unusual && steps[step as usize].finally) && plan.successors(step).iter().all(detour)
}

/// What follows for a step's join from edges that are not only `after`.
pub(super) fn join(node: &mut Node, by_default: bool, edges: &[Link]) {
    let counted = |link: &&Link| link.kind != EdgeKind::Reads;
    let detours = |link: &Link| matches!(link.kind, EdgeKind::OnFailure | EdgeKind::Otherwise);
    let count = edges.iter().filter(counted).count();
    // A step reached only by `on_failure` and `otherwise` is reached by any of them.
    if by_default && count > 1 && edges.iter().filter(counted).all(detours) {
        node.trigger = Trigger::AnySucceeded;
    }
    node.reads = (edges.len() - count) as u32;
    node.cleans_up = edges.iter().any(|link| link.kind == EdgeKind::Always);
}
