//! Before a run starts: everything that its steps need is there, or it is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::admission::TypeState;
use super::{Inner, lock};
use crate::error::{Error, ErrorKind, Problem, Problems, Result, nearest};
use crate::executor::StepExecutor;
use crate::expr::Expr;
use crate::value::{Json, Value};
use crate::workflow::{Limits, NodeKind, Program, Resources, Unit};

/// The executors of a program's tasks.
pub(crate) struct Prepared {
    /// By workflow, body and step; none for steps that are no tasks.
    units: Vec<Vec<Vec<Option<Task>>>>,
    /// Those of the workflow itself; sub-workflows run inside them.
    pub(crate) limits: Limits,
}

/// A task, ready to be run.
pub(crate) struct Task {
    pub(crate) executor: Arc<dyn StepExecutor>,
    pub(crate) kind: Arc<TypeState>,
    pub(crate) config: Value,
    pub(crate) resources: Resources,
    pub(crate) blocking: bool,
}

impl Prepared {
    pub(crate) fn of(program: &Program, engine: &Inner) -> Result<Self> {
        let mut problems = Problems::default();
        let mut kinds = Vec::new();
        let mut walked = 0;
        let mut units = Vec::new();
        for unit in program.units() {
            let types: Vec<Arc<TypeState>> =
                unit.executors.iter().map(|name| type_state(engine, name)).collect();
            let mut bodies = Vec::new();
            for (b, body) in unit.bodies.iter().enumerate() {
                let mut tasks = Vec::with_capacity(body.nodes.len());
                for (s, node) in body.nodes.iter().enumerate() {
                    let at =
                        |field: &str| format!("steps.{}.{field}", unit.path(b as u32, s as u32));
                    if let Some(wanted) = &node.capability
                        && !engine.capabilities.contains(wanted)
                    {
                        let offered = engine.capabilities.iter().map(String::as_str);
                        let message = format!("this engine does not offer `{wanted}`");
                        let near = nearest(wanted, offered);
                        let problem = Problem::error(at("capability"), message);
                        kinds.push(ErrorKind::Configuration);
                        problems.push(match near {
                            Some(near) => problem.hint(format!("did you mean `{near}`?")),
                            None => problem.hint("register it with EngineBuilder::capability"),
                        });
                    }
                    tasks.push(match &node.kind {
                        NodeKind::Task { executor, config } => {
                            let kind = Arc::clone(&types[*executor as usize]);
                            let created = engine.registry.create(&kind.name, config);
                            if let Ok(executor) = &created {
                                let place = (b as u32, s as u32);
                                for wrong in misread(unit, place, &**executor, config, &mut walked)
                                {
                                    kinds.push(ErrorKind::Configuration);
                                    problems.push(Problem::error(at("config"), wrong));
                                }
                            }
                            match created {
                                Ok(executor) => Some(Task {
                                    executor,
                                    kind,
                                    config: config.clone(),
                                    resources: node.resources.clone(),
                                    blocking: node.blocking,
                                }),
                                Err(error) => {
                                    kinds.push(error.kind());
                                    problems.push(Problem::error(at("task"), error.to_string()));
                                    None
                                }
                            }
                        }
                        _ => None,
                    });
                }
                bodies.push(tasks);
            }
            units.push(bodies);
        }
        match kinds.first() {
            None => Ok(Self { units, limits: program.unit(0).limits.clone() }),
            Some(kind) => {
                let list = problems.to_string().trim_end().replace('\n', "\n  ");
                let message = format!("the run cannot start:\n  {list}");
                Err(Error::new(*kind, message))
            }
        }
    }

    pub(crate) fn task(&self, body: (u32, u32), step: u32) -> Option<&Task> {
        self.units.get(body.0 as usize)?.get(body.1 as usize)?.get(step as usize)?.as_ref()
    }
}

/// Edges looked at for a whole program: a definition must not cost more than this before it runs.
const WALKED_MAX: usize = 5_000_000;

/// What is wrong with the steps that expressions in a configuration read.
fn misread(
    unit: &Unit,
    place: (u32, u32),
    executor: &dyn StepExecutor,
    config: &Json,
    walked: &mut usize,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for text in executor.expressions(config) {
        let mentions = Expr::parse(&text).map_or_else(|_| Vec::new(), |expr| expr.mentions());
        for mention in mentions {
            let id = mention.step.as_str();
            match comes_before(unit, place, id, walked) {
                Some(true) => {}
                Some(false) => wrong.push(format!(
                    "`{text}` reads `{id}`, which does not come before this step (add `after: {id}`)"
                )),
                None => wrong.push(format!("`{text}`: there is no step `{id}` to be seen")),
            }
        }
    }
    wrong
}

/// Whether the step of this id comes before the one at this place, or before a composite step around
/// it; none when it cannot be seen from there. What is too far to walk to counts as found.
fn comes_before(
    unit: &Unit,
    (body, step): (u32, u32),
    id: &str,
    walked: &mut usize,
) -> Option<bool> {
    let mut at = Some((body, step));
    while let Some((body, step)) = at {
        let here = unit.body(body);
        if let Some(wanted) = here.plan.index(id) {
            let mut seen = BTreeSet::new();
            let mut left = vec![step];
            while let Some(step) = left.pop() {
                for link in here.plan.predecessors(step) {
                    *walked += 1;
                    if link.step == wanted || *walked > WALKED_MAX {
                        return Some(true);
                    }
                    if seen.insert(link.step) {
                        left.push(link.step);
                    }
                }
            }
            return Some(false);
        }
        at = here.owner;
    }
    None
}

/// The state that all steps of a type share, in all runs.
fn type_state(engine: &Inner, name: &str) -> Arc<TypeState> {
    let mut types = lock(&engine.types);
    if let Some(known) = types.get(name) {
        return Arc::clone(known);
    }
    let state = Arc::new(TypeState::new(name, engine));
    types.insert(name.to_string(), Arc::clone(&state));
    state
}
