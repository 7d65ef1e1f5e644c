//! The plan itself: a dense graph with its order.

use std::sync::OnceLock;

use petgraph::graph::{DiGraph, NodeIndex};

use super::cycle::{self, Cycle};
use super::edge::{Edge, EdgeKind, Link};
use crate::id::StepId;

/// Steps, edges and the order in which they can run.
///
/// Steps are dense numbers in the order of definition. Both directions of the graph are kept as
/// compressed rows (one offset a step, one [`Link`] an edge), so that a walk touches one array.
///
/// ```
/// use stepwell::plan::{Edge, EdgeKind, ExecutionPlan};
///
/// let edge = |from, to| Edge { from, to, kind: EdgeKind::After };
/// let ids = ["a", "b", "c", "d"].map(Into::into).to_vec();
/// let plan = ExecutionPlan::new(ids, vec![edge(0, 1), edge(0, 2), edge(1, 3), edge(2, 3)]).unwrap();
/// assert_eq!(plan.batch_ids(), [vec!["a"], vec!["b", "c"], vec!["d"]]);
/// ```
#[derive(Debug)]
pub struct ExecutionPlan {
    ids: Vec<StepId>,
    after: Rows,
    before: Rows,
    order: Vec<u32>,
    /// Where each batch begins in `order`, and its length at the end.
    batches: Vec<u32>,
    by_id: OnceLock<Vec<u32>>,
}

/// Compressed rows: the links of step `i` are `links[starts[i]..starts[i + 1]]`.
#[derive(Debug)]
struct Rows {
    starts: Vec<u32>,
    links: Vec<Link>,
}

impl Rows {
    /// Sorts links into rows by counting, keeping their order inside a row.
    fn of(steps: usize, links: impl Iterator<Item = (u32, Link)> + Clone) -> Self {
        let mut starts = vec![0_u32; steps + 1];
        for (row, _) in links.clone() {
            starts[row as usize + 1] += 1;
        }
        for i in 0..steps {
            starts[i + 1] += starts[i];
        }
        let blank = Link { step: 0, kind: EdgeKind::After };
        let mut sorted = vec![blank; starts[steps] as usize];
        let mut next = starts.clone();
        for (row, link) in links {
            let at = &mut next[row as usize];
            sorted[*at as usize] = link;
            *at += 1;
        }
        Self { starts, links: sorted }
    }

    /// The same with each row in order, and every link once.
    fn sorted(mut self) -> Self {
        let mut kept = 0;
        let mut begin = 0;
        for row in 0..self.starts.len() - 1 {
            let end = self.starts[row + 1] as usize;
            let links = &mut self.links[begin..end];
            links.sort_unstable();
            let first = kept;
            for at in begin..end {
                if kept == first || self.links[kept - 1] != self.links[at] {
                    self.links[kept] = self.links[at];
                    kept += 1;
                }
            }
            begin = end;
            self.starts[row + 1] = kept as u32;
        }
        self.links.truncate(kept);
        self
    }

    fn row(&self, step: u32) -> &[Link] {
        &self.links[self.starts[step as usize] as usize..self.starts[step as usize + 1] as usize]
    }
}

impl ExecutionPlan {
    /// A plan of no steps.
    pub(crate) fn nothing() -> Self {
        Self {
            ids: Vec::new(),
            after: Rows { starts: vec![0], links: Vec::new() },
            before: Rows { starts: vec![0], links: Vec::new() },
            order: Vec::new(),
            batches: vec![0],
            by_id: OnceLock::new(),
        }
    }

    /// Orders these steps. Edges that name no step are dropped, repeated ones merged; an edge from a
    /// step to itself is a cycle.
    ///
    /// # Errors
    /// A cycle, as its steps in order.
    pub fn new(ids: Vec<StepId>, mut edges: Vec<Edge>) -> Result<Self, Cycle> {
        let steps = ids.len();
        edges.retain(|edge| (edge.from as usize) < steps && (edge.to as usize) < steps);
        let given = edges.iter().map(|e| (e.to, Link { step: e.from, kind: e.kind }));
        let before = Rows::of(steps, given).sorted();
        drop(edges);
        let turned = (0..steps as u32).flat_map(|to| {
            before.row(to).iter().map(move |link| (link.step, Link { step: to, kind: link.kind }))
        });
        let mut plan = Self {
            after: Rows::of(steps, turned),
            before,
            ids,
            order: Vec::with_capacity(steps),
            batches: vec![0],
            by_id: OnceLock::new(),
        };
        if plan.sort() { Ok(plan) } else { Err(cycle::find(&plan, &plan.order)) }
    }

