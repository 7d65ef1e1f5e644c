//! Finding the steps that wait for each other.

use std::fmt;

use super::ExecutionPlan;
use crate::id::StepId;

/// Steps that wait for each other in a circle, in the order of their edges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Cycle {
    /// The steps; an edge leads from each to the next, and from the last to the first.
    pub steps: Vec<StepId>,
}

/// Steps of a cycle that are printed; a longer one is cut in the middle.
const STEPS_SHOWN: usize = 20;

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = self.steps.len().saturating_sub(STEPS_SHOWN);
        for (i, step) in self.steps.iter().enumerate() {
            match i.checked_sub(STEPS_SHOWN / 2) {
                Some(0) if cut > 0 => write!(f, "... {cut} more ... → ")?,
                Some(past) if past < cut => {}
                _ => write!(f, "{step} → ")?,
            }
        }
        match self.steps.first() {
            Some(first) => write!(f, "{first}"),
            None => Ok(()),
        }
    }
}

/// A shortest cycle through the first step, in definition order, that lies on one.
///
/// `sorted` are the steps that found a place in the order; every cycle lies among the others. Of
/// those, steps that only lead to or come from cycles are passed over by petgraph's strongly
/// connected components, which it finds without recursion over the graph's depth.
pub(super) fn find(plan: &ExecutionPlan, sorted: &[u32]) -> Cycle {
    let mut placed = vec![false; plan.len()];
    for step in sorted {
        placed[*step as usize] = true;
    }
    let graph = plan.to_petgraph();
    let mut component = vec![u32::MAX; plan.len()];
    for (number, members) in petgraph::algo::kosaraju_scc(&graph).into_iter().enumerate() {
        for member in &members {
            let alone = members.len() == 1 && !graph.contains_edge(*member, *member);
            component[member.index()] = if alone { u32::MAX } else { number as u32 };
        }
    }
    let start = (0..plan.len() as u32)
        .find(|step| !placed[*step as usize] && component[*step as usize] != u32::MAX);
    let steps = start.map_or_else(Vec::new, |start| shortest(plan, start, &component));
    Cycle { steps: steps.into_iter().map(|step| plan.id(step).clone()).collect() }
}

/// Breadth-first from `start` inside its component until an edge leads back to it.
fn shortest(plan: &ExecutionPlan, start: u32, component: &[u32]) -> Vec<u32> {
    let mut came_from = vec![u32::MAX; plan.len()];
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(step) = queue.pop_front() {
        for link in plan.successors(step) {
            if link.step == start {
                let mut cycle = vec![step];
                let mut at = step;
                while at != start {
                    at = came_from[at as usize];
                    cycle.push(at);
                }
                cycle.reverse();
                return cycle;
            }
            let inside = component[link.step as usize] == component[start as usize];
            if inside && came_from[link.step as usize] == u32::MAX {
                came_from[link.step as usize] = step;
                queue.push_back(link.step);
            }
        }
    }
    vec![start]
}
