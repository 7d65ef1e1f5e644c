//! From names to a plan: every mistake at once, with hints.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::edge::{Edge, EdgeKind};
use super::execution_plan::ExecutionPlan;
use crate::error::{Problem, Problems};
use crate::id::StepId;

/// Turns steps that name each other into an [`ExecutionPlan`].
#[doc(alias = "DAGResolver")]
#[derive(Debug)]
#[non_exhaustive]
pub struct DagResolver;

/// A step as the resolver sees it: its id and the ids that it names.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlanStep<'a> {
    /// Its id.
    pub id: &'a StepId,
    /// Steps that come before it, by name.
    pub after: &'a [StepId],
    /// Steps that come after it, by name: the field that names them, what they wait for, who.
    pub leads_to: Vec<(EdgeKind, &'a [StepId])>,
    /// Steps that come before it because an expression mentions them, by place.
    pub mentions: Vec<(u32, EdgeKind)>,
}

impl<'a> PlanStep<'a> {
    /// A step that names these steps as coming before it.
    #[must_use]
    pub fn new(id: &'a StepId, after: &'a [StepId]) -> Self {
        Self { id, after, leads_to: Vec::new(), mentions: Vec::new() }
    }
}

impl DagResolver {
    /// The plan of these steps, or nothing when they have problems that make one impossible.
    ///
    /// Adds every problem found to `problems`, each with its place below `path`: no steps, bad and
    /// repeated ids, steps that name themselves or nobody, cycles, and, as a warning, steps that are
    /// connected with nothing else.
    ///
    /// ```
    /// use stepwell::plan::PlanStep;
    /// use stepwell::{DagResolver, Problems, StepId};
    ///
    /// let (a, b): (StepId, StepId) = ("a".into(), "b".into());
    /// let needs = [StepId::from("a")];
    /// let mut problems = Problems::default();
    /// let steps = [PlanStep::new(&a, &[]), PlanStep::new(&b, &needs)];
    /// let plan = DagResolver::resolve(&steps, "steps", &mut problems).unwrap();
    /// assert_eq!(plan.batch_ids(), [["a"], ["b"]]);
    /// ```
    pub fn resolve(
        steps: &[PlanStep<'_>],
        path: &str,
        problems: &mut Problems,
    ) -> Option<ExecutionPlan> {
        let mut found = Problems::default();
        if steps.is_empty() {
            found.push(Problem::error(path, "there are no steps").hint("add at least one step"));
        }
        let names = index(steps, path, &mut found);
        let edges = edges(steps, &names, path, &mut found);
        drop(names);
        // Cycles are looked for among the edges that are sound, whatever else is wrong.
        let ids = steps.iter().map(|step| step.id.clone()).collect();
        let plan = match ExecutionPlan::new(ids, edges) {
            Ok(plan) => Some(plan),
            Err(cycle) => {
                found.push(
                    Problem::error(path, format!("steps wait for each other: {cycle}"))
                        .hint("remove one of these dependencies"),
                );
                None
            }
        };
        let plan = plan.filter(|_| !found.has_errors());
        if let Some(plan) = &plan {
            disconnected(plan, path, &mut found);
        }
        problems.extend(found);
        plan
    }
}

/// The place of each id; the first one of a repeated id.
fn index<'a>(steps: &[PlanStep<'a>], path: &str, problems: &mut Problems) -> HashMap<&'a str, u32> {
    let mut names = HashMap::with_capacity(steps.len());
    for (at, step) in steps.iter().enumerate() {
        if let Err(reason) = step.id.check() {
            problems.push(Problem::error(format!("{path}[{at}].id"), reason));
        }
        match names.entry(step.id.as_str()) {
            Entry::Vacant(free) => drop(free.insert(at as u32)),
            Entry::Occupied(first) => {
                let first = first.get();
                let message = format!("the id `{}` is already that of step {first}", step.id);
                problems.push(Problem::error(format!("{path}[{at}].id"), message));
            }
        }
    }
    names
}

fn edges(
    steps: &[PlanStep<'_>],
    names: &HashMap<&str, u32>,
    path: &str,
    problems: &mut Problems,
) -> Vec<Edge> {
    let mut edges = Vec::with_capacity(steps.iter().map(|step| step.after.len()).sum());
    for (at, step) in steps.iter().enumerate() {
        let at = at as u32;
        let mut look_up = |id: &StepId, field: &str| match names.get(id.as_str()) {
            Some(other) if *other != at => Some(*other),
            Some(_) => {
                let place = format!("{path}.{}.{field}", step.id);
                problems.push(Problem::error(place, "a step cannot depend on itself"));
                None
            }
            None => {
                let place = format!("{path}.{}.{field}", step.id);
                let problem = Problem::error(place, format!("there is no step `{id}` here"));
                problems.push(if problems.is_full() {
                    problem
                } else {
                    problem.suggest(id.as_str(), steps.iter().map(|s| s.id.as_str()))
                });
                None
            }
        };
        for id in step.after {
            if let Some(from) = look_up(id, "after") {
                edges.push(Edge { from, to: at, kind: EdgeKind::After });
            }
        }
        for (kind, ids) in &step.leads_to {
            for id in *ids {
                if let Some(to) = look_up(id, kind.as_str()) {
                    edges.push(Edge { from: at, to, kind: *kind });
                }
            }
        }
    }
    add_mentions(steps, &mut edges);
    edges
}

/// An edge that was spelt out says more than a mention in an expression, so it stands alone.
fn add_mentions(steps: &[PlanStep<'_>], edges: &mut Vec<Edge>) {
    let mut spelt: Vec<(u32, u32)> = Vec::new();
    if steps.iter().any(|step| !step.mentions.is_empty()) {
        spelt = edges.iter().map(|edge| (edge.from, edge.to)).collect();
        spelt.sort_unstable();
    }
    for (at, step) in steps.iter().enumerate() {
        let to = at as u32;
        for &(from, kind) in &step.mentions {
            if spelt.binary_search(&(from, to)).is_err() {
                edges.push(Edge { from, to, kind });
            }
        }
    }
}

/// Warns of steps that no edge joins to any other.
fn disconnected(plan: &ExecutionPlan, path: &str, problems: &mut Problems) {
    if plan.edge_count() == 0 {
        return;
    }
    let mut alone = (0..plan.len() as u32)
        .filter(|step| plan.successors(*step).is_empty() && plan.predecessors(*step).is_empty())
        .map(|step| plan.id(step).as_str());
    let named: Vec<&str> = alone.by_ref().take(5).collect();
    if !named.is_empty() {
        let more = match alone.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!("not connected with any other step: {}{more}", named.join(", "));
        problems.push(Problem::warning(path, message));
    }
}