    /// Kahn's algorithm (A. B. Kahn, "Topological sorting of large networks", 1962) by generations:
    /// each batch holds the steps whose last dependency stands in the batch before. Whether every
    /// step found its place.
    fn sort(&mut self) -> bool {
        let mut open: Vec<u32> =
            (0..self.len() as u32).map(|step| self.before.row(step).len() as u32).collect();
        self.order.extend((0..self.len() as u32).filter(|step| open[*step as usize] == 0));
        let mut begin = 0;
        while begin < self.order.len() {
            let end = self.order.len();
            self.batches.push(end as u32);
            for at in begin..end {
                for link in self.after.row(self.order[at]) {
                    let left = &mut open[link.step as usize];
                    *left -= 1;
                    if *left == 0 {
                        self.order.push(link.step);
                    }
                }
            }
            // Definition order breaks ties, whichever dependency came last.
            self.order[end..].sort_unstable();
            begin = end;
        }
        self.order.len() == self.len()
    }

    /// How many steps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// How many edges there are, repeated ones counted once.
    #[must_use]
    pub fn edge_count(&self) -> usize {
        self.after.links.len()
    }

    /// A step's id. Steps are the numbers below [`len`](Self::len).
    #[must_use]
    pub fn id(&self, step: u32) -> &StepId {
        &self.ids[step as usize]
    }

    /// All ids in the order of definition.
    #[must_use]
    pub fn ids(&self) -> &[StepId] {
        &self.ids
    }

    /// The step of this id.
    #[must_use]
    pub fn index(&self, id: &str) -> Option<u32> {
        let sorted = self.by_id.get_or_init(|| {
            let mut steps: Vec<u32> = (0..self.len() as u32).collect();
            steps.sort_by_key(|step| self.id(*step));
            steps
        });
        let at = sorted.binary_search_by(|step| self.id(*step).as_str().cmp(id)).ok()?;
        Some(sorted[at])
    }

    /// The steps that wait for this one.
    #[must_use]
    pub fn successors(&self, step: u32) -> &[Link] {
        self.after.row(step)
    }

    /// The steps that this one waits for.
    #[must_use]
    pub fn predecessors(&self, step: u32) -> &[Link] {
        self.before.row(step)
    }

    /// Steps that wait for nothing.
    pub fn roots(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len() as u32).filter(|step| self.predecessors(*step).is_empty())
    }

    /// Steps that nothing waits for.
    pub fn sinks(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len() as u32).filter(|step| self.successors(*step).is_empty())
    }

    /// All steps, each after everything that it depends on: the batches one after the other.
    #[must_use]
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// Steps that may run at once, batch by batch.
    ///
    /// The engine does not wait for a whole batch: a step starts when its own dependencies are met.
    pub fn batches(&self) -> impl Iterator<Item = &[u32]> + '_ {
        self.batches.windows(2).map(|ends| &self.order[ends[0] as usize..ends[1] as usize])
    }

    /// The batches as ids.
    #[must_use]
    pub fn batch_ids(&self) -> Vec<Vec<&str>> {
        self.batches()
            .map(|batch| batch.iter().map(|step| self.id(*step).as_str()).collect())
            .collect()
    }

    /// The plan as a `petgraph` graph, for algorithms of your own. Node indices are step numbers.
    #[must_use]
    pub fn to_petgraph(&self) -> DiGraph<StepId, EdgeKind> {
        let mut graph = DiGraph::with_capacity(self.len(), self.edge_count());
        for id in &self.ids {
            graph.add_node(id.clone());
        }
        for step in 0..self.len() as u32 {
            for link in self.successors(step) {
                graph.add_edge(
                    NodeIndex::new(step as usize),
                    NodeIndex::new(link.step as usize),
                    link.kind,
                );
            }
        }
        graph
    }
}
